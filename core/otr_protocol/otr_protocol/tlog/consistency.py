"""Consistency proofs: that tree extends this one (RFC 9162 section 2.1.4).

The proof starts from the largest perfect subtree at the right edge of the old tree. If that is the
whole old tree its hash is the old root, which the verifier has, and the proof leaves it out.
Hashing upwards from there, left siblings go into both roots, right siblings into the new one only.
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


class ConsistencyRejectedError(RejectedError):
    """The proof does not show that the new tree extends the old one."""

    reason = "CONSISTENCY_REJECTED"


def proof_ranges(old_size: int, new_size: int) -> list[LeafRange]:
    """The ranges whose hashes are the proof, in its order (RFC 9162 PROOF).

    Raises ConsistencyRejectedError unless 1 <= old_size <= new_size < 2^63.
    """
    _require_sizes(old_size, new_size)
    ranges: list[LeafRange] = []
    start, end = 0, new_size
    # Invariant: [start, end) holds the old tree's right edge, and the old tree ends inside it.
    while end != old_size:
        middle = start + split_point(end - start)
        if old_size <= middle:
            ranges.append(LeafRange(middle, end))
            end = middle
        else:
            ranges.append(LeafRange(start, middle))
            start = middle
    if start > 0:
        ranges.append(LeafRange(start, end))
    ranges.reverse()
    return ranges


def prove_with(read_hash: HashReader, old_size: int, new_size: int) -> tuple[bytes, ...]:
    """The consistency proof, from stored subtree hashes: O(log n) hashes read."""
    return tuple(range_hash(leaves, read_hash) for leaves in proof_ranges(old_size, new_size))


def prove(leaf_hashes: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """The proof from the tree over the first `old_size` leaf hashes to the tree over all: O(n)."""
    return prove_with(reader_over(leaf_hashes), old_size, len(leaf_hashes))


def verify(
    old_size: int,
    new_size: int,
    old_root: bytes,
    new_root: bytes,
    consistency_proof: Sequence[bytes],
) -> None:
    """Return if the tree (new_size, new_root) extends the tree (old_size, old_root).

    Between equal sizes the proof is empty and the roots are the same. An empty old tree is refused
    here: everything extends it and no proof says so; who starts from nothing compares nothing.
    Raises ConsistencyRejectedError or HashLengthError.
    """
    _require_sizes(old_size, new_size)
    if new_size == old_size:
        # Compared, not hashed, so their length is no concern here (as in transparency-dev/merkle).
        if consistency_proof:
            raise ConsistencyRejectedError(
                "between equal sizes the proof is empty", field="consistency_proof"
            )
        if old_root != new_root:
            raise ConsistencyRejectedError("one size, two roots", field="new_root")
        return
    require_hash(old_root, "old_root")
    require_hash(new_root, "new_root")
    # The subtree at the right edge of the old tree: 2^shift leaves, the `edge`-th of that size.
    shift = (old_size & -old_size).bit_length() - 1
    edge = (old_size - 1) >> shift
    below = (edge ^ ((new_size - 1) >> shift)).bit_length()
    above = (edge >> below).bit_count()
    expected = below + above + (edge > 0)
    if len(consistency_proof) != expected:
        raise ConsistencyRejectedError(
            f"the proof from {old_size} to {new_size} has {expected} hashes, "
            f"not {len(consistency_proof)}",
            field="consistency_proof",
        )
    for each in consistency_proof:
        require_hash(each, "consistency_proof")
    if edge > 0:
        old_folded = new_folded = consistency_proof[0]
        upwards = consistency_proof[1:]
    else:
        old_folded = new_folded = old_root
        upwards = consistency_proof
    for level, sibling in enumerate(upwards):
        if level >= below or edge >> level & 1:
            old_folded = node_hash(sibling, old_folded)
            new_folded = node_hash(sibling, new_folded)
        else:
            new_folded = node_hash(new_folded, sibling)
    if old_folded != old_root:
        raise ConsistencyRejectedError("the proof leads to another old root", field="old_root")
    if new_folded != new_root:
        raise ConsistencyRejectedError("the proof leads to another new root", field="new_root")


def _require_sizes(old_size: int, new_size: int) -> None:
    if not 1 <= old_size <= new_size <= MAX_TREE_SIZE:
        raise ConsistencyRejectedError(
            f"no proof leads from a tree of {old_size} to one of {new_size}", field="old_size"
        )
