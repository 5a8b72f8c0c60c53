"""Inclusion proofs: this leaf is in that tree (RFC 9162 section 2.1.3).

The path from leaf `i` in a tree of `n` leaves has two parts. Below the node where the paths to leaf
`i` and to the last leaf part, every level has a sibling and bit k of `i` says on which side. Above
it, only left siblings exist, one per set bit of the rest of `i`. So the length is known beforehand
and is checked before anything is hashed.
"""

from __future__ import annotations

from collections.abc import Sequence

from otr_protocol.errors import RejectedError
from otr_protocol.tlog.subtrees import (
    HashReader,
    LeafRange,
    range_hash,
    reader_over,
    split_point,
)
from otr_protocol.tlog.tree import MAX_TREE_SIZE, node_hash, require_hash


class InclusionRejectedError(RejectedError):
    """The proof does not show that the leaf is at this index of this tree."""

    reason = "INCLUSION_REJECTED"


def siblings(leaf_index: int, tree_size: int) -> list[LeafRange]:
    """The ranges whose hashes are the proof, from the leaf's sibling up to the root's child.

    Raises InclusionRejectedError unless 0 <= leaf_index < tree_size < 2^63.
    """
    _require_index(leaf_index, tree_size)
    ranges: list[LeafRange] = []
    start, end = 0, tree_size
    while end - start > 1:
        middle = start + split_point(end - start)
        if leaf_index < middle:
            ranges.append(LeafRange(middle, end))
            end = middle
        else:
            ranges.append(LeafRange(start, middle))
            start = middle
    ranges.reverse()
    return ranges


def prove_with(read_hash: HashReader, leaf_index: int, tree_size: int) -> tuple[bytes, ...]:
    """The inclusion proof, from stored subtree hashes (RFC 9162 PATH): O(log n) hashes read."""
    return tuple(range_hash(leaves, read_hash) for leaves in siblings(leaf_index, tree_size))


def prove(leaf_hashes: Sequence[bytes], leaf_index: int) -> tuple[bytes, ...]:
    """The inclusion proof in the tree over `leaf_hashes`, all in memory: O(n)."""
    return prove_with(reader_over(leaf_hashes), leaf_index, len(leaf_hashes))


def root_from_inclusion(
    leaf_index: int, tree_size: int, leaf_hash: bytes, inclusion_proof: Sequence[bytes]
) -> bytes:
    """The root that the proof leads to (32 bytes), for a caller that holds the true one.

    Raises HashLengthError for a hash that is not 32 bytes and InclusionRejectedError for an index
    outside the tree or a proof of the wrong length.
    """
    _require_index(leaf_index, tree_size)
    require_hash(leaf_hash, "leaf_hash")
    below = (leaf_index ^ (tree_size - 1)).bit_length()
    above = (leaf_index >> below).bit_count()
    if len(inclusion_proof) != below + above:
        raise InclusionRejectedError(
            f"the path of leaf {leaf_index} of {tree_size} has {below + above} hashes, "
            f"not {len(inclusion_proof)}",
            field="inclusion_proof",
        )
    for each in inclusion_proof:
        require_hash(each, "inclusion_proof")
    folded = leaf_hash
    for level, sibling in enumerate(inclusion_proof):
        if level >= below or leaf_index >> level & 1:
            folded = node_hash(sibling, folded)
        else:
            folded = node_hash(folded, sibling)
    return folded


def verify(
    leaf_index: int,
    tree_size: int,
    leaf_hash: bytes,
    inclusion_proof: Sequence[bytes],
    root_hash: bytes,
) -> None:
    """Return if the leaf is at `leaf_index` of the tree with this size and root.

    Raises InclusionRejectedError or HashLengthError otherwise.
    """
    require_hash(root_hash, "root_hash")
    if root_from_inclusion(leaf_index, tree_size, leaf_hash, inclusion_proof) != root_hash:
        raise InclusionRejectedError("the proof leads to another root", field="inclusion_proof")


def _require_index(leaf_index: int, tree_size: int) -> None:
    if not 0 <= leaf_index < tree_size <= MAX_TREE_SIZE:
        raise InclusionRejectedError(
            f"leaf {leaf_index} is not in a tree of {tree_size}", field="leaf_index"
        )
