"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The directory of third-party vectors, or a visible skip on a checkout without them."""
    path = Path(os.environ.get("OTR_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not path.is_dir():
        pytest.skip(f"no vectors at {path}; set OTR_VECTORS")
    return path
