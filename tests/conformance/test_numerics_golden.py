"""The golden vectors of both models: integer logits, greedy continuations, operation digests.

The material lies beside the third-party vectors (`OTR_VECTORS`/../model) and is not in this
repository. Its float continuations are not comparable bit for bit, and are not compared.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otr_numerics.engine import Engine
from otr_numerics.known_models import MODEL_IDS, OTR_TINY, SMOLLM2, models_directory
from otr_numerics.model_file import LoadedModel, load_model
from otr_numerics.reference import Operation, ReferenceRun
from support.material import absent

MODELS = models_directory(os.environ)


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


def cases(material: Path, name: str) -> list[dict[str, Any]]:
    """The JSON cases with the arrays of the same index; logits of all prompt rows, or the last."""
    documents = json.loads((material / f"{name}.json").read_text())["vectors"]
    with np.load(material / f"{name}.npz") as arrays:
        logits = [arrays[f"int_logits_{index}"] for index in range(len(documents))]
    return [case | {"int_logits": rows} for case, rows in zip(documents, logits, strict=True)]


def greedy(engine: Engine, prompt: list[int], count: int) -> list[int]:
    slot = engine.open(len(prompt) + count)
    ids = list(prompt)
    feed = prompt
    for _ in range(count):
        (logits,) = engine.forward([(slot, feed)])
        feed = [int(np.argmax(logits))]
        ids += feed
    engine.close(slot)
    return ids[len(prompt) :]


def golden_digests(operation: Operation) -> dict[str, str]:
    """The names and dtypes under which the golden traces hold an operation."""
    name, output = operation.op_id, operation.output
    kind = name.split(".")[-1]
    found = {name: next(iter(output.values()))}
    if kind in ("norm1", "norm2"):
        found[f"{name}.m"] = output["M"].astype(np.int32)
    elif kind == "rope_q":
        found[f"{name.split('.')[0]}.rope.m"] = output["M"].astype(np.int32)
    elif kind == "act":
        scale = output["M"].astype(np.int64) << output["e"].astype(np.int64)
        found[f"{name}.m"] = scale.astype(np.int32)
    return {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in found.items()}


def test_otr_tiny_in_the_reference(material: Path, tiny: LoadedModel) -> None:
    for case in cases(material, "golden_tiny"):
        digests: dict[str, str] = {}
        run = ReferenceRun(tiny.weights)
        logits = run.forward(
            case["prompt_ids"], lambda done, into=digests: into.update(golden_digests(done))
        )
        assert np.array_equal(logits, case["int_logits"])
        assert digests == case["trace_sha256"]


def test_otr_tiny_in_the_engine(material: Path, tiny: LoadedModel) -> None:
    engine = Engine(tiny, slots=1, max_positions=128)
    for case in cases(material, "golden_tiny"):
        slot = engine.open(16)
        logits = engine.forward([(slot, case["prompt_ids"])], all_logits=True)
        engine.close(slot)
        assert np.array_equal(logits, case["int_logits"])
        assert greedy(engine, case["prompt_ids"], 64) == case["int_greedy"]


def test_smollm2_in_the_engine(material: Path, smollm2: LoadedModel) -> None:
    engine = Engine(smollm2, slots=1, max_positions=64)
    for case in cases(material, "golden_smollm2")[:2]:
        slot = engine.open(64)
        (logits,) = engine.forward([(slot, case["prompt_ids"])])
        engine.close(slot)
        assert np.array_equal(logits, case["int_logits"])
        assert greedy(engine, case["prompt_ids"], 16) == case["int_greedy"][:16]
