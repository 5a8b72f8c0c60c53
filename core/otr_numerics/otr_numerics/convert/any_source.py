"""Convert whatever float model a path names: what `otr model convert` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from otr_numerics import model_file
from otr_numerics.convert import directory
from otr_numerics.convert.hf import HuggingFaceModel
from otr_numerics.convert.smooth import ActivationMaxima
from otr_numerics.convert.source import FloatModel
from otr_protocol.errors import UnknownError


class SourceMissingError(UnknownError):
    """A file of the float model, or the calibration, is not there."""

    reason = "MODEL_SOURCE_MISSING"


def open_source(path: Path) -> FloatModel:
    """A Hugging Face directory or a GGUF file as a float model.

    Raises SourceMissingError, and what `HuggingFaceModel` and `GgufModel` raise.
    """
    try:
        if path.is_dir():
            return HuggingFaceModel(path)
        # Deferred: the reader's package takes a third of a second to import.
        from otr_numerics.convert.gguf import GgufModel

        return GgufModel(path)
    except FileNotFoundError as error:
        raise SourceMissingError(f"{error.filename} does not exist", field="source") from error


def convert_model(
    source: Path,
    target: Path,
    *,
    licence: str | None = None,
    calibration: Path | None = None,
    segment_layers: int | None = None,
    replace: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> bytes:
    """Convert `source` and write the model directory `target`; returns the model id, 32 bytes.

    `licence` is an SPDX expression and overrides what the source states; `calibration` is a numpy
    archive of activation maxima; a LICENSE beside the source is copied. `progress` is called with
    "convert" and a count of steps. Raises SourceMissingError, ModelExistsError, and the refusals of
    the source and of `directory.build`.
    """
    if target.exists() and not replace:
        raise directory.ModelExistsError(f"{target} exists", field="target")
    model = open_source(source)
    maxima = None
    if calibration is not None:
        if not calibration.is_file():
            raise SourceMissingError(f"{calibration} does not exist", field="calibration")
        maxima = ActivationMaxima.from_npz(calibration.read_bytes(), model.architecture)
    home = source if source.is_dir() else source.parent
    notes = {
        name: (home / name).read_bytes()
        for name in (model_file.LICENCE_FILE, model_file.PROVENANCE_FILE)
        if (home / name).is_file()
    }
    artefact = directory.build(
        model,
        maxima=maxima,
        licence=licence,
        notes=notes,
        segment_layers=segment_layers,
        advance=lambda done, total: progress("convert", done, total),
    )
    directory.write(artefact, target, replace=replace)
    return artefact.model_id
