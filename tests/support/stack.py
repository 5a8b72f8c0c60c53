"""The five services in one Python process: real servers on loopback, real SQLite, a real engine."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otr.arbitration.v1 import arbitration_pb2_grpc
from otr.commitment.v1 import commitment_pb2_grpc
from otr.inference.v1 import inference_pb2_grpc
from otr_client.client import Client, Completed
from otr_client.models_at_hand import find_model
from otr_client.request import Ask
from otr_client.stack.directory import START_ORDER, StackDirectory, StackOptions
from otr_server.channel import open_channel
from otr_server.process import Process
from otr_server.settings import read_settings

READY_SECONDS: Final = 60.0
MODEL: Final = "otr-tiny"
STUBS: Final[Mapping[str, Any]] = {
    "inference": inference_pb2_grpc.InferenceServiceStub,
    "commitment": commitment_pb2_grpc.CommitmentServiceStub,
    "arbitration": arbitration_pb2_grpc.ArbitrationServiceStub,
}


@dataclass
class Stack:
    """A running stack; `changes` are settings by service that override the written ones."""

    directory: StackDirectory
    processes: dict[str, Process]
    changes: Mapping[str, Mapping[str, Any]]

    async def start(self, service: str) -> None:
        """Start one service and wait until its health port says SERVING."""
        main = importlib.import_module(f"otr_{service}.main")
        settings = read_settings(main.Settings, self.directory.config_file(service), os.environ)
        settings = replace(settings, **self.changes.get(service, {}))
        self.processes[service] = process = await main.start(settings)
        await until_serving(process)

    async def stop(self, service: str) -> None:
        """Drain one service."""
        await self.processes.pop(service).drain()

    def client(self) -> Client:
        """An SDK client with the stack's roots."""
        directory = self.directory
        return Client(directory.target("inference"), directory.client_tls(), directory.roots())

    @asynccontextmanager
    async def stub(self, service: str, role: str = "client") -> AsyncIterator[Any]:
        """A service as a caller of this role sees it."""
        tls = self.directory.client_tls(role)
        async with open_channel(self.directory.target(service), tls, service) as channel:
            yield STUBS[service](channel)

    async def answer(self, ask: Ask, **options: Any) -> Completed:
        """Ask, and return the verified answer."""
        async with self.client() as client:
            async for event in client.generate(ask, **options):
                if isinstance(event, Completed):
                    return event
        raise AssertionError("generate() ends with Completed or raises")


async def until_serving(process: Process) -> None:
    """Wait for SERVING on the plaintext health port, as a kubelet would."""
    target = f"127.0.0.1:{process.bound.health_port}"
    async with asyncio.timeout(READY_SECONDS), grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


@asynccontextmanager
async def running_stack(
    root: Path, changes: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
) -> AsyncIterator[Stack]:
    """All five services in `root`, serving; drained at the end."""
    directory = StackDirectory(root)
    directory.prepare(StackOptions(find_model(MODEL), **{"window_seconds": 0.5, **options}))
    stack = Stack(directory, {}, changes or {})
    try:
        for service in START_ORDER:
            await stack.start(service)
        yield stack
    finally:
        for service in reversed(list(stack.processes)):
            await stack.stop(service)


def raw(prompt: str = "In the beginning", **fields: Any) -> Ask:
    """A request to the bundled model, which has no chat template."""
    return Ask(prompt, raw=True, **{"max_tokens": 16, **fields})
