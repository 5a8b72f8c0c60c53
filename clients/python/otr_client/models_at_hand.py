"""Finding a model by name: the known ones with their pinned ids, or any model directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from otr_numerics.known_models import MODEL_IDS, OTR_TINY, SMOLLM2, models_directory
from otr_numerics.model_file import inspect_model
from otr_protocol.errors import UnknownError

SERVED_NAMES = {SMOLLM2: "smollm2-135m-instruct", OTR_TINY: "otr-tiny"}


class ModelNotFoundError(UnknownError):
    """No model directory of that name or path."""

    reason = "MODEL_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class ModelAtHand:
    """A model directory, the name it is served under, and the id it must have, if that is known."""

    directory: Path
    served_name: str
    expected_model_id: bytes | None


def models_home() -> Path:
    """Where known models are kept: `$OTR_MODELS`, the checkout's `models`, or the user's data."""
    return models_directory(os.environ)


def find_model(model: str) -> ModelAtHand:
    """The model of that name or path. Raises ModelNotFoundError."""
    if model in MODEL_IDS and _is_model(models_home() / model):
        return ModelAtHand(models_home() / model, SERVED_NAMES[model], MODEL_IDS[model])
    directory = Path(model)
    if _is_model(directory):
        return ModelAtHand(directory, directory.resolve().name, None)
    raise ModelNotFoundError(_why_not(model), field="model")


def find_model_of(model_id: bytes) -> ModelAtHand | None:
    """The known model with this id, if it is at hand."""
    for name, known_id in MODEL_IDS.items():
        if known_id == model_id and _is_model(models_home() / name):
            return ModelAtHand(models_home() / name, SERVED_NAMES[name], known_id)
    return None


def has_chat_template(model: ModelAtHand) -> bool:
    """Whether it can be asked in chat; without a template it continues raw text."""
    return bool(inspect_model(model.directory).manifest.chat_template_digest)


def _is_model(directory: Path) -> bool:
    return (directory / "manifest.cbor").is_file()


def _why_not(model: str) -> str:
    if model == SMOLLM2:
        return f"no model {model!r} in {models_home()}: run `otr model fetch {model}`"
    directory = Path(model)
    if directory.is_dir():
        return f"{model} is no model directory: it has no manifest.cbor"
    if len(directory.parts) > 1:
        return f"no directory {model}"
    return (
        f"no model {model!r}: known are {', '.join(sorted(MODEL_IDS))} in {models_home()},"
        " else give a model directory"
    )
