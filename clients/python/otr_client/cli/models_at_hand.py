"""Finding a model by name: the bundled ones, or any model directory."""

from __future__ import annotations

import os
from pathlib import Path

from otr_protocol.errors import UnknownError

SMOLLM2 = "smollm2"
SERVED_NAMES = {SMOLLM2: "smollm2-135m-instruct", "otr-tiny": "otr-tiny"}


class ModelNotFoundError(UnknownError):
    """No model directory of that name or path."""

    reason = "MODEL_NOT_FOUND"


def models_home() -> Path:
    """`$OTR_MODELS`, or `models` beside the working directory or above it."""
    named = os.environ.get("OTR_MODELS")
    if named:
        return Path(named)
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / "models" / "otr-tiny").is_dir():
            return directory / "models"
    return here / "models"


def model_directory(model: str) -> tuple[Path, str]:
    """The directory and served name of `model`. Raises ModelNotFoundError."""
    candidates = (models_home() / model, Path(model))
    for directory in candidates:
        if (directory / "manifest.cbor").is_file():
            return directory, SERVED_NAMES.get(directory.name, directory.name)
    hint = "; run `otr model fetch smollm2`" if model == SMOLLM2 else ""
    raise ModelNotFoundError(f"no model {model!r} in {candidates[0]}{hint}", field="model")
