"""Trees over token ids (spec/trace.md, "ids").

One leaf per id, 4 bytes big-endian behind the salted prefix of its tree: tag "prompt" under
sub("input"), tag "out" under sub("output"). In records, a list of ids is one byte string of the
same 4-byte words: one item to decode however long the prompt is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from otr_protocol.fields import FieldError
from otr_protocol.tlog import tree
from otr_protocol.trace.leaf import LeafPrefixes

ID_BYTES: Final = 4
MAX_ID: Final = 2**32 - 1


def id_bytes(token_id: int) -> bytes:
    """The 4 big-endian bytes of a token id."""
    if not 0 <= token_id <= MAX_ID:
        raise FieldError(f"{token_id} is no token id", field="token_id")
    return token_id.to_bytes(ID_BYTES, "big")


def pack_ids(token_ids: Sequence[int]) -> bytes:
    """The ids as one byte string, 4 bytes each."""
    try:
        return struct.pack(f">{len(token_ids)}I", *token_ids)
    except struct.error:
        raise FieldError("a token id is outside 0 to 2^32 - 1", field="token_ids") from None


def unpack_ids(packed: bytes, field: str = "token_ids") -> tuple[int, ...]:
    """The ids in a byte string. Raises FieldError when its length is no multiple of 4."""
    count, rest = divmod(len(packed), ID_BYTES)
    if rest:
        raise FieldError(f"{field} is not a sequence of 4-byte ids", field=field)
    return struct.unpack(f">{count}I", packed)


def id_leaf_hashes(sub: bytes, tag: str, token_ids: Sequence[int]) -> list[bytes]:
    """The leaf hash of every id in order, 32 bytes each."""
    return LeafPrefixes(sub, tag).leaf_hashes(pack_ids(token_ids), ID_BYTES)


def id_root(sub: bytes, tag: str, token_ids: Sequence[int]) -> bytes:
    """The root of the tree over `token_ids`; of none it is H("")."""
    return tree.root(id_leaf_hashes(sub, tag, token_ids))
