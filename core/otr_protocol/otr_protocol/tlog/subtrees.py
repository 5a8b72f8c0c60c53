"""The perfect subtrees that every tree hash is made of (RFC 9162 sections 2.1.1 and 2.1.5).

A perfect subtree of 2^level leaves starting at leaf `index` * 2^level never changes once it is
full, so a log keeps the hashes of those and of nothing else. The hash of any range that occurs in a
proof is a fold of at most 63 of them: one per set bit of its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from otr_protocol.tlog.tree import node_hash, require_hash


@dataclass(frozen=True, slots=True)
class Subtree:
    """The perfect subtree over leaves [index * 2^level, (index + 1) * 2^level)."""

    level: int
    index: int


@dataclass(frozen=True, slots=True)
class LeafRange:
    """Leaves [start, end), as they occur in proofs.

    `start` is a multiple of every power of two that is not above the length.
    """

    start: int
    end: int


# Gives the 32-byte hash of a perfect subtree of the tree being asked about.
HashReader: TypeAlias = Callable[[Subtree], bytes]


def split_point(leaves: int) -> int:
    """The largest power of two below `leaves`, which must be at least 2 (RFC 9162's k)."""
    return 1 << (leaves - 1).bit_length() - 1


def subtrees_of(leaves: LeafRange) -> Iterator[Subtree]:
    """The perfect subtrees that make up a range, from the left: largest first."""
    start, end = leaves.start, leaves.end
    while start < end:
        level = (end - start).bit_length() - 1
        yield Subtree(level, start >> level)
        start += 1 << level


def range_hash(leaves: LeafRange, read_hash: HashReader) -> bytes:
    """The Merkle tree hash of a non-empty range: 32 bytes."""
    hashes = [read_hash(subtree) for subtree in subtrees_of(leaves)]
    folded = hashes.pop()
    while hashes:
        folded = node_hash(hashes.pop(), folded)
    return folded


def reader_over(leaf_hashes: Sequence[bytes]) -> HashReader:
    """A reader over leaf hashes held in memory: hashes every full subtree once, 64 bytes a leaf."""
    for each in leaf_hashes:
        require_hash(each)
    levels = [list(leaf_hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def read_hash(subtree: Subtree) -> bytes:
        return levels[subtree.level][subtree.index]

    return read_hash
