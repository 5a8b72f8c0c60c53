"""What the converter needs from a float model, whatever file format holds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from otr_protocol.errors import MalformedError, RejectedError

Float64Array = npt.NDArray[np.float64]

# spec/numerics.md section 6: the widths for which every intermediate value fits its integer type.
MAX_INNER = 65_536
MAX_HEAD_DIM = 256
MAX_LAYERS = 1_024
MAX_VOCABULARY = 1 << 20
MAX_CONTEXT = 1 << 24

_LAYER_LINEARS = (
    ("q", "self_attn.q_proj"),
    ("k", "self_attn.k_proj"),
    ("v", "self_attn.v_proj"),
    ("o", "self_attn.o_proj"),
    ("gate", "mlp.gate_proj"),
    ("up", "mlp.up_proj"),
    ("down", "mlp.down_proj"),
)
_LAYER_NORMS = (("n1", "input_layernorm"), ("n2", "post_attention_layernorm"))

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


class SourceMalformedError(MalformedError):
    """A file of the float model is damaged or is not what its name says."""

    reason = "MODEL_SOURCE_MALFORMED"


class UnsupportedModelError(RejectedError):
    """A well-formed model that OTR-I8 v1 or this converter does not cover."""

    reason = "MODEL_UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of a Llama-family decoder; `context` counts positions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rope_theta: float
    rms_norm_eps: float

    def __post_init__(self) -> None:
        limits = {
            "hidden": MAX_INNER,
            "layers": MAX_LAYERS,
            "heads": MAX_INNER,
            "kv_heads": MAX_INNER,
            "head_dim": MAX_HEAD_DIM,
            "ffn": MAX_INNER,
            "vocab": MAX_VOCABULARY,
            "context": MAX_CONTEXT,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= limit:
                raise UnsupportedModelError(
                    f"{name} is {value!r}, supported are 1 to {limit}", field=name
                )
        if self.heads % self.kv_heads:
            raise UnsupportedModelError("heads is no multiple of kv_heads", field="kv_heads")
        if self.head_dim % 2:
            raise UnsupportedModelError("head_dim is odd; RoPE needs halves", field="head_dim")
        if self.heads * self.head_dim > MAX_INNER:
            raise UnsupportedModelError("heads * head_dim exceeds 65536", field="heads")
        if not 1.0 < self.rope_theta < 1e12:
            raise UnsupportedModelError(f"rope_theta is {self.rope_theta}", field="rope_theta")
        if not 0.0 <= self.rms_norm_eps < 1.0:
            raise UnsupportedModelError(
                f"rms_norm_eps is {self.rms_norm_eps}", field="rms_norm_eps"
            )

    def shapes(self, *, tied_head: bool) -> dict[str, tuple[int, ...]]:
        """Hugging Face tensor name to shape, for every tensor that the model must have."""
        d, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        linear_shapes = {
            "q": (q, d),
            "k": (kv, d),
            "v": (kv, d),
            "o": (d, q),
            "gate": (self.ffn, d),
            "up": (self.ffn, d),
            "down": (d, self.ffn),
        }
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab, d), FINAL_NORM: (d,)}
        if not tied_head:
            shapes[HEAD] = (self.vocab, d)
        for layer in range(self.layers):
            for short, _ in _LAYER_LINEARS:
                shapes[linear_name(layer, short)] = linear_shapes[short]
            for short, _ in _LAYER_NORMS:
                shapes[norm_name(layer, short)] = (d,)
        return shapes


def linear_name(layer: int, short: str) -> str:
    """Hugging Face name of a layer's matrix; `short` is q, k, v, o, gate, up or down."""
    return f"model.layers.{layer}.{dict(_LAYER_LINEARS)[short]}.weight"


def norm_name(layer: int, short: str) -> str:
    """Hugging Face name of a layer's norm weight; `short` is n1 or n2."""
    return f"model.layers.{layer}.{dict(_LAYER_NORMS)[short]}.weight"


def check_tensors(found: Iterable[tuple[str, Sequence[int]]], architecture: Architecture) -> bool:
    """Require exactly the tensors of a Llama decoder; return whether the head is tied.

    An unknown tensor (a bias, a router, a second embedding) is refused rather than ignored: a model
    converted without it would answer, and be another model.
    """
    shapes = {name: tuple(shape) for name, shape in found}
    tied = HEAD not in shapes
    wanted = architecture.shapes(tied_head=tied)
    for name, shape in wanted.items():
        if name not in shapes:
            raise SourceMalformedError(f"tensor {name} is missing", field=name)
        if shapes[name] != shape:
            raise SourceMalformedError(
                f"tensor {name} has shape {shapes[name]}, the configuration says {shape}",
                field=name,
            )
    for name in shapes:
        if name not in wanted:
            raise UnsupportedModelError(f"tensor {name} has no place in a Llama model", field=name)
    return tied


class FloatModel(Protocol):
    """An opened float model: numbers, weights one at a time, and everything about its text."""

    @property
    def architecture(self) -> Architecture:
        """The numbers of the model."""
        ...

    @property
    def tied_head(self) -> bool:
        """Whether the head is the embedding, and has no tensor of its own."""
        ...

    def tensor(self, name: str) -> Float64Array:
        """The named tensor (Hugging Face name and row order), finite float64, a fresh array."""
        ...

    def tokenizer_json(self) -> bytes:
        """The tokenizer in the format of the `tokenizers` library."""
        ...

    def chat_template(self) -> str | None:
        """The Jinja source of the chat template, if the model has one."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The id put before a raw prompt, if any."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer, ascending."""
        ...

    @property
    def licence(self) -> str:
        """An SPDX expression, or "unknown"."""
        ...


def finite(name: str, values: Float64Array) -> Float64Array:
    """`values`, unless one of them is infinite or not a number."""
    if not np.isfinite(values).all():
        raise SourceMalformedError(f"tensor {name} has values that are not finite", field=name)
    return values
