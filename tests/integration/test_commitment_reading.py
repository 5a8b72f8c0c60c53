"""Reading the log over real gRPC: receipts, proofs, tiles and streams that verify offline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from otr.commitment.v1 import commitment_pb2 as pb
from otr_protocol.digest import H
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import consistency, cose_receipt, inclusion, proof_bundle
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.bundle import verify_bundle
from otr_protocol.tlog.entry import Entry, EntryKind, idempotency_key
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.proof_bundle import ProofBundle
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.tree import Frontier, leaf_hash, root
from otr_server.status import field_of, reason_of
from support import log_service as logs
from support.log_service import EXHIBIT, Service, log_service

SIZE = 300


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    return [logs.statement(seq) for seq in range(SIZE)]


@pytest.fixture
async def service(tmp_path: Path, records: list[bytes]) -> AsyncIterator[Service]:
    async with log_service(tmp_path) as running:
        stub = running.stub()
        await logs.put(stub, *EXHIBIT.blobs)
        for first in range(0, SIZE, 100):
            await stub.AppendBatch(logs.entries(records[first : first + 100]))
        yield running


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def all_entries(service: Service, from_index: int = 0) -> list[bytes]:
    found: list[bytes] = []
    while True:
        request = pb.GetEntriesRequest(from_index=from_index + len(found), max_entries=128)
        answer = await service.stub("client").GetEntries(request)
        if not answer.entries:
            return found
        found += [entry.entry for entry in answer.entries]


async def test_a_receipt_verifies_offline_in_all_three_forms(
    service: Service, records: list[bytes]
) -> None:
    stub = service.stub("client")
    for index in (0, 99, 255, 256, SIZE - 1):
        answer = await stub.GetReceipt(pb.GetReceiptRequest(leaf_index=index))
        receipt = Receipt.decode(answer.receipt)
        verified = receipts.verify(EntryKind.STATEMENT, records[index], receipt, [service.log_key])
        assert verified.leaf_index == index
        assert verified.submitter == "spiffe://otr.local/inference"
        hashed = leaf_hash(answer.entry)
        bundle = ProofBundle.decode(answer.tlog_proof)
        opened = proof_bundle.verify(bundle, hashed, [service.log_key])
        cose = cose_receipt.verify_inclusion(answer.cose_receipt, hashed, service.log_key)
        assert cose.root_hash == opened.checkpoint.root_hash == verified.checkpoint.root_hash
        assert (bundle.leaf_index, cose.leaf_index) == (index, index)


async def test_an_entry_is_found_by_each_of_its_names(
    service: Service, records: list[bytes]
) -> None:
    stub = service.stub("client")
    entries = await all_entries(service)
    for request in (
        pb.GetReceiptRequest(leaf_index=17),
        pb.GetReceiptRequest(leaf_hash=leaf_hash(entries[17])),
        pb.GetReceiptRequest(idempotency_key=idempotency_key(EntryKind.STATEMENT, records[17])),
        pb.GetReceiptRequest(request_id=logs.request_id(17)),
    ):
        answer = await stub.GetReceipt(request)
        assert answer.entry == entries[17]
        assert Receipt.decode(answer.receipt).leaf_index == 17


async def test_of_two_statements_with_one_request_id_the_first_is_found(service: Service) -> None:
    second = logs.statement(17, output_digest=H(b"another output"))
    await service.stub().AppendEntry(logs.entry(second))
    answer = await service.stub("client").GetReceipt(
        pb.GetReceiptRequest(request_id=logs.request_id(17))
    )
    assert Receipt.decode(answer.receipt).leaf_index == 17


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.GetReceiptRequest(), grpc.StatusCode.INVALID_ARGUMENT, "entry"),
        (pb.GetReceiptRequest(leaf_hash=b"short"), grpc.StatusCode.INVALID_ARGUMENT, "leaf_hash"),
        (
            pb.GetReceiptRequest(request_id=bytes(15)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "request_id",
        ),
        (
            pb.GetReceiptRequest(leaf_index=1, wait_ms=60_001),
            grpc.StatusCode.INVALID_ARGUMENT,
            "wait_ms",
        ),
        (pb.GetReceiptRequest(leaf_index=SIZE), grpc.StatusCode.NOT_FOUND, "leaf_index"),
        (
            pb.GetReceiptRequest(request_id=bytes(16), wait_ms=1),
            grpc.StatusCode.NOT_FOUND,
            "request_id",
        ),
        (pb.GetReceiptRequest(leaf_hash=bytes(32)), grpc.StatusCode.NOT_FOUND, "leaf_hash"),
    ],
)
async def test_a_receipt_of_nothing_is_refused(
    service: Service, request_: pb.GetReceiptRequest, code: grpc.StatusCode, field: str
) -> None:
    error = await refused(service.stub("client").GetReceipt(request_))
    assert error.code() is code
    assert field_of(error) == field


async def test_whoever_waits_for_an_entry_gets_its_receipt_when_it_comes(service: Service) -> None:
    stub = service.stub("client")
    waits = [
        asyncio.create_task(_receipt(stub, request))
        for request in (
            pb.GetReceiptRequest(leaf_index=SIZE, wait_ms=30_000),
            pb.GetReceiptRequest(request_id=logs.request_id(SIZE), wait_ms=30_000),
        )
    ]
    await asyncio.sleep(0)
    await service.stub().AppendEntry(logs.entry(logs.statement(SIZE)))
    assert [receipt.leaf_index for receipt in await asyncio.gather(*waits)] == [SIZE, SIZE]


async def _receipt(stub: logs.Stub, request: pb.GetReceiptRequest) -> Receipt:
    return Receipt.decode((await stub.GetReceipt(request)).receipt)


async def test_the_log_says_who_it_is_and_what_it_signed(service: Service) -> None:
    stub = service.stub("client")
    info = await stub.GetLogInfo(pb.GetLogInfoRequest())
    key = VerifierKey.parse(info.vkey)
    assert key == service.log_key
    assert (info.origin, info.tree_size) == (logs.ORIGIN, SIZE)
    assert list(info.witness_vkeys) == []
    note = (await stub.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
    signed = checkpoints.open_checkpoint(note, [key], unknown_lines="refuse").checkpoint
    entries = await all_entries(service)
    assert signed.root_hash == info.root_hash == root(list(map(leaf_hash, entries)))


async def test_an_empty_log_has_a_signed_checkpoint(tmp_path: Path) -> None:
    async with log_service(tmp_path) as service:
        stub = service.stub("client")
        note = (await stub.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
        assert checkpoints.open_checkpoint(note, [service.log_key]).checkpoint.tree_size == 0
        assert await all_entries(service) == []
        error = await refused(stub.GetInclusionProof(pb.GetInclusionProofRequest()))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_checkpoint_is_waited_for_and_time_that_is_up_is_not_found(
    service: Service,
) -> None:
    stub = service.stub("client")
    error = await refused(stub.GetCheckpoint(pb.GetCheckpointRequest(min_size=SIZE + 1, wait_ms=1)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error) == "CHECKPOINT_UNKNOWN"

    async def wait() -> int:
        request = pb.GetCheckpointRequest(min_size=SIZE + 1, wait_ms=30_000)
        note = (await stub.GetCheckpoint(request)).checkpoint
        return checkpoints.open_checkpoint(note, [service.log_key]).checkpoint.tree_size

    waiting = asyncio.create_task(wait())
    await service.stub().AppendEntry(logs.entry(logs.statement(SIZE)))
    assert await waiting == SIZE + 1


async def test_proofs_verify_against_the_roots_that_follow_from_the_entries(
    service: Service,
) -> None:
    stub = service.stub("client")
    hashes = list(map(leaf_hash, await all_entries(service)))
    for leaf, size in ((0, 1), (5, 256), (255, 256), (256, 257), (7, SIZE), (SIZE - 1, 0)):
        answer = await stub.GetInclusionProof(
            pb.GetInclusionProofRequest(leaf_index=leaf, tree_size=size)
        )
        assert answer.leaf_hash == hashes[leaf]
        assert answer.tree_size == (size or SIZE)
        inclusion.verify(
            leaf,
            answer.tree_size,
            answer.leaf_hash,
            tuple(answer.inclusion_proof),
            root(hashes[: answer.tree_size]),
        )
    for old, new in ((1, 1), (1, 2), (100, 256), (256, 257), (299, 0), (SIZE, 0)):
        proof = await stub.GetConsistencyProof(
            pb.GetConsistencyProofRequest(old_size=old, new_size=new)
        )
        assert proof.new_size == (new or SIZE)
        consistency.verify(
            old,
            proof.new_size,
            root(hashes[:old]),
            root(hashes[: proof.new_size]),
            tuple(proof.consistency_proof),
        )


@pytest.mark.parametrize(
    ("leaf_index", "tree_size", "code"),
    [
        (5, 5, grpc.StatusCode.NOT_FOUND),
        (SIZE, 0, grpc.StatusCode.NOT_FOUND),
        (1, SIZE + 1, grpc.StatusCode.NOT_FOUND),
        (2**64 - 1, 0, grpc.StatusCode.INVALID_ARGUMENT),
        (0, 2**64 - 1, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_proof_about_nothing_is_refused(
    service: Service, leaf_index: int, tree_size: int, code: grpc.StatusCode
) -> None:
    request = pb.GetInclusionProofRequest(leaf_index=leaf_index, tree_size=tree_size)
    assert (await refused(service.stub("client").GetInclusionProof(request))).code() is code


@pytest.mark.parametrize(
    ("old_size", "new_size", "code"),
    [
        (0, 5, grpc.StatusCode.INVALID_ARGUMENT),
        (6, 5, grpc.StatusCode.INVALID_ARGUMENT),
        (5, SIZE + 1, grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_consistency_between_no_two_trees_is_refused(
    service: Service, old_size: int, new_size: int, code: grpc.StatusCode
) -> None:
    request = pb.GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
    assert (await refused(service.stub("client").GetConsistencyProof(request))).code() is code


async def test_tiles_and_bundles_are_those_of_the_tree(service: Service) -> None:
    stub = service.stub("watcher")
    hashes = list(map(leaf_hash, await all_entries(service)))
    for index, width in ((0, 256), (1, 3), (1, SIZE - 256)):
        tile = (await stub.GetTile(pb.GetTileRequest(index=index, width=width))).tile
        bundle = await stub.GetTile(pb.GetTileRequest(index=index, width=width, entries=True))
        verify_bundle(bundle.tile, tile, width)
        assert tile == b"".join(hashes[256 * index : 256 * index + width])
    above = (await stub.GetTile(pb.GetTileRequest(level=1, width=1))).tile
    assert above == root(hashes[:256])
    for request, code in (
        (pb.GetTileRequest(index=1, width=SIZE - 255), grpc.StatusCode.NOT_FOUND),
        (pb.GetTileRequest(level=1, width=2), grpc.StatusCode.NOT_FOUND),
        (pb.GetTileRequest(level=6, width=1), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.GetTileRequest(width=0), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.GetTileRequest(width=257), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.GetTileRequest(index=2**63, width=1), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        assert (await refused(stub.GetTile(request))).code() is code


async def test_ranges_are_bounded_and_end_where_the_log_does(service: Service) -> None:
    stub = service.stub("client")
    answer = await stub.GetEntries(pb.GetEntriesRequest(from_index=250, max_entries=1024))
    assert [entry.leaf_index for entry in answer.entries] == list(range(250, SIZE))
    for index in (SIZE, SIZE + 10):
        request = pb.GetEntriesRequest(from_index=index, max_entries=1)
        assert not (await stub.GetEntries(request)).entries
    for count in (0, 1025):
        error = await refused(stub.GetEntries(pb.GetEntriesRequest(max_entries=count)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_consumer_sees_every_entry_once_across_restarts_of_both(tmp_path: Path) -> None:
    """A cursor kept with what it has applied: no entry is lost, none comes twice."""
    applied: list[bytes] = []
    cursor = Frontier()
    appended = 0
    for _ in range(3):  # the log restarts twice
        async with log_service(tmp_path) as service:
            writer, reader = service.stub(), service.stub("arbitration")
            await logs.put(writer, *EXHIBIT.blobs)
            records = [logs.statement(appended + n) for n in range(45)]
            appending = asyncio.create_task(_append_in_pieces(writer, records))
            appended += len(records)
            while cursor.tree_size < appended:  # the consumer restarts as often as it likes
                request = pb.WatchEntriesRequest(from_index=cursor.tree_size)
                stream = reader.WatchEntries(request)
                seen = 0
                async for message in stream:
                    indices = [entry.leaf_index for entry in message.entries]
                    assert indices == list(range(cursor.tree_size, message.next_index))
                    cursor = cursor.extend(leaf_hash(entry.entry) for entry in message.entries)
                    applied += [Entry.decode(entry.entry).record for entry in message.entries]
                    seen += len(indices)
                    if seen >= 20 or cursor.tree_size >= appended:
                        break
                stream.cancel()
            await appending
            info = await reader.GetLogInfo(pb.GetLogInfoRequest())
            assert (info.tree_size, info.root_hash) == (cursor.tree_size, cursor.root())
    assert applied == [logs.statement(n) for n in range(appended)]


async def _append_in_pieces(stub: logs.Stub, records: list[bytes]) -> None:
    for first in range(0, len(records), 7):
        await stub.AppendBatch(logs.entries(records[first : first + 7]))


async def test_a_consumer_that_is_up_to_date_hears_so_and_then_follows(service: Service) -> None:
    stream = aiter(service.stub("spotcheck").WatchEntries(pb.WatchEntriesRequest(from_index=SIZE)))
    first = await anext(stream)
    assert (list(first.entries), first.next_index) == ([], SIZE)
    await service.stub().AppendEntry(logs.entry(logs.statement(SIZE)))
    following = await anext(stream)
    assert [entry.leaf_index for entry in following.entries] == [SIZE]
    assert following.next_index == SIZE + 1


async def test_a_filter_passes_its_kinds_and_moves_the_cursor_past_the_others(
    service: Service,
) -> None:
    stub = service.stub()
    await stub.AppendEntry(logs.entry(logs.delegation(), pb.ENTRY_KIND_DELEGATION))
    await stub.AppendEntry(logs.entry(logs.statement(SIZE)))
    request = pb.WatchEntriesRequest(kinds=[pb.ENTRY_KIND_DELEGATION, pb.ENTRY_KIND_MODEL])
    indices: list[int] = []
    cursor = 0
    async for message in service.stub("watcher").WatchEntries(request):
        assert message.next_index > cursor
        cursor = message.next_index
        indices += [entry.leaf_index for entry in message.entries]
        if cursor == SIZE + 2:
            break
    assert indices == [SIZE]


async def test_a_cursor_beyond_the_log_shows_that_one_was_rolled_back(service: Service) -> None:
    stream = aiter(
        service.stub("watcher").WatchEntries(pb.WatchEntriesRequest(from_index=SIZE + 1))
    )
    error = await refused(anext(stream))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "CURSOR_BEYOND_LOG"


async def test_checkpoints_are_streamed_in_order_and_each_extends_the_last(
    service: Service,
) -> None:
    stub = service.stub("watcher")
    stream = aiter(stub.WatchCheckpoints(pb.WatchCheckpointsRequest(min_size=SIZE)))
    sizes: list[int] = []
    for step in range(4):
        note = (await anext(stream)).checkpoint
        signed = checkpoints.open_checkpoint(note, [service.log_key]).checkpoint
        sizes.append(signed.tree_size)
        await service.stub().AppendEntry(logs.entry(logs.statement(SIZE + step)))
    assert sizes == [SIZE, SIZE + 1, SIZE + 2, SIZE + 3]


async def test_streams_end_when_the_log_drains(tmp_path: Path) -> None:
    async with log_service(tmp_path, drain_seconds=30) as service:
        stub = service.stub("watcher")
        entries = aiter(stub.WatchEntries(pb.WatchEntriesRequest()))
        notes = aiter(stub.WatchCheckpoints(pb.WatchCheckpointsRequest()))
        await anext(entries)
        await anext(notes)
        draining = asyncio.create_task(service.process.drain())
        for stream in (entries, notes):
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(stream), 10)
        await asyncio.wait_for(draining, 10)
