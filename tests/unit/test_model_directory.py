"""A converted model is written whole, read back whole, and is what its id says."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

from otr_numerics import model_file
from otr_numerics.convert import convert_model, directory
from otr_numerics.convert.any_source import SourceMissingError
from otr_numerics.convert.gguf import GgufModel
from otr_numerics.convert.hf import HuggingFaceModel
from otr_numerics.model_file import (
    ModelFileMissingError,
    ModelIdMismatchError,
    inspect_model,
    load_model,
    load_tokenizer,
    verify_model,
)
from otr_protocol.digest import H
from otr_protocol.manifest import open_manifest
from support import float_models
from support.float_models import SMALL, random_weights, write_gguf, write_hugging_face


@pytest.fixture
def artefact(tmp_path: Path) -> directory.Artefact:
    model = HuggingFaceModel(write_hugging_face(tmp_path / "hf", random_weights(1)))
    return directory.build(model, licence="Apache-2.0", notes={"LICENSE": b"text"})


def test_a_model_is_read_back_as_it_was_converted(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    target = tmp_path / "deep" / "small"
    directory.write(artefact, target)
    loaded = load_model(target, artefact.model_id)
    assert (loaded.name, loaded.model_id) == ("small", artefact.model_id)
    assert loaded.manifest == artefact.manifest
    tensors, scalars = artefact.integers.tensors, artefact.integers.scalars
    assert np.array_equal(loaded.weights.layers[1].up.W, tensors["1.up.W"])
    assert np.array_equal(loaded.weights.head.c, tensors["head.c"])
    assert scalars["0.n2.G"] == loaded.weights.layers[0].n2.G
    assert scalars["emb_S"] == loaded.weights.embedding.S
    assert loaded.tokenizer.encode_prompt("the") == [0, *loaded.tokenizer.encode("the")]
    assert loaded.tokenizer.stop_ids == (2,)
    assert loaded.tokenizer.chat_template is not None
    assert (target / "LICENSE").read_bytes() == b"text"


def test_the_model_id_is_the_hash_of_the_manifest_file(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    directory.write(artefact, tmp_path / "m")
    data = (tmp_path / "m" / "manifest.cbor").read_bytes()
    assert H(data) == artefact.model_id == open_manifest(data).model_id()


def test_the_manifest_holds_the_numbers_of_the_source(artefact: directory.Artefact) -> None:
    manifest = artefact.manifest
    assert manifest.shape.context_length == SMALL.context
    assert manifest.bos_ids == (0,)
    assert manifest.eos_ids == (2,)
    assert manifest.special_ids == (0, 1, 2)
    assert manifest.trace_segment_layers == 2
    assert manifest.licence == "Apache-2.0"


def test_the_weights_file_is_what_the_safetensors_library_would_write(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    directory.write(artefact, tmp_path / "m")
    tensors = {name: np.ascontiguousarray(t) for name, t in artefact.integers.tensors.items()}
    written = (tmp_path / "m" / "int8.safetensors").read_bytes()
    assert written == safetensors.numpy.save(tensors)


def test_loaded_weights_are_private_memory(tmp_path: Path, artefact: directory.Artefact) -> None:
    """Changing the file after it was verified must change nothing."""
    directory.write(artefact, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    before = loaded.weights.head.W.copy()
    path = tmp_path / "m" / "int8.safetensors"
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(bytes(path.stat().st_size - 4_096))
    assert np.array_equal(loaded.weights.head.W, before)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_a_gguf_and_the_directory_made_from_it_have_the_same_weights_root(
    tmp_path: Path, kind: str
) -> None:
    stored = gguf.GGMLQuantizationType[kind]
    weights = random_weights(2, tied_head=False)
    from_gguf = directory.build(GgufModel(write_gguf(tmp_path / "m.gguf", weights, stored)))
    expanded = float_models.through(stored, weights)
    hf = HuggingFaceModel(write_hugging_face(tmp_path / "hf", expanded))
    from_directory = directory.build(hf, licence="apache-2.0")
    assert from_gguf.manifest.weights_root == from_directory.manifest.weights_root
    assert from_gguf.manifest.scalars == from_directory.manifest.scalars
    assert from_gguf.manifest.licence == "apache-2.0"


def test_an_existing_directory_is_kept_unless_told_otherwise(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    target = tmp_path / "m"
    directory.write(artefact, target)
    (target / "mine").write_text("kept")
    with pytest.raises(directory.ModelExistsError):
        directory.write(artefact, target)
    assert (target / "mine").read_text() == "kept"
    directory.write(artefact, target, replace=True)
    assert not (target / "mine").exists()
    assert verify_model(target, artefact.model_id).corrupt == ()


def test_a_failed_write_leaves_neither_a_target_nor_rubbish(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    files = dict(artefact.files) | {"no/such/directory": b""}
    broken = directory.Artefact(artefact.manifest, artefact.integers, files)
    (tmp_path / "models").mkdir()
    with pytest.raises(FileNotFoundError):
        directory.write(broken, tmp_path / "models" / "m")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_model_without_a_licence_is_not_converted(tmp_path: Path) -> None:
    model = HuggingFaceModel(write_hugging_face(tmp_path, random_weights(3)))
    with pytest.raises(directory.UnlicensedModelError):
        directory.build(model)


def test_a_caller_may_choose_the_segments(tmp_path: Path) -> None:
    model = HuggingFaceModel(write_hugging_face(tmp_path, random_weights(4)))
    chosen = directory.build(model, licence="Apache-2.0", segment_layers=1)
    assert chosen.manifest.trace_segment_layers == 1
    assert chosen.model_id != directory.build(model, licence="Apache-2.0").model_id


def test_inspection_reads_no_weights(tmp_path: Path, artefact: directory.Artefact) -> None:
    directory.write(artefact, tmp_path / "m")
    weights = tmp_path / "m" / model_file.WEIGHTS_FILE
    size = weights.stat().st_size
    weights.write_bytes(bytes(size))
    summary = inspect_model(tmp_path / "m")
    assert summary.model_id == artefact.model_id
    assert summary.weights_bytes == size
    assert len(summary.table.rows) == len(artefact.integers.tensors)


def test_another_model_than_the_one_asked_for_is_refused(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    directory.write(artefact, tmp_path / "m")
    for read in (load_model, verify_model):
        with pytest.raises(ModelIdMismatchError):
            read(tmp_path / "m", bytes(32))


@pytest.mark.parametrize(
    "name",
    ["manifest.cbor", "tensors.cbor", "int8.safetensors", "tokenizer.json", "token_bytes.cbor",
     "chat_template.jinja"],
)  # fmt: skip
def test_a_missing_file_is_named(tmp_path: Path, artefact: directory.Artefact, name: str) -> None:
    directory.write(artefact, tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    with pytest.raises(ModelFileMissingError) as caught:
        load_model(tmp_path / "m")
    assert caught.value.field == name


def test_no_directory_is_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissingError):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize("form", ["directory", "gguf"])
def test_a_path_is_converted_whatever_it_holds(tmp_path: Path, form: str) -> None:
    weights = random_weights(5)
    source = tmp_path / "source"
    source.mkdir()
    (source / "LICENSE").write_text("terms")
    if form == "gguf":
        stored = gguf.GGMLQuantizationType.F16
        path = write_gguf(source / "m.gguf", weights, stored)
    else:
        path = write_hugging_face(source, weights)
    calls: list[tuple[str, int, int]] = []
    model_id = convert_model(
        path,
        tmp_path / "m",
        licence="Apache-2.0",
        progress=lambda stage, done, total: calls.append((stage, done, total)),
    )
    assert load_model(tmp_path / "m", model_id).manifest.licence == "Apache-2.0"
    assert (tmp_path / "m" / "LICENSE").read_text() == "terms"
    assert calls[-1] == ("convert", 4, 4)
    with pytest.raises(directory.ModelExistsError):
        convert_model(path, tmp_path / "m", licence="Apache-2.0")


@pytest.mark.parametrize("missing", ["no.gguf", "empty", "calibration"])
def test_what_is_not_there_is_a_typed_refusal(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    source = tmp_path / missing
    calibration = None
    if missing == "calibration":
        source = write_hugging_face(tmp_path / "hf", random_weights(6))
        calibration = tmp_path / "none.npz"
    with pytest.raises(SourceMissingError):
        convert_model(source, tmp_path / "m", licence="Apache-2.0", calibration=calibration)
    assert not (tmp_path / "m").exists()


def test_a_tokenizer_is_loaded_without_the_weights(
    tmp_path: Path, artefact: directory.Artefact
) -> None:
    directory.write(artefact, tmp_path / "m")
    (tmp_path / "m" / model_file.WEIGHTS_FILE).unlink()
    tokenizer = load_tokenizer(tmp_path / "m", artefact.model_id)
    assert tokenizer.decode(tokenizer.encode("the text")) == "the text"
    (tmp_path / "m" / model_file.TOKENIZER_FILE).write_bytes(b"{}")
    with pytest.raises(model_file.ModelCorruptError) as caught:
        load_tokenizer(tmp_path / "m")
    assert caught.value.field == model_file.TOKENIZER_FILE
