"""Open a Hugging Face directory of a Llama model (config.json, safetensors) as a float model.

The `safetensors` library checks each file's header (sizes, overlaps, dtypes); the values are then
read from a memory map, because the library gives numpy no bfloat16, which is what most Llama models
use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from otr_numerics.convert.source import (
    HEAD,
    Architecture,
    Float64Array,
    SourceMalformedError,
    UnsupportedModelError,
    check_tensors,
    finite,
)

_MAX_JSON_BYTES = 64 << 20
_MAX_SHARDS = 4_096
# BF16 is the upper half of a float32 and is read as its bits.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Old exports keep the RoPE frequencies as a buffer; they follow from rope_theta.
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise SourceMalformedError(f"{path.name} is larger than 64 MiB", field=path.name)
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceMalformedError(f"{path.name} is not JSON: {error}", field=path.name) from error
    if not isinstance(value, dict):
        raise SourceMalformedError(f"{path.name} is not a JSON object", field=path.name)
    return value


def _optional_json(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _number(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SourceMalformedError(f"config.json: {key} is {value!r}", field=key)
    return value


def _read_architecture(config: Mapping[str, Any]) -> Architecture:
    if config.get("model_type") != "llama":
        raise UnsupportedModelError(
            f"model_type {config.get('model_type')!r} is not llama", field="model_type"
        )
    for key, accepted in {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
    }.items():
        if config.get(key, accepted) != accepted:
            raise UnsupportedModelError(f"{key} {config[key]!r} is not supported", field=key)
    # Newer exports move rope_theta into rope_parameters.
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise UnsupportedModelError("RoPE scaling is not supported", field="rope_parameters")
    hidden = _number(config, "hidden_size")
    heads = _number(config, "num_attention_heads")
    return Architecture(
        hidden=hidden,
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", heads),
        head_dim=_number(config, "head_dim", hidden // max(int(heads), 1)),
        ffn=_number(config, "intermediate_size"),
        vocab=_number(config, "vocab_size"),
        context=_number(config, "max_position_embeddings"),
        rope_theta=float(_number(config, "rope_theta", rope.get("rope_theta", 10_000.0))),
        rms_norm_eps=float(_number(config, "rms_norm_eps")),
    )


def _shards(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return [directory / "model.safetensors"]
    names = set(_read_json(index).get("weight_map", {}).values())
    if not 1 <= len(names) <= _MAX_SHARDS or not all(isinstance(name, str) for name in names):
        raise SourceMalformedError("the weight map names no shards", field=index.name)
    for name in names:
        # A shard name is a file of this directory, never a path that leads elsewhere.
        if Path(name).name != name:
            raise SourceMalformedError(f"shard {name!r} is not a file name", field=index.name)
    return [directory / name for name in sorted(names)]


def _header(path: Path) -> dict[str, _Stored]:
    try:
        with safetensors.safe_open(path, framework="np"):
            pass  # opening validates the header; FileNotFoundError passes through
    except safetensors.SafetensorError as error:
        raise SourceMalformedError(f"{path.name}: {error}", field=path.name) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    stored = {}
    for name, entry in header.items():
        if name == "__metadata__" or name.endswith(_IGNORED_SUFFIX):
            continue
        if entry["dtype"] not in _DTYPES:
            raise UnsupportedModelError(f"tensor {name} is stored as {entry['dtype']}", field=name)
        stored[name] = _Stored(
            path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
    return stored


class HuggingFaceModel:
    """A directory with config.json, *.safetensors and tokenizer.json. Satisfies `FloatModel`.

    Raises FileNotFoundError for a missing file, SourceMalformedError for a damaged one,
    UnsupportedModelError for what OTR-I8 v1 does not cover (biases, RoPE scaling, other
    activations).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = _read_json(directory / "config.json")
        self._tokenizer_config = _optional_json(directory / "tokenizer_config.json")
        self._generation_config = _optional_json(directory / "generation_config.json")
        self.architecture = _read_architecture(self._config)
        self._stored: dict[str, _Stored] = {}
        for path in _shards(directory):
            self._stored |= _header(path)
        if self._config.get("tie_word_embeddings", False):
            # transformers overwrites a stored head by the embedding when the configuration ties
            # them.
            self._stored.pop(HEAD, None)
        elif HEAD not in self._stored:
            raise SourceMalformedError(f"tensor {HEAD} is missing", field=HEAD)
        self.tied_head = check_tensors(
            ((name, stored.shape) for name, stored in self._stored.items()), self.architecture
        )

    def tensor(self, name: str) -> Float64Array:
        """See `FloatModel.tensor`."""
        stored = self._stored[name]
        mapped = np.memmap(
            stored.path,
            mode="r",
            dtype=_DTYPES[stored.dtype],
            offset=stored.offset,
            shape=(math.prod(stored.shape),),
        )
        if stored.dtype == "BF16":
            values = (mapped.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        else:
            values = mapped.astype(np.float64)
        return finite(name, values.reshape(stored.shape))

    def tokenizer_json(self) -> bytes:
        """See `FloatModel.tokenizer_json`."""
        return (self._directory / "tokenizer.json").read_bytes()

    def chat_template(self) -> str | None:
        """See `FloatModel.chat_template`; from chat_template.jinja or tokenizer_config.json."""
        path = self._directory / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = self._tokenizer_config.get("chat_template")
        return template if isinstance(template, str) else None

    def _ids(self, key: str) -> tuple[int, ...]:
        value = self._generation_config.get(key, self._config.get(key))
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(
            isinstance(item, int) and 0 <= item < self.architecture.vocab for item in values
        ):
            raise SourceMalformedError(f"{key} is {value!r}", field=key)
        return tuple(values)

    @property
    def bos_id(self) -> int | None:
        """The id put before a raw prompt: bos_token_id, unless add_bos_token is false."""
        ids = self._ids("bos_token_id")
        add = self._tokenizer_config.get("add_bos_token", True)
        return ids[0] if ids and add else None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: eos_token_id, one or several."""
        return tuple(sorted(set(self._ids("eos_token_id"))))

    @property
    def licence(self) -> str:
        """Hugging Face keeps licences outside these files."""
        return "unknown"
