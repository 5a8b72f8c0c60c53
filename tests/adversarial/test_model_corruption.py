"""Somebody with write access to the disk changes a model; loading names what was changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otr_numerics import model_file
from otr_numerics.known_models import MODEL_IDS, OTR_TINY
from otr_numerics.model_file import ModelCorruptError, load_model, verify_model
from otr_numerics.tensor_table import TensorTable
from otr_protocol.errors import Refusal
from otr_protocol.manifest import open_manifest

TINY = Path(__file__).resolve().parents[2] / "models" / OTR_TINY
MODEL_ID = MODEL_IDS[OTR_TINY]
FILES = ("manifest.cbor", "tensors.cbor", "int8.safetensors", "tokenizer.json", "token_bytes.cbor")
# One tensor of every kind: matrices at both ends and in the middle, scales, norms, tables.
TENSORS = ("emb", "emb_c", "0.q.W", "2.k.W", "3.down.W", "1.up.c", "0.n1.g", "3.n2.g", "nf.g",
           "head.W", "head.c", "cos", "sin", "exp2", "sig")  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    target = tmp_path / OTR_TINY
    target.mkdir()
    for name in FILES:
        shutil.copy(TINY / name, target / name)
    return target


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 1 << bit,)))


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def test_the_bundled_model_is_sound() -> None:
    assert load_model(TINY, MODEL_ID).model_id == MODEL_ID
    assert verify_model(TINY, MODEL_ID).corrupt == ()


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("tensor", TENSORS)
def test_one_flipped_bit_of_a_tensor_names_the_tensor(model: Path, tensor: str, where: str) -> None:
    path = model / model_file.WEIGHTS_FILE
    header, start = header_of(path)
    begin, end = header[tensor]["data_offsets"]
    offset = {"first": begin, "middle": (begin + end) // 2, "last": end - 1}[where]
    flip(path, start + offset)
    with pytest.raises(ModelCorruptError) as caught:
        load_model(model, MODEL_ID)
    assert caught.value.field == tensor
    assert tensor in caught.value.message
    assert verify_model(model, MODEL_ID).corrupt == (tensor,)


def test_verification_lists_everything_that_differs(model: Path) -> None:
    path = model / model_file.WEIGHTS_FILE
    header, start = header_of(path)
    for tensor in ("emb", "1.gate.W", "sig"):
        flip(path, start + header[tensor]["data_offsets"][0])
    flip(model / "tokenizer.json", 1_000)
    assert verify_model(model).corrupt == ("1.gate.W", "emb", "sig", "tokenizer.json")


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_flipped_bit_of_a_file_is_refused(model: Path, name: str, data: st.DataObject) -> None:
    path = model / name
    original = path.read_bytes()
    most = header_of(path)[1] if name == model_file.WEIGHTS_FILE else len(original)
    offset = data.draw(st.integers(0, most - 1))
    bit = data.draw(st.integers(0, 7))
    flip(path, offset, bit)
    refusal = None
    try:
        load_model(model, MODEL_ID)
    except Refusal as caught:
        refusal = caught
    finally:
        path.write_bytes(original)
    if refusal is None:
        # Header padding and the spelling of JSON do not reach the tensors, which were all equal.
        assert name == model_file.WEIGHTS_FILE
    else:
        assert refusal.field is not None


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_truncated_or_lengthened_file_is_refused(
    model: Path, name: str, data: st.DataObject
) -> None:
    path = model / name
    original = path.read_bytes()
    cut = data.draw(st.integers(0, len(original) - 1))
    for changed in (original[:cut], original + b"\x00"):
        path.write_bytes(changed)
        with pytest.raises(Refusal) as caught:
            load_model(model, MODEL_ID)
        assert caught.value.field is not None
    path.write_bytes(original)


def rewrite(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = model / model_file.WEIGHTS_FILE
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


def swap_two_tensors(tensors: dict[str, Any]) -> None:
    tensors["0.gate.W"], tensors["0.up.W"] = tensors["0.up.W"], tensors["0.gate.W"]


def swap_two_rows(tensors: dict[str, Any]) -> None:
    tensors["0.gate.W"][[0, 1]] = tensors["0.gate.W"][[1, 0]]


def transpose(tensors: dict[str, Any]) -> None:
    tensors["0.gate.W"] = np.ascontiguousarray(tensors["0.gate.W"].T)


def reinterpret(tensors: dict[str, Any]) -> None:
    tensors["0.gate.W"] = tensors["0.gate.W"].view(np.uint8)


def widen(tensors: dict[str, Any]) -> None:
    tensors["0.gate.W"] = tensors["0.gate.W"].astype(np.int16)


def drop(tensors: dict[str, Any]) -> None:
    del tensors["0.gate.W"]


@pytest.mark.parametrize(
    "change", [swap_two_tensors, swap_two_rows, transpose, reinterpret, widen, drop]
)
def test_a_rewritten_weights_file_is_refused_by_tensor(
    model: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    rewrite(model, change)
    with pytest.raises(ModelCorruptError) as caught:
        load_model(model, MODEL_ID)
    assert caught.value.field == "0.gate.W"


def test_an_extra_tensor_is_refused(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.update(extra=np.zeros(4, np.int8)))
    with pytest.raises(ModelCorruptError, match="extra"):
        load_model(model, MODEL_ID)


def test_a_new_table_over_changed_weights_does_not_help(model: Path) -> None:
    """The attacker recomputes tensors.cbor; the manifest still commits to the old one."""
    rewrite(model, swap_two_rows)
    tensors = safetensors.numpy.load_file(model / model_file.WEIGHTS_FILE)
    (model / model_file.TABLE_FILE).write_bytes(TensorTable.of(tensors).encode())
    with pytest.raises(ModelCorruptError) as caught:
        load_model(model, MODEL_ID)
    assert caught.value.field == model_file.TABLE_FILE


def test_a_new_manifest_as_well_is_another_model(model: Path) -> None:
    """Consistent from the ground up: only the pinned model id tells it apart."""
    rewrite(model, swap_two_rows)
    tensors = safetensors.numpy.load_file(model / model_file.WEIGHTS_FILE)
    table = TensorTable.of(tensors)
    (model / model_file.TABLE_FILE).write_bytes(table.encode())
    path = model / model_file.MANIFEST_FILE
    old = open_manifest(path.read_bytes())
    path.write_bytes(path.read_bytes().replace(old.weights_root, table.root()))
    assert load_model(model).model_id != MODEL_ID
    with pytest.raises(model_file.ModelIdMismatchError):
        load_model(model, MODEL_ID)


def test_a_file_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"")
    with pytest.raises(Refusal):
        load_model(path)


def test_an_oversized_file_is_refused_before_it_is_parsed(model: Path) -> None:
    (model / "manifest.cbor").write_bytes(bytes(1 << 20))
    with pytest.raises(ModelCorruptError) as caught:
        load_model(model)
    assert caught.value.field == "manifest.cbor"
