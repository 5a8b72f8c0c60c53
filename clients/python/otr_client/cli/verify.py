"""`otr verify`: every check on an answer file, offline."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from otr_client.cli.files import read_answer, read_roots
from otr_client.cli.output import AsJson, emit, exit_with, out
from otr_client.stack.paths import DEFAULT_DIR, roots_file
from otr_protocol.verify_answer import CHECKS, AnswerRefusedError, VerifiedAnswer, verify_answer


def verify(
    file: Annotated[Path, typer.Argument(help="Answer file (.otr).")],
    roots: Annotated[
        Path | None, typer.Option(help="Trust roots file; default: the stack's in --dir.")
    ] = None,
    directory: Annotated[Path, typer.Option("--dir", help="A stack's directory.")] = DEFAULT_DIR,
    require_receipt: Annotated[
        bool, typer.Option(help="Refuse an answer that the log has not registered.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify an answer file without any network.

    Exit code 0: every applicable check held. 1: a check failed. 2: nothing was judged, because the
    answer or the trust roots could not be read.

    Examples:
        otr verify answer.otr --roots roots.json

        otr verify answer.otr --require-receipt --json
    """
    pinned = read_roots(roots or roots_file(directory))
    if require_receipt:
        pinned = replace(pinned, require_receipt=True)
    answer = read_answer(file)
    try:
        verified = verify_answer(answer, pinned, time.time_ns() // 1_000_000)
    except AnswerRefusedError as refused:
        _refused(refused, as_json)
        raise exit_with(1) from None
    _verified(verified, as_json)


def _refused(refused: AnswerRefusedError, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "ok": False,
                "verified": False,
                "failed_check": refused.check,
                "reason": refused.reason,
                "message": refused.message,
                "passed": [check.name for check in refused.passed],
            }
        )
        return
    for check in refused.passed:
        out.print(f"[green]ok[/]     {check.name:22} ", end="")
        out.print(check.line, markup=False, soft_wrap=True)
    out.print(f"[bold red]failed[/] {refused.check:22} {refused.reason} ", end="")
    out.print(refused.cause.message, markup=False, soft_wrap=True)
    not_run = CHECKS[CHECKS.index(refused.check) + 1 :]
    if not_run:
        out.print(f"not run: {', '.join(not_run)}", soft_wrap=True)


def _verified(verified: VerifiedAnswer, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "ok": True,
                "verified": True,
                "checks": {check.name: check.line for check in verified.checks},
                "notes": list(verified.notes),
                "time_basis": verified.time_basis.value,
                "payload_hash": verified.signed.payload_hash.hex(),
                "model": verified.model_name,
                "simulated": verified.attestation.simulated,
            }
        )
        return
    for check in verified.checks:
        out.print(f"[green]ok[/] {check.name:22} ", end="")
        out.print(check.line, markup=False, soft_wrap=True)
    for note in verified.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print("[bold green]verified[/]")
