"""Proofs from stored tiles, each verified before it leaves (spec/log.md; RFC 9162).

Tiles are read back from a disk, so nothing made of them is believed: a proof must lead to the root
that this log has signed, and if it does not, the answer is DATA_LOSS rather than a proof that its
receiver would hold against the log. The node hashes of recently used tiles are kept, which turns a
proof into a few dozen look-ups; a tile of a given width never changes, so nothing ever goes stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias

from otr_commitment.ports import DamagedError, Mark, Reader
from otr_protocol.errors import UnknownError
from otr_protocol.tlog import consistency, inclusion, tiles
from otr_protocol.tlog.subtrees import LeafRange, Subtree, range_hash
from otr_protocol.tlog.tiles import HashTile
from otr_protocol.tlog.tree import EMPTY_ROOT, node_hash

# 33 KiB of node hashes each: 17 MiB in all.
REMEMBERED_TILES: Final = 512

# nodes[h][i] is the hash of the i-th perfect subtree of 2^h hashes of the tile.
Nodes: TypeAlias = list[list[bytes]]


class TreeSizeUnknownError(UnknownError):
    """The tree that is asked about is larger than any that was published."""

    reason = "TREE_SIZE_UNKNOWN"


class Tree:
    """Proofs in trees up to a published one. Any thread may call."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._nodes: OrderedDict[HashTile, Nodes] = OrderedDict()
        self._lock = threading.Lock()

    def inclusion_proof(
        self, leaf_index: int, leaf_hash: bytes, tree_size: int, published: Mark
    ) -> tuple[bytes, ...]:
        """The inclusion proof of a leaf, verified.

        Raises InclusionRejectedError for an index outside the tree, TreeSizeUnknownError for a tree
        beyond `published`, and DamagedError when what is stored does not lead to the signed root.
        """
        root = self.root(tree_size, published)
        inclusion.siblings(leaf_index, tree_size)  # refuses an index outside of the tree
        proof = inclusion.prove_with(self._hashes(tree_size), leaf_index, tree_size)
        try:
            inclusion.verify(leaf_index, tree_size, leaf_hash, proof, root)
        except inclusion.InclusionRejectedError as error:
            raise DamagedError(f"leaf {leaf_index} is not the one in the signed tree") from error
        return proof

    def consistency_proof(self, old_size: int, new_size: int, published: Mark) -> tuple[bytes, ...]:
        """The consistency proof between two trees, verified.

        Raises ConsistencyRejectedError for sizes out of order, TreeSizeUnknownError, DamagedError.
        """
        new_root = self.root(new_size, published)
        consistency.proof_ranges(old_size, new_size)  # refuses sizes out of order
        hashes = self._hashes(new_size)
        proof = consistency.prove_with(hashes, old_size, new_size)
        old_root = range_hash(LeafRange(0, old_size), self._hashes(old_size))
        try:
            consistency.verify(old_size, new_size, old_root, new_root, proof)
        except consistency.ConsistencyRejectedError as error:
            raise DamagedError(f"the tree of {new_size} leaves is not what was signed") from error
        return proof

    def root(self, tree_size: int, published: Mark) -> bytes:
        """The verified root of the tree of `tree_size` leaves, a part of the published one."""
        if tree_size > published.tree_size:
            raise TreeSizeUnknownError(
                f"the published tree has {published.tree_size} leaves", field="tree_size"
            )
        if tree_size == published.tree_size:
            return published.root_hash
        if tree_size == 0:
            return EMPTY_ROOT
        root = range_hash(LeafRange(0, tree_size), self._hashes(tree_size))
        newer = self._hashes(published.tree_size)
        proof = consistency.prove_with(newer, tree_size, published.tree_size)
        try:
            consistency.verify(tree_size, published.tree_size, root, published.root_hash, proof)
        except consistency.ConsistencyRejectedError as error:
            raise DamagedError("the stored tiles do not lead to the signed root") from error
        return root

    def leaf_hashes(self, first: int, count: int, tree_size: int) -> list[bytes]:
        """The hashes of leaves that exist in a tree of `tree_size`, as the tiles have them."""
        found: list[bytes] = []
        while len(found) < count:
            at = first + len(found)
            tile = tiles.hash_tile(0, at // tiles.TILE_WIDTH, tree_size)
            within = at % tiles.TILE_WIDTH
            found += self._nodes_of(tile)[0][within : within + count - len(found)]
        return found

    def tile(self, tile: HashTile) -> bytes:
        """The bytes of exactly this tile; DamagedError if they are not stored."""
        return b"".join(self._nodes_of(tile)[0])

    def _hashes(self, tree_size: int) -> _Hashes:
        return _Hashes(self, tree_size)

    def _nodes_of(self, tile: HashTile) -> Nodes:
        with self._lock:
            known = self._nodes.get(tile)
            if known is not None:
                self._nodes.move_to_end(tile)
                return known
        try:
            data = tiles.check_tile(tile, self._reader.read_tile(tile))
        except tiles.TileMalformedError as error:
            raise DamagedError(f"{tile.path} has an impossible length") from error
        nodes = nodes_over(tiles.split_hashes(data))
        with self._lock:
            self._nodes[tile] = nodes
            if len(self._nodes) > REMEMBERED_TILES:
                self._nodes.popitem(last=False)
        return nodes


class _Hashes:
    """The subtree hashes of one tree: a HashReader."""

    __slots__ = ("_tree", "_tree_size")

    def __init__(self, tree: Tree, tree_size: int) -> None:
        self._tree = tree
        self._tree_size = tree_size

    def __call__(self, subtree: Subtree) -> bytes:
        tile, position = tiles.tile_of(subtree, self._tree_size)
        height = subtree.level % tiles.TILE_HEIGHT
        return self._tree._nodes_of(tile)[height][position >> height]


def nodes_over(hashes: Sequence[bytes]) -> Nodes:
    """The hashes of every perfect subtree over the hashes of a tile, lowest first."""
    nodes = [list(hashes)]
    while len(nodes[-1]) > 1 and len(nodes) < tiles.TILE_HEIGHT:
        below = nodes[-1]
        nodes.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return nodes
