"""Where a stack's public files lie, for commands that need nothing else of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_DIR: Final = Path(".otr")
"""The stack's directory unless the command is told another."""


def roots_file(directory: Path) -> Path:
    """The trust roots that answers of the stack in `directory` verify with."""
    return directory / "public" / "roots.json"
