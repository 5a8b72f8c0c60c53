"""Every operation of the engine against the reference, on inputs that no model would give it.

Rows are drawn over the whole documented range of each input, with its extremes among them; together
they are several thousand per operation. Each comparison is of every bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otr_numerics import reference
from otr_numerics.kernels_step import ModelArrays
from otr_numerics.primitives import linear, quant, rmsnorm, rope, wide
from otr_numerics.weights import LayerWeights, Weights
from support.operation_bench import ODD_SHAPE, Bench, random_model

Array = npt.NDArray[Any]
BATCH = 64
EXTREMES = [
    sign * value
    for value in (0, 1, 2, 127, 128, 2**14, 2**15 - 1, 2**15, 2**15 + 1, 2**23 - 1, 2**23)
    for sign in (1, -1)
] + [sign * value for value in (2**23 + 1, 2**30, 2**31 - 2, 2**31 - 1) for sign in (1, -1)]


def rows_of(random: np.random.Generator, width: int, most: int) -> Array:
    """64 rows within +-most: extremes (constant, mixed), every magnitude, sparse, uniform."""
    extremes = np.array([value for value in EXTREMES if abs(value) <= most] + [most, -most])
    bits = random.integers(0, most.bit_length() + 1, (BATCH, 1))
    rows = random.integers(-most, most + 1, (BATCH, width)) >> (most.bit_length() - bits)
    rows[:24] = random.choice(extremes, (24, 1))
    rows[24:36] = random.choice(extremes, (12, width))
    rows[36:44] *= random.random((8, width)) < 0.1
    rows[0], rows[1], rows[2] = 0, most, -most
    return rows.astype(np.int64)


def quantised_of(random: np.random.Generator, bench: Bench, width: int) -> dict[str, Array]:
    """Random q, M, e as QUANT gives them, extremes included, set as the input of a product."""
    q = random.integers(-127, 128, (BATCH, width))
    q[:6] = np.array([127, -127, 0, 1, -1, 126])[:, None]
    M = random.integers(1, 33026, BATCH)
    e = random.integers(0, 17, BATCH)
    M[:8], e[:8] = 33025, np.arange(8) * 2 + 2
    bench.work.q[:] = 0
    bench.work.q[:BATCH, :width] = q
    bench.work.M[:BATCH], bench.work.e[:BATCH] = M, e
    return {"q": q, "M": M, "e": e}


def assert_quantised(bench: Bench, expected: reference.Operation) -> None:
    width = expected.output["q"].shape[1]
    assert np.array_equal(bench.work.q[:BATCH, :width], expected.output["q"])
    assert np.array_equal(bench.work.M[:BATCH], expected.output["M"])
    assert np.array_equal(bench.work.e[:BATCH], expected.output["e"])


@pytest.fixture(params=range(4))
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


@pytest.fixture(scope="module")
def bench() -> Bench:
    bench = Bench(random_model(1))
    bench.rows(range(BATCH), range(BATCH))
    return bench


def test_quant(bench: Bench, random: np.random.Generator) -> None:
    width = ODD_SHAPE.heads * ODD_SHAPE.head_dim
    for _ in range(12):
        values = rows_of(random, width, 2**31 - 1)
        bench.work.attended[:BATCH] = values
        bench.run("0.attn_q", BATCH)
        assert_quantised(bench, reference.attn_q("0.attn_q", values))


@pytest.mark.parametrize("eps_q", [0, 168, 2**46 - 1])
@pytest.mark.parametrize("G", [0, 14, 30])
def test_rmsnorm(random: np.random.Generator, eps_q: int, G: int) -> None:
    weights = random_model(2, scalars={"0.n1.G": G, "0.n2.G": 14, "nf.G": G, "eps_q": eps_q})
    bench = Bench(weights)
    bench.rows(range(BATCH), range(BATCH))
    layer = weights.layers[0]
    for op_id, norm in (("0.norm1", layer.n1), ("0.norm2", layer.n2), ("norm", weights.final_norm)):
        x = rows_of(random, weights.hidden, 2**31 - 1)
        bench.work.x[:BATCH] = x
        bench.run(op_id, BATCH)
        expected = reference.norm(op_id, weights, norm, x)
        assert_quantised(bench, expected)
        # The scratch row still holds what was quantised last: RMSNORM itself.
        assert np.array_equal(bench.work.row[0, : weights.hidden], expected.intermediates["y"][-1])


def test_rmsnorm_before_it_is_quantised(bench: Bench, random: np.random.Generator) -> None:
    weights = bench.weights
    norm = weights.layers[0].n1
    for x in np.concatenate([rows_of(random, weights.hidden, 2**31 - 1) for _ in range(4)]):
        bench.work.x[0] = x
        bench.run("0.norm1", 1)
        g = wide(norm.g)
        y = rmsnorm(x[None], g, norm.G, weights.eps_q, weights.formats.f_n).y[0]
        assert np.array_equal(bench.work.row[0, : weights.hidden], y)


def test_rope_and_its_quantisation(bench: Bench, random: np.random.Generator) -> None:
    shape, weights = ODD_SHAPE, bench.weights
    heads = shape.heads + 2 * shape.kv_heads
    for start in (0, 1, 2, 3):
        positions = range(start, start + BATCH)
        bench.rows(range(BATCH), positions)
        rows = [rows_of(random, shape.head_dim, 2**15 - 1) for _ in range(heads)]
        projected = np.concatenate(rows, axis=1)
        bench.work.wide[:BATCH, : projected.shape[1]] = projected
        bench.run("0.rope_q", BATCH)
        expected = reference.rope_q("0.rope_q", weights, projected, positions)
        q = expected.output["q"].reshape(BATCH, heads, shape.head_dim)
        M = expected.output["M"]
        first, second = shape.heads, shape.heads + shape.kv_heads
        found = bench.work.queries[:BATCH, :, : shape.head_dim]
        assert np.array_equal(found, q[:, :first])
        assert np.array_equal(bench.work.query_scales[:BATCH], M[:, :first])
        for row, position in enumerate(positions):
            keys = bench.cache.keys[row, 0, :, position]
            values = bench.cache.values[row, 0, :, position]
            assert np.array_equal(keys[:, : shape.head_dim], q[row, first:second])
            assert np.array_equal(values[:, : shape.head_dim], q[row, second:])
            assert np.array_equal(bench.cache.key_scales[row, 0, :, position], M[row, first:second])
            assert np.array_equal(bench.cache.value_scales[row, 0, :, position], M[row, second:])
    bench.rows(range(BATCH), range(BATCH))


def test_rope_before_it_is_quantised(bench: Bench, random: np.random.Generator) -> None:
    """With one head that is rotated last (K), the scratch row holds ROPE itself."""
    shape, weights = ODD_SHAPE, bench.weights
    first = shape.heads + shape.kv_heads - 1
    for x in np.concatenate([rows_of(random, shape.head_dim, 2**15 - 1) for _ in range(4)]):
        position = int(random.integers(0, shape.context_length))
        bench.rows([0], [position])
        bench.work.wide[0, first * shape.head_dim : (first + 1) * shape.head_dim] = x
        bench.run("0.rope_q", 1)
        expected = rope(x, wide(weights.cos[position]), wide(weights.sin[position]))
        assert np.array_equal(bench.work.row[0, : shape.head_dim], expected)
    bench.rows(range(BATCH), range(BATCH))


def attention_rows(
    random: np.random.Generator, count: int, width: int, extreme: int
) -> tuple[Array, Array]:
    """`count` quantised heads with their scales: int8 range, and what QUANT of int16 gives."""
    q = random.integers(-127, 128, (count, width))
    M = random.integers(1, 33025, count)
    if extreme == 0:
        q[:], M[:] = random.choice([127, -127], (count, 1)), 33024
    elif extreme == 1:
        q[:], M[:] = 0, 1
    elif extreme == 2:
        M = random.integers(1, 64, count)  # close scores: every weight counts
    return q, M


def test_softmax_and_attention(bench: Bench, random: np.random.Generator) -> None:
    """Scores, SOFTMAX2 (P, w) and the sum, for 1 to 67 visible rows; one head at a time."""
    shape, weights = ODD_SHAPE, bench.weights
    head, group, width = shape.heads - 1, shape.kv_heads - 1, shape.head_dim
    for case in range(520):
        count = 1 + case % shape.context_length
        position = count - 1
        q8, qm = attention_rows(random, 1, width, case % 5)
        k8, km = attention_rows(random, count, width, case // 5 % 5)
        v8, vm = attention_rows(random, count, width, case // 25 % 5)
        bench.rows([3], [position])
        bench.work.queries[0, head, :width] = q8[0]
        bench.work.query_scales[0, head] = qm[0]
        bench.cache.keys[3, 0, group, :count, :width] = k8
        bench.cache.key_scales[3, 0, group, :count] = km
        bench.cache.values[3, 0, group, :count, :width] = v8
        bench.cache.value_scales[3, 0, group, :count] = vm
        bench.run("0.attn", 1)
        expected = reference.attend_head(weights, q8[0], int(qm[0]), k8, km, v8, vm)
        assert np.array_equal(bench.work.scores[0, :count], expected["P"])
        assert np.array_equal(bench.work.weights[0, :count], expected["w"])
        found = bench.work.attended[0, head * width : (head + 1) * width]
        assert np.array_equal(found, expected["o"])
    bench.rows(range(BATCH), range(BATCH))


def products(layer: LayerWeights, weights: Weights, op_id: str) -> list[tuple[Array, Array, int]]:
    parts = {
        "0.qkv": (layer.q, layer.k, layer.v),
        "0.o_res": (layer.o,),
        "0.gate_up": (layer.gate, layer.up),
        "0.down_res": (layer.down,),
        "logits": (weights.head,),
    }[op_id]
    return [(wide(part.W), wide(part.c), part.S) for part in parts]


LIMITS = {"0.qkv": 15, "0.o_res": 31, "0.gate_up": 23, "0.down_res": 31, "logits": 31}


@pytest.mark.parametrize("S", [17, 22, 33, 45, 62])
@pytest.mark.parametrize("op_id", LIMITS)
def test_linear(random: np.random.Generator, op_id: str, S: int) -> None:
    """From results that all saturate (S = 17) to results that all vanish (S = 62)."""
    names = ("q", "k", "v", "o", "gate", "up", "down")
    weights = random_model(3, scalars={f"0.{name}.S": S for name in names} | {"head.S": S})
    bench = Bench(weights)
    bench.rows(range(BATCH), range(BATCH))
    residual = rows_of(random, weights.hidden, 2**31 - 1)
    bench.work.x[:BATCH] = residual
    parts = products(weights.layers[0], weights, op_id)
    given = quantised_of(random, bench, parts[0][0].shape[1])
    expected = np.concatenate([linear(**given, W=W, c=c, S=s).y for W, c, s in parts], axis=1)
    if op_id.endswith("_res"):
        expected = expected + residual
    limit = 2 ** LIMITS[op_id] - 1
    bench.run(op_id, BATCH)
    found = {"0.qkv": bench.work.wide, "0.gate_up": bench.work.wide, "logits": bench.logits}.get(
        op_id, bench.work.x
    )
    assert np.array_equal(found[:BATCH, : expected.shape[1]], np.clip(expected, -limit, limit))


@pytest.mark.parametrize("rows", [1, 2, 3, 63, 64])
def test_linear_for_any_number_of_rows(random: np.random.Generator, rows: int) -> None:
    weights = random_model(4)
    bench = Bench(weights)
    bench.rows(range(BATCH), range(BATCH))
    given = quantised_of(random, bench, weights.hidden)
    bench.work.wide[:] = 77
    bench.run("0.gate_up", rows)
    (gate, up) = products(weights.layers[0], weights, "0.gate_up")
    expected = [linear(**given, W=W, c=c, S=S).y[:rows] for W, c, S in (gate, up)]
    limit = 2**23 - 1
    found = bench.work.wide[:, : 2 * ODD_SHAPE.ffn]
    assert np.array_equal(found[:rows], np.clip(np.concatenate(expected, 1), -limit, limit))
    assert (found[rows:] == 77).all()


def test_the_accumulators_alone(random: np.random.Generator) -> None:
    """With c * M = 2^(S - e) and nothing to add, `down_res` writes the accumulators."""
    weights = random_model(5)
    bench = Bench(weights)
    bench.rows(range(BATCH), range(BATCH))
    given = quantised_of(random, bench, weights.ffn)
    down = weights.layers[0].down
    shift = down.S - 16
    layout = weights.packed.layout.group(0, "down")
    words = weights.packed.requant[layout.first : layout.first + layout.outputs]
    words[:] = np.uint32(1) | np.uint32(down.S << 16)
    model: ModelArrays = bench.model
    assert np.shares_memory(model.requant, words)
    bench.work.M[:BATCH], bench.work.e[:BATCH] = 1 << shift, 16
    bench.work.x[:BATCH] = 0
    bench.run("0.down_res", BATCH)
    assert np.array_equal(bench.work.x[:BATCH], given["q"] @ wide(down.W).T)


def test_activation(bench: Bench, random: np.random.Generator) -> None:
    ffn, weights = ODD_SHAPE.ffn, bench.weights
    for _ in range(12):
        gated = rows_of(random, 2 * ffn, 2**23 - 1)
        bench.work.wide[:BATCH, : 2 * ffn] = gated
        bench.run("0.act", BATCH)
        expected = reference.act("0.act", weights, gated)
        assert_quantised(bench, expected)
        assert np.array_equal(bench.work.row[0, :ffn], expected.intermediates["h"][-1])


@pytest.mark.parametrize("emb_S", [0, 9, 31, 62])
def test_embedding(emb_S: int) -> None:
    weights = random_model(6, scalars={"emb_S": emb_S})
    bench = Bench(weights)
    ids = list(range(ODD_SHAPE.vocab))
    bench.work.ids[: len(ids)] = ids
    bench.run("embed", len(ids))
    expected = reference.embed(weights, ids).output["x"]
    assert np.array_equal(bench.work.x[: len(ids)], expected)


def test_quantised_values_stay_within_127_without_a_clamp(random: np.random.Generator) -> None:
    """|q| <= 127 by construction, for every magnitude of the largest value."""
    largest = np.concatenate([2 ** np.arange(31) + d for d in (-1, 0, 1)] + [[2**31 - 1]])
    largest = np.concatenate([largest, random.integers(1, 2**31, 2_000)])[:, None]
    quantised = quant(np.concatenate([largest, -largest, largest // 2], axis=1))
    assert (np.abs(quantised.q) <= 127).all()
    assert (quantised.M < 2**17).all()
