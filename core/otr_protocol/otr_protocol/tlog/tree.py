"""The Merkle tree of logs, traces and weights (RFC 9162 section 2.1.1), SHA-256.

Leaves are hashed with a 0x00 prefix and nodes with 0x01, so that neither can pass for the other.
The tree over n leaves splits at the largest power of two below n. Pairing neighbours level by
level, and promoting a last node that has no neighbour, gives the same root; `root` does that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import MalformedError

HASH_BYTES: Final = 32
# Tree sizes and indices travel as 64-bit integers, RFC 9162 uint64; 2^63 keeps them signed-safe.
MAX_TREE_SIZE: Final = (1 << 63) - 1
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


class HashLengthError(MalformedError):
    """A tree hash that is not 32 bytes."""

    reason = "HASH_LENGTH"


class TreeSizeError(MalformedError):
    """A tree size outside 0 .. 2^63 - 1, or a frontier that does not fit its size."""

    reason = "TREE_SIZE"


def leaf_hash(leaf: bytes) -> bytes:
    """`SHA-256(0x00 || leaf)`: 32 bytes."""
    return _sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """`SHA-256(0x01 || left || right)`: 32 bytes."""
    return _sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Root over leaf *hashes*; of none it is `SHA-256("")`. O(n) hashes, O(n) memory."""
    if not leaf_hashes:
        return EMPTY_ROOT
    level = list(leaf_hashes)
    for each in level:
        require_hash(each)
    while len(level) > 1:
        above = [
            _sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def perfect_root(hashes: bytes) -> bytes:
    """Root over a power of two of 32-byte hashes, concatenated: the inner loop of proofs."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [_sha256(b"\x01" + hashes[i : i + 64]).digest() for i in range(0, len(hashes), 64)]
        )
    return hashes


def require_hash(value: bytes, field: str | None = None) -> None:
    """Raise HashLengthError unless `value` has 32 bytes."""
    if len(value) != HASH_BYTES:
        raise HashLengthError(f"a tree hash has 32 bytes, this has {len(value)}", field=field)


@dataclass(frozen=True, slots=True)
class Frontier:
    """The roots of the perfect subtrees that a tree of `tree_size` leaves splits into.

    One hash per set bit of `tree_size`, largest subtree first: all that is needed to append and to
    tell the root, O(log n) memory (the "compact range" from 0). A value: appending makes a new one.
    """

    tree_size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.tree_size <= MAX_TREE_SIZE:
            raise TreeSizeError(f"no tree has {self.tree_size} leaves")
        if len(self.hashes) != self.tree_size.bit_count():
            raise TreeSizeError(
                f"{self.tree_size} leaves have {self.tree_size.bit_count()} perfect subtrees, "
                f"not {len(self.hashes)}"
            )
        for each in self.hashes:
            require_hash(each)

    def append(self, leaf_hash: bytes) -> Frontier:
        """The frontier after one more leaf, given its hash."""
        return self.extend((leaf_hash,))

    def extend(self, leaf_hashes: Iterable[bytes]) -> Frontier:
        """The frontier after more leaves, given their hashes in order."""
        stack = list(self.hashes)
        size = self.tree_size
        for each in leaf_hashes:
            require_hash(each)
            # Each trailing 1 bit of the size is a perfect subtree the new leaf completes a pair of.
            carry = size
            while carry & 1:
                each = _sha256(b"\x01" + stack.pop() + each).digest()
                carry >>= 1
            stack.append(each)
            size += 1
        return Frontier(size, tuple(stack))

    def root(self) -> bytes:
        """The root of the tree: 32 bytes."""
        if not self.hashes:
            return EMPTY_ROOT
        folded = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            folded = node_hash(left, folded)
        return folded
