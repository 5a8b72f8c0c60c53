"""A process of its own: signals, exit codes, and what it says on stderr (otr_server.command)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otr_server.channel import ClientTls, open_channel
from otr_server.dev_pki import DevPki, make_dev_pki
from support.probe_service import ProbeStub, text

TESTS = Path(__file__).resolve().parent.parent
SECONDS = 60


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevPki:
    return make_dev_pki(tmp_path_factory.mktemp("tls"), ["commitment", "client"])


@pytest.fixture
def config(tmp_path: Path, pki: DevPki) -> Path:
    file = tmp_path / "probe.toml"
    file.write_text(
        f'tls_certificate_file = "{pki.certificate_file("commitment")}"\n'
        f'tls_key_file = "{pki.key_file("commitment")}"\n'
        f'tls_ca_file = "{pki.ca_file}"\n'
    )
    return file


@dataclass(frozen=True, slots=True)
class Program:
    process: asyncio.subprocess.Process
    ports: dict[str, int]

    async def finish(self) -> tuple[int, list[dict[str, Any]]]:
        async with asyncio.timeout(SECONDS):
            _, stderr = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in stderr.splitlines()]


async def spawn(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    # Importing otr_server set this for the tests; the program must do so by itself.
    inherited = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.probe_main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**inherited, "PYTHONPATH": path, **environ},
    )


@asynccontextmanager
async def running(config: Path, **environ: str) -> AsyncIterator[Program]:
    process = await spawn("--config", str(config), **environ)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = await process.stdout.readline()
        yield Program(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_the_process(
    config: Path, pki: DevPki, number: signal.Signals
) -> None:
    async with running(config) as program:
        health = grpc.aio.insecure_channel(f"127.0.0.1:{program.ports['health_port']}")
        target = f"127.0.0.1:{program.ports['port']}"
        async with health, open_channel(target, pki.client_tls("client"), "commitment") as channel:
            watch = health_pb2_grpc.HealthStub(health).Watch(
                health_pb2.HealthCheckRequest(), timeout=SECONDS
            )
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            conversation = ProbeStub(channel).Mirror()
            await conversation.write(text("before"))
            assert (await conversation.read()).value == "before"
            program.process.send_signal(number)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await conversation.write(text("after"))
            assert (await conversation.read()).value == "after"
            await conversation.done_writing()
            assert await conversation.read() is grpc.aio.EOF
            assert await conversation.code() is grpc.StatusCode.OK
        code, lines = await program.finish()
    assert code == 0
    events = [line["event"] for line in lines]
    assert events[:3] == ["started", "serving", "signal"]
    assert events[-1] == "stopped"
    assert events.index("not_serving") < events.index("draining")
    assert all(line["service"] == "otr-probe" for line in lines)


async def test_a_stranger_puts_no_plain_lines_into_the_log(config: Path, pki: DevPki) -> None:
    async with running(config) as program:
        stranger = ClientTls(pki.ca_file)
        target = f"127.0.0.1:{program.ports['port']}"
        async with open_channel(target, stranger, "commitment") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await ProbeStub(channel).Echo(text("x"))
        program.process.terminate()
        code, lines = await program.finish()  # parses every line as JSON
    assert code == 0
    assert lines[-1]["event"] == "stopped"


async def test_a_second_signal_cuts_the_drain_short(config: Path, pki: DevPki) -> None:
    async with running(config, OTR__DRAIN_SECONDS="600") as program:
        target = f"127.0.0.1:{program.ports['port']}"
        health = grpc.aio.insecure_channel(f"127.0.0.1:{program.ports['health_port']}")
        async with health, open_channel(target, pki.client_tls("client"), "commitment") as channel:
            watch = health_pb2_grpc.HealthStub(health).Watch(
                health_pb2.HealthCheckRequest(), timeout=SECONDS
            )
            await watch.read()
            held = ProbeStub(channel).Stream(text("hold"))
            assert (await held.read()).value == "first"
            program.process.send_signal(signal.SIGTERM)
            await watch.read()
            program.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError):
                await held.read()
            code, lines = await program.finish()
    assert code == 0
    assert lines[-1]["event"] == "stopped"


async def test_a_background_task_that_keeps_failing_ends_the_process(config: Path) -> None:
    async with running(config, OTR__BROKEN_BACKGROUND="true") as program:
        code, lines = await program.finish()
    assert code == 1
    (hopeless,) = [line for line in lines if line["event"] == "background_hopeless"]
    assert hopeless["failures"] == 3
    assert "OSError: the disk is gone" in hopeless["exception"]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTR__NMAE": "x"}, "otr-probe: unknown setting nmae"),
        ({"OTR__LISTEN__PORT": "many"}, "otr-probe: listen.port must be a whole number"),
        ({"OTR__LOG_LEVEL": "loud"}, "otr-probe: log_level must be one of"),
    ],
)
async def test_a_users_mistake_is_one_line_and_exit_code_2(
    config: Path, environ: dict[str, str], said: str
) -> None:
    process = await spawn("--config", str(config), **environ)
    async with asyncio.timeout(SECONDS):
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert stderr.decode().startswith(said)
    assert len(stderr.splitlines()) == 1


async def test_a_missing_certificate_refuses_to_start_without_a_traceback(config: Path) -> None:
    process = await spawn(
        "--config", str(config), OTR__TLS_CERTIFICATE_FILE=str(config.parent / "absent.pem")
    )
    async with asyncio.timeout(SECONDS):
        _, stderr = await process.communicate()
    assert process.returncode == 1
    (line,) = [json.loads(line) for line in stderr.splitlines()]
    assert line["event"] == "start_refused"
    assert line["reason"] == "BAD_TLS_FILE"
    assert "absent.pem" in line["error"]
