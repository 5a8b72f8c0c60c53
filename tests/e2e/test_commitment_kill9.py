"""`kill -9` of the log under concurrent writers: nothing acknowledged is lost, doubled or moved."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from otr.commitment.v1 import commitment_pb2 as pb
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import consistency
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.checkpoint import Checkpoint
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.tree import leaf_hash, root
from support import log_service as logs
from support.log_process import LogProcess, LogStartError, stub_of

WRITERS = 8
RETRIES = 0.2  # of what was acknowledged is sent again


@dataclass
class Ledger:
    """What the writers know: the index of every record that was acknowledged, and what was not."""

    index_of: dict[bytes, int] = field(default_factory=dict)
    unknown: list[bytes] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    stop_at: int = 0

    def acknowledge(self, record: bytes, index: int) -> None:
        """Note an index; a record has one for ever."""
        assert self.index_of.setdefault(record, index) == index
        if len(self.index_of) >= self.stop_at:
            self.enough.set()


async def write(
    stub: logs.Stub, ledger: Ledger, numbers: Iterator[int], chance: random.Random
) -> None:
    """Append, alone and in batches, some of it again, until the log is gone."""
    while True:
        records = [ledger.unknown.pop() for _ in ledger.unknown[:3]]
        records += [logs.statement(next(numbers)) for _ in range(chance.choice((1, 1, 1, 5, 20)))]
        if chance.random() < RETRIES and ledger.index_of:
            records.append(chance.choice(list(ledger.index_of)))
        try:
            if len(records) == 1:
                answers = [await stub.AppendEntry(logs.entry(records[0]))]
            else:
                answers = list((await stub.AppendBatch(logs.entries(records))).results)
        except grpc.aio.AioRpcError:
            ledger.unknown += [each for each in records if each not in ledger.index_of]
            return
        for record, answer in zip(records, answers, strict=True):
            ledger.acknowledge(record, answer.leaf_index)


async def watch(stub: logs.Stub, ledger: Ledger, key: VerifierKey) -> None:
    """Keep every checkpoint that the log shows to anybody."""
    try:
        async for message in stub.WatchCheckpoints(pb.WatchCheckpointsRequest()):
            opened = checkpoints.open_checkpoint(message.checkpoint, [key])
            ledger.checkpoints.append(opened.checkpoint)
    except grpc.aio.AioRpcError:
        return


async def check(stub: logs.Stub, ledger: Ledger, key: VerifierKey) -> int:
    """The log holds what it has acknowledged, and extends every tree that it has shown."""
    note = (await stub.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
    head = checkpoints.open_checkpoint(note, [key]).checkpoint
    entries: list[bytes] = []
    while len(entries) < head.tree_size:
        request = pb.GetEntriesRequest(from_index=len(entries), max_entries=1024)
        answer = await stub.GetEntries(request)
        # No gaps.
        assert [each.leaf_index for each in answer.entries] == list(
            range(len(entries), len(entries) + len(answer.entries))
        )
        entries += [each.entry for each in answer.entries]
    entries = entries[: head.tree_size]
    assert root(list(map(leaf_hash, entries))) == head.root_hash
    decoded = list(map(Entry.decode, entries))
    records = [entry.record for entry in decoded]
    assert len(set(records)) == len(records)  # nothing twice
    for record, index in ledger.index_of.items():  # nothing lost or moved
        assert records[index] == record
    times = [entry.log_time_ms for entry in decoded]
    assert times == sorted(times)
    for old in {each.tree_size: each for each in ledger.checkpoints}.values():
        assert old.tree_size <= head.tree_size
        if old.tree_size:
            proof = await stub.GetConsistencyProof(
                pb.GetConsistencyProofRequest(old_size=old.tree_size, new_size=head.tree_size)
            )
            consistency.verify(
                old.tree_size,
                head.tree_size,
                old.root_hash,
                head.root_hash,
                tuple(proof.consistency_proof),
            )
    sizes: dict[int, bytes] = {}
    for each in ledger.checkpoints:  # one root per size
        assert sizes.setdefault(each.tree_size, each.root_hash) == each.root_hash
    return head.tree_size


async def kill_and_check(directory: Path, kills: int, *, seed: int) -> None:
    chance = random.Random(seed)
    numbers = itertools.count()
    ledger = Ledger()
    process = LogProcess(directory)
    for _ in range(kills):
        await process.start()
        key = logs.log_key_in(directory)
        async with process.channel() as channel:
            stub = stub_of(channel)
            if not ledger.index_of:
                await logs.put(stub, *logs.EXHIBIT.blobs)
            await check(stub, ledger, key)
            ledger.enough.clear()
            ledger.stop_at = len(ledger.index_of) + chance.randint(1, 300)
            running = [
                asyncio.create_task(write(stub, ledger, numbers, random.Random(chance.random())))
                for _ in range(WRITERS)
            ]
            running.append(asyncio.create_task(watch(stub, ledger, key)))
            await ledger.enough.wait()
            await process.kill()
            await asyncio.gather(*running)
    await process.start()
    async with process.channel() as channel:
        stub = stub_of(channel)
        # What nobody knows the fate of is sent again, and comes to one index each.
        for record in ledger.unknown:
            ledger.acknowledge(record, (await stub.AppendEntry(logs.entry(record))).leaf_index)
        tree_size = await check(stub, ledger, logs.log_key_in(directory))
        assert tree_size == len(ledger.index_of) > kills
    assert await process.stop() == 0


async def test_nothing_acknowledged_is_lost_or_doubled_by_five_kills(tmp_path: Path) -> None:
    await kill_and_check(tmp_path, 5, seed=20_260_101)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_nothing_acknowledged_is_lost_or_doubled_by_a_hundred_kills(tmp_path: Path) -> None:
    await kill_and_check(tmp_path, 100, seed=20_260_102)


async def test_a_terminated_log_finishes_what_it_has_taken(tmp_path: Path) -> None:
    process = LogProcess(tmp_path)
    await process.start()
    records = [logs.statement(number) for number in range(64)]
    async with process.channel() as channel:
        stub = stub_of(channel)
        await logs.put(stub, *logs.EXHIBIT.blobs)
        calls = [
            asyncio.create_task(_append(stub, record, logs.log_key_in(tmp_path)))
            for record in records
        ]
        await calls[0]
        code = await process.stop()
        outcomes = await asyncio.gather(*calls)
    assert code == 0
    acknowledged = {r: i for r, i in zip(records, outcomes, strict=True) if i is not None}
    await process.start()
    async with process.channel() as channel:
        ledger = Ledger(index_of=acknowledged)
        await check(stub_of(channel), ledger, logs.log_key_in(tmp_path))
    await process.stop()


async def _append(stub: logs.Stub, record: bytes, key: VerifierKey) -> int | None:
    try:
        answer = await stub.AppendEntry(logs.entry(record, wait_receipt=True))
    except grpc.aio.AioRpcError:
        return None
    receipt = Receipt.decode(answer.receipt)
    return receipts.verify(EntryKind.STATEMENT, record, receipt, [key]).leaf_index


async def test_a_second_process_on_the_same_log_does_not_start(tmp_path: Path) -> None:
    first, second = LogProcess(tmp_path), LogProcess(tmp_path)
    await first.start()
    with pytest.raises(LogStartError, match="LOG_ALREADY_RUNNING"):
        await second.start()
    # Gone with its process, however that ended: the lock needs no clean-up.
    await first.kill()
    await second.start()
    assert await second.stop() == 0
