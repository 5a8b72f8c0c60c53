"""One stack per directory, and no service that outlives it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from otr_client.models_at_hand import find_model
from otr_client.stack.directory import StackDirectory, StackOptions
from otr_client.stack.local import LocalStack
from otr_client.stack.lock import StackLock, StackRunningError, StackState, stack_state
from otr_client.stack.supervisor import ServiceFailedError, Supervisor, Unit
from otr_client.stack.waiting import until_started


def test_a_directory_has_one_stack_at_a_time(tmp_path: Path) -> None:
    assert stack_state(tmp_path) is StackState.NONE
    lock = StackLock(tmp_path)
    with pytest.raises(StackRunningError):
        StackLock(tmp_path)
    assert stack_state(tmp_path) is StackState.STARTING
    lock.ready()
    assert stack_state(tmp_path) is StackState.READY
    lock.release()
    assert stack_state(tmp_path) is StackState.NONE
    StackLock(tmp_path).release()


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_a_second_stack_changes_nothing_of_the_first(tmp_path: Path) -> None:
    directory = StackDirectory(tmp_path)
    options = StackOptions(find_model("otr-tiny"))
    directory.prepare(options)
    before = contents(tmp_path)
    lock = StackLock(tmp_path)
    with pytest.raises(StackRunningError):
        async with LocalStack(StackDirectory(tmp_path), options):
            pass
    assert before.items() <= contents(tmp_path).items()
    lock.release()


async def test_who_comes_early_waits_for_the_stack(tmp_path: Path) -> None:
    waiting = asyncio.create_task(until_started(tmp_path, running_already=False))
    await asyncio.sleep(0.2)
    lock = StackLock(tmp_path)
    await asyncio.sleep(0.2)
    assert not waiting.done()
    lock.ready()
    assert await asyncio.wait_for(waiting, 2) is StackState.READY
    lock.release()


def test_a_child_ends_when_its_parent_is_gone() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "otr_client.stack.child", "http.server", "0", "--bind", "127.0.0.1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    child.stdin.close()
    assert child.wait(20) == -15


async def test_a_failed_service_is_shown_by_the_log_of_this_run(tmp_path: Path) -> None:
    log = tmp_path / "unit.log"
    log.write_text("what an earlier run said\n")
    supervisor = Supervisor([Unit("unit", "otr_nowhere", tmp_path / "c.toml", log, "127.0.0.1:1")])
    with pytest.raises(ServiceFailedError) as failed:
        await supervisor.start()
    assert "otr_nowhere" in failed.value.message
    assert "earlier run" not in failed.value.message
