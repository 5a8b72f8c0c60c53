"""The primitives of OTR-I8 in numpy int64, written to be read (spec/numerics.md sections 1 and 3).

This is the definition in executable form: slow, obvious, and the referee of every faster kernel.
Arrays are int64 [T, width] unless said; what a primitive computes on the way is returned under the
names of the specification, because disputes and proofs are about those names.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Int64Array: TypeAlias = npt.NDArray[np.int64]

MAX_INT16: Final = (1 << 15) - 1
MAX_INT24: Final = (1 << 23) - 1
MAX_INT32: Final = (1 << 31) - 1

_ONE: Final = np.int64(1)


def wide(values: npt.NDArray[np.generic]) -> Int64Array:
    """Any integer array as int64."""
    return values.astype(np.int64)


def rshr(values: Int64Array, shift: int | Int64Array) -> Int64Array:
    """RSHR: floor(v / 2^s + 1/2), the only rounding rule; RSHR(v, 0) = v. Shifts broadcast."""
    shifts = np.asarray(shift, np.int64)
    half = np.left_shift(_ONE, shifts) >> _ONE
    return (values + half) >> shifts


def saturate(values: Int64Array, limit: int) -> Int64Array:
    """sat16, sat24, sat32: symmetric, so that |x| never overflows."""
    return np.clip(values, -limit, limit)


def bit_length(values: Int64Array) -> Int64Array:
    """Bits of each n >= 0; of 0 it is 0."""
    flat = [int(value).bit_length() for value in values.ravel()]
    return np.array(flat, np.int64).reshape(values.shape)


def isqrt(values: Int64Array) -> Int64Array:
    """The largest r with r * r <= n, of each n >= 0."""
    flat = [math.isqrt(int(value)) for value in values.ravel()]
    return np.array(flat, np.int64).reshape(values.shape)


class Quantised(NamedTuple):
    """QUANT over the last axis: real(x) ~ q * M * 2^(e - 7) * 2^-F.

    `q` has the shape of x and |q| <= 127; the others have one value per row.
    """

    a: Int64Array
    m0: Int64Array
    r: Int64Array
    q: Int64Array
    M: Int64Array
    e: Int64Array


def quant(x: Int64Array) -> Quantised:
    """QUANT: dynamic symmetric quantisation of x int64 [..., m], |x| < 2^31."""
    a = np.abs(x).max(axis=-1)
    e = np.maximum(0, bit_length(a) - 15)
    m0 = (a >> e) + (e > 0)
    M = m0 + (m0 >> 7) + 1
    r = (_ONE << 31) // M
    q = rshr(x * r[..., None], (24 + e)[..., None])
    return Quantised(a, m0, r, q, M, e)


class LinearOutput(NamedTuple):
    """LINEAR: exact accumulators `acc` (int32) and the rescaled, unsaturated `y`, [T, N]."""

    acc: Int64Array
    y: Int64Array


def linear(
    q: Int64Array, M: Int64Array, e: Int64Array, W: Int64Array, c: Int64Array, S: int
) -> LinearOutput:
    """LINEAR: q [T, K] times W [N, K], one rounding per output."""
    acc = q @ W.T
    y = rshr(acc * c * M[:, None], (S - e)[:, None])
    return LinearOutput(acc, y)


class Normed(NamedTuple):
    """RMSNORM: `y` [T, D] in format F_n, and what leads to it; `xs`, `n` are [T, D]."""

    a: Int64Array
    z: Int64Array
    xs: Int64Array
    v: Int64Array
    u: Int64Array
    R: Int64Array
    n: Int64Array
    y: Int64Array


def rmsnorm(x: Int64Array, g: Int64Array, G: int, eps_q: int, f_n: int) -> Normed:
    """RMSNORM of the residual x [T, D], |x| < 2^31, with weights g [D] of G fraction bits."""
    a = np.abs(x).max(axis=-1)
    z = np.maximum(0, bit_length(a) - 23)
    xs = rshr(x, z[:, None])
    v = (xs * xs).sum(axis=-1) // x.shape[-1] + (np.int64(eps_q) >> (2 * z))
    u = np.maximum(1, isqrt(v << 16))
    R = (_ONE << np.int64(f_n + 38)) // u
    n = saturate(rshr(xs * R[:, None], 30), MAX_INT24)
    y = saturate(rshr(n * g, G), MAX_INT24)
    return Normed(a, z, xs, v, u, R, n, y)


def rope(x: Int64Array, cos: Int64Array, sin: Int64Array) -> Int64Array:
    """ROPE of x [..., d], half-split order; cos, sin [..., d / 2] are the position's rows."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    turned_low = saturate(rshr(low * cos - high * sin, 14), MAX_INT16)
    turned_high = saturate(rshr(high * cos + low * sin, 14), MAX_INT16)
    return np.concatenate([turned_low, turned_high], axis=-1)


class Softmax(NamedTuple):
    """SOFTMAX2 of n scores: distances `t`, numerators `P`, their sum `L`, `R`, and `p` in Q16."""

    t: Int64Array
    P: Int64Array
    L: Int64Array
    R: Int64Array
    p: Int64Array


def softmax2(scores: Int64Array, exp2: Int64Array, f_s: int) -> Softmax:
    """SOFTMAX2 of scores int64 [n] with f_s fraction bits, base 2."""
    t = scores.max() - scores
    octaves = t >> f_s
    P = np.where(octaves < 32, exp2[t & ((1 << f_s) - 1)] >> np.minimum(octaves, 31), 0)
    L = P.sum()
    R = (_ONE << 46) // L
    return Softmax(t, P, L, R, rshr(P * R, 30))
