"""The right edge of a log's tree: what appending reads and writes (c2sp.org/tlog-tiles).

Everything left of the partial tiles is final. So a log appends with the partial tiles alone, and
writes the tiles that became full and the new partial ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from otr_protocol.tlog.subtrees import LeafRange, subtrees_of
from otr_protocol.tlog.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    HashTile,
    TileMalformedError,
    TileReader,
    check_tile,
    hash_reader,
    hash_tile,
    partial_tiles,
)
from otr_protocol.tlog.tree import HASH_BYTES, Frontier, node_hash, require_hash


@dataclass(frozen=True, slots=True)
class WrittenTile:
    """A tile and its bytes, to be stored."""

    tile: HashTile
    data: bytes


@dataclass(frozen=True, slots=True)
class Edge:
    """The partial tiles of a tree and its frontier: a few KiB, however large the log.

    `partial[l]` has the hashes of the partial tile of level l, and may be empty. A value: appending
    makes a new one, so a batch that fails to commit leaves nothing behind. `Edge()` is the edge of
    the empty tree; others come from `load` and `append`.
    """

    frontier: Frontier = field(default_factory=Frontier)
    partial: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        widths = [len(data) / HASH_BYTES for data in self.partial]
        if widths != _partial_widths(self.frontier.tree_size):
            raise TileMalformedError("these are not the partial tiles of a tree of this size")

    @property
    def tree_size(self) -> int:
        """The number of leaves."""
        return self.frontier.tree_size

    @classmethod
    def load(cls, read_tile: TileReader, tree_size: int) -> Edge:
        """Read the edge of a stored tree. The caller compares `root()` with what it has signed.

        Raises TileMalformedError for a tile of an impossible length, and what `read_tile` raises.
        """
        held = {tile.level: check_tile(tile, read_tile(tile)) for tile in partial_tiles(tree_size)}
        read_hash = hash_reader(lambda tile: held[tile.level], tree_size)
        subtrees = subtrees_of(LeafRange(0, tree_size))
        return cls(
            Frontier(tree_size, tuple(map(read_hash, subtrees))),
            tuple(held.get(at, b"") for at in range(len(_partial_widths(tree_size)))),
        )

    def root(self) -> bytes:
        """The root of the tree: 32 bytes."""
        return self.frontier.root()

    def append(self, leaf_hashes: Sequence[bytes]) -> tuple[Edge, tuple[WrittenTile, ...]]:
        """The edge after more leaves, and the tiles to write: full ones, then the new partial ones.

        Raises HashLengthError for a leaf hash that is not 32 bytes.
        """
        partial = [bytearray(data) for data in self.partial] or [bytearray()]
        stack = list(self.frontier.hashes)
        written: list[WrittenTile] = []
        size = self.tree_size
        highest = 0
        for each in leaf_hashes:
            require_hash(each)
            partial[0] += each
            hashed, height, carry = each, 0, size
            while carry & 1:
                hashed = node_hash(stack.pop(), hashed)
                carry >>= 1
                height += 1
                level, within = divmod(height, TILE_HEIGHT)
                if within == 0:
                    # This leaf completes a subtree of 256^level leaves: the tile below is full.
                    full = HashTile(level - 1, size >> TILE_HEIGHT * level)
                    written.append(WrittenTile(full, bytes(partial[level - 1])))
                    partial[level - 1].clear()
                    if level == len(partial):
                        partial.append(bytearray())
                    partial[level] += hashed
                    highest = max(highest, level)
            stack.append(hashed)
            size += 1
        if size == self.tree_size:
            return self, ()
        for level in range(highest + 1):
            if partial[level]:
                tile = hash_tile(level, size >> TILE_HEIGHT * (level + 1), size)
                written.append(WrittenTile(tile, bytes(partial[level])))
        return Edge(Frontier(size, tuple(stack)), tuple(map(bytes, partial))), tuple(written)


def _partial_widths(tree_size: int) -> list[int]:
    """The widths of the partial tiles of every level that the tree reaches, zeros included."""
    widths = []
    while tree_size:
        widths.append(tree_size % TILE_WIDTH)
        tree_size >>= TILE_HEIGHT
    return widths
