"""Writing key material and public files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def secret(path: Path, make: Callable[[], str]) -> str:
    """The text of a secret file, made by `make` when it does not exist; mode 0600."""
    if not path.exists():
        _write(path, make().encode(), PRIVATE)
    return path.read_text().strip()


def write_public(path: Path, content: str | bytes) -> None:
    """Replace a file atomically."""
    _write(path, content.encode() if isinstance(content, str) else content, PUBLIC)


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # names the temporary file, which nobody knows
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
