#!/usr/bin/env python3
"""`Verify` over gRPC: the attestation service in a process of its own, at half of what it can take.

Development evidence of one CPU and one GPU, mutual TLS, the log beside it, tokens issued and
evidence stored as in production. First as many calls at once as keep the service busy tell its
rate; then calls start at half that rate, by the clock and whether or not earlier ones have come
back, and their latencies are taken. The client's own work on evidence is done beforehand.

    {"name": "verify_grpc_p99_ms", "value": ..., "unit": "ms", "p50_ms": ..., "load_per_s": ...}
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_server.channel import open_channel
from otr_server.tls import ClientTls
from support import attestation_service as service
from support import devtee_world as world

BUSY_CALLS = 400
PACED_CALLS = 1_200
AT_ONCE = 16


def serve(directory: str, ready: Connection) -> None:
    """The service and its log, until the other end of the pipe closes."""

    async def run() -> None:
        async with service.deployment(Path(directory)) as deployed:
            process = await deployed.start()
            ready.send((process.bound.target, deployed.pki.client_tls("inference")))
            await asyncio.to_thread(ready.poll, None)

    asyncio.run(run())


async def measure(target: str, tls: ClientTls) -> dict[str, object]:
    channel = open_channel(target, tls, "attestation")
    stub = rpc.AttestationServiceStub(channel)
    print(f"preparing {BUSY_CALLS + PACED_CALLS} bundles ...", file=sys.stderr)
    requests = [await service.request(stub, 10 + n) for n in range(BUSY_CALLS + PACED_CALLS)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def busy(request: pb.VerifyRequest) -> None:
        async with slots:
            await verify(stub, request)

    started = time.perf_counter()
    await asyncio.gather(*(busy(request) for request in requests[:BUSY_CALLS]))
    rate = BUSY_CALLS / (time.perf_counter() - started)
    pause = 2 / rate
    calls: list[asyncio.Task[float]] = []
    begun = time.perf_counter()
    for number, request in enumerate(requests[BUSY_CALLS:]):
        await asyncio.sleep(max(0.0, begun + number * pause - time.perf_counter()))
        calls.append(asyncio.create_task(verify(stub, request)))
    latencies = sorted(await asyncio.gather(*calls))
    await channel.close()
    return {
        "name": "verify_grpc_p99_ms",
        "value": round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
        "unit": "ms",
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "calls": len(latencies),
        "load_per_s": round(rate / 2, 1),
        "busy_per_s": round(rate, 1),
    }


async def verify(stub: rpc.AttestationServiceAsyncStub, request: pb.VerifyRequest) -> float:
    """Seconds until the token came."""
    started = time.perf_counter()
    response = await stub.Verify(request)
    assert response.attestation_token
    return time.perf_counter() - started


def main() -> int:
    # Made before the fork: both sides need one development PKI, and gRPC has not begun yet.
    world.pki(), world.collateral(), world.token_key()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        server = context.Process(target=serve, args=(directory, theirs))
        server.start()
        try:
            target, tls = ours.recv()
            print(json.dumps(asyncio.run(measure(target, tls))), flush=True)
        finally:
            ours.send("end")
            server.join(30)
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
