"""What a test needs from outside this repository, and what happens where it is not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

ABSENT = "absent: "
"""How the reason of such a skip begins; tests/conftest.py counts them."""


def absent(path: Path) -> NoReturn:
    """Skip visibly; but whoever set OTR_VECTORS meant it, and gets a failure."""
    if "OTR_VECTORS" in os.environ:
        pytest.fail(f"OTR_VECTORS is set, and {path} is not there")
    pytest.skip(f"{ABSENT}{path}; OTR_VECTORS says where it is (README, Tests)")
