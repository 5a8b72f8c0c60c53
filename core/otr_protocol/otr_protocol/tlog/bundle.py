"""Entry bundles: the entries under a level 0 tile (c2sp.org/tlog-tiles, "Log entries").

Each entry stands behind its length in two bytes, big-endian, so a bundle grows by concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otr_protocol.errors import RejectedError
from otr_protocol.tlog.tiles import (
    TILE_WIDTH,
    HashTile,
    TileMalformedError,
    check_tile,
    split_hashes,
)
from otr_protocol.tlog.tree import leaf_hash

MAX_ENTRY_BYTES: Final = (1 << 16) - 1
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)


class BundleRejectedError(RejectedError):
    """A bundle whose entries are not the ones in the tree."""

    reason = "BUNDLE_REJECTED"


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries, each behind its length in two bytes; bundles are extended by concatenation."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileMalformedError(f"an entry has at most {MAX_ENTRY_BYTES} bytes")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The `width` entries of a bundle; raises TileMalformedError unless they are all there is."""
    if not 1 <= width <= TILE_WIDTH:
        raise TileMalformedError("a bundle has 1 to 256 entries", field="width")
    entries: list[bytes] = []
    start = 0
    for _ in range(width):
        end = start + 2 + int.from_bytes(data[start : start + 2], "big")
        if start + 2 > len(data) or end > len(data):
            raise TileMalformedError("the bundle ends inside an entry")
        entries.append(data[start + 2 : end])
        start = end
    if start != len(data):
        raise TileMalformedError("the bundle goes on after its last entry")
    return tuple(entries)


def verify_bundle(data: bytes, tile_data: bytes, width: int) -> tuple[bytes, ...]:
    """The entries of a bundle, each hashing to its place in the level 0 tile of the same width.

    Raises TileMalformedError or BundleRejectedError.
    """
    entries = decode_bundle(data, width)
    hashes = split_hashes(check_tile(HashTile(0, 0, width), tile_data))
    for position, (entry, expected) in enumerate(zip(entries, hashes, strict=True)):
        if leaf_hash(entry) != expected:
            raise BundleRejectedError(f"entry {position} of the bundle is not the one in the tile")
    return entries
