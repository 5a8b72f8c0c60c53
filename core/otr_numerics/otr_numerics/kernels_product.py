# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""The int8 matrix product and its rescaling: LINEAR (spec/numerics.md sections 3 and 7).

Everything that is fast about this engine is here. Each weight is read once per call, so a decode
step is as fast as memory delivers: four row streams a quarter of the matrix apart keep four
hardware prefetchers busy (on a Zen 3 core 22 GB/s, against 6 for neighbouring rows). The inner step
is written in LLVM's vector form, which the compiler turns into one widening multiply-add (vpmaddwd,
vpdpwssd, smlal): products of int8 are at most 2^14, so pairs of them fit in int32 exactly, whatever
the CPU. No instruction here saturates.

Activations are int8 values kept in int16, so that only weights are widened in the loop.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from otr_numerics.compiled import kernel
from otr_numerics.kernels_integer import rshr, saturate
from otr_numerics.packing import LANES, SHIFT_BITS

_INT8, _INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_WIDE = ir.VectorType(_INT32, LANES)
_HALF = ir.VectorType(_INT32, LANES // 2)


def _load(builder, address, element, alignment):
    pointer = builder.inttoptr(address, ir.VectorType(element, LANES).as_pointer())
    loaded = builder.load(pointer)
    loaded.align = alignment
    return loaded


def _multiply_add(builder, left, right):
    """Sums of neighbouring products of two int16 vectors, as int32."""
    product = builder.mul(builder.sext(left, _WIDE), builder.sext(right, _WIDE), flags=("nsw",))
    undefined = ir.Constant(_WIDE, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(product, undefined, ir.Constant(_HALF, list(range(start, LANES, 2))))
        for start in (0, 1)
    )
    return builder.add(even, odd)


def _sum(builder, vector):
    name = f"llvm.vector.reduce.add.v{LANES // 2}i32"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(_INT32, [_HALF]), name)
    return builder.call(function, [vector])


def _tile(rows, columns):
    """Build the products of `rows` weight rows with `columns` activation rows.

    `tile(x, x_stride, w, w_stride, steps)` takes addresses and strides in bytes, and the number of
    steps of 16 inputs (at least 1); it returns rows * columns int32, all rows of column 0 first.
    """
    returned = types.UniTuple(types.int32, rows * columns)
    signature = returned(types.intp, types.intp, types.intp, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        x, x_stride, w, w_stride, steps = arguments
        zero = ir.Constant(_HALF, None)
        before = builder.block
        loop = builder.append_basic_block("inputs")
        done = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(_INT64)
        step.add_incoming(_INT64(0), before)
        sums = [builder.phi(_HALF) for _ in range(rows * columns)]
        for each in sums:
            each.add_incoming(zero, before)
        inputs = builder.mul(step, _INT64(LANES))
        activations = [
            _load(
                builder,
                builder.add(
                    builder.add(x, builder.mul(x_stride, _INT64(column))),
                    builder.shl(inputs, _INT64(1)),
                ),
                _INT16,
                2,
            )
            for column in range(columns)
        ]
        added = list(sums)
        for row in range(rows):
            address = builder.add(builder.add(w, builder.mul(w_stride, _INT64(row))), inputs)
            weight = builder.sext(_load(builder, address, _INT8, 1), ir.VectorType(_INT16, LANES))
            for column in range(columns):
                index = column * rows + row
                product = _multiply_add(builder, activations[column], weight)
                added[index] = builder.add(sums[index], product)
        following = builder.add(step, _INT64(1))
        step.add_incoming(following, builder.block)
        for each, total in zip(sums, added, strict=True):
            each.add_incoming(total, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
        builder.position_at_end(done)
        return cgutils.pack_array(builder, [_sum(builder, total) for total in added])

    return signature, generate


@intrinsic
def tile_4x1(typing_context, x, x_stride, w, w_stride, steps):
    """Four weight rows, one activation row."""
    return _tile(4, 1)


@intrinsic
def tile_4x2(typing_context, x, x_stride, w, w_stride, steps):
    """Four weight rows, two activation rows."""
    return _tile(4, 2)


@intrinsic
def tile_1x1(typing_context, x, x_stride, w, w_stride, steps):
    """One dot product."""
    return _tile(1, 1)


@kernel
def _put(out, row, column, accumulator, word, M, e, limit, adding):
    """RSHR(acc * c * M, S - e), saturated; `adding` accumulates onto what is there."""
    scale = np.int64(word & np.uint32(0xFFFF))
    shift = np.int64(word >> np.uint32(SHIFT_BITS)) - e
    value = rshr(np.int64(accumulator) * scale * M, shift)
    if adding:
        value += np.int64(out[row, column])
    out[row, column] = np.int32(saturate(value, limit))


@kernel
def linear(matrices, requant, offset, first, stride, low, high, q, M, e, rows, out, limit, adding):
    """Outputs low .. high of one matrix group for `rows` rows of activations.

    q int16 [.., K padded], M and e int64 [..], out int32 [.., >= high]. `offset` and `first` are
    the group's place in `matrices` and `requant`, `stride` its row stride.
    """
    steps = stride // LANES
    x = q.ctypes.data
    x_stride = q.strides[0]
    quarter = (high - low) // 4
    far = quarter * stride
    base = matrices.ctypes.data + offset + low * stride
    for j in range(quarter):
        w = base + j * stride
        j0 = low + j
        j1 = j0 + quarter
        j2 = j1 + quarter
        j3 = j2 + quarter
        c0 = requant[first + j0]
        c1 = requant[first + j1]
        c2 = requant[first + j2]
        c3 = requant[first + j3]
        row = 0
        while row + 2 <= rows:
            acc = tile_4x2(x + row * x_stride, x_stride, w, far, steps)
            _put(out, row, j0, acc[0], c0, M[row], e[row], limit, adding)
            _put(out, row, j1, acc[1], c1, M[row], e[row], limit, adding)
            _put(out, row, j2, acc[2], c2, M[row], e[row], limit, adding)
            _put(out, row, j3, acc[3], c3, M[row], e[row], limit, adding)
            row += 1
            _put(out, row, j0, acc[4], c0, M[row], e[row], limit, adding)
            _put(out, row, j1, acc[5], c1, M[row], e[row], limit, adding)
            _put(out, row, j2, acc[6], c2, M[row], e[row], limit, adding)
            _put(out, row, j3, acc[7], c3, M[row], e[row], limit, adding)
            row += 1
        if row < rows:
            one = tile_4x1(x + row * x_stride, x_stride, w, far, steps)
            _put(out, row, j0, one[0], c0, M[row], e[row], limit, adding)
            _put(out, row, j1, one[1], c1, M[row], e[row], limit, adding)
            _put(out, row, j2, one[2], c2, M[row], e[row], limit, adding)
            _put(out, row, j3, one[3], c3, M[row], e[row], limit, adding)
    for j in range(low + 4 * quarter, high):
        w = matrices.ctypes.data + offset + j * stride
        for row in range(rows):
            single = tile_1x1(x + row * x_stride, x_stride, w, 0, steps)
            _put(out, row, j, single[0], requant[first + j], M[row], e[row], limit, adding)
