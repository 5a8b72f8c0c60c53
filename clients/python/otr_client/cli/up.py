"""`otr up`: the whole stack on this machine, for development."""

from __future__ import annotations

import asyncio
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from otr_client.cli.installed import require_stack
from otr_client.cli.output import CommandFailedError, err, exit_with, out
from otr_client.models_at_hand import find_model, has_chat_template
from otr_client.stack.directory import HIGHEST_FIRST_PORT, SERVICES, StackDirectory, StackOptions
from otr_client.stack.paths import DEFAULT_DIR

if TYPE_CHECKING:
    from otr_client.stack.local import LocalStack

# SIGHUP: the terminal was closed. All three end the services too.
STOPPED_BY: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

STARTING: Final = "starting the stack; the first start on a machine compiles the engine"


def up(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where keys, data and logs of the stack live.")
    ] = DEFAULT_DIR,
    model: Annotated[
        str, typer.Option(help="smollm2, otr-tiny, or a model directory.")
    ] = "smollm2",
    first_port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=HIGHEST_FIRST_PORT,
            help="First of five ports (50051 by convention); free ones without it.",
        ),
    ] = None,
    window_seconds: Annotated[
        float, typer.Option(min=0.0, help="Seconds until an unchallenged statement is final.")
    ] = 30.0,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of the engine.")] = 1,
) -> None:
    """Run all five services with a simulated TEE until Ctrl-C.

    Makes the development PKI at the first start.

    Examples:
        otr up

        otr up --dir /tmp/otr --port 50051 --model otr-tiny
    """
    require_stack()
    from otr_client.stack.local import LocalStack

    options = StackOptions(
        at_hand := find_model(model),
        first_port=first_port,
        window_seconds=window_seconds,
        engine_threads=threads,
    )
    example = (
        "'What is the capital of France?'"
        if has_chat_template(at_hand)
        else "'In the beginning' --raw"
    )
    raise exit_with(asyncio.run(_run(LocalStack(StackDirectory(directory), options), example)))


async def _run(stack: LocalStack, example: str) -> int:
    """Start, serve until a signal, stop; the exit code."""
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in STOPPED_BY:
        asyncio.get_running_loop().add_signal_handler(number, _stop, stopped, number)
    try:
        with err.status(STARTING) as status:
            starting = asyncio.create_task(stack.start(lambda name: status.update(f"{name} is up")))
            await _first(starting, stopped)
            if stopped.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return 128 + stopped.result()
            await starting
        _tell(stack.directory, example)
        exited = asyncio.create_task(stack.supervisor.first_exit())
        await _first(exited, stopped)
        if not stopped.done():
            name = exited.result()
            raise CommandFailedError(
                "SERVICE_ENDED", f"{name} ended:\n{stack.supervisor.log_tail(name)}"
            )
        exited.cancel()
        err.print("stopping")
        return 0
    finally:
        await stack.stop()


async def _first(*waited_for: asyncio.Future[Any]) -> None:
    await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)


def _stop(stopped: asyncio.Future[int], number: signal.Signals) -> None:
    if not stopped.done():
        stopped.set_result(number)


def _tell(directory: StackDirectory, example: str) -> None:
    lines = [
        *(f"{name:12} {directory.target(name)}   {directory.log_file(name)}" for name in SERVICES),
        f"trust roots  {directory.roots_file}",
        f"\nTry:  otr generate {example} --dir {shlex.quote(str(directory.root))}",
    ]
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
