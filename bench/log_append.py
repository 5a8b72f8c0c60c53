#!/usr/bin/env python3
"""The log's rates and latencies: real gRPC over mTLS on loopback, SQLite, every commit synced.

The service is a process of its own, so its CPU time (user and system, all threads) is its own: a
rate by CPU time is what one core could take, whatever else the machine does. Records are real
statements, signed beforehand; `verified` says whether the log checks their signatures, as it does
unless its settings leave that to readers. Each line carries what one Ed25519 verification costs
here and now, since shared machines differ and change: 0.12 to 0.16 ms is usual.

log_append_batch   AppendBatch of 256 without receipts, two calls in flight
log_append_unary   AppendEntry without receipts, 64 calls in flight; `floor` is a call that reads
                   nothing, so what gRPC and TLS alone cost
log_receipt        AppendEntry with its receipt: alone, and beside 1,000 entries/s
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from otr.commitment.v1 import commitment_pb2 as pb
from otr_protocol import ed25519
from otr_server.command import run
from support import log_service as logs
from support.log_process import LogProcess, stub_of

BATCH = 256
IN_FLIGHT = 64
ROUNDS = 5
RECEIPTS = 1_000
WARM_CALLS = 50
PACED_BATCH = 20
PACED_SECONDS = 0.02

Call = Callable[[], Awaitable[object]]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report(name: str, **values: object) -> None:
    line = {"name": name, **values, "ed25519_verify_us": round(ed25519_verify_us(), 1)}
    print(json.dumps(line), flush=True)


def ed25519_verify_us(calls: int = 500) -> float:
    seed, message = bytes(32), b"calibration"
    key, signature = ed25519.public_key_of(seed), ed25519.sign(seed, message)
    started = time.process_time()
    for _ in range(calls):
        ed25519.verify(key, signature, message)
    return (time.process_time() - started) / calls * 1e6


@asynccontextmanager
async def service(*, verified: bool) -> AsyncIterator[tuple[LogProcess, logs.Stub]]:
    """A fresh log that holds what the statements need, and a writer's stub."""
    # Not in /tmp, which may be memory: a sync must reach a disk.
    with tempfile.TemporaryDirectory(dir=os.environ.get("OTR_BENCH_DIR", ".")) as directory:
        process = LogProcess(Path(directory), {"verify_statements": verified})
        await process.start()
        try:
            async with process.channel() as channel:
                stub = stub_of(channel)
                await logs.put(stub, *logs.EXHIBIT.blobs)
                yield process, stub
        finally:
            await process.stop()


async def in_parallel(calls: Sequence[Call], in_flight: int) -> None:
    """Make all calls, so many at once."""
    waiting = iter(calls)

    async def worker() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(worker() for _ in range(in_flight)))


async def cost(
    process: LogProcess, calls: Sequence[Call], in_flight: int
) -> tuple[list[float], float]:
    """Microseconds of the service's CPU per call in each round, and calls per second in all."""
    warm = len(calls) // 10
    await in_parallel(calls[:warm], in_flight)
    per_round = (len(calls) - warm) // ROUNDS
    rounds: list[float] = []
    started = time.perf_counter()
    for first in range(warm, warm + per_round * ROUNDS, per_round):
        before = process.cpu_seconds()
        await in_parallel(calls[first : first + per_round], in_flight)
        rounds.append((process.cpu_seconds() - before) / per_round * 1e6)
    return rounds, per_round * ROUNDS / (time.perf_counter() - started)


async def batches(entries: int, *, verified: bool) -> None:
    say(f"log_append_batch: signing {entries} statements ...")
    records = [logs.statement(seq) for seq in range(entries)]
    async with service(verified=verified) as (process, stub):
        calls: list[Call] = [
            partial(stub.AppendBatch, logs.entries(records[at : at + BATCH]))
            for at in range(0, entries - BATCH + 1, BATCH)
        ]
        rounds, calls_per_s = await cost(process, calls, in_flight=2)
        cpu = [each / BATCH for each in rounds]
        report(
            "log_append_batch",
            verified=verified,
            batch=BATCH,
            record_bytes=len(records[0]),
            cpu_us_per_entry_rounds=[round(each, 1) for each in cpu],
            cpu_us_per_entry=round(statistics.median(cpu), 1),
            entries_per_cpu_s=round(1e6 / statistics.median(cpu)),
            entries_per_s=round(calls_per_s * BATCH),
        )


async def unary(entries: int, *, verified: bool) -> None:
    say(f"log_append_unary: signing {entries} statements ...")
    records = [logs.statement(seq) for seq in range(entries)]
    async with service(verified=verified) as (process, stub):
        floor: list[Call] = [partial(stub.GetLogInfo, pb.GetLogInfoRequest())] * entries
        floor_rounds, _ = await cost(process, floor, IN_FLIGHT)
        calls: list[Call] = [partial(stub.AppendEntry, logs.entry(each)) for each in records]
        rounds, calls_per_s = await cost(process, calls, IN_FLIGHT)
        report(
            "log_append_unary",
            verified=verified,
            in_flight=IN_FLIGHT,
            record_bytes=len(records[0]),
            cpu_us_per_entry_rounds=[round(each) for each in rounds],
            cpu_us_per_entry=round(statistics.median(rounds)),
            floor_cpu_us_per_call=round(statistics.median(floor_rounds)),
            entries_per_cpu_s=round(1e6 / statistics.median(rounds)),
            entries_per_s=round(calls_per_s),
        )


async def receipts(*, loaded: bool) -> None:
    say(f"log_receipt, {'loaded' if loaded else 'alone'} ...")
    numbers = itertools.count()
    async with service(verified=True) as (_, stub):
        done = asyncio.Event()

        async def pace() -> None:
            following = time.perf_counter()
            while not done.is_set():
                group = [logs.statement(next(numbers)) for _ in range(PACED_BATCH)]
                await stub.AppendBatch(logs.entries(group))
                following += PACED_SECONDS
                await asyncio.sleep(max(0.0, following - time.perf_counter()))

        load = asyncio.create_task(pace()) if loaded else None
        found: list[float] = []
        for call in range(WARM_CALLS + RECEIPTS):
            request = logs.entry(logs.statement(next(numbers)), wait_receipt=True)
            started = time.perf_counter()
            answer = await stub.AppendEntry(request)
            if call >= WARM_CALLS:
                found.append((time.perf_counter() - started) * 1e3)
            if not answer.receipt:
                raise RuntimeError("no receipt came")
        done.set()
        if load is not None:
            await load
        found.sort()
        report(
            "log_receipt",
            verified=True,
            beside_entries_per_s=PACED_BATCH / PACED_SECONDS if loaded else 0,
            calls=len(found),
            p50_ms=round(statistics.median(found), 2),
            p95_ms=round(found[len(found) * 95 // 100], 2),
            p99_ms=round(found[len(found) * 99 // 100], 2),
        )


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=25_600, help="of the batch measurement")
    parser.add_argument("--only", default="", help="a part of the names of what to measure")
    options = parser.parse_args()
    if options.only in "log_append_batch":
        for verified in (True, False):
            await batches(options.entries, verified=verified)
    if options.only in "log_append_unary":
        for verified in (True, False):
            await unary(options.entries // 4, verified=verified)
    if options.only in "log_receipt":
        for loaded in (False, True):
            await receipts(loaded=loaded)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
