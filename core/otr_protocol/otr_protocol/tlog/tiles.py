"""Tiles: the log as static files (c2sp.org/tlog-tiles).

A hash tile holds up to 256 hashes of one level in steps of eight: tile (level l, index n) has the
hashes of the perfect subtrees of 256^l leaves from number 256 n on. Everything between is rehashed
from those, so a proof costs a handful of tile reads however large the log is. An entry bundle holds
the entries under a level 0 tile. The rightmost tiles are partial, `.p/<width>`, until they fill.

    tile/0/x001/x234/067        full tile 1234067 of level 0
    tile/1/000.p/17             the first 17 hashes of level 1
    tile/entries/000.p/3        the first three entries
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from otr_protocol.errors import MalformedError
from otr_protocol.tlog import consistency, inclusion
from otr_protocol.tlog.subtrees import HashReader, LeafRange, Subtree, range_hash, subtrees_of
from otr_protocol.tlog.tree import EMPTY_ROOT, HASH_BYTES, MAX_TREE_SIZE, perfect_root

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
# A tree of 2^63 - 1 leaves has hashes of 256^7 leaves at most; the path format would allow 63.
MAX_LEVEL: Final = 7
MAX_INDEX: Final = MAX_TREE_SIZE // TILE_WIDTH

_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


class TileMalformedError(MalformedError):
    """A tile that cannot exist, a path that names none, or data of another shape."""

    reason = "TILE_MALFORMED"


@dataclass(frozen=True, slots=True)
class HashTile:
    """Names one hash tile; `width` 256 is a full one."""

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not 0 <= self.level <= MAX_LEVEL:
            raise TileMalformedError("no tree has tiles of this level", field="level")
        _require_index_and_width(self.index, self.width)

    @property
    def path(self) -> str:
        """The path under the log's URL prefix."""
        return f"tile/{self.level}/{_path_tail(self.index, self.width)}"


@dataclass(frozen=True, slots=True)
class EntryBundle:
    """Names one entry bundle; `width` 256 is a full one."""

    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        _require_index_and_width(self.index, self.width)

    @property
    def path(self) -> str:
        """The path under the log's URL prefix."""
        return f"tile/entries/{_path_tail(self.index, self.width)}"


# Gives the bytes of a tile. It may give a later, wider version of it: tiles only grow.
TileReader: TypeAlias = Callable[[HashTile], bytes]


def parse_path(path: str) -> HashTile | EntryBundle:
    """Parse `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`; raises TileMalformedError.

    Only the one canonical path of a tile is accepted.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise TileMalformedError("not the path of a tile", field="path")
    index = int(match["index"].replace("x", "").replace("/", ""))
    width = int(match["width"]) if match["width"] else TILE_WIDTH
    tile: HashTile | EntryBundle = EntryBundle(index, width)
    if match["level"] != "entries":
        tile = HashTile(int(match["level"]), index, width)
    if tile.path != path:
        raise TileMalformedError("not the canonical path of its tile", field="path")
    return tile


def hash_tile(level: int, index: int, tree_size: int) -> HashTile:
    """The tile at this place, as wide as a tree of `tree_size` leaves has it.

    Raises TileMalformedError when the tree has no hash there.
    """
    return HashTile(level, index, _width(tree_size >> TILE_HEIGHT * level, index))


def entry_bundle(index: int, tree_size: int) -> EntryBundle:
    """The bundle at this place, as wide as a tree of `tree_size` leaves has it."""
    return EntryBundle(index, _width(tree_size, index))


def partial_tiles(tree_size: int) -> tuple[HashTile, ...]:
    """The partial tiles of a tree, lowest level first: what must be read to append to it."""
    tiles = []
    for level in range(MAX_LEVEL + 1):
        hashes = tree_size >> TILE_HEIGHT * level
        if hashes % TILE_WIDTH:
            tiles.append(HashTile(level, hashes // TILE_WIDTH, hashes % TILE_WIDTH))
    return tuple(tiles)


def check_tile(tile: HashTile, data: bytes) -> bytes:
    """The bytes of exactly `tile`, given its data or those of a wider version; else refuse."""
    if not tile.width * HASH_BYTES <= len(data) <= TILE_WIDTH * HASH_BYTES or len(data) % 32:
        raise TileMalformedError(f"{tile.path} cannot have {len(data)} bytes", field=tile.path)
    return data[: tile.width * HASH_BYTES]


def tile_of(subtree: Subtree, tree_size: int) -> tuple[HashTile, int]:
    """The tile that holds, or yields by hashing, a full subtree's hash, and where it starts in it.

    2^(subtree.level % 8) hashes from that position on belong to the subtree.
    """
    level, height = divmod(subtree.level, TILE_HEIGHT)
    first = subtree.index << height
    return hash_tile(level, first >> TILE_HEIGHT, tree_size), first % TILE_WIDTH


def hash_reader(read_tile: TileReader, tree_size: int) -> HashReader:
    """Read subtree hashes of the tree of `tree_size` leaves out of tiles, each tile once.

    The reader raises TileMalformedError for a tile of an impossible length, and whatever
    `read_tile` raises. Tiles are not verified: a proof made from wrong ones does not verify.
    """
    tiles: dict[HashTile, bytes] = {}

    def read_hash(subtree: Subtree) -> bytes:
        tile, position = tile_of(subtree, tree_size)
        if tile not in tiles:
            tiles[tile] = check_tile(tile, read_tile(tile))
        count = 1 << subtree.level % TILE_HEIGHT
        return perfect_root(tiles[tile][position * HASH_BYTES : (position + count) * HASH_BYTES])

    return read_hash


def split_hashes(data: bytes) -> list[bytes]:
    """The 32-byte hashes that a tile's bytes are."""
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def prove_inclusion(read_tile: TileReader, leaf_index: int, tree_size: int) -> tuple[bytes, ...]:
    """An RFC 9162 inclusion proof from tiles; at most two tiles a level, so 16, are read."""
    return inclusion.prove_with(hash_reader(read_tile, tree_size), leaf_index, tree_size)


def prove_consistency(read_tile: TileReader, old_size: int, new_size: int) -> tuple[bytes, ...]:
    """An RFC 9162 consistency proof from the tiles of the new tree."""
    return consistency.prove_with(hash_reader(read_tile, new_size), old_size, new_size)


def tree_root(read_tile: TileReader, tree_size: int) -> bytes:
    """The root of the tree from its tiles: the rightmost of each level suffice."""
    if tree_size == 0:
        return EMPTY_ROOT
    return range_hash(LeafRange(0, tree_size), hash_reader(read_tile, tree_size))


def inclusion_tiles(leaf_index: int, tree_size: int) -> tuple[HashTile, ...]:
    """The tiles that `prove_inclusion` will read, for a caller that must fetch them beforehand."""
    return _tiles_of(inclusion.siblings(leaf_index, tree_size), tree_size)


def consistency_tiles(old_size: int, new_size: int) -> tuple[HashTile, ...]:
    """The tiles that `prove_consistency` will read."""
    return _tiles_of(consistency.proof_ranges(old_size, new_size), new_size)


def _tiles_of(ranges: Sequence[LeafRange], tree_size: int) -> tuple[HashTile, ...]:
    subtrees = (subtree for leaves in ranges for subtree in subtrees_of(leaves))
    return tuple(dict.fromkeys(tile_of(subtree, tree_size)[0] for subtree in subtrees))


def _width(hashes: int, index: int) -> int:
    width = min(TILE_WIDTH, hashes - index * TILE_WIDTH)
    if width < 1:
        raise TileMalformedError("the tree has no tile there", field="index")
    return width


def _path_tail(index: int, width: int) -> str:
    digits = str(index)
    digits = digits.rjust(-(-len(digits) // 3) * 3, "0")
    elements = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    tail = "/".join([*(f"x{element}" for element in elements[:-1]), elements[-1]])
    return tail if width == TILE_WIDTH else f"{tail}.p/{width}"


def _require_index_and_width(index: int, width: int) -> None:
    if not 0 <= index <= MAX_INDEX:
        raise TileMalformedError("no tree has a tile with this index", field="index")
    if not 1 <= width <= TILE_WIDTH:
        raise TileMalformedError("a tile has 1 to 256 hashes", field="width")
