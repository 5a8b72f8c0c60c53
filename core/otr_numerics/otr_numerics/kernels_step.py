# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""A forward step over rows of any sequences, operation by operation (spec/numerics.md section 4).

`run` executes a range of operations, numbered as in the table: 0 is `embed`, 1 + 10 l + k is the
k-th of layer l, 10 L + 1 and 10 L + 2 are `norm` and `logits`. A whole step is one call, without a
return to Python in between; a test or an audit runs one operation at a time and looks at the work
arrays between them. Threads share rows or outputs and meet after every operation, so no result
depends on how many they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otr_numerics.compiled import entry, kernel
from otr_numerics.kernels_attention import attend
from otr_numerics.kernels_integer import MAX_INT16, MAX_INT24, MAX_INT32
from otr_numerics.kernels_product import linear
from otr_numerics.kernels_rows import activate, embed, quantise, rmsnorm, rotate
from otr_numerics.kernels_threads import share, wait

QKV, ATTN_OUT, GATE_UP, DOWN, HEAD = range(5)
NORM1, PROJECT, ROPE, ATTN, ATTN_Q, O_RES, NORM2, GATES, ACT, DOWN_RES = range(10)
LAYER_OPS = 10


class ModelArrays(NamedTuple):
    """The weights, as kernels read them.

    `groups` int64 [5, 4]: offset, first row, stride, outputs of QKV .. HEAD (of layer 0).
    `norms` int16 [2 L + 1, D] with `norm_bits`: n1 and n2 of each layer, then nf.
    """

    matrices: npt.NDArray[np.int8]
    requant: npt.NDArray[np.uint32]
    groups: npt.NDArray[np.int64]
    norms: npt.NDArray[np.int16]
    norm_bits: npt.NDArray[np.int64]
    embedding: npt.NDArray[np.int8]
    embedding_scales: npt.NDArray[np.uint16]
    cos: npt.NDArray[np.int16]
    sin: npt.NDArray[np.int16]
    exp2: npt.NDArray[np.int32]
    sig: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int64]


class Numbers(NamedTuple):
    """The scalars of a model; `ModelArrays.numbers` is this as an array."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    layer_bytes: int
    layer_rows: int
    embedding_shift: int
    eps_q: int
    f_n: int
    f_g: int
    f_h: int
    f_s: int
    score_shift: int
    segment_layers: int


class CacheArrays(NamedTuple):
    """K, V and residuals of all slots: first axis slot.

    keys, values int8 [.., L, G, P, d padded], scales uint32 [.., L, G, P], residuals int32
    [.., S, P, D].
    """

    keys: npt.NDArray[np.int8]
    key_scales: npt.NDArray[np.uint32]
    values: npt.NDArray[np.int8]
    value_scales: npt.NDArray[np.uint32]
    residuals: npt.NDArray[np.int32]


class WorkArrays(NamedTuple):
    """What a step reads and writes between operations; R rows at most.

    `x` int32 [R, D]; `wide` int32 [R, ..] holds qkv or gate and up; `q` int16, `M`, `e` the last
    quantised row; `queries` int16 [R, H, d padded], `query_scales` int64 [R, H]; `attended` int32
    [R, H d]. Per thread: `scores` int64 [P], `weights` int32 [P], `row` int32 [..].
    `ids`, `slots`, `positions` int64 [R] say what the rows are; `chosen` int64 [R] whose logits
    are wanted.
    """

    x: npt.NDArray[np.int32]
    wide: npt.NDArray[np.int32]
    q: npt.NDArray[np.int16]
    M: npt.NDArray[np.int64]
    e: npt.NDArray[np.int64]
    queries: npt.NDArray[np.int16]
    query_scales: npt.NDArray[np.int64]
    attended: npt.NDArray[np.int32]
    scores: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    barrier: npt.NDArray[np.int64]


@kernel
def _product(model, work, layer, which, rows, out, limit, adding, thread, threads):
    """LINEAR of this thread's share of one group's outputs; returns the share."""
    low, high = share(model.groups[which, 3], thread, threads, 4)
    linear(
        model.matrices,
        model.requant,
        model.groups[which, 0] + layer * model.numbers[6],
        model.groups[which, 1] + layer * model.numbers[7],
        model.groups[which, 2],
        low,
        high,
        work.q,
        work.M,
        work.e,
        rows,
        out,
        limit,
        adding,
    )
    return low, high


@kernel
def _rope_row(model, cache, work, layer, row, scratch):
    """Operation 3 of one row: rotate, quantise, and append K and V to the cache."""
    heads = model.numbers[2]
    groups = model.numbers[3]
    width = model.numbers[4]
    slot = work.slots[row]
    position = work.positions[row]
    cos = model.cos[position]
    sin = model.sin[position]
    narrow = work.q[row]  # free between qkv and attn_q
    for head in range(heads + 2 * groups):
        values = work.wide[row, head * width : (head + 1) * width]
        if head < heads + groups:
            rotate(values, cos, sin, scratch)
            values = scratch
        M, _ = quantise(values, width, narrow)
        if head < heads:
            work.query_scales[row, head] = M
            for i in range(width):
                work.queries[row, head, i] = narrow[i]
        elif head < heads + groups:
            group = head - heads
            cache.key_scales[slot, layer, group, position] = np.uint32(M)
            for i in range(width):
                cache.keys[slot, layer, group, position, i] = np.int8(narrow[i])
        else:
            group = head - heads - groups
            cache.value_scales[slot, layer, group, position] = np.uint32(M)
            for i in range(width):
                cache.values[slot, layer, group, position, i] = np.int8(narrow[i])


@kernel
def _attend_head(model, cache, work, layer, row, head, thread):
    """Operation 4 of one head of one row."""
    width = model.numbers[4]
    group = head * model.numbers[3] // model.numbers[2]
    slot = work.slots[row]
    attend(
        work.queries[row, head],
        work.query_scales[row, head],
        cache.keys[slot, layer, group],
        cache.key_scales[slot, layer, group],
        cache.values[slot, layer, group],
        cache.value_scales[slot, layer, group],
        work.positions[row] + 1,
        width,
        model.numbers[14],
        model.exp2,
        model.numbers[13],
        work.scores[thread],
        work.weights[thread],
        work.row[thread],
        work.attended[row, head * width : (head + 1) * width],
    )


@kernel
def _keep_residual(model, cache, work, layer, rows, low, high):
    """After the last layer of a segment, columns low .. high of the residual go to the slots."""
    segment_layers = model.numbers[15]
    if (layer + 1) % segment_layers != 0 and layer + 1 != model.numbers[1]:
        return
    segment = layer // segment_layers
    for row in range(rows):
        target = cache.residuals[work.slots[row], segment, work.positions[row]]
        source = work.x[row]
        for i in range(low, high):
            target[i] = source[i]


@kernel
def _quantise_row(model, work, layer, op, row, scratch):
    """Operations 1, 5, 7, 9 and 11 of one row: what they quantise, and QUANT of it."""
    hidden = model.numbers[0]
    ffn = model.numbers[5]
    if op == ATTN_Q:
        values = work.attended[row]
        count = work.attended.shape[1]
    elif op == ACT:
        gates = work.wide[row]
        activate(gates, gates[ffn:], ffn, model.sig, model.numbers[11], model.numbers[12], scratch)
        values = scratch
        count = ffn
    else:
        final = layer == model.numbers[1]
        which = 2 * layer + (1 if op == NORM2 else 0)
        source = work.chosen[row] if final else row
        rmsnorm(
            work.x[source],
            hidden,
            model.norms[which],
            model.norm_bits[which],
            model.numbers[9],
            model.numbers[10],
            scratch,
        )
        values = scratch
        count = hidden
    work.M[row], work.e[row] = quantise(values, count, work.q[row])


@kernel
def _operation(model, cache, work, rows, chosen, logits, number, thread, threads):
    """One operation. Each kind of work has one call: what is inlined twice compiles twice."""
    layers = model.numbers[1]
    heads = model.numbers[2]
    scratch = work.row[thread]
    layer = (number - 1) // LAYER_OPS
    op = (number - 1) % LAYER_OPS
    if number == 0:
        for row in range(thread, rows, threads):
            embed(
                model.embedding,
                model.embedding_scales,
                model.numbers[8],
                work.ids[row],
                work.x[row],
            )
    elif op == ROPE:
        for row in range(thread, rows, threads):
            _rope_row(model, cache, work, layer, row, scratch)
    elif op == ATTN:
        for unit in range(thread, rows * heads, threads):
            _attend_head(model, cache, work, layer, unit // heads, unit % heads, thread)
    elif (op == PROJECT) | (op == O_RES) | (op == GATES) | (op == DOWN_RES):
        which = QKV
        limit = MAX_INT16
        out = work.wide
        adding = False
        count = rows
        if layer == layers:
            which = HEAD
            limit = MAX_INT32
            out = logits
            count = chosen
            layer = 0  # the head's place is given as it is
        elif op == GATES:
            which = GATE_UP
            limit = MAX_INT24
        elif op != PROJECT:
            which = DOWN if op == DOWN_RES else ATTN_OUT
            limit = MAX_INT32
            out = work.x
            adding = True
        low, high = _product(model, work, layer, which, count, out, limit, adding, thread, threads)
        if op == DOWN_RES:
            _keep_residual(model, cache, work, layer, rows, low, high)
    else:
        count = chosen if layer == layers else rows
        for row in range(thread, count, threads):
            _quantise_row(model, work, layer, op, row, scratch)


@entry
def run(model, cache, work, rows, chosen, logits, start, stop, thread, threads):
    """Operations start .. stop - 1 of a step over `rows` rows, this thread's share of them.

    `chosen` rows get logits int32 [chosen, V]. The caller has checked every id, slot and position.
    """
    met = np.int64(0)
    for number in range(start, stop):
        _operation(model, cache, work, rows, chosen, logits, number, thread, threads)
        if threads > 1:
            met += threads
            wait(work.barrier, met)
