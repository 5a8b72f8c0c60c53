"""What readers of the log are shown: parts of the published tree, checked on the way out.

The store may hold a commit that is not published yet, and it may be damaged. So every look-up is
cut off at the published head it is given, entries are compared with the leaves of the tree, and
proofs lead to the signed root, or the answer is DATA_LOSS. Any thread may call.
"""

from __future__ import annotations

from typing import Final

from otr_commitment.lookup import Key, Located, find
from otr_commitment.ports import DamagedError, Head, Mark, Reader, StoredEntry
from otr_commitment.receipts import receipt_for
from otr_commitment.tree import Tree
from otr_protocol.errors import UnknownError
from otr_protocol.tlog.bundle import encode_bundle
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.tiles import TILE_HEIGHT, TILE_WIDTH, HashTile
from otr_protocol.tlog.tree import leaf_hash

# What one message of entries may weigh: well under the 4 MiB that gRPC clients take by default.
MESSAGE_BYTES: Final = 1 << 20
_BUNDLE_BYTES: Final = TILE_WIDTH << 16


class EntryUnknownError(UnknownError):
    """The published log has no such entry."""

    reason = "ENTRY_UNKNOWN"


class TileUnknownError(UnknownError):
    """The published tree has no tile that wide there."""

    reason = "TILE_UNKNOWN"


class Reading:
    """Reads of a published log."""

    def __init__(self, reader: Reader, tree: Tree) -> None:
        self._reader = reader
        self._tree = tree

    def find(self, key: Key, head: Head) -> Located | None:
        """The published entry with the lowest index that `key` finds, or None."""
        found = find(self._reader, key)
        return found if found is not None and found.leaf_index < head.tree_size else None

    def entry(self, leaf_index: int, head: Head) -> Located:
        """One entry. Raises EntryUnknownError or DamagedError."""
        _require_leaf(leaf_index, head)
        (stored,) = self.entries(leaf_index, 1, head)
        return Located(leaf_index, stored.data)

    def entries(self, first: int, count: int, head: Head) -> list[StoredEntry]:
        """Entries from `first` on, at most `count` and a mebibyte; none at the end of the log."""
        count = min(count, head.tree_size - first)
        if count <= 0:
            return []
        return self._checked(first, count, head, MESSAGE_BYTES)

    def receipt(self, located: Located, head: Head) -> Receipt:
        """The receipt of a published entry against `head`."""
        return receipt_for(self._tree, head, located.leaf_index, located.data)

    def inclusion_proof(
        self, leaf_index: int, tree_size: int, head: Head
    ) -> tuple[tuple[bytes, ...], bytes]:
        """The proof of a leaf in the tree of `tree_size` leaves, and the leaf's hash."""
        if leaf_index >= tree_size:
            raise EntryUnknownError(f"leaf {leaf_index} is not in a tree of {tree_size}")
        _require_leaf(leaf_index, head)
        # In this order: a tree beyond the published one has no tiles to look for the leaf in.
        self._tree.root(tree_size, _mark(head))
        (hashed,) = self._tree.leaf_hashes(leaf_index, 1, tree_size)
        return self._tree.inclusion_proof(leaf_index, hashed, tree_size, _mark(head)), hashed

    def consistency_proof(self, old_size: int, new_size: int, head: Head) -> tuple[bytes, ...]:
        """The proof that the tree of `new_size` leaves extends the one of `old_size`."""
        return self._tree.consistency_proof(old_size, new_size, _mark(head))

    def tile(self, tile: HashTile, head: Head) -> bytes:
        """The hashes of a tile, which the published tree must have that wide."""
        _require_width(tile.index, tile.width, head.tree_size >> TILE_HEIGHT * tile.level)
        return self._tree.tile(tile)

    def bundle(self, index: int, width: int, head: Head) -> bytes:
        """The entry bundle under a tile of level 0."""
        _require_width(index, width, head.tree_size)
        stored = self._checked(index * TILE_WIDTH, width, head, _BUNDLE_BYTES)
        return encode_bundle([each.data for each in stored])

    def _checked(self, first: int, count: int, head: Head, max_bytes: int) -> list[StoredEntry]:
        stored = self._reader.entries(first, count, max_bytes=max_bytes)
        expected = self._tree.leaf_hashes(first, len(stored), head.tree_size)
        for each, hashed in zip(stored, expected, strict=True):
            if leaf_hash(each.data) != hashed:
                raise DamagedError(f"entry {each.leaf_index} is not the one that was signed")
        return stored


def _mark(head: Head) -> Mark:
    return Mark(head.tree_size, head.root_hash)


def _require_leaf(leaf_index: int, head: Head) -> None:
    if leaf_index >= head.tree_size:
        raise EntryUnknownError(
            f"the log has {head.tree_size} entries, none with index {leaf_index}",
            field="leaf_index",
        )


def _require_width(index: int, width: int, hashes: int) -> None:
    if index * TILE_WIDTH + width > hashes:
        raise TileUnknownError("the published tree has no such tile", field="index")
