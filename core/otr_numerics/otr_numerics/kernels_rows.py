# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""Operations on one row: QUANT, RMSNORM, ROPE, embedding, activation (spec/numerics.md section 3).

A quantised row is int8 values in int16 (see `kernels_product`) and the pair (M, e).
"""

from __future__ import annotations

import numpy as np

from otr_numerics.compiled import kernel
from otr_numerics.kernels_integer import (
    MAX_INT16,
    MAX_INT24,
    MAX_INT32,
    bit_length,
    isqrt,
    rshr,
    saturate,
)

_ZERO = np.int64(0)
_ONE = np.int64(1)


@kernel
def largest(values, count):
    """Max |x| of the first `count` of int32 values, none of which is -2^31."""
    most = np.int32(0)
    for i in range(count):
        most = max(most, abs(values[i]))
    return np.int64(most)


@kernel
def quantise(values, count, q):
    """QUANT of int32 values into q int16; returns (M, e)."""
    a = largest(values, count)
    e = max(_ZERO, bit_length(a) - np.int64(15))
    m0 = a >> e
    if e > 0:
        m0 += _ONE
    M = m0 + (m0 >> np.int64(7)) + _ONE
    r = (_ONE << np.int64(31)) // M
    shift = np.int64(24) + e
    half = _ONE << (shift - _ONE)
    for i in range(count):
        q[i] = np.int16((np.int64(values[i]) * r + half) >> shift)
    return M, e


@kernel
def rmsnorm(x, count, g, G, eps_q, f_n, y):
    """RMSNORM of int32 x into int32 y."""
    a = largest(x, count)
    z = max(_ZERO, bit_length(a) - np.int64(23))
    squares = _ZERO
    for i in range(count):
        xs = rshr(np.int64(x[i]), z)
        squares += xs * xs
    v = squares // np.int64(count) + (eps_q >> (np.int64(2) * z))
    u = max(_ONE, isqrt(v << np.int64(16)))
    R = (_ONE << (f_n + np.int64(38))) // u
    for i in range(count):
        n = saturate(rshr(rshr(np.int64(x[i]), z) * R, np.int64(30)), MAX_INT24)
        y[i] = np.int32(saturate(rshr(n * np.int64(g[i]), G), MAX_INT24))


@kernel
def embed(W, c, S, token, x):
    """X = sat32(RSHR(emb[id] * emb_c[id], emb_S)) into int32 x."""
    scale = np.int64(c[token])
    for i in range(W.shape[1]):
        x[i] = np.int32(saturate(rshr(np.int64(W[token, i]) * scale, S), MAX_INT32))


@kernel
def rotate(x, cos, sin, out):
    """ROPE of int32 x [d] into int32 out, with the table rows of its position."""
    half = x.shape[0] // 2
    shift = np.int64(14)
    for i in range(half):
        low = np.int64(x[i])
        high = np.int64(x[i + half])
        c = np.int64(cos[i])
        s = np.int64(sin[i])
        out[i] = np.int32(saturate(rshr(low * c - high * s, shift), MAX_INT16))
        out[i + half] = np.int32(saturate(rshr(high * c + low * s, shift), MAX_INT16))


@kernel
def activate(gate, up, count, sig, f_g, f_h, h):
    """H = sat32(RSHR(SiLU(gate) * up, 2 F_g - F_h)) into int32 h."""
    for i in range(count):
        g = np.int64(gate[i])
        step = rshr(g, f_g - np.int64(8))
        index = min(max(step, np.int64(-4096)), np.int64(4095)) + np.int64(4096)
        a = rshr(g * np.int64(sig[index]), np.int64(15))
        wide = rshr(a * np.int64(up[i]), np.int64(2) * f_g - f_h)
        h[i] = np.int32(saturate(wide, MAX_INT32))
