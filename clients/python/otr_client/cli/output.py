"""How the command speaks: people read stderr and stdout, programs read one JSON object.

A command that fails raises a `Refusal` or a `CommandFailedError`; `main` turns either into one line
on stderr and, with `--json`, one object on stdout: {"ok": false, "reason": ..., "message": ...}.
Text that comes from a file or a server is printed with `markup=False`, so that it cannot dress up.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

REFUSED: Final = 1
NOT_JUDGED: Final = 2


class CommandFailedError(Exception):
    """The command ends with `code`, `reason` and `message`; `details` go into its JSON object."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: int = REFUSED,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.code = code
        self.details = dict(details or {})


class _Console(Console):
    """A console whose reader may go away: that is no verdict, so it is not exit code 1."""

    def on_broken_pipe(self) -> NoReturn:
        _discard_stdout()
        raise SystemExit(NOT_JUDGED)


out: Final = _Console(highlight=False)
err: Final = _Console(stderr=True, highlight=False)


@dataclass(slots=True)
class _Reader:
    """Who reads standard output: a program, once `--json` was seen."""

    is_program: bool = False


_reader: Final = _Reader()


def _program_reads(wanted: bool) -> bool:
    _reader.is_program = wanted
    return wanted


AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_program_reads,
        is_eager=True,
        help="One JSON object on stdout, whatever happens.",
    ),
]


def fail(reason: str, message: str, details: Mapping[str, object] | None = None) -> None:
    """One line about what was refused, and with `--json` one object."""
    err.print(f"[bold red]refused[/] {reason}: ", end="", soft_wrap=True)
    err.print(message, markup=False, soft_wrap=True)
    if _reader.is_program and sys.stdout is not None:
        emit({"ok": False, "reason": reason, "message": message} | dict(details or {}))


def emit(document: object) -> None:
    """One JSON document on stdout. Raises CommandFailedError when nothing can be written there."""
    if sys.stdout is None:  # closed by the caller: `>&-`
        raise CommandFailedError("OUTPUT_CLOSED", "standard output is closed", code=NOT_JUDGED)
    try:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        raise SystemExit(NOT_JUDGED) from None


def visible(text: str) -> str:
    """`text` with everything that a terminal would obey or hide spelled out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def exit_with(code: int) -> typer.Exit:
    """What a command raises to end with `code`."""
    return typer.Exit(code)


def _discard_stdout() -> None:
    """Keep the interpreter from writing to the broken pipe once more when it ends."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
