"""Somebody between client and service: a relay that chooses where connections go, and an impostor.

The impostor has a certificate of the stack's own authority in the service's name, and another key:
what an operator of the network, or of the authority, can have.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from otr.inference.v1 import inference_pb2 as pb
from otr.inference.v1 import inference_pb2_grpc as rpc
from otr_server.channel import open_channel
from otr_server.dev_pki import make_dev_pki
from otr_server.handshake import split_target
from support.stack import Stack


class Impostor(rpc.InferenceServiceServicer):
    """Passes on the genuine service's attestation, and keeps what it is sent."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.prompts: list[pb.GenerateRequest] = []
        self.attestations = 0

    async def GetAttestation(
        self, request: pb.GetAttestationRequest, context: Any
    ) -> pb.GetAttestationResponse:
        self.attestations += 1
        answer: pb.GetAttestationResponse = await self._stub.GetAttestation(request)
        return answer

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.prompts.append(request)
        async for answer in self._stub.Generate(request):
            yield answer


@asynccontextmanager
async def impostor(stack: Stack, scratch: Path) -> AsyncIterator[tuple[Impostor, str]]:
    """A running impostor of the inference service, and its target."""
    tls = stack.directory.client_tls()
    scratch.mkdir()  # noqa: ASYNC240 - a test's own directory
    for name in ("ca.pem", "ca.key"):
        shutil.copy(tls.ca_file.parent / name, scratch / name)
    pki = make_dev_pki(scratch, ["inference"], trust_domain=tls.trust_domain)
    target = stack.directory.target("inference")
    async with open_channel(target, tls, "inference") as channel:
        servicer = Impostor(rpc.InferenceServiceStub(channel))
        server = grpc.aio.server()
        rpc.add_InferenceServiceServicer_to_server(servicer, server)
        port = server.add_secure_port("127.0.0.1:0", pki.server_tls("inference").credentials())
        await server.start()
        try:
            yield servicer, f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


@asynccontextmanager
async def relay(choose: Callable[[int], str]) -> AsyncIterator[str]:
    """A TCP relay: connection number n (from 0) goes to `choose(n)`. Yields its own target."""
    count = 0
    tasks: set[asyncio.Task[Any]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        target = choose(count)
        count += 1
        onward_reader, onward_writer = await asyncio.open_connection(*split_target(target))
        for pair in ((reader, onward_writer), (onward_reader, writer)):
            task = asyncio.create_task(pump(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
