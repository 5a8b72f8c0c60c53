"""The life of an answer through all five services, in one process and as processes that die."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr.commitment.v1 import commitment_pb2 as log_pb
from otr.commitment.v1 import commitment_pb2_grpc as log_rpc
from otr_client.client import Client, Completed
from otr_client.models_at_hand import find_model
from otr_client.stack.directory import StackDirectory, StackOptions
from otr_client.stack.local import LocalStack
from otr_protocol.statement import open_statement
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_server.channel import open_channel
from support.stack import MODEL, raw, running_stack


async def test_an_answer_becomes_provisional_and_then_final(tmp_path: Path) -> None:
    async with running_stack(tmp_path, window_seconds=1.0) as stack:
        answer = await stack.answer(raw(), wait_receipt=True)
        payload_hash = answer.verified.signed.payload_hash
        seen = []
        async with stack.stub("arbitration") as stub, asyncio.timeout(30):
            watch = stub.WatchFinality(pb.WatchFinalityRequest(payload_hash=payload_hash))
            async for message in watch:
                seen += [change.state for change in message.changes]
                if pb.FINALITY_STATE_FINAL in seen:
                    final = message.changes[-1]
                    break
        assert seen == [
            pb.FINALITY_STATE_RECEIVED,
            pb.FINALITY_STATE_PROVISIONAL,
            pb.FINALITY_STATE_FINAL,
        ]
        assert final.operator_id == stack.directory.operator_id()
        assert final.payable


async def test_kill_9_of_the_log_in_mid_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    directory = StackDirectory(tmp_path)
    stack = LocalStack(directory, StackOptions(find_model(MODEL), window_seconds=1.0))
    async with stack, _client(directory) as client:
        answered: list[bytes] = []

        async def ask(number: int) -> None:
            request = raw(f"Verse {number}", max_tokens=64)
            async for event in client.generate(request):
                if isinstance(event, Completed):
                    answered.append(event.verified.signed.payload_hash)

        await asyncio.gather(*map(ask, range(4)))
        killed = asyncio.gather(*map(ask, range(4, 12)))
        await _kill_9(stack, "commitment")
        await killed
        await ask(12)
        await stack.supervisor.start_unit("commitment")
        await stack.supervisor.until_ready("commitment")
        assert len(answered) == 13
        async with asyncio.timeout(60):
            while len(logged := await _statements(directory)) < len(answered):
                await _growth(directory)
    assert sorted(logged) == sorted(answered)


async def test_kill_9_of_inference_loses_no_sealed_answer(tmp_path: Path) -> None:
    directory = StackDirectory(tmp_path)
    stack = LocalStack(directory, StackOptions(find_model(MODEL), window_seconds=1.0))
    async with stack:
        # Without the log nothing leaves the outbox, so the kill finds every answer in it.
        await _kill_9(stack, "commitment")
        asks = [raw(f"Verse {number}") for number in range(3)]
        given: list[Completed] = []
        async with _client(directory) as client:
            for request in asks:
                async for event in client.generate(request):
                    if isinstance(event, Completed):
                        given.append(event)
        await _kill_9(stack, "inference")
        for name in ("commitment", "inference"):
            await stack.supervisor.start_unit(name)
            await stack.supervisor.until_ready(name)
        async with _client(directory) as client:
            for request, before in zip(asks, given, strict=True):
                answer, registered = await client.receipt(request, wait_ms=20_000)
                assert registered
                kept = client.check(request, answer)
                assert kept.signed.signed == before.verified.signed.signed
        logged = await _statements(directory)
    assert logged == [each.verified.signed.payload_hash for each in given]


async def _kill_9(stack: LocalStack, service: str) -> None:
    process = stack.supervisor.process(service)
    process.kill()
    await process.wait()


def _client(directory: StackDirectory) -> Client:
    return Client(directory.target("inference"), directory.client_tls(), directory.roots())


def _log(directory: StackDirectory) -> grpc.aio.Channel:
    tls = directory.client_tls("watcher")
    return open_channel(directory.target("commitment"), tls, "commitment")


async def _statements(directory: StackDirectory) -> list[bytes]:
    async with _log(directory) as channel:
        stub = log_rpc.CommitmentServiceStub(channel)
        answer = await stub.GetEntries(log_pb.GetEntriesRequest(from_index=0, max_entries=1024))
    entries = [Entry.decode(each.entry) for each in answer.entries]
    return [
        open_statement(entry.record).payload_hash
        for entry in entries
        if entry.kind is EntryKind.STATEMENT
    ]


async def _growth(directory: StackDirectory) -> None:
    """Wait until the log is larger than it is now, or 5 s: it may be complete already."""
    async with _log(directory) as channel:
        stub = log_rpc.CommitmentServiceStub(channel)
        info = await stub.GetLogInfo(log_pb.GetLogInfoRequest())
        request = log_pb.GetCheckpointRequest(min_size=info.tree_size + 1, wait_ms=5_000)
        try:
            await stub.GetCheckpoint(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
