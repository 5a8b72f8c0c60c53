"""The reference converter: what it promises about its integers, whatever the weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_numerics.convert.hf import HuggingFaceModel
from otr_numerics.convert.quantise import (
    exp2_table,
    quantise,
    quantise_linear,
    quantise_norm,
    rope_tables,
    sigmoid_table,
)
from otr_numerics.convert.smooth import ActivationMaxima, head_factors, layer_factors
from otr_numerics.convert.source import SourceMalformedError, UnsupportedModelError
from support.float_models import SMALL, random_weights, write_hugging_face

F_N, F_Q = 14, 9


def maxima_archive(seed: int, *, spikes: float = 1.0) -> bytes:
    """Activation maxima for `SMALL`, with every 16th channel `spikes` times larger."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, Any] = {"nf": generator.uniform(0.5, 2, SMALL.hidden)}
    for layer in range(SMALL.layers):
        arrays[f"{layer}.n1"] = generator.uniform(0.5, 2, SMALL.hidden)
        arrays[f"{layer}.n2"] = generator.uniform(0.5, 2, SMALL.hidden)
        arrays[f"{layer}.h"] = generator.uniform(0.5, 2, SMALL.ffn)
    for array in arrays.values():
        array[::16] *= spikes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    exponent=st.integers(-6, 3),
)
def test_a_row_is_off_by_at_most_half_its_step(
    seed: int, rows: int, columns: int, exponent: int
) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)) * 10.0**exponent
    largest = np.abs(matrix).max(axis=1)
    try:
        linear = quantise_linear("w", matrix.copy(), input_format=F_N, output_format=F_Q)
    except UnsupportedModelError:
        # Only the extremes: rows whose multiplier leaves 16 bits at shifts 17 to 62.
        assert largest.max() > 1_000 or largest.max() < 1e-5
        return
    assert np.abs(linear.weights).max() <= 127
    assert linear.multipliers.max() >= 1 << 15
    assert 17 <= linear.shift <= 62
    step = largest / 127
    assert (np.abs(linear.weights * step[:, None] - matrix) <= step[:, None] * 0.5001).all()
    # c / 2^S is the row's step in the new format, to the half unit that rounding costs.
    real = linear.multipliers / 2.0**linear.shift
    assert np.allclose(real, step * 2.0 ** (F_Q - F_N - 7), atol=0.5 / 2.0**linear.shift, rtol=0)


def test_a_row_of_zeros_stays_zero() -> None:
    matrix = np.zeros((3, 8))
    matrix[1] = np.linspace(-1, 1, 8)
    linear = quantise_linear("w", matrix, input_format=F_N, output_format=F_Q)
    assert not linear.weights[0].any()
    assert linear.multipliers[0] == 0


@pytest.mark.parametrize("scale", [1e8, 1e-12])
def test_weights_beyond_every_shift_are_refused_by_name(scale: float) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        quantise_linear("w", np.ones((2, 2)) * scale, input_format=F_N, output_format=F_Q)
    assert caught.value.field == "w"


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_a_norm_weight_uses_the_bits_that_its_largest_entry_leaves(weights: list[float]) -> None:
    array = np.array(weights)
    try:
        norm = quantise_norm("g", array)
    except UnsupportedModelError:
        assert np.abs(array).max() < 2.0**-15
        return
    assert np.abs(norm.weights).max() <= 32_767
    error = np.abs(norm.weights / 2.0**norm.fraction_bits - array).max()
    assert error <= 0.5 / 2.0**norm.fraction_bits
    if norm.fraction_bits > 0:
        assert np.abs(norm.weights).max() >= 16_383 or not array.any()


def test_tables_hold_what_their_definition_says() -> None:
    cosines, sines = rope_tables(SMALL)
    assert cosines.shape == sines.shape == (128, 8)
    assert (cosines[0] == 16_384).all()
    assert not sines[0].any()
    norm = np.hypot(cosines.astype(float), sines.astype(float))
    assert np.abs(norm - 16_384).max() <= 1
    exp2 = exp2_table(10)
    assert (exp2[0], exp2[512], len(exp2)) == (32_768, round(32_768 / 2**0.5), 1_024)
    assert (np.diff(exp2) <= 0).all()
    sigmoid = sigmoid_table()
    assert (sigmoid[4_096], len(sigmoid)) == (16_384, 8_192)
    # sigmoid(x) + sigmoid(-x) = 1, up to the two roundings.
    assert np.abs(sigmoid[1:4_096] + sigmoid[:4_096:-1] - 32_768).max() <= 1


def test_smoothing_moves_scale_and_not_the_function(tmp_path: Path) -> None:
    """Norm weight times columns stays the float product, with and without factors.

    The bound is that of the roundings alone: half a step of W, half a unit of g and of c.
    """
    weights = random_weights(1)
    model = HuggingFaceModel(write_hugging_face(tmp_path, weights))
    maxima = ActivationMaxima.from_npz(maxima_archive(1, spikes=100.0), SMALL)
    results = quantise(model), quantise(model, maxima=maxima)
    for norm, norm_name, linear, linear_name, output_format in (
        ("0.n1", "model.layers.0.input_layernorm", "0.k", "model.layers.0.self_attn.k_proj", 9),
        (
            "1.n2",
            "model.layers.1.post_attention_layernorm",
            "1.up",
            "model.layers.1.mlp.up_proj",
            12,
        ),
        ("nf", "model.norm", "head", "model.embed_tokens", 12),
    ):
        float_norm = weights.tensors[f"{norm_name}.weight"].astype(np.float64)
        float_matrix = weights.tensors[f"{linear_name}.weight"].astype(np.float64)
        exact = float_matrix * float_norm * 2.0 ** (output_format - F_N - 7)
        for smoothed, result in zip((False, True), results, strict=True):
            if smoothed and linear == "1.up":
                continue  # its rows are divided too, and W_down takes that back
            g_unit = 2.0 ** -result.scalars[f"{norm}.G"]
            c_unit = 2.0 ** -result.scalars[f"{linear}.S"]
            g = result.tensors[f"{norm}.g"].astype(np.float64) * g_unit
            c = result.tensors[f"{linear}.c"].astype(np.float64)[:, None] * c_unit
            W = result.tensors[f"{linear}.W"].astype(np.float64)
            half = 0.5 * (c * np.abs(g) + np.abs(W) * c * g_unit + np.abs(W) * c_unit * np.abs(g))
            assert (np.abs(W * c * g - exact) <= half * 1.01).all(), linear
    plain, smoothed_result = (
        np.ptp(np.log(np.abs(result.tensors["nf.g"].astype(np.float64)))) for result in results
    )
    assert smoothed_result > plain


def test_factors_divide_the_channels_that_stand_out() -> None:
    weights = random_weights(2)
    maxima = ActivationMaxima.from_npz(maxima_archive(2, spikes=100.0), SMALL)
    matrices = {
        short: weights.tensors[f"model.layers.0.{name}.weight"].astype(np.float64)
        for short, name in {
            "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
            "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
        }.items()
    }  # fmt: skip
    factors = layer_factors(matrices, maxima, 0)
    factors["nf"] = head_factors(weights.tensors["model.embed_tokens.weight"].astype(float), maxima)
    for values in factors.values():
        assert values[::16].min() > np.delete(values, np.s_[::16]).max()
        assert np.exp(np.log(values).mean()) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("damage", ["empty", "truncated", "missing", "misshapen", "pickled", "nan"])
def test_a_damaged_calibration_is_refused(damage: str) -> None:
    data = maxima_archive(3)
    with np.load(io.BytesIO(data)) as archive:
        arrays: dict[str, Any] = dict(archive)
    if damage == "empty":
        data = b""
    elif damage == "truncated":
        data = data[:-30]
    else:
        if damage == "missing":
            del arrays["1.h"]
        elif damage == "misshapen":
            arrays["1.h"] = np.ones(5)
        elif damage == "pickled":
            arrays["1.h"] = np.array([{}], dtype=object)
        else:
            arrays["1.h"] = np.full(SMALL.ffn, np.nan)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        data = buffer.getvalue()
    with pytest.raises(SourceMalformedError):
        ActivationMaxima.from_npz(data, SMALL)


def test_progress_counts_every_step_once(tmp_path: Path) -> None:
    model = HuggingFaceModel(write_hugging_face(tmp_path, random_weights(4)))
    seen: list[tuple[int, int]] = []
    quantise(model, advance=lambda done, total: seen.append((done, total)))
    assert seen == [(step, SMALL.layers + 2) for step in range(1, SMALL.layers + 3)]
