"""The model manifest: what `model_id` is the hash of (spec/model.md).

    ["otr-manifest-v1", "OTR-I8 v1",
     [hidden, layers, heads, kv_heads, head_dim, ffn, vocab, context_length],
     [F_res, F_n, F_q, F_k, F_v, F_g, F_h, F_l, F_s, F_p],
     scalars, tokenizer_digest, token_bytes_digest, chat_template_digest,
     bos_ids, eos_ids, special_ids, weights_root, trace_segment_layers, unit_ms, licence]

`model_id = H(manifest)`. With the weights under `weights_root` it holds every number that
spec/numerics.md needs, so two parties who agree on a model id compute the same bits. The scalars of
the arithmetic (shifts S, norm fraction bits G, eps_q) are here and not among the tensors, as
integers in the order of `scalar_names`, so that an arbiter can recompute one step without opening
more of the model than the tile in question. It has no name: what a model is called is a
publisher's word (registry.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

from otr_protocol import dcbor
from otr_protocol.digest import H
from otr_protocol.fields import (
    FieldError,
    as_bytes,
    as_integer,
    as_integers,
    as_text,
    check_ascending,
    check_digest,
    check_name,
    check_optional_digest,
    check_range,
)
from otr_protocol.trace.segments import TraceLayout

MANIFEST_DOMAIN: Final = "otr-manifest-v1"
NUMERICS: Final = "OTR-I8 v1"
MAX_MANIFEST_BYTES: Final = 64 << 10
MAX_BOS_IDS: Final = 1
MAX_EOS_IDS: Final = 16
MAX_SPECIAL_IDS: Final = 4096
MAX_UNIT_MS: Final = 3_600_000

_LINEARS: Final = ("q", "k", "v", "o", "gate", "up", "down")
_NORMS: Final = ("n1", "n2")
_PROBABILITY_BITS: Final = 16


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Llama-family architecture numbers.

    `context_length` bounds prompt plus output, and is the number of rows of the RoPE tables.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context_length: int

    def __post_init__(self) -> None:
        # The bounds are those under which spec/numerics.md section 6 proves int64 sufficient.
        check_range(self.hidden, 1, 1 << 16, "hidden")
        check_range(self.layers, 1, 1 << 10, "layers")
        check_range(self.heads, 1, 1 << 12, "heads")
        check_range(self.kv_heads, 1, self.heads, "kv_heads")
        # Else no two readers need agree which K/V head a query head attends to.
        check_range(self.heads % self.kv_heads, 0, 0, "heads modulo kv_heads")
        check_range(self.head_dim, 2, 256, "head_dim")
        check_range(self.head_dim % 2, 0, 0, "head_dim modulo 2")
        check_range(self.heads * self.head_dim, 1, 1 << 16, "heads * head_dim")
        check_range(self.ffn, 1, 1 << 16, "ffn")
        check_range(self.vocab, 1, 1 << 24, "vocab")
        check_range(self.context_length, 1, 1 << 24, "context_length")


@dataclass(frozen=True, slots=True)
class Formats:
    """Fraction bits of the tensor formats (spec/numerics.md section 1)."""

    f_res: int = 12
    f_n: int = 14
    f_q: int = 9
    f_k: int = 9
    f_v: int = 10
    f_g: int = 12
    f_h: int = 12
    f_l: int = 12
    f_s: int = 10
    f_p: int = _PROBABILITY_BITS

    def __post_init__(self) -> None:
        for name, bits in self.as_mapping().items():
            check_range(bits, 0, 24, name)
        # Shift amounts that section 4 derives from formats must not be negative.
        check_range(self.f_g, 8, 24, "F_g")
        check_range(2 * self.f_g - self.f_h, 0, 48, "2 F_g - F_h")
        check_range(14 + self.f_q + self.f_k - self.f_s, 0, 62, "14 + F_q + F_k - F_s")
        check_range(16 + self.f_l - self.f_s, 0, 62, "16 + F_l - F_s")
        check_range(self.f_s, 1, 16, "F_s")
        # SOFTMAX2 itself fixes F_p; it is written down because the table of formats has it.
        check_range(self.f_p, _PROBABILITY_BITS, _PROBABILITY_BITS, "F_p")

    def as_mapping(self) -> dict[str, int]:
        """The formats by the names of spec/numerics.md: "F_res", "F_n", ..."""
        names = ("res", "n", "q", "k", "v", "g", "h", "l", "s", "p")
        return {f"F_{name}": bits for name, bits in zip(names, astuple(self), strict=True)}


def scalar_names(layers: int) -> tuple[str, ...]:
    """The scalars of a model in the order in which its manifest lists them.

    "emb_S", "eps_q", then for every layer l "l.q.S" ... "l.down.S", "l.n1.G", "l.n2.G", at last
    "nf.G" and "head.S": the names of spec/numerics.md section 2.
    """
    names = ["emb_S", "eps_q"]
    for layer in range(layers):
        names += [f"{layer}.{linear}.S" for linear in _LINEARS]
        names += [f"{layer}.{norm}.G" for norm in _NORMS]
    return (*names, "nf.G", "head.S")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """Everything about a model that two parties must agree on, in one record.

    `scalars` follows `scalar_names(shape.layers)`. `tokenizer_digest` and `token_bytes_digest` are
    `H` of the files tokenizer.json and token_bytes.cbor, `chat_template_digest` of the template or
    empty. `bos_ids` (none or one) go before a plain-text prompt, `eos_ids` end an answer unless
    the client ignores them, `special_ids` have no text; all ascending. `weights_root` is the tree
    over the tensor table, `unit_ms` the time one dispute unit takes to recompute.
    """

    shape: ModelShape
    formats: Formats
    scalars: tuple[int, ...]
    tokenizer_digest: bytes
    token_bytes_digest: bytes
    chat_template_digest: bytes
    bos_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]
    special_ids: tuple[int, ...]
    weights_root: bytes
    trace_segment_layers: int
    unit_ms: int
    licence: str

    def __post_init__(self) -> None:
        names = scalar_names(self.shape.layers)
        check_range(len(self.scalars), len(names), len(names), "scalars")
        for name, value in zip(names, self.scalars, strict=True):
            _check_scalar(name, value)
        check_digest(self.tokenizer_digest, "tokenizer_digest")
        check_digest(self.token_bytes_digest, "token_bytes_digest")
        check_optional_digest(self.chat_template_digest, "chat_template_digest")
        self._check_ids(self.bos_ids, 0, MAX_BOS_IDS, "bos_ids")
        self._check_ids(self.eos_ids, 1, MAX_EOS_IDS, "eos_ids")
        self._check_ids(self.special_ids, 0, MAX_SPECIAL_IDS, "special_ids")
        check_digest(self.weights_root, "weights_root")
        check_range(self.trace_segment_layers, 1, self.shape.layers, "trace_segment_layers")
        check_range(self.unit_ms, 1, MAX_UNIT_MS, "unit_ms")
        check_name(self.licence, "licence")

    def _check_ids(self, ids: tuple[int, ...], least: int, most: int, field: str) -> None:
        check_range(len(ids), least, most, field)
        check_ascending(ids, field)
        for token_id in ids:
            check_range(token_id, 0, self.shape.vocab - 1, field)

    def scalar_mapping(self) -> Mapping[str, int]:
        """The scalars by name."""
        return dict(zip(scalar_names(self.shape.layers), self.scalars, strict=True))

    def trace_layout(self) -> TraceLayout:
        """The segments and K/V pages of this model's traces."""
        return TraceLayout(self.shape.layers, self.shape.kv_heads, self.trace_segment_layers)

    def encode(self) -> bytes:
        """The record, at most 64 KiB: the content of the file manifest.cbor."""
        return dcbor.encode(
            (
                MANIFEST_DOMAIN,
                NUMERICS,
                astuple(self.shape),
                astuple(self.formats),
                self.scalars,
                self.tokenizer_digest,
                self.token_bytes_digest,
                self.chat_template_digest,
                self.bos_ids,
                self.eos_ids,
                self.special_ids,
                self.weights_root,
                self.trace_segment_layers,
                self.unit_ms,
                self.licence,
            )
        )

    def model_id(self) -> bytes:
        """`H(manifest)`: 32 bytes."""
        return H(self.encode())


def open_manifest(data: bytes) -> ModelManifest:
    """Decode a manifest. Raises MalformedError subclasses only."""
    fields = dcbor.open_record(
        data,
        MANIFEST_DOMAIN,
        *(str, tuple, tuple, tuple, bytes, bytes, bytes, tuple, tuple, tuple, bytes),
        *(int, int, str),
        max_bytes=MAX_MANIFEST_BYTES,
    )
    numerics, shape, formats, scalars, tokenizer, token_bytes, template = fields[:7]
    bos_ids, eos_ids, special_ids, weights_root, segment_layers, unit_ms, licence = fields[7:]
    if numerics != NUMERICS:
        raise FieldError("numerics of another version", field="numerics")
    shape_numbers = as_integers(shape, "shape")
    check_range(len(shape_numbers), 8, 8, "shape")
    format_bits = as_integers(formats, "formats")
    check_range(len(format_bits), 10, 10, "formats")
    return ModelManifest(
        shape=ModelShape(*shape_numbers),
        formats=Formats(*format_bits),
        scalars=as_integers(scalars, "scalars"),
        tokenizer_digest=as_bytes(tokenizer, "tokenizer_digest"),
        token_bytes_digest=as_bytes(token_bytes, "token_bytes_digest"),
        chat_template_digest=as_bytes(template, "chat_template_digest"),
        bos_ids=as_integers(bos_ids, "bos_ids"),
        eos_ids=as_integers(eos_ids, "eos_ids"),
        special_ids=as_integers(special_ids, "special_ids"),
        weights_root=as_bytes(weights_root, "weights_root"),
        trace_segment_layers=as_integer(segment_layers, "trace_segment_layers"),
        unit_ms=as_integer(unit_ms, "unit_ms"),
        licence=as_text(licence, "licence"),
    )


def _check_scalar(name: str, value: int) -> None:
    """S is a shift of an int64 by S - e with e <= 16, and leaves a bit to round; G shifts too."""
    if name == "eps_q":
        check_range(value, 0, 2**46 - 1, name)
    elif name == "emb_S":
        check_range(value, 0, 62, name)
    elif name.endswith(".S"):
        check_range(value, 17, 62, name)
    else:
        check_range(value, 0, 62, name)
