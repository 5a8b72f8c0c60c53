"""How the command speaks: people read stderr and stdout, programs read one JSON object."""

from __future__ import annotations

import json
import sys

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(reason: str, message: str) -> None:
    """One line about what was refused."""
    err.print(f"[bold red]refused[/] {reason}: ", end="", soft_wrap=True)
    err.print(message, markup=False, soft_wrap=True)


def emit(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def exit_with(code: int) -> typer.Exit:
    """What a command raises to end with `code`."""
    return typer.Exit(code)
