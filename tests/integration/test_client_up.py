"""`otr up` ends everything it started, however it is told to, and at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from otr_client.stack.lock import StackState, stack_state

COMMAND = "import sys; sys.argv[0] = 'otr'; from otr_client.cli.app import main; main()"
SECONDS = 60.0


async def started(directory: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, "up", "--dir", str(directory), "--model", "otr-tiny",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def services_of(directory: Path) -> list[int]:
    """Processes with a configuration in `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if os.fsencode(directory / "config") in command:
            found.append(int(entry.name))
    return found


async def until_services(directory: Path, wanted: bool) -> None:
    async with asyncio.timeout(SECONDS):
        while bool(services_of(directory)) is not wanted:  # noqa: ASYNC110  # processes: no event
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_during_the_start_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    process = await started(tmp_path)
    await until_services(tmp_path, True)
    assert stack_state(tmp_path) is StackState.STARTING
    process.send_signal(number)
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert process.returncode == 128 + number, err
    assert b"Traceback" not in err
    assert not services_of(tmp_path)


async def test_kill_9_leaves_no_service_behind(tmp_path: Path) -> None:
    process = await started(tmp_path)
    await until_services(tmp_path, True)
    process.kill()
    await process.wait()
    await until_services(tmp_path, False)


async def test_an_interrupt_during_the_imports_is_no_traceback(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-v", "-c", COMMAND, "up", "--dir", str(tmp_path),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        async for line in process.stderr:
            if b"import 'typer'" in line:  # in the middle of the imports
                break
        process.send_signal(signal.SIGINT)
        rest = await process.stderr.read()
        await process.wait()
    assert process.returncode == 130
    assert b"Traceback" not in rest
