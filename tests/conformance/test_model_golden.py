"""The bundled and the fetched model are those of which golden vectors exist.

The material lies beside the third-party vectors (`OTR_VECTORS`/../model) and is not in this
repository; a checkout without it skips what needs it. What can be pinned by a digest is tested
everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from otr_numerics.chat import DEFAULT_SYSTEM_PROMPT, Message, conversation
from otr_numerics.convert import directory
from otr_numerics.convert.hf import HuggingFaceModel
from otr_numerics.fetch import CALIBRATION_FILE, CALIBRATION_SHA256, WEIGHTS_SHA256
from otr_numerics.known_models import MODEL_IDS, OTR_TINY, SMOLLM2, models_directory
from otr_numerics.model_file import LoadedModel, load_model
from support.material import absent

MODELS = models_directory(os.environ)
TINY_WEIGHTS_SHA256 = "04b7d94d999f55edd8d1f754ed3e86634c4aa0e824e5d4e04211e24154a9992c"


@pytest.fixture(scope="module")
def material(vectors: Path) -> Path:
    path = vectors.parent / "model"
    if not path.is_dir():
        absent(path)
    return path


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model(MODELS / OTR_TINY, MODEL_IDS[OTR_TINY])


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    assert (MODELS / SMOLLM2).is_dir(), "`make setup` fetches it"
    return load_model(MODELS / SMOLLM2, MODEL_IDS[SMOLLM2])


def golden(material: Path, name: str) -> list[dict[str, Any]]:
    vectors = json.loads((material / name).read_text())["vectors"]
    assert len(vectors) == 8
    return list(vectors)


def until(ids: list[int], stop_id: int) -> list[int]:
    return ids[: ids.index(stop_id)] if stop_id in ids else ids


def test_the_bundled_weights_are_the_golden_ones() -> None:
    data = (MODELS / OTR_TINY / "int8.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == TINY_WEIGHTS_SHA256


def test_the_calibration_is_the_pinned_one() -> None:
    data = (MODELS / CALIBRATION_FILE).read_bytes()
    assert hashlib.sha256(data).hexdigest() == CALIBRATION_SHA256


def test_the_converter_reproduces_the_golden_artefact_bit_for_bit(
    material: Path, tmp_path: Path
) -> None:
    model = HuggingFaceModel(material / "otr-tiny")
    artefact = directory.build(model, licence="Apache-2.0")
    golden_tensors = safetensors.numpy.load_file(material / "otr-tiny" / "int8.safetensors")
    assert set(artefact.integers.tensors) == set(golden_tensors)
    for name, tensor in golden_tensors.items():
        made = artefact.integers.tensors[name]
        assert made.dtype == tensor.dtype, name
        assert np.array_equal(made, tensor), name
    notes = json.loads((material / "otr-tiny" / "int8.manifest.json").read_text())
    assert artefact.integers.scalars == notes["scalars"]
    assert artefact.manifest.formats.as_mapping() == notes["formats"]
    assert artefact.model_id == MODEL_IDS[OTR_TINY]
    directory.write(artefact, tmp_path / OTR_TINY)
    for path in (tmp_path / OTR_TINY).iterdir():
        assert path.read_bytes() == (MODELS / OTR_TINY / path.name).read_bytes(), path.name


def test_raw_prompts_become_the_golden_ids(material: Path, tiny: LoadedModel) -> None:
    for vector in golden(material, "golden_tiny.json"):
        assert tiny.tokenizer.encode_prompt(vector["prompt"]) == vector["prompt_ids"]


def test_chat_prompts_become_the_golden_ids(material: Path, smollm2: LoadedModel) -> None:
    for vector in golden(material, "golden_smollm2.json"):
        messages = conversation(vector["prompt"])
        assert smollm2.tokenizer.encode_chat(messages) == vector["prompt_ids"]


def test_golden_ids_become_the_golden_text(
    material: Path, tiny: LoadedModel, smollm2: LoadedModel
) -> None:
    for model, name in ((tiny, "golden_tiny.json"), (smollm2, "golden_smollm2.json")):
        (stop_id,) = model.tokenizer.stop_ids
        for vector in golden(material, name):
            for kind in ("float", "int"):
                ids = until(vector[f"{kind}_greedy"], stop_id)
                stream = model.tokenizer.detokeniser()
                text = "".join(stream.push(token_id) for token_id in ids) + stream.flush()
                assert text == model.tokenizer.decode(ids) == vector[f"{kind}_text"]


def test_the_fetched_weights_are_the_pinned_ones(smollm2: LoadedModel) -> None:
    with (MODELS / SMOLLM2 / "int8.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS_SHA256
    assert smollm2.manifest.trace_segment_layers == 6
    assert smollm2.manifest.shape.context_length == 2_048
    assert smollm2.manifest.licence == "Apache-2.0"


def test_smollm2s_own_template_would_say_something_else(smollm2: LoadedModel) -> None:
    """Why the system prompt is always sent: the template inserts another one of its own."""
    template = smollm2.tokenizer.chat_template
    assert template is not None
    implied = template.render((Message("user", "hi"),))
    assert "named SmolLM, trained by Hugging Face" in implied
    said = template.render(conversation("hi"))
    assert said.startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM_PROMPT}<|im_end|>\n")
