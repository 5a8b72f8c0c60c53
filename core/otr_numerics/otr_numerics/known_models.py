"""The models that this release knows by name: where they are kept, and which ids they must have.

A name is what a configuration says; the id is what is executed, signed and disputed. Pass the id to
`load_model`, so that a directory of that name with anything else in it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

OTR_TINY: Final = "otr-tiny"
SMOLLM2: Final = "smollm2"

MODEL_IDS: Final[Mapping[str, bytes]] = {
    OTR_TINY: bytes.fromhex("dfe838e0824ec5cad00fad94f058ce15bf8fbcae415ad51d972abed0c2264e1d"),
    SMOLLM2: bytes.fromhex("6f22b373338c79b3e53c35b7af13da7c46eb3d9ddde9bb097774714ed86ba6ac"),
}


def models_directory(environ: Mapping[str, str]) -> Path:
    """Where models are kept: $OTR_MODELS, else `models/` of this checkout, else the user's data.

    `environ` is the process environment, passed in.
    """
    if configured := environ.get("OTR_MODELS"):
        return Path(configured)
    for parent in Path(__file__).resolve().parents:
        if (parent / "models" / OTR_TINY).is_dir():
            return parent / "models"
    data = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "otr" / "models"
