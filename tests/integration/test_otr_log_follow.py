"""Following a log without trusting it: what it serves must lead to what it signed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from otr.commitment.v1 import commitment_pb2 as pb
from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_log.follow import LogDivergedError, Numbered, follow
from otr_log.peer import LogPeer
from otr_protocol.tlog.checkpoint import Checkpoint, sign_checkpoint
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.note import SignerKey
from otr_protocol.tlog.tree import Frontier, leaf_hash, root
from otr_server.channel import open_channel
from support.log_service import EXHIBIT, Service, entries, log_service, pki_in, put, statement


class Consumer:
    """Remembers what it applied; `until` waits for so many entries."""

    def __init__(self) -> None:
        self.applied: list[Numbered] = []
        self.cursor = Frontier()
        self.connected: list[bool] = []
        self._news = asyncio.Condition()

    async def apply(self, batch: Sequence[Numbered], cursor: Frontier) -> None:
        async with self._news:
            self.applied += batch
            self.cursor = cursor
            self._news.notify_all()

    def report(self, connected: bool) -> None:
        self.connected.append(connected)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.applied) >= count)


@asynccontextmanager
async def following(consumer: Consumer, log: Service) -> AsyncIterator[None]:
    log.stub("watcher")  # opens the channel
    peer = LogPeer(log.channels["watcher"])
    task = asyncio.create_task(
        follow(peer, log.log_key, consumer.cursor, consumer.apply, consumer.report)
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_entry_is_applied_once_in_order_across_restarts(tmp_path: Path) -> None:
    consumer = Consumer()
    async with log_service(tmp_path) as log:
        await put(log.stub(), *EXHIBIT.blobs)
        async with following(consumer, log):
            await log.stub().AppendBatch(entries([statement(n) for n in range(3)]))
            await consumer.until(3)
        await log.stub().AppendBatch(entries([statement(n) for n in range(3, 5)]))
        async with following(consumer, log):
            await consumer.until(5)
        assert [each.leaf_index for each in consumer.applied] == [0, 1, 2, 3, 4]
        info = await log.stub().GetLogInfo(pb.GetLogInfoRequest())
        assert (consumer.cursor.tree_size, consumer.cursor.root()) == (5, info.root_hash)


async def test_an_empty_log_counts_as_connected(tmp_path: Path) -> None:
    consumer = Consumer()
    connected = asyncio.Event()
    consumer.report = lambda up: connected.set() if up else None  # type: ignore[method-assign]
    async with (
        log_service(tmp_path) as log,
        following(consumer, log),
        asyncio.timeout(20),
    ):
        await connected.wait()
    assert consumer.applied == []


async def test_a_log_that_drains_counts_as_gone_although_its_stream_ends_well(
    tmp_path: Path,
) -> None:
    consumer = Consumer()
    told: asyncio.Queue[bool] = asyncio.Queue()
    consumer.report = told.put_nowait  # type: ignore[method-assign]
    async with log_service(tmp_path) as log:
        log.channels["watcher"] = open_channel(
            log.process.bound.target,
            pki_in(tmp_path).client_tls("watcher"),
            "commitment",
            wait_for_ready=True,  # as services open theirs: a new stream waits and says nothing
        )
        async with following(consumer, log), asyncio.timeout(20):
            assert await told.get() is True
            await log.process.drain()
            assert await told.get() is False


LIAR = SignerKey("liar.example/log", b"k" * 32)


class LyingLog(rpc.CommitmentServiceServicer):
    """Serves `shown`, and signs the tree of `signed`."""

    def __init__(self, shown: Sequence[bytes], signed: Sequence[bytes]) -> None:
        self._shown = shown
        self._signed = signed

    async def WatchEntries(
        self, request: pb.WatchEntriesRequest, context: object
    ) -> AsyncIterator[pb.WatchEntriesResponse]:
        served = list(enumerate(self._shown))[request.from_index :]
        yield pb.WatchEntriesResponse(
            entries=[pb.LogEntry(leaf_index=index, entry=entry) for index, entry in served],
            next_index=len(self._shown),
        )
        await asyncio.Event().wait()

    async def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, context: object
    ) -> pb.GetCheckpointResponse:
        hashes = [leaf_hash(entry) for entry in self._signed]
        signed = Checkpoint(LIAR.name, len(hashes), root(hashes))
        return pb.GetCheckpointResponse(checkpoint=sign_checkpoint(signed, LIAR))


@asynccontextmanager
async def lying(log: LyingLog) -> AsyncIterator[LogPeer]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    rpc.add_CommitmentServiceServicer_to_server(log, server)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield LogPeer(channel)
    await server.stop(None)


def entry(number: int) -> bytes:
    return Entry(EntryKind.STATEMENT, b"record %d" % number, "operator", number).encode()


@pytest.mark.parametrize(
    ("shown", "signed"),
    [
        ([entry(1), entry(2)], [entry(1), entry(3)]),
        ([entry(1), entry(2)], [entry(2), entry(1)]),
    ],
    ids=["another entry", "another order"],
)
async def test_entries_that_do_not_lead_to_the_signed_root_are_never_applied(
    shown: Sequence[bytes], signed: Sequence[bytes]
) -> None:
    consumer = Consumer()
    async with lying(LyingLog(shown, signed)) as peer, asyncio.timeout(20):
        with pytest.raises(LogDivergedError):
            await follow(peer, LIAR.verifier, Frontier(), consumer.apply, consumer.report)
    assert (consumer.applied, consumer.connected) == ([], [False])


async def test_a_log_that_rewrites_what_was_applied_is_refused() -> None:
    consumer = Consumer()
    history = Frontier().extend([leaf_hash(entry(1))])
    rewritten = LyingLog([entry(9), entry(2)], [entry(9), entry(2)])
    async with lying(rewritten) as peer, asyncio.timeout(20):
        with pytest.raises(LogDivergedError):
            await follow(peer, LIAR.verifier, history, consumer.apply, consumer.report)
    assert consumer.applied == []
