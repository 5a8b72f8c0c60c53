"""Open a GGUF file of a Llama model (ggml's docs/gguf.md) as a float model in Hugging Face order.

Three things differ from a Hugging Face directory. Weights may be block quantised; they are expanded
and then rounded to float16, the precision in which such models are published, so that a GGUF and
the directory that others make from it convert to the same integers. Rows of W_q and W_k are stored
for interleaved RoPE (pairs 2i, 2i+1) and are put back into the half-split order that NUMERICS uses.
The tokenizer is a list of byte-level BPE tokens and merges, from which a `tokenizers` file is
built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from otr_numerics.convert.source import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Architecture,
    Float64Array,
    SourceMalformedError,
    UnsupportedModelError,
    check_tensors,
    finite,
    linear_name,
    norm_name,
)

_SUPPORTED_TYPES = frozenset({"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"})
_LINEARS = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_NORMS = {"attn_norm": "n1", "ffn_norm": "n2"}
_TOP = {"token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": HEAD}
# llama.cpp's token types: 3 is a control token, 4 a literal string that is matched before BPE.
_CONTROL, _USER_DEFINED = 3, 4


def _byte_level(*, split: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": split,
    }


def _pre_tokenizer(kind: str) -> dict[str, Any]:
    """How text is cut into words before BPE; `kind` is the file's tokenizer.ggml.pre."""
    if kind == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, _byte_level(split=True)]}
    if kind in ("gpt-2", "gpt2"):
        return _byte_level(split=True)
    raise UnsupportedModelError(
        f"pre-tokenizer {kind!r} is not known here", field="tokenizer.ggml.pre"
    )


def _canonical_name(name: str, layers: int) -> str:
    """The Hugging Face name of a GGUF tensor, or the name itself when it has none."""
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[3] == "weight" and parts[1].isdecimal():
        layer = int(parts[1])
        if layer < layers and parts[2] in _LINEARS:
            return linear_name(layer, _LINEARS[parts[2]])
        if layer < layers and parts[2] in _NORMS:
            return norm_name(layer, _NORMS[parts[2]])
    return name


def _halves_from_pairs(matrix: Float64Array, heads: int) -> Float64Array:
    """Reorder the rows of each head from RoPE pairs (2i, 2i+1) to halves (i, i + d/2)."""
    rows, columns = matrix.shape
    paired = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return paired.swapaxes(1, 2).reshape(rows, columns)


class GgufModel:
    """A GGUF file, memory mapped. Satisfies `FloatModel`.

    Raises SourceMalformedError for a damaged file, UnsupportedModelError for one that is not a
    plain Llama with a byte-level BPE tokenizer.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except FileNotFoundError:
            raise
        except Exception as error:  # the reader raises whatever its parsing runs into
            raise SourceMalformedError(
                f"{path.name} is not a readable GGUF file: {error}", field="gguf"
            ) from error
        self.architecture = self._read_architecture()
        self._stored = {
            _canonical_name(tensor.name, self.architecture.layers): tensor
            for tensor in self._reader.tensors
        }
        for name, tensor in self._stored.items():
            if tensor.tensor_type.name not in _SUPPORTED_TYPES:
                raise UnsupportedModelError(
                    f"tensor {name} is stored as {tensor.tensor_type.name}; supported are "
                    f"{', '.join(sorted(_SUPPORTED_TYPES))}",
                    field=name,
                )
        self.tied_head = check_tensors(
            # GGUF writes the fastest dimension first.
            (
                (name, [int(size) for size in reversed(tensor.shape)])
                for name, tensor in self._stored.items()
            ),
            self.architecture,
        )

    def _field(self, key: str, kind: type, default: Any = None) -> Any:
        field = self._reader.fields.get(key)
        if field is None:
            if default is not None:
                return default
            raise SourceMalformedError(f"the key {key} is missing", field=key)
        try:
            value = field.contents()
        except Exception as error:  # as in __init__
            raise SourceMalformedError(
                f"the key {key} cannot be read: {error}", field=key
            ) from error
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise SourceMalformedError(f"the key {key} is not a {kind.__name__}", field=key)
        return value

    def _read_architecture(self) -> Architecture:
        family = self._field("general.architecture", str)
        if family != "llama":
            raise UnsupportedModelError(
                f"architecture {family!r} is not llama", field="general.architecture"
            )
        for key in self._reader.fields:
            if key.startswith("llama.rope.scaling") and key != "llama.rope.scaling.finetuned":
                raise UnsupportedModelError("RoPE scaling is not supported", field=key)
        heads = self._field("llama.attention.head_count", int)
        hidden = self._field("llama.embedding_length", int)
        head_dim = self._field("llama.attention.key_length", int, hidden // max(heads, 1))
        if self._field("llama.rope.dimension_count", int, head_dim) != head_dim:
            raise UnsupportedModelError(
                "RoPE over a part of the head is not supported", field="llama.rope.dimension_count"
            )
        return Architecture(
            hidden=hidden,
            layers=self._field("llama.block_count", int),
            heads=heads,
            kv_heads=self._field("llama.attention.head_count_kv", int, heads),
            head_dim=head_dim,
            ffn=self._field("llama.feed_forward_length", int),
            vocab=self._field(
                "llama.vocab_size", int, len(self._field("tokenizer.ggml.tokens", list))
            ),
            context=self._field("llama.context_length", int),
            rope_theta=self._field("llama.rope.freq_base", float, 10_000.0),
            rms_norm_eps=self._field("llama.attention.layer_norm_rms_epsilon", float),
        )

    def tensor(self, name: str) -> Float64Array:
        """See `FloatModel.tensor`; values are rounded to float16 on the way."""
        stored = self._stored[name]
        expanded = dequantize(stored.data, stored.tensor_type)
        with np.errstate(over="ignore"):  # an overflow shows as infinity and is refused below
            values = finite(name, expanded.astype(np.float16).astype(np.float64))
        values = values.reshape([int(size) for size in reversed(stored.shape)])
        if name.endswith("self_attn.q_proj.weight"):
            return _halves_from_pairs(values, self.architecture.heads)
        if name.endswith("self_attn.k_proj.weight"):
            return _halves_from_pairs(values, self.architecture.kv_heads)
        return values

    def tokenizer_json(self) -> bytes:
        """See `FloatModel.tokenizer_json`; built from the file's tokens, types and merges.

        Written out here rather than by the `tokenizers` library, because the manifest commits to
        these bytes and they must not change with the library's version.
        """
        kind = self._field("tokenizer.ggml.model", str)
        if kind != "gpt2":
            raise UnsupportedModelError(
                f"tokenizer {kind!r} is not byte-level BPE (gpt2)", field="tokenizer.ggml.model"
            )
        tokens = self._field("tokenizer.ggml.tokens", list)
        types = self._field("tokenizer.ggml.token_type", list)
        merges = self._field("tokenizer.ggml.merges", list)
        if not len(tokens) == len(types) == self.architecture.vocab:
            raise SourceMalformedError(
                f"{len(tokens)} tokens, {len(types)} types, vocabulary {self.architecture.vocab}",
                field="tokenizer.ggml.tokens",
            )
        vocabulary = {token: index for index, token in enumerate(tokens)}
        if len(vocabulary) != len(tokens):
            raise SourceMalformedError("a token occurs twice", field="tokenizer.ggml.tokens")
        if any(merge.count(" ") != 1 for merge in merges):
            raise SourceMalformedError("a merge is not a pair", field="tokenizer.ggml.merges")
        added = [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token_type == _CONTROL,
            }
            for index, (token, token_type) in enumerate(zip(tokens, types, strict=True))
            if token_type in (_CONTROL, _USER_DEFINED)
        ]
        description = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": _pre_tokenizer(self._field("tokenizer.ggml.pre", str, "gpt-2")),
            "post_processor": None,
            "decoder": _byte_level(split=True),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocabulary,
                "merges": merges,
            },
        }
        return json.dumps(description, ensure_ascii=False, separators=(",", ":")).encode()

    def chat_template(self) -> str | None:
        """See `FloatModel.chat_template`."""
        return self._field("tokenizer.chat_template", str, "") or None

    @property
    def bos_id(self) -> int | None:
        """The id to put before a raw prompt, or None when the file says not to add one."""
        if self._field("tokenizer.ggml.add_bos_token", bool, False):
            return int(self._field("tokenizer.ggml.bos_token_id", int))
        return None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        return (int(self._field("tokenizer.ggml.eos_token_id", int)),)

    @property
    def licence(self) -> str:
        """SPDX-like identifier as the file states it, or "unknown"."""
        return str(self._field("general.license", str, "unknown"))
