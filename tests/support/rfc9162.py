"""A second verifier, written from the recursive definitions of RFC 9162 and nothing else.

It shares no code and no algorithm with `otr_protocol.tlog`: the proofs there are checked by bit
arithmetic from the leaf upwards, here by the definition of the tree from the root downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


class Wrong(Exception):
    """The proof is not one."""


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _k(n: int) -> int:
    """The largest power of two smaller than n (section 2.1.1)."""
    k = 1
    while 2 * k < n:
        k = 2 * k
    return k


def mth(leaf_hashes: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of leaves whose hashes are given (section 2.1.1)."""
    n = len(leaf_hashes)
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return leaf_hashes[0]
    k = _k(n)
    return _node(mth(leaf_hashes[:k]), mth(leaf_hashes[k:]))


def check_inclusion(m: int, n: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raise Wrong unless `proof` is PATH(m, D[n]) (section 2.1.3.1)."""

    def up(m: int, n: int, proof: Sequence[bytes]) -> bytes:
        if n == 1:
            if proof:
                raise Wrong
            return leaf
        if not proof:
            raise Wrong
        k = _k(n)
        if m < k:
            return _node(up(m, k, proof[:-1]), proof[-1])
        return _node(proof[-1], up(m - k, n - k, proof[:-1]))

    if not 0 <= m < n or up(m, n, proof) != root:
        raise Wrong


def check_consistency(
    m: int, n: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise Wrong unless `proof` is PROOF(m, D[n]) (section 2.1.4.1)."""

    def sub(m: int, n: int, whole: bool, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
        """The hashes of the first m leaves and of all n, by SUBPROOF(m, D[n], whole)."""
        if m == n:
            if whole:
                if proof:
                    raise Wrong
                return old_root, old_root
            if len(proof) != 1:
                raise Wrong
            return proof[0], proof[0]
        if not proof:
            raise Wrong
        k, last = _k(n), proof[-1]
        if m <= k:
            old, new = sub(m, k, whole, proof[:-1])
            return old, _node(new, last)
        old, new = sub(m - k, n - k, False, proof[:-1])
        return _node(last, old), _node(last, new)

    if not 1 <= m <= n or sub(m, n, True, proof) != (old_root, new_root):
        raise Wrong
