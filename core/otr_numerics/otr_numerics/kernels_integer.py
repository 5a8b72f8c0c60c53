# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""Rounding, saturation, bit length and square root inside kernels (spec/numerics.md section 1).

int64 in, int64 out. `otr_numerics.primitives` has the same on arrays, to be read.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from otr_numerics.compiled import kernel

MAX_INT16: Final = np.int64((1 << 15) - 1)
MAX_INT24: Final = np.int64((1 << 23) - 1)
MAX_INT32: Final = np.int64((1 << 31) - 1)

_ZERO = np.int64(0)
_ONE = np.int64(1)


@intrinsic
def leading_zeros(typing_context, value):
    """Leading zero bits of an int64 (64 of zero)."""

    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


@kernel
def bit_length(value):
    """Bits of value >= 0; of 0 it is 0."""
    return np.int64(64) - leading_zeros(np.int64(value))


@kernel
def rshr(value, shift):
    """floor(v / 2^s + 1/2)."""
    return (value + ((_ONE << shift) >> _ONE)) >> shift


@kernel
def saturate(value, limit):
    """Clip to +-limit."""
    return min(max(value, -limit), limit)


@kernel
def isqrt(value):
    """The largest r with r * r <= value, 0 <= value < 2^62: Newton's method from above."""
    if value == _ZERO:
        return _ZERO
    root = _ONE << ((bit_length(value) + _ONE) >> _ONE)
    while True:
        better = (root + value // root) >> _ONE
        if better >= root:
            return root
        root = better
