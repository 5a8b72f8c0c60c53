"""The log as a process of its own, to be killed or measured."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_server.channel import open_channel
from support.log_service import ORIGIN, pki_in

START_SECONDS: Final = 60.0


class LogStartError(Exception):
    """The process ended before it served; the message holds what it had logged."""


@dataclass
class LogProcess:
    """`otr-commitment` over the files in `directory`, on free ports; `settings` are top-level."""

    directory: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    port: int = 0
    process: asyncio.subprocess.Process | None = None
    logged: list[dict[str, Any]] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start and return when it serves, or says that it refuses to append."""
        config = self.directory / "commitment.toml"
        config.write_text(self._toml())
        self.logged.clear()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "otr_commitment.main",
            "--config",
            str(config),
            stderr=asyncio.subprocess.PIPE,
        )
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(ready))
        async with asyncio.timeout(START_SECONDS):
            await ready.wait()
        if not self.events("started"):
            raise LogStartError(json.dumps(self.logged, indent=1))
        self.port = self.events("started")[0]["port"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the process has logged under this name."""
        return [line for line in self.logged if line.get("event") == name]

    def channel(self, role: str = "inference") -> grpc.aio.Channel:
        """A channel for a caller of this role."""
        tls = pki_in(self.directory).client_tls(role)
        return open_channel(f"127.0.0.1:{self.port}", tls, "commitment")

    async def kill(self) -> None:
        """`kill -9`."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return await self._end(signal.SIGTERM)

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        assert self.process is not None
        # /proc/<pid>/stat, after the name in parentheses: fields 14 and 15 are utime and stime.
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        assert self._reading is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await self.process.wait()
        await self._reading
        return code

    async def _read(self, ready: asyncio.Event) -> None:
        """Collect the log until its end; `serving` and `appends_refused` come after `started`."""
        assert self.process is not None
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": line.decode(errors="replace").rstrip()}
            self.logged.append(entry)
            started = bool(self.events("started"))
            if started and (self.events("serving") or self.events("appends_refused")):
                ready.set()
        ready.set()

    def _toml(self) -> str:
        pki = pki_in(self.directory)
        values: dict[str, Any] = {
            "origin": ORIGIN,
            "data_dir": self.directory / "data",
            "guard_file": self.directory / "guard" / "log.guard",
            "log_key_file": self.directory / "keys" / "log.key",
            "generate_log_key": True,
            "min_free_bytes": 0,
            "log_level": "info",
            **self.settings,
        }
        lines = [f"{name} = {_toml_value(value)}" for name, value in values.items()]
        tls = [
            "[tls]",
            f"certificate_file = {_toml_value(pki.certificate_file('commitment'))}",
            f"key_file = {_toml_value(pki.key_file('commitment'))}",
            f"ca_file = {_toml_value(pki.ca_file)}",
        ]
        return "\n".join([*lines, "", "[listen]", 'host = "127.0.0.1"', "", *tls, ""])


def _toml_value(value: object) -> str:
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value))


def stub_of(channel: grpc.aio.Channel) -> rpc.CommitmentServiceAsyncStub:
    """The log behind a channel."""
    stub: rpc.CommitmentServiceAsyncStub = rpc.CommitmentServiceStub(channel)
    return stub
