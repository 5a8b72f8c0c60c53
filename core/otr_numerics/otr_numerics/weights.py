"""The weights of one model as the arithmetic reads them (spec/numerics.md section 2).

Fields carry the names of the specification. Loading proves once what every operation afterwards
relies on: shapes and dtypes, |W| <= 127, and the bounds on tables and formats under which int64
never overflows. Nothing here knows about files: `model_file` reads and hashes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from otr_numerics.packing import MatrixGroup, PackedLayout, PackedMatrices
from otr_protocol.errors import MalformedError
from otr_protocol.manifest import Formats, ModelManifest, ModelShape

__all__ = ["Embedding", "Formats", "LayerWeights", "Linear", "ModelShape", "Norm", "Weights"]

SIGMOID_ENTRIES: Final = 8192
_ROPE_ONE: Final = 1 << 14
_EXP2_ONE: Final = 1 << 15
_MAX_WEIGHT: Final = 127  # never -128: every bound of section 6 counts on it

Int8Array = npt.NDArray[np.int8]
Int16Array = npt.NDArray[np.int16]
Uint16Array = npt.NDArray[np.uint16]
Int32Array = npt.NDArray[np.int32]
Tensors = Mapping[str, npt.NDArray[Any]]


class WeightsInvalidError(MalformedError):
    """A tensor is missing, or holds what no model may: `field` names it."""

    reason = "WEIGHTS_INVALID"


class FormatsOverflowError(MalformedError):
    """Formats and width together leave the range in which the arithmetic is exact."""

    reason = "FORMATS_OVERFLOW"


@dataclass(frozen=True, slots=True)
class Linear:
    """One weight matrix: `W` int8 [N, K] with |W| <= 127, `c` uint16 [N], shift `S`."""

    W: Int8Array
    c: Uint16Array
    S: int

    @property
    def outputs(self) -> int:
        """N, the rows of `W`."""
        return int(self.W.shape[0])

    @property
    def inputs(self) -> int:
        """K, the columns of `W`."""
        return int(self.W.shape[1])


@dataclass(frozen=True, slots=True)
class Embedding:
    """Row-wise embedding: `W` int8 [V, D], `c` uint16 [V], shift `S` (emb, emb_c, emb_S)."""

    W: Int8Array
    c: Uint16Array
    S: int


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm weights: `g` int16 [D] with `G` fraction bits."""

    g: Int16Array
    G: int


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer layer."""

    n1: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    n2: Norm
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model. Build it with `from_tensors`, which checks everything it holds.

    `cos`, `sin` int16 [context, head_dim / 2] in Q14; `exp2` int32 [2^F_s] and `sig` int32 [8192]
    in Q15. The matrices of layers and head are views of `packed`, where the engine reads them.
    """

    shape: ModelShape
    formats: Formats
    eps_q: int
    embedding: Embedding
    layers: tuple[LayerWeights, ...]
    final_norm: Norm
    head: Linear
    cos: Int16Array
    sin: Int16Array
    exp2: Int32Array
    sig: Int32Array
    packed: PackedMatrices

    @property
    def hidden(self) -> int:
        """Columns of the residual: D."""
        return self.shape.hidden

    @property
    def heads(self) -> int:
        """Query heads: H."""
        return self.shape.heads

    @property
    def kv_heads(self) -> int:
        """K/V heads: G."""
        return self.shape.kv_heads

    @property
    def head_dim(self) -> int:
        """Columns of one head: d."""
        return self.shape.head_dim

    @property
    def ffn(self) -> int:
        """Columns between up and down: I."""
        return self.shape.ffn

    @property
    def vocab(self) -> int:
        """Token ids: V."""
        return self.shape.vocab

    @property
    def context(self) -> int:
        """P: the rows of the rotation tables: the most positions a sequence may have."""
        return self.shape.context_length

    @classmethod
    def from_tensors(cls, manifest: ModelManifest, tensors: Tensors) -> Weights:
        """The weights of a manifest, tensors by the names of the specification ("0.q.W", "nf.g").

        Raises WeightsInvalidError naming the tensor, FormatsOverflowError.
        """
        return cls.from_parts(manifest.shape, manifest.formats, manifest.scalar_mapping(), tensors)

    @classmethod
    def from_parts(
        cls,
        shape: ModelShape,
        formats: Formats,
        scalars: Mapping[str, int],
        tensors: Tensors,
    ) -> Weights:
        """As `from_tensors`, of a model that has no manifest yet; scalars by name ("0.q.S")."""
        _check_formats(shape, formats)
        packed = PackedMatrices(PackedLayout.of(shape))
        take = _Taker(tensors, scalars, packed)
        half = shape.head_dim // 2
        layers = tuple(take.layer(index, shape) for index in range(shape.layers))
        return cls(
            shape=shape,
            formats=formats,
            eps_q=take.scalar("eps_q", 0, 2**46 - 1),
            embedding=Embedding(
                take.bounded(
                    "emb", np.int8, (shape.vocab, shape.hidden), -_MAX_WEIGHT, _MAX_WEIGHT
                ),
                take.tensor("emb_c", np.uint16, (shape.vocab,)),
                take.scalar("emb_S", 0, 62),
            ),
            layers=layers,
            final_norm=take.norm("nf", shape.hidden),
            head=take.linear("head", packed.layout.head, 0, shape.vocab),
            cos=take.bounded("cos", np.int16, (shape.context_length, half), -_ROPE_ONE, _ROPE_ONE),
            sin=take.bounded("sin", np.int16, (shape.context_length, half), -_ROPE_ONE, _ROPE_ONE),
            exp2=take.exp2(formats),
            sig=take.bounded("sig", np.int32, (SIGMOID_ENTRIES,), 0, _EXP2_ONE),
            packed=packed,
        )


class _Taker:
    """Takes tensors and scalars out of mappings by name, checking what it takes."""

    def __init__(
        self, tensors: Tensors, scalars: Mapping[str, int], packed: PackedMatrices
    ) -> None:
        self._tensors = tensors
        self._scalars = scalars
        self._packed = packed

    def scalar(self, name: str, low: int, high: int) -> int:
        value = self._scalars.get(name)
        if value is None or not low <= value <= high:
            raise WeightsInvalidError(f"{name} is {value}, not {low} to {high}", field=name)
        return int(value)

    def found(self, name: str, dtype: type[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        value = self._tensors.get(name)
        if value is None or value.dtype != np.dtype(dtype) or value.shape != shape:
            what = "missing" if value is None else f"{value.dtype} {value.shape}"
            raise WeightsInvalidError(
                f"{name} is {what}, not {np.dtype(dtype)} {shape}", field=name
            )
        return value

    def tensor(self, name: str, dtype: type[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        # A copy: loaders may mark what they verified read-only; kernels take plain arrays.
        return np.array(self.found(name, dtype, shape))

    def bounded(
        self, name: str, dtype: type[Any], shape: tuple[int, ...], low: int, high: int
    ) -> npt.NDArray[Any]:
        value = self.tensor(name, dtype, shape)
        _check_bounds(name, value, low, high)
        return value

    def linear(self, name: str, group: MatrixGroup, skip: int, outputs: int) -> Linear:
        W = self.found(f"{name}.W", np.int8, (outputs, group.inputs))
        _check_bounds(f"{name}.W", W, -_MAX_WEIGHT, _MAX_WEIGHT)
        c = self.tensor(f"{name}.c", np.uint16, (outputs,))
        # QUANT's e is at most 16, so S - e leaves a bit to round; LINEAR stays below 2^63.
        S = self.scalar(f"{name}.S", 17, 62)
        return Linear(self._packed.place(group, skip, W, c, S), c, S)

    def layer(self, index: int, shape: ModelShape) -> LayerWeights:
        queries = shape.heads * shape.head_dim
        keys = shape.kv_heads * shape.head_dim
        layout = self._packed.layout
        qkv, gate_up = layout.group(index, "qkv"), layout.group(index, "gate_up")
        return LayerWeights(
            n1=self.norm(f"{index}.n1", shape.hidden),
            q=self.linear(f"{index}.q", qkv, 0, queries),
            k=self.linear(f"{index}.k", qkv, queries, keys),
            v=self.linear(f"{index}.v", qkv, queries + keys, keys),
            o=self.linear(f"{index}.o", layout.group(index, "o"), 0, shape.hidden),
            n2=self.norm(f"{index}.n2", shape.hidden),
            gate=self.linear(f"{index}.gate", gate_up, 0, shape.ffn),
            up=self.linear(f"{index}.up", gate_up, shape.ffn, shape.ffn),
            down=self.linear(f"{index}.down", layout.group(index, "down"), 0, shape.hidden),
        )

    def norm(self, name: str, width: int) -> Norm:
        return Norm(self.tensor(f"{name}.g", np.int16, (width,)), self.scalar(f"{name}.G", 0, 62))

    def exp2(self, formats: Formats) -> Int32Array:
        """SOFTMAX2 divides by a sum that holds exp2[0]; sampling relies on one falling order."""
        table = self.bounded("exp2", np.int32, (1 << formats.f_s,), _EXP2_ONE >> 1, _EXP2_ONE)
        if int(table[0]) != _EXP2_ONE or bool((table[1:] > table[:-1]).any()):
            raise WeightsInvalidError("exp2 does not fall from 32768", field="exp2")
        return table


def _check_bounds(name: str, value: npt.NDArray[Any], low: int, high: int) -> None:
    if int(value.min()) < low or int(value.max()) > high:
        raise WeightsInvalidError(f"{name} leaves {low} to {high}", field=name)


def _check_formats(shape: ModelShape, formats: Formats) -> None:
    """RMSNORM's xs * R stays in int64.

    With v = 0, sum xs^2 < D, so |xs| < sqrt(D) while R = 2^(F_n + 38); otherwise u >= 256 and
    |xs| <= sqrt(D * (v + 1)), which is less. The product has to stay below 2^62.
    """
    root = (shape.hidden - 1).bit_length() + 1 >> 1
    if formats.f_n + 38 + root > 62:
        raise FormatsOverflowError(
            f"F_n = {formats.f_n} overflows at {shape.hidden} columns", field="F_n"
        )
