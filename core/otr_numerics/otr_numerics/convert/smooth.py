"""SmoothQuant factors from recorded activation maxima (spec/numerics.md section 2, last paragraph).

A few input channels of a linear carry values far above the rest, and one per-token scale then
wastes the int8 range on them. Dividing channel j of the activation by t_j and multiplying column j
of the weights by t_j leaves the product unchanged and evens out both sides. The division is free:
it goes into the norm weight before the linear, or for the ffn into the rows of W_up.

With a_j the largest |activation| seen in channel j during calibration, and w_j the largest weight
of column j relative to the median row maximum, `t_j = a_j^alpha / w_j^(1-alpha)`, normalised to
geometric mean 1 (arXiv 2211.10438, equation 4). alpha is one half here, so both powers are square
roots and do not depend on a machine's `pow`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from otr_numerics.convert.source import (
    Architecture,
    Float64Array,
    SourceMalformedError,
    finite,
)

# A channel is moved by at most this factor; beyond it the int16 norm weight would lose its own
# bits.
_MOST = 64.0
_FLOOR = 1e-4
_GROUPS = {"n1": ("q", "k", "v"), "n2": ("gate", "up"), "h": ("down",)}


@dataclass(frozen=True, slots=True)
class ActivationMaxima:
    """Largest |activation| per channel, keyed "<layer>.n1", "<layer>.n2", "<layer>.h" and "nf".

    "n1" and "n2" are the outputs of the two norms (float64 [hidden]), "h" the input of W_down
    (float64 [ffn]), "nf" the output of the final norm.
    """

    channels: Mapping[str, Float64Array]

    @classmethod
    def from_npz(cls, data: bytes, architecture: Architecture) -> ActivationMaxima:
        """Read the maxima of every layer from a numpy archive; other keys are ignored."""
        wanted = {"nf": architecture.hidden}
        for layer in range(architecture.layers):
            wanted |= {
                f"{layer}.n1": architecture.hidden,
                f"{layer}.n2": architecture.hidden,
                f"{layer}.h": architecture.ffn,
            }
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                channels = {key: archive[key].astype(np.float64) for key in wanted}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SourceMalformedError(
                f"the calibration archive cannot be read: {error}", field="calibration"
            ) from error
        for key, width in wanted.items():
            if channels[key].shape != (width,):
                raise SourceMalformedError(
                    f"calibration {key} has shape {channels[key].shape}, expected ({width},)",
                    field="calibration",
                )
            finite(key, channels[key])
        return cls(channels)


def _factors(activation: Float64Array, weight: Float64Array) -> Float64Array:
    factors = np.sqrt(np.maximum(activation, _FLOOR)) / np.sqrt(np.maximum(weight, _FLOOR))
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float64)


def layer_factors(
    matrices: Mapping[str, Float64Array], maxima: ActivationMaxima, layer: int
) -> dict[str, Float64Array]:
    """Factors of one layer: "n1" and "n2" float64 [hidden], "h" float64 [ffn].

    `matrices` are the layer's float weights by short name (q, k, v, gate, up, down).
    """
    result = {}
    for kind, linears in _GROUPS.items():
        columns = []
        for short in linears:
            absolute = np.abs(matrices[short])
            # A matrix of zeros says nothing about its columns, and 0/0 is no maximum.
            typical = max(float(np.median(absolute.max(axis=1))), _FLOOR)
            columns.append(absolute.max(axis=0) / typical)
        factors = _factors(maxima.channels[f"{layer}.{kind}"], np.max(columns, axis=0))
        result[kind] = np.clip(factors, 1 / _MOST, _MOST)
    return result


def head_factors(head: Float64Array, maxima: ActivationMaxima) -> Float64Array:
    """Factors between the final norm and the float head [vocab, hidden]: float64 [hidden]."""
    return _factors(maxima.channels["nf"], np.abs(head).max(axis=0))
