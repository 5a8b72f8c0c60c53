"""`otr demo`: start everything, ask three questions, verify the answers, refuse the attacks."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import grpc
import typer

from otr_client.cli.output import emit, err, exit_with, fail, out
from otr_client.client import reason
from otr_client.demo.attacks import Attempt
from otr_client.demo.run import AnswerReport, Listener, Report, run_demo
from otr_client.models_at_hand import find_model
from otr_client.stack.directory import StackDirectory, StackOptions
from otr_client.stack.local import LocalStack
from otr_client.stack.supervisor import ServiceFailedError
from otr_numerics.model_file import inspect_model
from otr_protocol.errors import Refusal
from otr_protocol.verify_answer import Check
from otr_server.status import reason_of


def demo(
    model: Annotated[
        str, typer.Option(help="smollm2, otr-tiny, or a model directory.")
    ] = "smollm2",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the stack's files here; default: nowhere.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2)] = 48,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show a real model answering verifiably, and attacks on its answers being refused.

    The TEE is simulated: formats and checks are the real ones, hardware is not involved.
    """
    options = StackOptions(found := find_model(model))
    chat = bool(inspect_model(found.directory).manifest.chat_template_digest)
    with tempfile.TemporaryDirectory(prefix="otr-demo-") as temporary:
        stack = LocalStack(StackDirectory(directory or Path(temporary)), options)
        tell = Listener() if as_json else _narrator(found.served_name)
        try:
            report = asyncio.run(
                run_demo(stack, options, chat=chat, max_tokens=max_tokens, tell=tell)
            )
        except ServiceFailedError as error:
            fail("SERVICE_FAILED", str(error))
            raise exit_with(1) from None
        except grpc.aio.AioRpcError as error:
            fail(reason_of(error) or error.code().name, reason(error))
            raise exit_with(1) from None
        except Refusal as refusal:
            fail(refusal.reason, refusal.message)
            raise exit_with(1) from None
    if as_json:
        emit(report.document())
    else:
        _conclude(report)
    if not report.ok:
        raise exit_with(1)


def _narrator(model: str) -> Listener:
    err.print(f"starting five services with {model} and a simulated TEE")
    shown = False

    def ready(name: str) -> None:
        err.print(f"  {name} is up")

    def asked(prompt: str) -> None:
        out.print(f"\n[bold cyan]> {prompt}[/]")

    def text(text: str) -> None:
        out.print(text, end="", markup=False, soft_wrap=True)

    def answered(answer: AnswerReport, checks: tuple[Check, ...]) -> None:
        nonlocal shown
        out.print(
            f"\n[dim]first token {answer.ttft_ms:.0f} ms, {answer.tokens_per_s:.0f} tokens/s;"
            f" provisional finality {answer.provisional_ms:.1f} ms after the last token,"
            f" receipt {answer.receipt_ms:.1f} ms later[/]"
        )
        verdict = "[green]verified offline[/]" if answer.verified else "[bold red]not verified[/]"
        out.print(f"{verdict}: {', '.join(check.name for check in checks)}", soft_wrap=True)
        if not shown:  # in full once; the other answers pass the same steps
            shown = True
            for check in checks:
                out.print(f"    [green]ok[/] {check.name:22} ", end="")
                out.print(check.line, markup=False, soft_wrap=True)

    def attacking() -> None:
        out.print("\n[bold]attacks[/]")

    def attacked(attempt: Attempt) -> None:
        verdict = "[green]refused[/]" if attempt.refused else "[bold red]ACCEPTED[/]"
        out.print(f"  {verdict} {attempt.name}: [bold]{attempt.reason}[/] ", end="")
        out.print(attempt.detail, markup=False, soft_wrap=True)

    return Listener(ready, asked, text, answered, attacking, attacked)


def _conclude(report: Report) -> None:
    refused = sum(attempt.refused for attempt in report.attacks)
    verified = sum(answer.verified for answer in report.answers)
    style = "bold green" if report.ok else "bold red"
    out.print(
        f"\n[{style}]{verified} of {len(report.answers)} answers verified,"
        f" {refused} of {len(report.attacks)} attacks refused[/]"
    )
