"""`otr up`: the whole stack on this machine, for development."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from otr_client.cli.output import err, exit_with, fail, out
from otr_client.models_at_hand import find_model
from otr_client.stack.directory import SERVICES, StackDirectory, StackOptions
from otr_client.stack.local import LocalStack
from otr_client.stack.supervisor import ServiceFailedError

DEFAULT_DIR = Path(".otr")


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
            "--port", help="First of five ports (50051 by convention); free ones without it."
        ),
    ] = None,
    window_seconds: Annotated[
        float, typer.Option(help="Seconds until an unchallenged statement is final.")
    ] = 30.0,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
) -> None:
    """Run all five services with a simulated TEE until Ctrl-C.

    Makes the development PKI at the first start. Examples:

        otr up
        otr up --dir /tmp/otr --port 50051 --model otr-tiny
    """
    options = StackOptions(
        find_model(model),
        first_port=first_port,
        window_seconds=window_seconds,
        engine_threads=threads,
    )
    raise exit_with(asyncio.run(_run(LocalStack(StackDirectory(directory), options))))


async def _run(stack: LocalStack) -> int:
    directory = stack.directory
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        with err.status("starting the stack") as status:
            await stack.start(lambda name: status.update(f"{name} is up"))
        for name in SERVICES:
            out.print(f"{name:12} {directory.target(name)}   {directory.log_file(name)}")
        out.print(f"trust roots  {directory.roots_file}")
        out.print("\nTry:  otr generate 'What is the capital of France?' --dir", directory.root)
        exited = asyncio.create_task(stack.supervisor.first_exit())
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait({exited, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if exited.done() and not stopped.is_set():
            name = exited.result()
            fail("SERVICE_ENDED", f"{name} ended:\n{stack.supervisor.log_tail(name)}")
            return 1
        exited.cancel()
        err.print("stopping")
        return 0
    except ServiceFailedError as error:
        fail("SERVICE_FAILED", str(error))
        return 1
    finally:
        await stack.stop()
