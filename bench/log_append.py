#!/usr/bin/env python3
"""The log's rates and latencies: real gRPC over mTLS on loopback, SQLite, every commit synced.

The service is a process of its own, so its CPU time (user and system, all threads) is its own: a
rate by CPU time is what one core could take, whatever else the machine does. Records are real
statements, signed beforehand; `verified` says whether the log checks their signatures.

log_append_batch   AppendBatch of 256 without receipts, two calls in flight
log_append_unary   AppendEntry without receipts, 64 calls in flight
log_receipt        AppendEntry with its receipt: alone, and beside about 1,000 entries/s
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

from otr_server.command import run
from support import log_service as logs
from support.log_process import LogProcess, stub_of

BATCH = 256
IN_FLIGHT = 64
RECEIPTS = 1_000
WARM_CALLS = 50
PACED_BATCH = 20
PACED_SECONDS = 0.02


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def service(*, verified: bool) -> AsyncIterator[LogProcess]:
    """A fresh log that holds what the statements need."""
    # Not in /tmp, which may be memory: a sync must reach a disk.
    with tempfile.TemporaryDirectory(dir=os.environ.get("OTR_BENCH_DIR", ".")) as name:
        process = LogProcess(Path(name), {"verify_statements": verified})
        await process.start()
        try:
            async with process.channel() as channel:
                await logs.put(stub_of(channel), *logs.EXHIBIT.blobs)
            yield process
        finally:
            await process.stop()


async def in_parallel(calls: Sequence[Callable[[], Awaitable[object]]], in_flight: int) -> None:
    """Make all calls, so many at once."""
    waiting = iter(calls)

    async def worker() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(worker() for _ in range(in_flight)))


async def rate(name: str, entries: int, *, verified: bool, batch: int, in_flight: int) -> None:
    say(f"{name}: signing {entries} statements ...")
    records = [logs.statement(seq) for seq in range(entries)]
    async with service(verified=verified) as process, process.channel() as channel:
        stub = stub_of(channel)
        calls: list[Callable[[], Awaitable[object]]] = []
        for group in batches(records, batch):
            if batch == 1:
                calls.append(partial(stub.AppendEntry, logs.entry(group[0])))
            else:
                calls.append(partial(stub.AppendBatch, logs.entries(group)))
        warm = max(1, len(calls) // 10)
        await in_parallel(calls[:warm], in_flight)
        cpu, started = process.cpu_seconds(), time.perf_counter()
        await in_parallel(calls[warm:], in_flight)
        seconds, cpu = time.perf_counter() - started, process.cpu_seconds() - cpu
        counted = len(calls[warm:]) * batch
        print(
            json.dumps(
                {
                    "name": name,
                    "verified": verified,
                    "entries": counted,
                    "batch": batch,
                    "in_flight": in_flight,
                    "record_bytes": len(records[0]),
                    "cpu_us_per_entry": round(cpu / counted * 1e6, 1),
                    "entries_per_cpu_s": round(counted / cpu),
                    "entries_per_s": round(counted / seconds),
                }
            ),
            flush=True,
        )


def batches(records: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [records[at : at + size] for at in range(0, len(records) - size + 1, size)]


async def receipts(*, loaded: bool, verified: bool = True) -> None:
    say(f"log_receipt, {'loaded' if loaded else 'alone'} ...")
    numbers = itertools.count()
    async with service(verified=verified) as process, process.channel() as channel:
        stub = stub_of(channel)
        done = asyncio.Event()

        async def pace() -> None:
            following = time.perf_counter()
            while not done.is_set():
                group = [logs.statement(next(numbers)) for _ in range(PACED_BATCH)]
                await stub.AppendBatch(logs.entries(group))
                following += PACED_SECONDS
                await asyncio.sleep(max(0.0, following - time.perf_counter()))

        load = asyncio.create_task(pace()) if loaded else None
        found = []
        for call in range(WARM_CALLS + RECEIPTS):
            request = logs.entry(logs.statement(next(numbers)), wait_receipt=True)
            started = time.perf_counter()
            answer = await stub.AppendEntry(request)
            if call >= WARM_CALLS:
                found.append((time.perf_counter() - started) * 1e3)
            assert answer.receipt
        done.set()
        if load is not None:
            await load
        found.sort()
        print(
            json.dumps(
                {
                    "name": "log_receipt",
                    "verified": verified,
                    "beside_entries_per_s": PACED_BATCH / PACED_SECONDS if loaded else 0,
                    "calls": len(found),
                    "p50_ms": round(statistics.median(found), 2),
                    "p95_ms": round(found[len(found) * 95 // 100], 2),
                    "p99_ms": round(found[len(found) * 99 // 100], 2),
                }
            ),
            flush=True,
        )


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=30_000, help="per batch measurement")
    parser.add_argument("--only", default="", help="a part of the names of what to measure")
    options = parser.parse_args()
    if options.only in "log_append_batch":
        for verified in (False, True):
            await rate(
                "log_append_batch", options.entries, verified=verified, batch=BATCH, in_flight=2
            )
    if options.only in "log_append_unary":
        for verified in (False, True):
            await rate(
                "log_append_unary",
                options.entries // 4,
                verified=verified,
                batch=1,
                in_flight=IN_FLIGHT,
            )
    if options.only in "log_receipt":
        await receipts(loaded=False)
        await receipts(loaded=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
