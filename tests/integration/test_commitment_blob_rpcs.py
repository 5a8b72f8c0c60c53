"""Blobs over real gRPC: what was put comes back, what was damaged never does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from otr.commitment.v1 import commitment_pb2 as pb
from otr_commitment.settings import Limits
from otr_protocol.digest import H
from otr_server.status import field_of, reason_of, retry_after_ms_of
from support import log_service as logs
from support.log_service import EXHIBIT, Service, log_service

BIG = bytes(range(256)) * (3 << 12)  # 3 MiB: several steps and many chunks


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with log_service(tmp_path) as running:
        yield running


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


def path_of(service: Service, data: bytes) -> Path:
    name = H(data).hex()
    return service.directory / "data" / "blobs" / name[:2] / name


def uploads(service: Service) -> list[Path]:
    return list((service.directory / "data" / "incoming").iterdir())


@pytest.mark.parametrize("data", [b"x", bytes(256 << 10), BIG], ids=len)
async def test_a_blob_comes_back_whole_and_survives_a_restart(tmp_path: Path, data: bytes) -> None:
    async with log_service(tmp_path) as service:
        assert await logs.put(service.stub(), data) == [False]
        assert await logs.put(service.stub("attestation"), data) == [True]
        assert await logs.get(service.stub("client"), H(data)) == data
    async with log_service(tmp_path) as service:
        assert await logs.get(service.stub("watcher"), H(data)) == data


async def test_has_blobs_answers_in_order(service: Service) -> None:
    await logs.put(service.stub(), b"one", b"two")
    digests = [H(b"two"), H(b"three"), H(b"one"), H(b"two")]
    answer = await service.stub("client").HasBlobs(pb.HasBlobsRequest(digests=digests))
    assert list(answer.held) == [True, False, True, True]


@pytest.mark.parametrize(
    ("data", "lies", "code", "reason"),
    [
        (b"bytes", {"digest": H(b"other")}, grpc.StatusCode.FAILED_PRECONDITION, "BLOB_DIGEST"),
        (b"bytes", {"size_bytes": 6}, grpc.StatusCode.INVALID_ARGUMENT, "BLOB_SIZE"),
        (b"bytes", {"size_bytes": 4}, grpc.StatusCode.INVALID_ARGUMENT, "BLOB_SIZE"),
        (b"bytes", {"size_bytes": 0}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_RANGE"),
        (b"bytes", {"size_bytes": 1 << 27}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_RANGE"),
        (b"bytes", {"digest": b"short"}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_LENGTH"),
        (BIG, {"size_bytes": len(BIG) - 1}, grpc.StatusCode.INVALID_ARGUMENT, "BLOB_SIZE"),
        (BIG, {"digest": H(b"other")}, grpc.StatusCode.FAILED_PRECONDITION, "BLOB_DIGEST"),
    ],
)
async def test_an_upload_that_is_not_what_it_announced_is_not_kept(
    service: Service, data: bytes, lies: dict[str, object], code: grpc.StatusCode, reason: str
) -> None:
    stub = service.stub()
    error = await refused(stub.PutBlob(logs.blob_parts(data, **lies)))  # type: ignore[arg-type]
    assert error.code() is code
    assert reason_of(error) == reason
    held = await stub.HasBlobs(pb.HasBlobsRequest(digests=[H(data), H(b"other")]))
    assert list(held.held) == [False, False]
    assert uploads(service) == []


async def parts_of(*parts: pb.PutBlobRequest) -> AsyncIterator[pb.PutBlobRequest]:
    for part in parts:
        yield part


HEADER = pb.PutBlobRequest(header=pb.PutBlobHeader(digest=H(b"ab"), size_bytes=2))
A_CHUNK = pb.PutBlobRequest(chunk=b"a")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((), "BLOB_HEADER"),
        ((A_CHUNK, HEADER), "BLOB_HEADER"),
        ((HEADER, HEADER), "BLOB_HEADER"),
        ((HEADER, A_CHUNK, HEADER), "BLOB_HEADER"),
        ((HEADER, pb.PutBlobRequest()), "BLOB_HEADER"),
        ((HEADER, pb.PutBlobRequest(chunk=b"")), "FIELD_REQUIRED"),
        ((HEADER, pb.PutBlobRequest(chunk=bytes((256 << 10) + 1))), "FIELD_LENGTH"),
        ((HEADER,), "BLOB_SIZE"),
    ],
)
async def test_an_upload_is_a_header_and_then_chunks(
    service: Service, parts: tuple[pb.PutBlobRequest, ...], reason: str
) -> None:
    error = await refused(service.stub().PutBlob(parts_of(*parts)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == reason
    assert uploads(service) == []


async def test_an_unknown_blob_is_not_found(service: Service) -> None:
    error = await refused(logs.get(service.stub("client"), H(b"nothing")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error) == "BLOB_UNKNOWN"
    error = await refused(logs.get(service.stub("client"), b"short"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("position", [0, len(BIG) // 2, len(BIG) - 1])
async def test_a_flipped_byte_is_data_loss_and_can_be_mended(
    service: Service, position: int
) -> None:
    stub = service.stub()
    await logs.put(stub, BIG)
    damaged = bytearray(BIG)
    damaged[position] ^= 0x40
    path_of(service, BIG).write_bytes(damaged)
    received: list[bytes] = []

    async def receive() -> None:
        async for part in stub.GetBlob(pb.GetBlobRequest(digest=H(BIG))):
            received.append(part.chunk)

    error = await refused(receive())
    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert reason_of(error) == "DATA_DAMAGED"
    assert received == []  # never wrong bytes
    held = await stub.HasBlobs(pb.HasBlobsRequest(digests=[H(BIG)]))
    assert list(held.held) == [False]
    registry = service.process.registry
    assert registry.get_sample_value("otr_chunk_scrub_failures_total") == 1
    assert await logs.put(stub, BIG) == [False]
    assert await logs.get(stub, H(BIG)) == BIG


async def test_a_truncated_blob_is_data_loss(service: Service) -> None:
    await logs.put(service.stub(), b"whole")
    path_of(service, b"whole").write_bytes(b"who")
    error = await refused(logs.get(service.stub(), H(b"whole")))
    assert error.code() is grpc.StatusCode.DATA_LOSS


async def test_a_full_blob_store_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    room = sum(map(len, EXHIBIT.blobs)) + 10
    async with log_service(tmp_path, max_total_blob_bytes=room) as service:
        stub = service.stub()
        await logs.put(stub, *EXHIBIT.blobs)
        error = await refused(stub.PutBlob(logs.blob_parts(bytes(11))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "STORAGE_FULL"
        assert retry_after_ms_of(error) is not None
        # The log itself goes on, and what was held still is.
        assert (await stub.AppendEntry(logs.entry(logs.statement(1)))).leaf_index == 0
        assert await logs.get(stub, H(EXHIBIT.evidence)) == EXHIBIT.evidence
        assert await logs.put(stub, bytes(10)) == [False]


async def test_one_blob_is_bounded_by_the_settings_too(tmp_path: Path) -> None:
    async with log_service(tmp_path, limits=Limits(max_blob_bytes=100)) as service:
        assert await logs.put(service.stub(), bytes(100)) == [False]
        error = await refused(service.stub().PutBlob(logs.blob_parts(bytes(101))))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field_of(error) == "size_bytes"


async def test_uploads_at_once_are_bounded_and_a_slot_comes_back(tmp_path: Path) -> None:
    async with log_service(tmp_path, limits=Limits(max_uploads=1)) as service:
        stub = service.stub()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[pb.PutBlobRequest]:
            async for part in logs.blob_parts(BIG):
                yield part
                if part.chunk:
                    begun.set()
                    await go_on.wait()

        running = asyncio.create_task(_put(stub, slow()))
        await begun.wait()
        # The first chunk is on its way; the call holds its slot once the header has arrived.
        error: grpc.aio.AioRpcError | None = None
        while error is None:
            try:
                await stub.PutBlob(logs.blob_parts(b"other"))
            except grpc.aio.AioRpcError as caught:
                error = caught
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "TOO_MANY_TRANSFERS"
        go_on.set()
        assert not (await running).existed
        assert await logs.put(stub, b"another") == [False]


async def _put(stub: logs.Stub, parts: AsyncIterator[pb.PutBlobRequest]) -> pb.PutBlobResponse:
    return await stub.PutBlob(parts)


async def test_an_abandoned_upload_leaves_nothing_behind(tmp_path: Path) -> None:
    async with log_service(tmp_path, max_total_blob_bytes=len(BIG)) as service:
        stub = service.stub()
        sent = asyncio.Event()

        async def half() -> AsyncIterator[pb.PutBlobRequest]:
            size = 0
            async for part in logs.blob_parts(BIG):
                yield part
                size += len(part.chunk)
                if size > len(BIG) // 2:
                    sent.set()
                    await asyncio.Event().wait()

        call = stub.PutBlob(half())
        await sent.wait()
        call.cancel()
        # The whole quota is free again as soon as the server has noticed.
        existed: list[bool] = []
        while not existed:
            with contextlib.suppress(grpc.aio.AioRpcError):
                existed = await logs.put(stub, BIG)
        assert existed == [False]
        assert uploads(service) == []


async def test_an_upload_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    async with log_service(tmp_path, limits=Limits(upload_seconds=0.05)) as service:

        async def never() -> AsyncIterator[pb.PutBlobRequest]:
            yield HEADER
            await asyncio.Event().wait()

        error = await refused(service.stub().PutBlob(never()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error) == "UPLOAD_TOO_SLOW"
        assert uploads(service) == []


HUGE = bytes(20 << 20)  # more than the connection takes from a server whose client does not read


async def rest_of(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_client_that_does_not_read_holds_its_place_only_so_long(tmp_path: Path) -> None:
    limits = Limits(max_downloads=1, download_seconds=0.5)
    async with log_service(tmp_path, limits=limits) as service:
        await logs.put(service.stub(), HUGE, b"small")
        stuck = service.stub("client").GetBlob(pb.GetBlobRequest(digest=H(HUGE)))
        await stuck.read()
        await asyncio.sleep(0.7)
        assert await logs.get(service.stub("watcher"), H(b"small")) == b"small"
        error = await refused(rest_of(stuck))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error) == "DOWNLOAD_TOO_SLOW"


async def test_one_caller_cannot_have_all_downloads(tmp_path: Path) -> None:
    async with log_service(tmp_path, limits=Limits(max_downloads=8)) as service:
        await logs.put(service.stub(), HUGE, b"small")
        calls = [
            service.stub("client").GetBlob(pb.GetBlobRequest(digest=H(HUGE))) for _ in range(2)
        ]
        for call in calls:
            await call.read()
        error = await refused(logs.get(service.stub("client"), H(b"small")))
        assert reason_of(error) == "TOO_MANY_TRANSFERS"
        assert await logs.get(service.stub("watcher"), H(b"small")) == b"small"
        for call in calls:
            call.cancel()
