"""The reference converter: float64 weights to the integers of spec/numerics.md section 2.

Each matrix gets one scale per row (`W_j = rint(w_j / s_j)`, |W| <= 127), and the whole change of
format of a linear becomes one integer multiplier per row, `c_j`, and one shift per matrix, `S`.
Rounding here is numpy's `rint` (half to even); it decides which model is published and nothing
else, since every party executes the integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otr_numerics.convert import smooth
from otr_numerics.convert.source import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Architecture,
    Float64Array,
    FloatModel,
    UnsupportedModelError,
    linear_name,
    norm_name,
)
from otr_protocol.manifest import Formats

Int8Array = npt.NDArray[np.int8]
Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]
Uint16Array = npt.NDArray[np.uint16]

# Positions for which a RoPE table is shipped; longer contexts are refused by the engine, not
# extrapolated.
MAX_TABLE_POSITIONS = 2_048
# QUANT's exponent e is at most 16 (a 32-bit value keeps 15 bits), and RSHR(., S - e) needs a
# rounding bit.
_LEAST_SHIFT = 17
_GREATEST_SHIFT = 62


@dataclass(frozen=True, slots=True)
class QuantisedLinear:
    """`weights` int8 [N,K], `multipliers` uint16 [N] (c) and `shift` (S)."""

    weights: Int8Array
    multipliers: Uint16Array
    shift: int


@dataclass(frozen=True, slots=True)
class QuantisedNorm:
    """`weights` int16 [D] with `fraction_bits` (G)."""

    weights: Int16Array
    fraction_bits: int


@dataclass(frozen=True, slots=True)
class IntegerModel:
    """The artefact in memory: `tensors` and `scalars` (S, G, emb_S, eps_q) by their names."""

    architecture: Architecture
    table_positions: int
    formats: Formats
    tensors: Mapping[str, npt.NDArray[np.generic]]
    scalars: Mapping[str, int]


def _rows(matrix: Float64Array) -> tuple[Int8Array, Float64Array]:
    """int8 [N,K] and the float64 [N] scale of each row; a row of zeros keeps a tiny scale."""
    scales = np.maximum(np.maximum(matrix.max(axis=1), -matrix.min(axis=1)), 1e-12) / 127.0
    scaled = matrix / scales[:, None]
    np.rint(scaled, out=scaled)
    np.clip(scaled, -127, 127, out=scaled)
    return scaled.astype(np.int8), scales


def _largest_shift(largest: float, limit: int) -> int:
    """The largest S with `largest * 2^S <= limit`, exactly; `largest` > 0."""
    have, have_exponent = math.frexp(largest)
    allowed, allowed_exponent = math.frexp(limit)
    return allowed_exponent - have_exponent - (have > allowed)


def _multipliers(name: str, real: Float64Array, least_shift: int) -> tuple[Uint16Array, int]:
    shift = _largest_shift(float(real.max()), 65_535)
    if not least_shift <= shift <= _GREATEST_SHIFT:
        raise UnsupportedModelError(
            f"{name} needs the shift {shift}, outside {least_shift} to {_GREATEST_SHIFT}: "
            "its weights are too large or too small for these formats",
            field=name,
        )
    return np.rint(real * 2.0**shift).astype(np.uint16), shift


def quantise_linear(
    name: str, matrix: Float64Array, *, input_format: int, output_format: int
) -> QuantisedLinear:
    """Quantise `matrix` [N,K] that maps values in `input_format` to values in `output_format`.

    Raises UnsupportedModelError naming the matrix when no shift in 17..62 represents its scales.
    """
    weights, scales = _rows(matrix)
    real = scales * 2.0 ** (output_format - input_format - 7)
    multipliers, shift = _multipliers(name, real, _LEAST_SHIFT)
    return QuantisedLinear(weights, multipliers, shift)


def quantise_norm(name: str, weights: Float64Array) -> QuantisedNorm:
    """Quantise a norm weight [D] to int16, with the fraction bits that its largest entry leaves."""
    largest = float(np.abs(weights).max())
    bits = _largest_shift(largest, 32_767) if largest > 0 else 0
    if not 0 <= bits <= 30:
        raise UnsupportedModelError(f"{name} needs {bits} fraction bits, not 0 to 30", field=name)
    return QuantisedNorm(np.rint(weights * 2.0**bits).astype(np.int16), bits)


def rope_tables(architecture: Architecture) -> tuple[Int16Array, Int16Array]:
    """Cos and sin, int16 [P, head_dim/2] in Q14, P = min(context, MAX_TABLE_POSITIONS)."""
    positions = min(architecture.context, MAX_TABLE_POSITIONS)
    exponents = np.arange(0, architecture.head_dim, 2, dtype=np.float64) / architecture.head_dim
    frequencies = 1.0 / architecture.rope_theta**exponents
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies)
    cosines, sines = np.rint(np.cos(angles) * 16_384), np.rint(np.sin(angles) * 16_384)
    return cosines.astype(np.int16), sines.astype(np.int16)


def exp2_table(score_bits: int) -> Int32Array:
    """2^-f in Q15 for f = i / 2^score_bits, int32 [2^score_bits]."""
    size = 1 << score_bits
    return np.rint(32_768 * 2.0 ** (-np.arange(size) / size)).astype(np.int32)


def sigmoid_table() -> Int32Array:
    """The logistic function in Q15 on [-16, 16) in steps of 1/256, int32 [8192]."""
    return np.rint(32_768 / (1 + np.exp(-(np.arange(8_192) - 4_096) / 256.0))).astype(np.int32)


class _Artefact:
    """Collects tensors and scalars under the names of spec/numerics.md section 2."""

    def __init__(self) -> None:
        self.tensors: dict[str, npt.NDArray[np.generic]] = {}
        self.scalars: dict[str, int] = {}

    def linear(self, name: str, quantised: QuantisedLinear) -> None:
        self.tensors[f"{name}.W"] = quantised.weights
        self.tensors[f"{name}.c"] = quantised.multipliers
        self.scalars[f"{name}.S"] = quantised.shift

    def norm(self, name: str, quantised: QuantisedNorm) -> None:
        self.tensors[f"{name}.g"] = quantised.weights
        self.scalars[f"{name}.G"] = quantised.fraction_bits


def _convert_layer(
    model: FloatModel,
    layer: int,
    maxima: smooth.ActivationMaxima | None,
    formats: Formats,
    artefact: _Artefact,
) -> None:
    # Per matrix: the smoothing of its columns, the format of its input, the format of its output.
    plan = {
        "q": ("n1", formats.f_n, formats.f_q),
        "k": ("n1", formats.f_n, formats.f_k),
        "v": ("n1", formats.f_n, formats.f_v),
        "o": ("", formats.f_v + 8, formats.f_res),
        "gate": ("n2", formats.f_n, formats.f_g),
        "up": ("n2", formats.f_n, formats.f_g),
        "down": ("h", formats.f_h, formats.f_res),
    }
    matrices = {short: model.tensor(linear_name(layer, short)) for short in plan}
    factors = {} if maxima is None else smooth.layer_factors(matrices, maxima, layer)
    # The softmax is base 2, so its change of base and the 1/sqrt(d) of attention go into W_q.
    matrices["q"] *= math.log2(math.e) / math.sqrt(model.architecture.head_dim)
    if "h" in factors:
        matrices["up"] /= factors["h"][:, None]
    for short, (smoothed_by, source_format, target_format) in plan.items():
        matrix = matrices.pop(short)
        if smoothed_by in factors:
            matrix *= factors[smoothed_by]
        quantised = quantise_linear(
            linear_name(layer, short),
            matrix,
            input_format=source_format,
            output_format=target_format,
        )
        artefact.linear(f"{layer}.{short}", quantised)
    for short in ("n1", "n2"):
        name = norm_name(layer, short)
        weights = model.tensor(name)
        if short in factors:
            weights = weights / factors[short]
        artefact.norm(f"{layer}.{short}", quantise_norm(name, weights))


def quantise(
    model: FloatModel,
    *,
    maxima: smooth.ActivationMaxima | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> IntegerModel:
    """Convert `model`, with SmoothQuant factors if `maxima` are given.

    Holds the float matrices of one layer at a time beside the integer result. `advance(done,
    total)` is called after every layer, and after embedding and head, which count as one step each.
    Raises SourceMalformedError or UnsupportedModelError naming the tensor.
    """
    architecture = model.architecture
    formats = Formats()
    artefact = _Artefact()
    steps = architecture.layers + 2

    head = model.tensor(EMBEDDING)
    embedding, scales = _rows(head)
    multipliers, shift = _multipliers(EMBEDDING, scales * 2.0**formats.f_res, 1)
    artefact.tensors |= {"emb": embedding, "emb_c": multipliers}
    artefact.scalars["emb_S"] = shift
    artefact.scalars["eps_q"] = round(architecture.rms_norm_eps * 4.0**formats.f_res)
    advance(1, steps)

    for layer in range(architecture.layers):
        _convert_layer(model, layer, maxima, formats, artefact)
        advance(layer + 2, steps)

    if not model.tied_head:
        head = model.tensor(HEAD)
    final_norm = model.tensor(FINAL_NORM)
    if maxima is not None:
        factors_of_head = smooth.head_factors(head, maxima)
        head *= factors_of_head
        final_norm = final_norm / factors_of_head
    artefact.linear(
        "head",
        quantise_linear(HEAD, head, input_format=formats.f_n, output_format=formats.f_l),
    )
    artefact.norm("nf", quantise_norm(FINAL_NORM, final_norm))
    cosines, sines = rope_tables(architecture)
    artefact.tensors |= {
        "cos": cosines,
        "sin": sines,
        "exp2": exp2_table(formats.f_s),
        "sig": sigmoid_table(),
    }
    advance(steps, steps)
    return IntegerModel(architecture, len(cosines), formats, artefact.tensors, artefact.scalars)
