"""Appending over gRPC, mTLS and SQLite: one durable index per record, refusals with reasons."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from otr.commitment.v1 import commitment_pb2 as pb
from otr_commitment.servicer import ROLES
from otr_protocol.digest import H
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.tree import leaf_hash
from otr_server.status import field_of, reason_of, retry_after_ms_of
from support import log_service as logs
from support.log_service import EXHIBIT, Exhibit, Service, SetClock, log_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with log_service(tmp_path) as running:
        await logs.put(running.stub(), *EXHIBIT.blobs)
        yield running


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_an_entry_holds_the_record_who_sent_it_and_when(tmp_path: Path) -> None:
    clock = SetClock(1_812_345_678_901)
    async with log_service(tmp_path, clock=clock) as service:
        stub = service.stub("attestation")
        record = logs.delegation()
        answer = await stub.AppendEntry(logs.entry(record, pb.ENTRY_KIND_DELEGATION))
        assert (answer.leaf_index, answer.duplicate) == (0, False)
        assert answer.log_time_ms == clock.time_ms
        stored = await stub.GetEntries(pb.GetEntriesRequest(max_entries=1))
        entry = Entry.decode(stored.entries[0].entry)
        assert entry == Entry(
            EntryKind.DELEGATION, record, "spiffe://otr.local/attestation", clock.time_ms
        )
        assert answer.leaf_hash == leaf_hash(stored.entries[0].entry)


async def test_every_kind_that_can_be_read_is_taken(service: Service) -> None:
    stub = service.stub()
    records = {
        pb.ENTRY_KIND_STATEMENT: logs.statement(1),
        pb.ENTRY_KIND_DELEGATION: logs.delegation(),
        pb.ENTRY_KIND_MODEL: logs.model_record(),
        pb.ENTRY_KIND_CLOSE: logs.close_record(),
    }
    for index, (kind, record) in enumerate(records.items()):
        assert (await stub.AppendEntry(logs.entry(record, kind))).leaf_index == index


async def test_the_same_record_has_one_index_whoever_sends_it(service: Service) -> None:
    first = await service.stub().AppendEntry(logs.entry(logs.statement(1)))
    again = await service.stub("arbitration").AppendEntry(logs.entry(logs.statement(1)))
    assert again.duplicate
    assert (again.leaf_index, again.leaf_hash, again.log_time_ms) == (
        first.leaf_index,
        first.leaf_hash,
        first.log_time_ms,
    )


async def test_conflicting_records_are_all_kept(service: Service) -> None:
    stub = service.stub()
    contradicting = [logs.statement(1, output_digest=H(bytes([n]))) for n in range(3)]
    answers = [await stub.AppendEntry(logs.entry(record)) for record in contradicting]
    assert [answer.leaf_index for answer in answers] == [0, 1, 2]
    assert not any(answer.duplicate for answer in answers)


async def test_receipts_come_with_the_answer_and_verify_offline(service: Service) -> None:
    records = [logs.statement(seq) for seq in range(40)]
    stub = service.stub()
    await stub.AppendBatch(logs.entries(records[:7]))
    request = pb.AppendBatchRequest(
        entries=[logs.entry(record, wait_receipt=n % 2 == 0) for n, record in enumerate(records)]
    )
    answer = await stub.AppendBatch(request)
    for number, (record, result) in enumerate(zip(records, answer.results, strict=True)):
        assert result.leaf_index == number
        assert result.duplicate == (number < 7)
        assert bool(result.receipt) == (number % 2 == 0)
        if result.receipt:
            verified = receipts.verify(
                EntryKind.STATEMENT, record, Receipt.decode(result.receipt), [service.log_key]
            )
            assert verified.leaf_index == number
            assert verified.log_time_ms == result.log_time_ms


async def test_many_writers_with_repeats_get_one_index_per_record(service: Service) -> None:
    stubs = [service.stub(role) for role in ("inference", "attestation", "arbitration")]
    records = [logs.statement(seq) for seq in range(60)]
    order = records * 3
    random.Random(7).shuffle(order)
    index_of: dict[bytes, set[int]] = {}
    created = 0

    async def one(number: int, record: bytes) -> int:
        answer = await stubs[number % 3].AppendEntry(logs.entry(record))
        index_of.setdefault(record, set()).add(answer.leaf_index)
        return int(not answer.duplicate)

    async def batch(first: int) -> int:
        answer = await stubs[first % 3].AppendBatch(logs.entries(records[first : first + 20]))
        for record, result in zip(records[first : first + 20], answer.results, strict=True):
            index_of.setdefault(record, set()).add(result.leaf_index)
        return sum(not result.duplicate for result in answer.results)

    calls = [*itertools.starmap(one, enumerate(order)), *map(batch, range(0, 60, 20))]
    created = sum(await asyncio.gather(*calls))
    assert created == 60
    assert all(len(indices) == 1 for indices in index_of.values())
    assert sorted(index for (index,) in index_of.values()) == list(range(60))
    info = await stubs[0].GetLogInfo(pb.GetLogInfoRequest())
    assert info.tree_size == 60


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (0, "REQUEST_BLOB_MISSING"),
        (1, "ATTESTATION_TOKEN_MISSING"),
        (2, "EVIDENCE_MISSING"),
    ],
)
async def test_a_statement_without_its_exhibits_is_refused_and_then_taken(
    tmp_path: Path, missing: int, reason: str
) -> None:
    async with log_service(tmp_path) as service:
        stub = service.stub()
        held = [blob for number, blob in enumerate(EXHIBIT.blobs) if number != missing]
        await logs.put(stub, *held)
        error = await refused(stub.AppendEntry(logs.entry(logs.statement(1))))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(error) == reason
        assert (await stub.GetLogInfo(pb.GetLogInfoRequest())).tree_size == 0
        await logs.put(stub, EXHIBIT.blobs[missing])
        assert (await stub.AppendEntry(logs.entry(logs.statement(1)))).leaf_index == 0


async def test_a_record_that_is_in_the_log_is_acknowledged_without_its_blobs(
    tmp_path: Path,
) -> None:
    async with log_service(tmp_path) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        await service.stub().AppendEntry(logs.entry(logs.statement(1)))
    digest = H(EXHIBIT.blob).hex()
    (tmp_path / "data" / "blobs" / digest[:2] / digest).unlink()
    async with log_service(tmp_path) as service:
        stub = service.stub()
        assert (await stub.AppendEntry(logs.entry(logs.statement(1)))).duplicate
        error = await refused(stub.AppendEntry(logs.entry(logs.statement(2))))
        assert reason_of(error) == "REQUEST_BLOB_MISSING"


async def test_a_batch_is_taken_whole_or_not_at_all_and_names_the_record(service: Service) -> None:
    stub = service.stub()
    other = Exhibit(blob=b"a blob that nobody has put")
    records = [logs.statement(1), logs.statement(2, blob_digest=H(other.blob)), logs.statement(3)]
    error = await refused(stub.AppendBatch(logs.entries(records)))
    assert reason_of(error) == "REQUEST_BLOB_MISSING"
    assert field_of(error) == "entries[1].record.blob_digest"
    error = await refused(stub.AppendBatch(logs.entries([logs.statement(1), b"\x00"])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (field_of(error) or "").startswith("entries[1].record")
    assert (await stub.GetLogInfo(pb.GetLogInfoRequest())).tree_size == 0


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.AppendEntryRequest(record=b"x"), "ENTRY_KIND_UNKNOWN"),
        (pb.AppendEntryRequest(kind=99, record=b"x"), "ENTRY_KIND_UNKNOWN"),  # type: ignore[arg-type]
        (logs.entry(b""), "FIELD_REQUIRED"),
        (logs.entry(bytes(16_385)), "FIELD_LENGTH"),
        (logs.entry(bytes(16_384)), "COSE_MALFORMED"),
        (logs.entry(b"\xd2" + logs.statement(1)), "COSE_MALFORMED"),
        (logs.entry(logs.statement(1) + b"\0"), "COSE_MALFORMED"),
        (logs.entry(logs.statement(1), pb.ENTRY_KIND_MODEL), "RECORD_SHAPE"),
    ],
)
async def test_what_is_no_record_is_an_invalid_argument(
    service: Service, request_: pb.AppendEntryRequest, reason: str
) -> None:
    error = await refused(service.stub().AppendEntry(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == reason


async def test_a_forged_signature_is_a_failed_precondition(service: Service) -> None:
    forged = logs.statement(1)[:-1] + b"\x00"
    error = await refused(service.stub().AppendEntry(logs.entry(forged)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "SIGNATURE_REJECTED"


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_has_1_to_256_records(service: Service, count: int) -> None:
    request = pb.AppendBatchRequest(entries=[logs.entry(b"x")] * count)
    error = await refused(service.stub().AppendBatch(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field_of(error) == "entries"


async def test_anyone_may_append(tmp_path: Path) -> None:
    async with log_service(tmp_path) as service:
        for seq, role in enumerate(("client", "watcher")):
            stub = service.stub(role)
            await logs.put(stub, *EXHIBIT.blobs)
            alone = await stub.AppendEntry(logs.entry(logs.statement(2 * seq)))
            batch = await stub.AppendBatch(logs.entries([logs.statement(2 * seq + 1)]))
            assert [alone.leaf_index, batch.results[0].leaf_index] == [2 * seq, 2 * seq + 1]


async def test_a_guest_adds_only_so_much_and_takes_nothing_from_others(tmp_path: Path) -> None:
    record = logs.statement(1)
    held = sum(map(len, EXHIBIT.blobs))
    limits = replace(
        logs.settings_in(tmp_path).limits, guest_bytes_per_hour=held + 2 * len(record) - 1
    )
    async with log_service(tmp_path, limits=limits) as service:
        guest = service.stub("client")
        await logs.put(guest, *EXHIBIT.blobs)
        await guest.AppendEntry(logs.entry(record))
        for call in (
            guest.AppendEntry(logs.entry(logs.statement(2))),
            guest.AppendBatch(logs.entries([logs.statement(2)])),
            guest.PutBlob(logs.blob_parts(bytes(len(record)))),
        ):
            error = await refused(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(error) == "RATION_USED_UP"
            assert (retry_after_ms_of(error) or 0) > 0
        await service.stub("watcher").AppendEntry(logs.entry(logs.statement(2)))
        operator = service.stub("inference")  # writing is a service's daily work
        await operator.AppendBatch(logs.entries([logs.statement(3 + n) for n in range(20)]))


def test_every_method_of_the_contract_has_its_roles() -> None:
    methods = pb.DESCRIPTOR.services_by_name["CommitmentService"].methods
    assert {method.name for method in methods} == {path.rpartition("/")[2] for path in ROLES}


async def test_what_comes_later_says_so(service: Service) -> None:
    arbiter = service.stub("arbitration")
    for call in (
        arbiter.PlaceHold(pb.PlaceHoldRequest(digest=bytes(32), holder="game")),
        arbiter.ReleaseHold(pb.ReleaseHoldRequest(digest=bytes(32), holder="game")),
        arbiter.SubmitObservedCheckpoint(pb.SubmitObservedCheckpointRequest(checkpoint="x")),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert reason_of(error) == "NOT_IMPLEMENTED_YET"
        assert "yet" in (error.details() or "")


async def test_a_full_queue_asks_to_come_back(tmp_path: Path) -> None:
    limits = logs.settings_in(tmp_path).limits
    small = type(limits)(max_pending_entries=3)
    async with log_service(tmp_path, limits=small) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        error = await refused(
            service.stub().AppendBatch(logs.entries([logs.statement(n) for n in range(4)]))
        )
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "TOO_MANY_PENDING_ENTRIES"
        assert retry_after_ms_of(error) is not None
        await service.stub().AppendBatch(logs.entries([logs.statement(n) for n in range(3)]))


async def test_a_full_database_refuses_and_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    acknowledged: dict[bytes, int] = {}
    async with log_service(tmp_path, max_database_bytes=300_000) as service:
        stub = service.stub()
        await logs.put(stub, *EXHIBIT.blobs)
        error: grpc.aio.AioRpcError | None = None
        for first in range(0, 4000, 50):
            records = [logs.statement(first + n) for n in range(50)]
            try:
                answer = await stub.AppendBatch(logs.entries(records))
            except grpc.aio.AioRpcError as caught:
                error = caught
                break
            for record, result in zip(records, answer.results, strict=True):
                acknowledged[record] = result.leaf_index
        assert error is not None
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "STORAGE_FULL"
        assert retry_after_ms_of(error) is not None
        assert service.process.serving
        for record, index in itertools.islice(acknowledged.items(), 5):
            assert (await stub.AppendEntry(logs.entry(record))).leaf_index == index
    async with log_service(tmp_path) as service:
        stub = service.stub()
        info = await stub.GetLogInfo(pb.GetLogInfoRequest())
        assert info.tree_size == len(acknowledged) > 0
        for record, index in acknowledged.items():
            request = pb.GetReceiptRequest(leaf_index=index)
            receipt = await stub.GetReceipt(request)
            assert Entry.decode(receipt.entry).record == record
        added = await stub.AppendEntry(logs.entry(logs.statement(9999)))
        assert added.leaf_index == len(acknowledged)


async def test_appends_are_counted_by_what_became_of_them(service: Service) -> None:
    stub = service.stub()
    await stub.AppendBatch(logs.entries([logs.statement(1), logs.statement(2)]))
    await stub.AppendEntry(logs.entry(logs.statement(1)))
    await refused(stub.AppendEntry(logs.entry(b"\x00")))
    registry = service.process.registry
    counted = {
        result: registry.get_sample_value("otr_log_append_total", {"result": result})
        for result in ("new", "duplicate", "refused", "error")
    }
    assert counted == {"new": 2, "duplicate": 1, "refused": 1, "error": 0}
    assert registry.get_sample_value("otr_log_tree_size") == 2
    assert registry.get_sample_value("otr_log_append_seconds_count") == 2
    assert registry.get_sample_value("otr_log_batch_size_sum") == 2
    held = sum(map(len, EXHIBIT.blobs))
    assert registry.get_sample_value("otr_chunk_bytes_stored") == held
