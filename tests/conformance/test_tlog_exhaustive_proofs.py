"""Every proof of every tree of up to 256 leaves, checked by a verifier written independently."""

from __future__ import annotations

import random

import pytest

from otr_protocol.errors import Refusal
from otr_protocol.tlog import consistency, inclusion, tree
from otr_protocol.tlog.subtrees import reader_over
from support import rfc9162

LEAVES = [tree.leaf_hash(b"leaf %d" % number) for number in range(256)]
ROOTS = [rfc9162.mth(LEAVES[:size]) for size in range(257)]


def test_all_32_896_inclusion_proofs_up_to_256_leaves_are_accepted_by_both_verifiers() -> None:
    proofs = 0
    for size in range(1, 257):
        read = reader_over(LEAVES[:size])
        for index in range(size):
            proof = inclusion.prove_with(read, index, size)
            inclusion.verify(index, size, LEAVES[index], proof, ROOTS[size])
            rfc9162.check_inclusion(index, size, LEAVES[index], proof, ROOTS[size])
            proofs += 1
    assert proofs == 32_896


def test_all_32_896_consistency_proofs_up_to_256_leaves_are_accepted_by_both_verifiers() -> None:
    proofs = 0
    for new in range(1, 257):
        read = reader_over(LEAVES[:new])
        for old in range(1, new + 1):
            proof = consistency.prove_with(read, old, new)
            consistency.verify(old, new, ROOTS[old], ROOTS[new], proof)
            rfc9162.check_consistency(old, new, ROOTS[old], ROOTS[new], proof)
            proofs += 1
    assert proofs == 32_896


def test_both_verifiers_agree_about_random_shapes() -> None:
    """Wrong sizes, indices and lengths: 20,000 proofs that two readings of the RFC judge alike."""
    draw = random.Random(9162)
    accepted = 0
    for _ in range(10_000):
        size, index, length = draw.randrange(0, 40), draw.randrange(-1, 41), draw.randrange(0, 8)
        proof = [LEAVES[draw.randrange(256)] for _ in range(length)]
        if 0 <= index < size and draw.random() < 0.5:
            proof = list(inclusion.prove(LEAVES[:size], index))[: draw.randrange(5, 9)]
        # Inclusion
        leaf = LEAVES[index % 256]
        arguments = (index, size, leaf, proof, ROOTS[size])
        accepted += _alike(inclusion.verify, rfc9162.check_inclusion, arguments)
        # Consistency
        old = index
        if 1 <= old <= size and draw.random() < 0.5:
            proof = list(consistency.prove(LEAVES[:size], old))[: draw.randrange(5, 9)]
        pair = (old, size, ROOTS[old % 257], ROOTS[size], proof)
        accepted += _alike(consistency.verify, rfc9162.check_consistency, pair)
    assert accepted > 1_000


def _alike(ours, theirs, arguments) -> bool:  # type: ignore[no-untyped-def]
    try:
        ours(*arguments)
        mine = True
    except Refusal:
        mine = False
    try:
        theirs(*arguments)
        other = True
    except rfc9162.Wrong:
        other = False
    assert mine == other, arguments[:2]
    return mine


@pytest.mark.parametrize("size", [2**62, 2**62 + 1, 2**63 - 1])
def test_a_proof_in_the_largest_trees_has_its_length_checked_first(size: int) -> None:
    with pytest.raises(inclusion.InclusionRejectedError):
        inclusion.verify(size - 1, size, LEAVES[0], [LEAVES[1]] * 64, ROOTS[1])
    with pytest.raises(consistency.ConsistencyRejectedError):
        consistency.verify(size // 2, size, ROOTS[1], ROOTS[2], [LEAVES[1]] * 100)


def test_a_tree_of_2_to_the_63_leaves_is_refused() -> None:
    with pytest.raises(inclusion.InclusionRejectedError):
        inclusion.siblings(0, 2**63)
    with pytest.raises(consistency.ConsistencyRejectedError):
        consistency.proof_ranges(1, 2**63)
    with pytest.raises(tree.TreeSizeError):
        tree.Frontier(2**63, (LEAVES[0],))
