"""Small random Llama models in the two formats that the converter reads, with a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from otr_numerics.convert.source import EMBEDDING, FINAL_NORM, HEAD, Architecture

Floats = npt.NDArray[np.floating[Any]]

# Widths are multiples of 32, the block of every GGUF quantisation.
SMALL = Architecture(
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=96,
    vocab=320,
    context=128,
    rope_theta=10_000.0,
    rms_norm_eps=1e-5,
)
CONTROL = ("<|bos|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def byte_level_tokens() -> list[str]:
    """Three control tokens, then the 256 bytes in GPT-2's alphabet, in the library's own order."""
    return [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]


MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©"))


def tokenizer_json() -> bytes:
    """A byte-level tokenizer of 263 tokens, as the library writes it."""
    tokens = byte_level_tokens() + ["".join(pair) for pair in MERGES]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL]
    )
    return str(tokenizer.to_str()).encode()


@dataclass(frozen=True, slots=True)
class FloatWeights:
    """Float32 tensors under their Hugging Face names; every value is one of float16."""

    architecture: Architecture
    tensors: Mapping[str, Floats]


def random_weights(
    seed: int, architecture: Architecture = SMALL, *, tied_head: bool = True
) -> FloatWeights:
    """Weights of the size that training gives, deterministic in `seed`."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in architecture.shapes(tied_head=tied_head).items():
        values = generator.standard_normal(shape) * 0.1
        if len(shape) == 1:
            values = 1 + values
        tensors[name] = values.astype(np.float16).astype(np.float32)
    return FloatWeights(architecture, tensors)


def config(weights: FloatWeights) -> dict[str, Any]:
    """config.json of these weights."""
    a = weights.architecture
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": a.hidden,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": a.ffn,
        "vocab_size": a.vocab,
        "max_position_embeddings": a.context,
        "rope_theta": a.rope_theta,
        "rms_norm_eps": a.rms_norm_eps,
        "tie_word_embeddings": HEAD not in weights.tensors,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def write_hugging_face(
    directory: Path,
    weights: FloatWeights,
    *,
    changes: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> Path:
    """A Hugging Face directory with float16 weights; `changes` go into config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(weights) | dict(changes or {})))
    (directory / "tokenizer.json").write_bytes(tokenizer_json())
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    half = {name: values.astype(np.float16) for name, values in weights.tensors.items()}
    if shards == 1:
        safetensors.numpy.save_file(half, directory / "model.safetensors")
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: half[key] for key in sorted(half)[shard::shards]}
        safetensors.numpy.save_file(part, directory / name)
        weight_map |= dict.fromkeys(part, name)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return directory


_GGUF_LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _pairs_from_halves(matrix: Floats, heads: int) -> Floats:
    """What llama.cpp's own converter does to the rows of W_q and W_k."""
    rows, columns = matrix.shape
    halved = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return halved.swapaxes(1, 2).reshape(rows, columns)


def _gguf_name(name: str) -> str:
    top = {
        EMBEDDING: "token_embd.weight",
        FINAL_NORM: "output_norm.weight",
        HEAD: "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, *kind, _ = name.split(".")
    return f"blk.{layer}.{_GGUF_LINEARS['.'.join(kind)]}.weight"


def write_gguf(
    path: Path,
    weights: FloatWeights,
    kind: gguf.GGMLQuantizationType,
    *,
    text: Mapping[str, str] | None = None,
    numbers: Mapping[str, int] | None = None,
) -> Path:
    """A GGUF with matrices stored as `kind` and norms as float32; further keys override."""
    a = weights.architecture
    writer = gguf.GGUFWriter(path, "llama")
    strings = {"general.license": "apache-2.0", "tokenizer.ggml.model": "gpt2"}
    strings |= {"tokenizer.ggml.pre": "smollm", "tokenizer.chat_template": CHAT_TEMPLATE}
    for key, value in (strings | dict(text or {})).items():
        writer.add_string(key, value)
    integers = {
        "llama.embedding_length": a.hidden,
        "llama.block_count": a.layers,
        "llama.attention.head_count": a.heads,
        "llama.attention.head_count_kv": a.kv_heads,
        "llama.feed_forward_length": a.ffn,
        "llama.context_length": a.context,
        "llama.vocab_size": a.vocab,
        "tokenizer.ggml.eos_token_id": 2,
    }
    for key, number in (integers | dict(numbers or {})).items():
        writer.add_uint32(key, number)
    writer.add_float32("llama.rope.freq_base", a.rope_theta)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", a.rms_norm_eps)
    tokens = byte_level_tokens() + ["".join(pair) for pair in MERGES]
    types = [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL))
    spare = a.vocab - len(tokens)
    writer.add_array("tokenizer.ggml.tokens", [*tokens, *(f"Ġ<{i}>" for i in range(spare))])
    writer.add_array("tokenizer.ggml.token_type", [*types, *[1] * spare])
    writer.add_array("tokenizer.ggml.merges", [" ".join(pair) for pair in MERGES])
    for name, values in weights.tensors.items():
        stored = values
        if name.endswith("q_proj.weight"):
            stored = _pairs_from_halves(values, a.heads)
        elif name.endswith("k_proj.weight"):
            stored = _pairs_from_halves(values, a.kv_heads)
        if values.ndim == 1:
            writer.add_tensor(_gguf_name(name), stored)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(stored, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def through(kind: gguf.GGMLQuantizationType, weights: FloatWeights) -> FloatWeights:
    """What is left of the matrices after `kind` and float16: what a GGUF reader must see."""
    tensors = {}
    for name, values in weights.tensors.items():
        expanded = values
        if values.ndim == 2:
            expanded = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        tensors[name] = expanded.astype(np.float16).astype(np.float32)
    return FloatWeights(weights.architecture, tensors)
