"""Appending to the log and moving blobs, over one gRPC channel."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc

from otr.commitment.v1 import commitment_pb2 as pb
from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_protocol.errors import RejectedError, UnavailableError
from otr_server.status import reason_of

CHUNK_BYTES = 256 * 1024
CALL_SECONDS = 20.0
MAX_BLOB_BYTES = 64 * 1024 * 1024
AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""Codes that say nothing about what was asked for: there was no answer."""
FINAL_CODES = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION})
MAY_PASS = frozenset({"REQUEST_BLOB_MISSING", "ATTESTATION_TOKEN_MISSING", "EVIDENCE_MISSING"})
"""Preconditions that the sender, or somebody else, can still fulfil."""
LOG_STANDING = "LOG_"
"""How reasons begin that are about the log and not about what it was sent."""


class LogUnavailableError(UnavailableError):
    """The log did not answer, or refused what was sent."""

    reason = "LOG_UNAVAILABLE"


class BlobUnreadableError(UnavailableError):
    """The log answers, and does not hand out this blob: the log's fault, and it may be mended."""

    reason = "BLOB_UNREADABLE"


class RecordRefusedError(RejectedError):
    """The log will never take a record or a blob. `log_reason` is its permanent reason."""

    reason = "RECORD_REFUSED"

    def __init__(self, message: str, log_reason: str) -> None:
        super().__init__(message)
        self.log_reason = log_reason


class BlobMismatchError(BlobUnreadableError):
    """The log sent bytes that do not have the digest that was asked for."""

    reason = "BLOB_MISMATCH"


@dataclass(frozen=True, slots=True)
class Registered:
    """The log's acknowledgement of one record; `receipt` is the native form (spec/log.md)."""

    leaf_index: int
    log_time_ms: int
    receipt: bytes


class LogPeer:
    """Calls of a writer or reader of the log. Safe to share between tasks."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = rpc.CommitmentServiceStub(channel)

    async def put_blobs(self, blobs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store (digest, bytes) pairs the log does not hold yet; durable on return.

        Raises RecordRefusedError when the log refuses one, LogUnavailableError for everything that
        may pass.
        """
        try:
            held = await self.stub.HasBlobs(
                pb.HasBlobsRequest(digests=[digest for digest, _ in blobs]), timeout=CALL_SECONDS
            )
            # Side by side: each waits for a disk, and what belongs together is two or three.
            await asyncio.gather(
                *(
                    self._put(digest, data)
                    for present, (digest, data) in zip(held.held, blobs, strict=True)
                    if not present
                )
            )
        except grpc.aio.AioRpcError as error:
            raise _refused_or_unavailable(error) from error

    async def _put(self, digest: bytes, data: bytes) -> None:
        await self.stub.PutBlob(_parts(digest, data), timeout=CALL_SECONDS)

    async def get_blob(self, digest: bytes, *, max_bytes: int = MAX_BLOB_BYTES) -> bytes:
        """Fetch a blob and check its digest.

        Raises LogUnavailableError when the log is away; BlobUnreadableError when it answers and
        does not give the blob, as BlobMismatchError for wrong or too many bytes.
        """
        data = bytearray()
        try:
            async for part in self.stub.GetBlob(
                pb.GetBlobRequest(digest=digest), timeout=CALL_SECONDS
            ):
                data += part.chunk
                if len(data) > max_bytes:
                    raise BlobMismatchError(f"the blob is longer than {max_bytes} bytes")
        except grpc.aio.AioRpcError as error:
            if error.code() in AWAY:
                raise unavailable(error) from error
            raise BlobUnreadableError(f"the log answers {error.code().name}") from error
        if hashlib.sha256(data).digest() != digest:
            raise BlobMismatchError(f"the log sent other bytes than {digest.hex()}")
        return bytes(data)

    async def append(self, records: Sequence[tuple[int, bytes]]) -> list[Registered]:
        """Append at most 256 (kind byte, record) pairs in order and return their receipts.

        Idempotent on the record; durable on return; all or nothing. Raises RecordRefusedError when
        the log refuses a record, LogUnavailableError for everything that may pass.
        """
        entries = [
            pb.AppendEntryRequest(
                kind=pb.EntryKind.ValueType(kind + 1), record=record, wait_receipt=True
            )
            for kind, record in records
        ]
        try:
            answer = await self.stub.AppendBatch(
                pb.AppendBatchRequest(entries=entries), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise _refused_or_unavailable(error) from error
        return [
            Registered(result.leaf_index, result.log_time_ms, result.receipt)
            for result in answer.results
        ]


def unavailable(error: grpc.aio.AioRpcError) -> LogUnavailableError:
    """The refusal that stands for a failed call to the log."""
    return LogUnavailableError(f"the log answers {error.code().name}: {error.details()}")


def _refused_or_unavailable(
    error: grpc.aio.AioRpcError,
) -> RecordRefusedError | LogUnavailableError:
    """Whether sending the same again could ever end otherwise."""
    reason = reason_of(error)
    if reason is None or error.code() not in FINAL_CODES:
        return unavailable(error)
    if reason in MAY_PASS or reason.startswith(LOG_STANDING):
        return unavailable(error)
    return RecordRefusedError(error.details() or "", reason)


async def _parts(digest: bytes, data: bytes) -> AsyncIterator[pb.PutBlobRequest]:
    yield pb.PutBlobRequest(header=pb.PutBlobHeader(digest=digest, size_bytes=len(data)))
    for start in range(0, len(data), CHUNK_BYTES):
        yield pb.PutBlobRequest(chunk=data[start : start + CHUNK_BYTES])
