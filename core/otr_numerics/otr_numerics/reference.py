"""The thirteen operations of OTR-I8 in numpy int64 (spec/numerics.md section 4).

One function per operation, from committed inputs to an `Operation`: the committed output tensors in
the dtypes of the table, and every named intermediate in the order of the formulas. `ReferenceRun`
applies them to one sequence. Nothing here is fast, and everything faster is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from otr_numerics.primitives import (
    MAX_INT16,
    MAX_INT24,
    MAX_INT32,
    Int64Array,
    Quantised,
    linear,
    quant,
    rmsnorm,
    rope,
    rshr,
    saturate,
    softmax2,
    wide,
)
from otr_numerics.weights import LayerWeights, Linear, Norm, Weights

Tensor: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Tensor]
Recorder: TypeAlias = "Callable[[Operation], None]"

# The operations of one layer in order; "embed", then these per layer, then "norm" and "logits".
LAYER_OPERATIONS: Final = (
    *("norm1", "qkv", "rope_q", "attn", "attn_q"),
    *("o_res", "norm2", "gate_up", "act", "down_res"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One executed operation on T rows.

    `op_id` is its name in the trace ("embed", "3.attn", "logits"); `output` the committed tensors
    in order (first axis T); `intermediates` what the formulas name on the way, int64.
    """

    op_id: str
    output: Tensors
    intermediates: Tensors = field(default_factory=dict)


def _quantised(q: Quantised) -> Tensors:
    """The committed form of QUANT over a whole row: q int8, M as uint32, e as uint8."""
    return {"q": q.q.astype(np.int8), "M": q.M.astype(np.uint32), "e": q.e.astype(np.uint8)}


def _quant_steps(q: Quantised) -> Tensors:
    return {f"quant_{name}": value for name, value in q._asdict().items()}


def _input(quantised: Tensors) -> tuple[Int64Array, Int64Array, Int64Array]:
    return wide(quantised["q"]), wide(quantised["M"]), wide(quantised["e"])


def _linear(quantised: Tensors, weights: Linear) -> tuple[Int64Array, Int64Array]:
    q, M, e = _input(quantised)
    return linear(q, M, e, wide(weights.W), wide(weights.c), weights.S)


def embed(weights: Weights, ids: Sequence[int]) -> Operation:
    """Operation 0: x int32 [T, D] of token ids."""
    rows = np.asarray(ids, np.int64)
    table = weights.embedding
    product = wide(table.W[rows]) * wide(table.c[rows])[:, None]
    x = saturate(rshr(product, table.S), MAX_INT32)
    return Operation("embed", {"x": x.astype(np.int32)})


def norm(op_id: str, weights: Weights, parameters: Norm, x: Tensor) -> Operation:
    """Operations 1, 7 and 11: QUANT(RMSNORM(x)) of the residual x int32 [T, D]."""
    normed = rmsnorm(wide(x), wide(parameters.g), parameters.G, weights.eps_q, weights.formats.f_n)
    quantised = quant(normed.y)
    between: Tensors = {**normed._asdict(), **_quant_steps(quantised)}
    return Operation(op_id, _quantised(quantised), between)


def qkv(op_id: str, layer: LayerWeights, normed: Tensors) -> Operation:
    """Operation 2: q, k and v side by side, int16 [T, (H + 2G) d]."""
    results = [_linear(normed, part) for part in (layer.q, layer.k, layer.v)]
    y = np.concatenate([saturate(y, MAX_INT16) for _, y in results], axis=1)
    acc = np.concatenate([acc for acc, _ in results], axis=1)
    return Operation(op_id, {"qkv": y.astype(np.int16)}, {"acc": acc})


def rope_q(op_id: str, weights: Weights, projected: Tensor, positions: Sequence[int]) -> Operation:
    """Operation 3: rotated and quantised heads, int8 [T, (H + 2G) d], M uint32 [T, H + 2G]."""
    rows = np.asarray(positions, np.int64)
    heads = wide(projected).reshape(len(rows), -1, weights.head_dim)
    turning = weights.heads + weights.kv_heads
    cos, sin = wide(weights.cos[rows])[:, None, :], wide(weights.sin[rows])[:, None, :]
    turned = np.concatenate([rope(heads[:, :turning], cos, sin), heads[:, turning:]], axis=1)
    quantised = quant(turned)
    output: Tensors = {
        "q": quantised.q.astype(np.int8).reshape(len(rows), -1),
        "M": quantised.M.astype(np.uint32),
    }
    between = {"rope": turned[:, :turning], **_quant_steps(quantised)}
    return Operation(op_id, output, between)


@dataclass(slots=True)
class ReferenceCache:
    """K and V of one layer: int8 [n, G, d] with scales uint32 [n, G], grown row by row."""

    keys: Tensor
    key_scales: Tensor
    values: Tensor
    value_scales: Tensor

    @classmethod
    def empty(cls, weights: Weights) -> ReferenceCache:
        """A cache without rows."""
        rows = np.zeros((0, weights.kv_heads, weights.head_dim), np.int8)
        scales = np.zeros((0, weights.kv_heads), np.uint32)
        return cls(rows, scales, rows, scales)

    def append(self, weights: Weights, rotated: Tensors) -> None:
        """Take the K and V heads out of the output of operation 3."""
        heads = rotated["q"].reshape(len(rotated["q"]), -1, weights.head_dim)
        first, second = weights.heads, weights.heads + weights.kv_heads
        self.keys = np.concatenate([self.keys, heads[:, first:second]])
        self.key_scales = np.concatenate([self.key_scales, rotated["M"][:, first:second]])
        self.values = np.concatenate([self.values, heads[:, second:]])
        self.value_scales = np.concatenate([self.value_scales, rotated["M"][:, second:]])


def attend_head(
    weights: Weights,
    q8: Int64Array,
    qm: int,
    keys: Int64Array,
    km: Int64Array,
    values: Int64Array,
    vm: Int64Array,
) -> Tensors:
    """Operation 4 for one query head [d] over the n rows it sees: o [d] and what leads to it."""
    formats = weights.formats
    a = keys @ q8
    shift = 14 + formats.f_q + formats.f_k - formats.f_s
    S = rshr(a * qm * km, shift)
    softmax = softmax2(S, wide(weights.exp2), formats.f_s)
    w = rshr(softmax.p * vm, 15)
    o = saturate(w @ values, MAX_INT24)
    return {"a": a, "S": S, **softmax._asdict(), "w": w, "o": o}


def attn(
    op_id: str, weights: Weights, rotated: Tensors, cache: ReferenceCache, positions: Sequence[int]
) -> Operation:
    """Operation 4: int32 [T, H d], each row over the cache rows 0 .. its own position.

    Intermediates are per row and head, as their length grows: "0/2/S" is S of row 0, head 2.
    """
    heads, groups = weights.heads, weights.kv_heads
    keys, values = wide(cache.keys), wide(cache.values)
    key_scales, value_scales = wide(cache.key_scales), wide(cache.value_scales)
    queries = wide(rotated["q"]).reshape(len(positions), -1, weights.head_dim)
    out = np.zeros((len(positions), heads, weights.head_dim), np.int64)
    between: Tensors = {}
    for row, position in enumerate(positions):
        seen = slice(0, position + 1)
        for head in range(heads):
            group = head * groups // heads
            steps = attend_head(
                weights,
                queries[row, head],
                int(rotated["M"][row, head]),
                keys[seen, group],
                key_scales[seen, group],
                values[seen, group],
                value_scales[seen, group],
            )
            out[row, head] = steps["o"]
            between |= {f"{row}/{head}/{name}": value for name, value in steps.items()}
    o = out.reshape(len(positions), -1)
    return Operation(op_id, {"o": o.astype(np.int32)}, between)


def attn_q(op_id: str, attended: Tensor) -> Operation:
    """Operation 5: QUANT over all H d of the attention output."""
    quantised = quant(wide(attended))
    return Operation(op_id, _quantised(quantised), _quant_steps(quantised))


def residual(op_id: str, weights: Linear, quantised: Tensors, x: Tensor) -> Operation:
    """Operations 6 and 10: x + LINEAR, int32 [T, D]."""
    acc, y = _linear(quantised, weights)
    added = saturate(wide(x) + y, MAX_INT32)
    return Operation(op_id, {"x": added.astype(np.int32)}, {"acc": acc, "y": y})


def gate_up(op_id: str, layer: LayerWeights, normed: Tensors) -> Operation:
    """Operation 8: gate and up side by side, int32 [T, 2 I]."""
    results = [_linear(normed, part) for part in (layer.gate, layer.up)]
    y = np.concatenate([saturate(y, MAX_INT24) for _, y in results], axis=1)
    acc = np.concatenate([acc for acc, _ in results], axis=1)
    return Operation(op_id, {"gate_up": y.astype(np.int32)}, {"acc": acc})


def act(op_id: str, weights: Weights, gated: Tensor) -> Operation:
    """Operation 9: QUANT of SiLU(gate) * up, int8 [T, I]."""
    formats = weights.formats
    gate, up = np.split(wide(gated), 2, axis=1)
    i = np.clip(rshr(gate, formats.f_g - 8), -4096, 4095) + 4096
    a = rshr(gate * wide(weights.sig[i]), 15)
    h = saturate(rshr(a * up, 2 * formats.f_g - formats.f_h), MAX_INT32)
    quantised = quant(h)
    between = {"i": i, "silu": a, "h": h, **_quant_steps(quantised)}
    return Operation(op_id, _quantised(quantised), between)


def logits(weights: Weights, normed: Tensors) -> Operation:
    """Operation 12: int32 [T, V] with F_l fraction bits."""
    acc, y = _linear(normed, weights.head)
    return Operation("logits", {"logits": saturate(y, MAX_INT32).astype(np.int32)}, {"acc": acc})


class ReferenceRun:
    """One sequence, fed in any number of calls; keeps K, V and the position."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.caches = [ReferenceCache.empty(weights) for _ in weights.layers]
        self.length = 0

    def operations(self, ids: Sequence[int]) -> Iterator[Operation]:
        """Execute the next `ids`, yielding every operation in order: 1 + 10 L + 2 of them.

        The run has advanced only once the iterator is exhausted.
        """
        weights = self.weights
        positions = range(self.length, self.length + len(ids))
        yield (done := embed(weights, ids))
        x = done.output["x"]
        for index, (layer, cache) in enumerate(zip(weights.layers, self.caches, strict=True)):
            yield (normed := norm(f"{index}.norm1", weights, layer.n1, x))
            yield (projected := qkv(f"{index}.qkv", layer, normed.output))
            yield (
                rotated := rope_q(f"{index}.rope_q", weights, projected.output["qkv"], positions)
            )
            cache.append(weights, rotated.output)
            yield (attended := attn(f"{index}.attn", weights, rotated.output, cache, positions))
            yield (quantised := attn_q(f"{index}.attn_q", attended.output["o"]))
            yield (done := residual(f"{index}.o_res", layer.o, quantised.output, x))
            x = done.output["x"]
            yield (normed := norm(f"{index}.norm2", weights, layer.n2, x))
            yield (gated := gate_up(f"{index}.gate_up", layer, normed.output))
            yield (hidden := act(f"{index}.act", weights, gated.output["gate_up"]))
            yield (done := residual(f"{index}.down_res", layer.down, hidden.output, x))
            x = done.output["x"]
        yield (normed := norm("norm", weights, weights.final_norm, x))
        yield logits(weights, normed.output)
        self.length += len(ids)

    def forward(self, ids: Sequence[int], record: Recorder | None = None) -> npt.NDArray[np.int32]:
        """Execute the next `ids`: logits int32 [T, V] of all rows. `record` sees the operations."""
        last: Operation | None = None
        for last in self.operations(ids):
            if record is not None:
                record(last)
        assert last is not None
        result: npt.NDArray[np.int32] = last.output["logits"]
        return result
