# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""The product kernel alone, for the self-test at start-up (spec/numerics.md section 7)."""

from __future__ import annotations

from otr_numerics.compiled import entry
from otr_numerics.kernels_product import tile_1x1, tile_4x1, tile_4x2
from otr_numerics.packing import LANES


@entry
def accumulate(x, matrix, out):
    """Accumulators int32 [2, N] of x int16 [2, K] and matrix int8 [N, K], K a multiple of 16.

    Every output is computed by each tile that can: out int32 [3, 2, N] for 1x1, 4x1 and 4x2.
    """
    outputs, stride = matrix.shape
    steps = stride // LANES
    step = x.strides[0]
    for j in range(outputs):
        w = matrix.ctypes.data + j * stride
        for row in range(2):
            out[0, row, j] = tile_1x1(x.ctypes.data + row * step, step, w, stride, steps)[0]
    for j in range(0, outputs - 3, 4):
        w = matrix.ctypes.data + j * stride
        for row in range(2):
            four = tile_4x1(x.ctypes.data + row * step, step, w, stride, steps)
            for i in range(4):
                out[1, row, j + i] = four[i]
        eight = tile_4x2(x.ctypes.data, step, w, stride, steps)
        for i in range(8):
            out[2, i // 4, j + i % 4] = eight[i]
