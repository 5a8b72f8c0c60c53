"""Starting, watching and stopping the services as processes of this machine.

Each service is `python -m otr_<name> --config FILE`, run by `child` so that it ends when we do. It
logs to a file of its own, and counts as up when its health port says SERVING. A process that dies
is reported with the end of its log; the stack is then stopped, since a development stack that limps
hides what broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otr_protocol.errors import UnavailableError

# The first start on a machine compiles the engine's kernels, half a minute on two slow cores.
START_SECONDS = 180.0
STOP_SECONDS = 20.0
LOG_TAIL_BYTES = 4096


class ServiceFailedError(UnavailableError):
    """A service ended or did not become ready; the message holds the end of its log."""

    reason = "SERVICE_FAILED"


@dataclass(frozen=True, slots=True)
class Unit:
    """One service to run: its module, its configuration and where its health port is."""

    name: str
    module: str
    config: Path
    log: Path
    health_target: str


@dataclass(slots=True)
class _Running:
    unit: Unit
    process: asyncio.subprocess.Process
    log_start: int
    """Size of the log when this run began: what stands before is of earlier runs."""


class Supervisor:
    """Runs units as child processes."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = list(units)
        self._running: dict[str, _Running] = {}

    async def start(self, on_ready: Callable[[str], None] = lambda name: None) -> None:
        """Start every unit and return when all are SERVING; on failure stop what runs and raise."""
        try:
            for unit in self._units:
                await self.start_unit(unit.name)
            await self._all_ready(on_ready)
        except BaseException:
            await self.stop()
            raise

    async def _all_ready(self, on_ready: Callable[[str], None]) -> None:
        async def ready(name: str) -> None:
            await self.until_ready(name)
            on_ready(name)

        tasks = [asyncio.create_task(ready(unit.name), name=unit.name) for unit in self._units]
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*tasks)
        except TimeoutError:
            waiting = ", ".join(task.get_name() for task in tasks if not task.done())
            raise ServiceFailedError(f"not ready after {START_SECONDS:.0f} s: {waiting}") from None
        finally:
            for task in tasks:
                task.cancel()

    async def start_unit(self, name: str) -> None:
        """Start one unit without waiting for it."""
        unit = next(unit for unit in self._units if unit.name == name)
        unit.log.parent.mkdir(parents=True, exist_ok=True)
        with unit.log.open("ab") as log:
            log_start = log.tell()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "otr_client.stack.child",
                unit.module,
                "--config",
                str(unit.config),
                # Never written to: its end tells the child that we are gone.
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Their own group: Ctrl-C reaches us alone, and we stop them in order.
                start_new_session=True,
                # grpc's core writes plain lines between the JSON of the logs otherwise.
                env=os.environ | {"PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "NONE"},
            )
        self._running[name] = _Running(unit, process, log_start)

    def process(self, name: str) -> asyncio.subprocess.Process:
        """A started unit's process."""
        return self._running[name].process

    async def first_exit(self) -> str:
        """Wait until any unit ends and return its name."""
        waits = {
            asyncio.create_task(running.process.wait()): name
            for name, running in self._running.items()
        }
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return waits[done.pop()]

    def log_tail(self, name: str) -> str:
        """The end of what a unit has logged in this run."""
        running = self._running[name]
        path = running.unit.log
        with path.open("rb") as log:
            log.seek(max(running.log_start, path.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace")

    async def stop(self) -> None:
        """SIGTERM in the reverse order of starting, then SIGKILL for what does not end in time."""
        for running in reversed(list(self._running.values())):
            if running.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(signal.SIGTERM)
        for running in self._running.values():
            try:
                await asyncio.wait_for(running.process.wait(), STOP_SECONDS)
            except TimeoutError:
                running.process.kill()
                await running.process.wait()
        self._running.clear()

    async def until_ready(self, name: str) -> None:
        """Wait until a started unit says SERVING. Raises ServiceFailedError when it ends."""
        unit, process = self._running[name].unit, self._running[name].process
        async with grpc.aio.insecure_channel(unit.health_target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                if process.returncode is not None:
                    raise ServiceFailedError(
                        f"{unit.name} ended with code {process.returncode}:\n"
                        f"{self.log_tail(unit.name)}"
                    )
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.1)
