"""Finding a model by name: the known ones with their pinned ids, or any model directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from otr_numerics.known_models import MODEL_IDS, OTR_TINY, SMOLLM2, models_directory
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
    known = models_home() / model
    if model in MODEL_IDS and (known / "manifest.cbor").is_file():
        return ModelAtHand(known, SERVED_NAMES[model], MODEL_IDS[model])
    directory = Path(model)
    if (directory / "manifest.cbor").is_file():
        return ModelAtHand(directory, directory.resolve().name, None)
    hint = "; run `otr model fetch smollm2`" if model == SMOLLM2 else ""
    raise ModelNotFoundError(f"no model {model!r} in {known}{hint}", field="model")
