"""`otr demo`: start everything, ask three questions, verify the answers, refuse the attacks."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otr_client.cli.installed import require_stack
from otr_client.cli.output import REFUSED, AsJson, emit, err, exit_with, out
from otr_client.models_at_hand import find_model, has_chat_template
from otr_client.stack.directory import StackDirectory, StackOptions

if TYPE_CHECKING:  # needs the services, which `pip install otr-client` alone does not bring
    from otr_client.demo.attacks import Attempt
    from otr_client.demo.run import AnswerReport, Listener, Report
    from otr_protocol.verify_answer import Check


def demo(
    model: Annotated[
        str, typer.Option(help="smollm2, otr-tiny, or a model directory.")
    ] = "smollm2",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the stack's files here; default: nowhere.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2)] = 48,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of the engine.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show a real model answering verifiably, and attacks on its answers being refused.

    The TEE is simulated: formats and checks are the real ones, hardware is not involved.

    Examples:

        otr demo

        otr demo --model otr-tiny --json
    """
    require_stack()
    from otr_client.demo.run import Listener, run_demo
    from otr_client.stack.local import LocalStack

    options = StackOptions(found := find_model(model), engine_threads=threads)
    chat = has_chat_template(found)
    with tempfile.TemporaryDirectory(prefix="otr-demo-") as temporary:
        stack = LocalStack(StackDirectory(directory or Path(temporary)), options)
        tell = Listener() if as_json else _narrator(found.served_name)
        report = asyncio.run(run_demo(stack, options, chat=chat, max_tokens=max_tokens, tell=tell))
    if as_json:
        emit(report.document())
    else:
        _conclude(report)
    if not report.ok:
        raise exit_with(REFUSED)


def _narrator(model: str) -> Listener:
    from otr_client.demo.run import Listener

    err.print(
        f"starting five services with {model} and a simulated TEE;"
        " the first start on a machine compiles the engine",
        markup=False,
        soft_wrap=True,
    )
    shown = False

    def ready(name: str) -> None:
        err.print(f"  {name} is up")

    def asked(prompt: str) -> None:
        out.print(f"\n> {prompt}", style="bold cyan", markup=False, soft_wrap=True)

    def text(text: str) -> None:
        out.print(text, end="", markup=False, soft_wrap=True)

    def answered(answer: AnswerReport, checks: tuple[Check, ...]) -> None:
        nonlocal shown
        out.print(
            f"\n[dim]first token {answer.ttft_ms:.0f} ms, {answer.tokens_per_s:.0f} tokens/s;"
            f" provisional finality {answer.provisional_ms:.1f} ms after the last token,"
            f" receipt {answer.receipt_ms:.1f} ms later[/]",
            soft_wrap=True,
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
