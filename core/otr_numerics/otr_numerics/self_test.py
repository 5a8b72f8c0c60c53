"""The self-test of the product kernels, before an engine may use them (spec/numerics.md section 7).

Exactness is no property of an API: libraries for int8 products have been silently wrong on CPUs
that saturate pairs of products. The kernels here cannot saturate, but the compiler and the CPU are
not ours; a process whose products are wrong must refuse to sign anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from otr_numerics.kernels_probe import accumulate
from otr_numerics.packing import padded
from otr_protocol.errors import RejectedError
from otr_protocol.manifest import ModelShape

# Kernels carry no signature: numba types them from the arrays they get.
_accumulate: Final[Callable[..., None]] = accumulate


class KernelRefusedError(RejectedError):
    """A product kernel disagrees with int64 arithmetic on this machine."""

    reason = "KERNEL_REFUSED"


def check_kernels(shape: ModelShape) -> None:
    """Raise KernelRefusedError unless every tile is exact for every width K of the model."""
    widths = {shape.hidden, shape.heads * shape.head_dim, shape.ffn, shape.head_dim}
    for inputs in sorted(widths):
        _check_width(padded(inputs))


@lru_cache(maxsize=64)
def _check_width(inputs: int) -> None:
    for x, matrix in _cases(inputs):
        found = np.full((3, 2, matrix.shape[0]), -1, np.int32)
        _accumulate(x, matrix, found)
        expected = x.astype(np.int64) @ matrix.astype(np.int64).T
        if not (found == expected).all():
            raise KernelRefusedError(f"int8 products of {inputs} inputs are wrong on this machine")


def _cases(inputs: int) -> list[tuple[npt.NDArray[np.int16], npt.NDArray[np.int8]]]:
    """Extremes: everything +-127 in every combination of signs, and a fixed arbitrary pattern."""
    alternating = np.where(np.arange(inputs) % 2 == 0, 127, -127)
    halves = np.where(np.arange(inputs) < inputs // 2, 127, -127)
    pattern = (np.arange(inputs) * 37 + 11) % 255 - 127
    rows = np.stack([np.full(inputs, 127), np.full(inputs, -127), alternating, halves, pattern])
    matrix = np.concatenate([rows, rows[:3]]).astype(np.int8)
    return [(np.stack([row, -row]).astype(np.int16), matrix) for row in rows]
