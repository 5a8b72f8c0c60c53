# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""Attention of one query head over the rows it sees (spec/numerics.md section 4, operation 4)."""

from __future__ import annotations

import numpy as np

from otr_numerics.compiled import kernel
from otr_numerics.kernels_integer import MAX_INT24, rshr, saturate
from otr_numerics.kernels_product import tile_1x1, tile_4x1
from otr_numerics.packing import LANES

_ZERO = np.int64(0)
_ONE = np.int64(1)


@kernel
def _scores(query, scale, keys, key_scales, count, shift, scores):
    """S_s = RSHR(q8 . k8_s * qm * km_s, shift) into int64 scores; returns their maximum."""
    stride = keys.strides[0]
    steps = stride // LANES
    x = query.ctypes.data
    w = keys.ctypes.data
    highest = np.int64(-(2**62))
    s = 0
    while s + 4 <= count:
        a = tile_4x1(x, 0, w + s * stride, stride, steps)
        for i in range(4):
            score = rshr(np.int64(a[i]) * (scale * np.int64(key_scales[s + i])), shift)
            scores[s + i] = score
            highest = max(highest, score)
        s += 4
    while s < count:
        single = tile_1x1(x, 0, w + s * stride, stride, steps)
        score = rshr(np.int64(single[0]) * (scale * np.int64(key_scales[s])), shift)
        scores[s] = score
        highest = max(highest, score)
        s += 1
    return highest


@kernel
def _probabilities(scores, highest, count, exp2, f_s, value_scales, weights):
    """w_s = RSHR(SOFTMAX2(S)_s * vm_s, 15) into int32 weights; overwrites scores with P."""
    mask = (_ONE << f_s) - _ONE
    total = _ZERO
    for s in range(count):
        t = highest - scores[s]
        octave = min(t >> f_s, np.int64(31))  # exp2 <= 2^15, so any shift above 15 gives 0
        numerator = np.int64(exp2[t & mask]) >> octave
        scores[s] = numerator
        total += numerator
    R = (_ONE << np.int64(46)) // total
    for s in range(count):
        p = rshr(scores[s] * R, np.int64(30))
        weights[s] = np.int32(rshr(p * np.int64(value_scales[s]), np.int64(15)))


@kernel
def _weighted_sum(weights, values, count, width, sums, out):
    """o_i = sat24(sum_s w_s * v8_s,i) into int32 out; the int32 sums cannot overflow."""
    for i in range(width):
        sums[i] = 0
    s = 0
    while s + 4 <= count:
        w0 = weights[s]
        w1 = weights[s + 1]
        w2 = weights[s + 2]
        w3 = weights[s + 3]
        if w0 | w1 | w2 | w3:
            for i in range(width):
                sums[i] += (
                    w0 * np.int32(values[s, i])
                    + w1 * np.int32(values[s + 1, i])
                    + w2 * np.int32(values[s + 2, i])
                    + w3 * np.int32(values[s + 3, i])
                )
        s += 4
    while s < count:
        w0 = weights[s]
        for i in range(width):
            sums[i] += w0 * np.int32(values[s, i])
        s += 1
    for i in range(width):
        out[i] = np.int32(saturate(np.int64(sums[i]), MAX_INT24))


@kernel
def attend(
    query,
    scale,
    keys,
    key_scales,
    values,
    value_scales,
    count,
    width,
    shift,
    exp2,
    f_s,
    scores,
    weights,
    sums,
    out,
):
    """One head over the first `count` cache rows into int32 out [width].

    query int16 [d padded], keys and values int8 [.., d padded], scales uint32 [..]; scores int64
    and weights int32 [count], sums int32 [width] are scratch.
    """
    highest = _scores(query, scale, keys, key_scales, count, shift, scores)
    _probabilities(scores, highest, count, exp2, f_s, value_scales, weights)
    _weighted_sum(weights, values, count, width, sums, out)
