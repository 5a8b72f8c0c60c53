"""The tree: prefixes, shapes, and the frontier that grows one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.tlog import tree
from otr_protocol.tlog.subtrees import LeafRange, range_hash, reader_over, subtrees_of
from support import rfc9162

LEAVES = [tree.leaf_hash(b"%d" % number) for number in range(130)]


def test_leaves_and_nodes_are_told_apart_by_a_prefix() -> None:
    assert tree.leaf_hash(b"") == hashlib.sha256(b"\x00").digest()
    assert tree.node_hash(b"l" * 32, b"r" * 32) == (
        hashlib.sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()
    )
    assert tree.EMPTY_ROOT == tree.root([]) == hashlib.sha256(b"").digest()


def test_roots_are_those_of_the_recursive_definition() -> None:
    for size in range(len(LEAVES) + 1):
        assert tree.root(LEAVES[:size]) == rfc9162.mth(LEAVES[:size])


def test_a_frontier_grows_leaf_by_leaf_to_the_same_root() -> None:
    frontier = tree.Frontier()
    for size, leaf in enumerate(LEAVES):
        assert frontier.tree_size == size
        assert frontier.root() == tree.root(LEAVES[:size])
        frontier = frontier.append(leaf)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 40), max_size=6))
def test_a_frontier_does_not_depend_on_the_batches(batches: list[int]) -> None:
    frontier, at = tree.Frontier(), 0
    for size in batches:
        frontier = frontier.extend(LEAVES[at : at + size])
        at = min(at + size, len(LEAVES))
    assert frontier == tree.Frontier().extend(LEAVES[:at])


def test_a_frontier_is_a_value() -> None:
    frontier = tree.Frontier().extend(LEAVES[:5])
    frontier.append(LEAVES[5])
    assert frontier == tree.Frontier().extend(LEAVES[:5])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100, 129])
def test_a_range_is_the_fold_of_its_perfect_subtrees(size: int) -> None:
    leaves = LeafRange(0, size)
    assert len(list(subtrees_of(leaves))) == size.bit_count()
    assert range_hash(leaves, reader_over(LEAVES[:size])) == tree.root(LEAVES[:size])


@pytest.mark.parametrize(("size", "hashes"), [(-1, 0), (1, 0), (2, 2), (3, 1), (1 << 63, 1)])
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, hashes: int) -> None:
    with pytest.raises(tree.TreeSizeError):
        tree.Frontier(size, (LEAVES[0],) * hashes)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_hashes_of_another_length_are_refused(length: int) -> None:
    wrong = b"x" * length
    with pytest.raises(tree.HashLengthError):
        tree.root([LEAVES[0], wrong])
    with pytest.raises(tree.HashLengthError):
        tree.Frontier().append(wrong)
    with pytest.raises(tree.HashLengthError):
        tree.Frontier(1, (wrong,))
    with pytest.raises(tree.HashLengthError):
        reader_over([wrong])
