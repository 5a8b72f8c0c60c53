"""Other verifiers as processes of their own: one JSON line in, one out (`make peers`)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = REPOSITORY / "tests" / "differential" / "peers"


@dataclass(frozen=True)
class Opinion:
    """A peer's answer to one case; `cpu_ms` is its own CPU time."""

    accepted: bool
    why: str
    cpu_ms: float


def interpreter(name: str) -> Path:
    """The peer's own Python; skips the test visibly where nobody ran `make peers`."""
    python = REPOSITORY / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python.parent.parent.name} is not there: make peers")
    return python


def ask(name: str, program: str, cases: Sequence[dict[str, Any]]) -> list[Opinion]:
    """The peer's opinion on every case, in order."""
    with tempfile.TemporaryDirectory() as scratch:  # one of them writes a log where it stands
        run = subprocess.run(
            [str(interpreter(name)), str(PROGRAMS / program)],
            input="\n".join(map(json.dumps, cases)) + "\n",
            capture_output=True,
            text=True,
            cwd=scratch,
            check=False,
        )
    answers = [Opinion(**json.loads(line)) for line in run.stdout.splitlines()]
    assert len(answers) == len(cases), run.stderr[-2000:]
    return answers
