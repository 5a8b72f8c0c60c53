"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.material import ABSENT, absent

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The directory of third-party vectors, or a visible skip on a checkout without them."""
    path = Path(os.environ.get("OTR_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not path.is_dir():
        absent(path)
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was not tested: a green run without the vectors shows less."""
    skipped = terminalreporter.getreports("skipped")
    wanting = sum(ABSENT in str(report.longrepr) for report in skipped)
    terminalreporter.write_line(
        f"{len(skipped)} tests skipped, {wanting} of them for want of third-party vectors"
    )
