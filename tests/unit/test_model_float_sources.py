"""Hugging Face directories and GGUF files open as the same float model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from otr_numerics.convert.gguf import GgufModel
from otr_numerics.convert.hf import HuggingFaceModel
from otr_numerics.convert.source import (
    EMBEDDING,
    HEAD,
    SourceMalformedError,
    UnsupportedModelError,
    linear_name,
)
from support import float_models
from support.float_models import SMALL, random_weights, write_gguf, write_hugging_face

Kind = gguf.GGMLQuantizationType
LOSSLESS = (Kind.F32, Kind.F16)
BLOCKS = (Kind.Q8_0, Kind.Q4_0, Kind.Q4_1)


def test_a_directory_gives_back_the_values_that_were_stored(tmp_path: Path) -> None:
    weights = random_weights(1)
    model = HuggingFaceModel(write_hugging_face(tmp_path, weights))
    assert model.architecture == SMALL
    assert model.tied_head
    assert (model.bos_id, model.stop_ids) == (0, (2,))
    for name, values in weights.tensors.items():
        read = model.tensor(name)
        assert read.dtype == np.float64
        assert np.array_equal(read, values)


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    weights = random_weights(2, tied_head=False)
    model = HuggingFaceModel(write_hugging_face(tmp_path, weights, shards=3))
    assert not model.tied_head
    assert all(np.array_equal(model.tensor(n), v) for n, v in weights.tensors.items())


def test_bfloat16_is_read_as_the_upper_half_of_float32(tmp_path: Path) -> None:
    weights = random_weights(3)
    write_hugging_face(tmp_path, weights)
    upper = {n: (v.view(np.uint32) >> 16).astype(np.uint16) for n, v in weights.tensors.items()}
    header: dict[str, Any] = {}
    offset = 0
    for name, bits in upper.items():
        end = offset + bits.nbytes
        header[name] = {"dtype": "BF16", "shape": bits.shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    body = b"".join(bits.tobytes() for bits in upper.values())
    data = len(encoded).to_bytes(8, "little") + encoded + body
    (tmp_path / "model.safetensors").write_bytes(data)
    model = HuggingFaceModel(tmp_path)
    for name, bits in upper.items():
        expected = (bits.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(model.tensor(name), expected)


def test_a_head_stored_beside_tied_embeddings_is_not_used(tmp_path: Path) -> None:
    """transformers overwrites it by the embedding; converting it would make another model."""
    weights = random_weights(4, tied_head=False)
    write_hugging_face(tmp_path, weights, changes={"tie_word_embeddings": True})
    assert HuggingFaceModel(tmp_path).tied_head


@pytest.mark.parametrize("kind", [*LOSSLESS, *BLOCKS], ids=lambda kind: kind.name)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_gguf_opens_as_the_model_that_its_blocks_describe(
    tmp_path: Path, kind: Kind, tied: bool
) -> None:
    weights = random_weights(5, tied_head=tied)
    model = GgufModel(write_gguf(tmp_path / "m.gguf", weights, kind))
    assert model.tied_head is tied
    assert model.architecture.rope_theta == SMALL.rope_theta
    expected = float_models.through(kind, weights)
    for name, values in expected.tensors.items():
        assert np.array_equal(model.tensor(name), values), name


def test_query_and_key_rows_come_back_in_half_split_order(tmp_path: Path) -> None:
    weights = random_weights(6)
    path = write_gguf(tmp_path / "m.gguf", weights, Kind.F32)
    stored = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    name = linear_name(0, "k")
    assert not np.array_equal(stored["blk.0.attn_k.weight"], weights.tensors[name])
    assert np.array_equal(GgufModel(path).tensor(name), weights.tensors[name])


def test_a_gguf_tokenizer_encodes_as_the_librarys_own(tmp_path: Path) -> None:
    model = GgufModel(write_gguf(tmp_path / "m.gguf", random_weights(7), Kind.F16))
    built = Tokenizer.from_buffer(model.tokenizer_json())
    own = Tokenizer.from_buffer(float_models.tokenizer_json())
    for text in ("the 1234 thé", "<|im_start|>user\nthe<|im_end|>", " \n\t 🙂 the", "'ll 9th"):
        assert built.encode(text).ids == own.encode(text).ids
    assert model.chat_template() == float_models.CHAT_TEMPLATE
    assert (model.bos_id, model.stop_ids, model.licence) == (None, (2,), "apache-2.0")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "mistral"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_parameters", {"rope_type": "yarn"}),
        ("head_dim", 15),
        ("num_key_value_heads", 3),
        ("hidden_size", 1 << 20),
        ("rope_theta", 0.5),
    ],
)
def test_a_configuration_outside_the_numerics_is_refused(
    tmp_path: Path, key: str, value: Any
) -> None:
    write_hugging_face(tmp_path, random_weights(8), changes={key: value})
    with pytest.raises(UnsupportedModelError):
        HuggingFaceModel(tmp_path)


@pytest.mark.parametrize("key", ["hidden_size", "rms_norm_eps", "vocab_size"])
@pytest.mark.parametrize("value", [None, "64", True])
def test_a_number_that_is_none_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    write_hugging_face(tmp_path, random_weights(9), changes={key: value})
    with pytest.raises(SourceMalformedError) as caught:
        HuggingFaceModel(tmp_path)
    assert caught.value.field == key


def test_a_missing_a_misshapen_and_an_unknown_tensor_are_refused_by_name(tmp_path: Path) -> None:
    weights = random_weights(10)
    name = linear_name(1, "up")

    def refusal(tensors: dict[str, Any]) -> Any:
        changed = float_models.FloatWeights(SMALL, tensors)
        with pytest.raises((SourceMalformedError, UnsupportedModelError)) as caught:
            HuggingFaceModel(write_hugging_face(tmp_path, changed))
        return caught.value

    complete = dict(weights.tensors)
    without = {key: value for key, value in complete.items() if key != name}
    assert refusal(without).field == name
    assert refusal(complete | {name: complete[name][:-1]}).field == name
    bias = name.replace("weight", "bias")
    assert refusal(complete | {bias: np.zeros(96, np.float32)}).field == bias


def test_an_untied_model_without_a_head_is_refused(tmp_path: Path) -> None:
    write_hugging_face(tmp_path, random_weights(11), changes={"tie_word_embeddings": False})
    with pytest.raises(SourceMalformedError) as caught:
        HuggingFaceModel(tmp_path)
    assert caught.value.field == HEAD


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    weights = random_weights(12)
    weights.tensors[EMBEDDING][3, 5] = np.inf
    model = HuggingFaceModel(write_hugging_face(tmp_path, weights))
    with pytest.raises(SourceMalformedError) as caught:
        model.tensor(EMBEDDING)
    assert caught.value.field == EMBEDDING


def test_a_gguf_value_beyond_float16_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    weights = random_weights(13)
    weights.tensors[EMBEDDING][0, 0] = 1e6
    model = GgufModel(write_gguf(tmp_path / "m.gguf", weights, Kind.F32))
    with pytest.raises(SourceMalformedError):
        model.tensor(EMBEDDING)


def test_a_shard_outside_the_directory_is_refused(tmp_path: Path) -> None:
    write_hugging_face(tmp_path, random_weights(14), shards=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {EMBEDDING: "../elsewhere.safetensors"}}))
    with pytest.raises(SourceMalformedError):
        HuggingFaceModel(tmp_path)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ({"tokenizer.ggml.pre": "deepseek-llm"}, {}),
        ({"tokenizer.ggml.model": "llama"}, {}),
        ({"llama.rope.scaling.type": "yarn"}, {}),
        ({}, {"llama.rope.dimension_count": 8}),
    ],
)
def test_a_gguf_outside_the_numerics_is_refused(
    tmp_path: Path, text: dict[str, str], numbers: dict[str, int]
) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_weights(15), Kind.F16, text=text, numbers=numbers)
    with pytest.raises(UnsupportedModelError):
        GgufModel(path).tokenizer_json()


@pytest.mark.parametrize("size", [0, 3, 100, 2_000])
def test_a_truncated_source_is_malformed(tmp_path: Path, size: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_weights(16), Kind.F16)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SourceMalformedError):
        GgufModel(path)
    directory = write_hugging_face(tmp_path / "hf", random_weights(16))
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(SourceMalformedError):
        HuggingFaceModel(directory)
