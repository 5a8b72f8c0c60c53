"""CommitmentService: decode, look at the published log or hand to the sequencer, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import grpc
import structlog

from otr.commitment.v1 import commitment_pb2 as pb
from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_commitment import wire
from otr_commitment.appending import Appender, Offered
from otr_commitment.blob_transfer import BlobTransfers
from otr_commitment.lookup import Key, Located
from otr_commitment.ports import DamagedError, Head
from otr_commitment.publication import Publication
from otr_commitment.reading import EntryUnknownError, Reading
from otr_commitment.receipts import all_forms
from otr_commitment.sequencer import Registered
from otr_protocol.errors import ExhaustedError, Refusal, RejectedError, UnknownError
from otr_protocol.tlog.note import SignerKey
from otr_server import limits
from otr_server.identity import ANY_ROLE, peer
from otr_server.identity import Identity as Caller
from otr_server.shares import Ration
from otr_server.status import Context, abort_with, status_of
from otr_server.telemetry import current_request_id

SERVICE: Final = "otr.commitment.v1.CommitmentService"
SERVICES: Final = frozenset({"inference", "attestation", "operator", "spotcheck", "arbitration"})
"""Roles that write as their daily work; everybody else may write too, within a ration of bytes."""
HOLDERS: Final = frozenset({"spotcheck", "arbitration"})
ROLES: Final = {
    f"/{SERVICE}/{method}": roles
    for method, roles in {
        "AppendEntry": ANY_ROLE,
        "AppendBatch": ANY_ROLE,
        "GetReceipt": ANY_ROLE,
        "GetCheckpoint": ANY_ROLE,
        "WatchCheckpoints": ANY_ROLE,
        "WatchEntries": ANY_ROLE,
        "GetEntries": ANY_ROLE,
        "GetInclusionProof": ANY_ROLE,
        "GetConsistencyProof": ANY_ROLE,
        "GetTile": ANY_ROLE,
        "PutBlob": ANY_ROLE,
        "GetBlob": ANY_ROLE,
        "HasBlobs": ANY_ROLE,
        "PlaceHold": HOLDERS,
        "ReleaseHold": HOLDERS,
        "SubmitObservedCheckpoint": ANY_ROLE,
        "GetLogInfo": ANY_ROLE,
    }.items()
}
WATCH_ENTRIES: Final = 256
RATION_SECONDS: Final = 3600.0

_Result = TypeVar("_Result")

log = structlog.get_logger(__name__)


class CursorBeyondLogError(RejectedError):
    """The cursor lies beyond the end of the log: one of the two has been rolled back."""

    reason = "CURSOR_BEYOND_LOG"


class CheckpointUnknownError(UnknownError):
    """The log has not grown to that size in the time that was allowed."""

    reason = "CHECKPOINT_UNKNOWN"


class RationUsedUpError(ExhaustedError):
    """The caller has added as many bytes as it may for now."""

    reason = "RATION_USED_UP"


class NotBuiltError(Refusal):
    """The contract has this method, and this version of the log does not."""

    reason = "NOT_IMPLEMENTED_YET"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose log this is."""

    origin: str
    key: SignerKey


class CommitmentServicer(rpc.CommitmentServiceServicer):
    """The log's RPCs. `readers` runs whatever touches the disk to read."""

    def __init__(
        self,
        identity: Identity,
        appender: Appender,
        publication: Publication,
        reading: Reading,
        transfers: BlobTransfers,
        readers: Executor,
        *,
        max_blob_bytes: int,
        guest_bytes_per_hour: int,
    ) -> None:
        self._identity = identity
        self._appender = appender
        self._publication = publication
        self._reading = reading
        self._transfers = transfers
        self._readers = readers
        self._max_blob_bytes = max_blob_bytes
        self._guests = Ration(guest_bytes_per_hour, RATION_SECONDS, RationUsedUpError, "bytes")

    async def AppendEntry(
        self, request: pb.AppendEntryRequest, context: Context
    ) -> pb.AppendEntryResponse:
        async with _special_statuses(context):
            offered = wire.offered(request)
            caller = self._writer(context, len(offered.record))
            results = await self._append([offered], caller)
            (response,) = await self._acknowledge(results, [request.wait_receipt])
            return response

    async def AppendBatch(
        self, request: pb.AppendBatchRequest, context: Context
    ) -> pb.AppendBatchResponse:
        async with _special_statuses(context):
            offered = wire.offered_batch(request)
            caller = self._writer(context, sum(len(each.record) for each in offered))
            results = await self._append(offered, caller)
            wanted = [entry.wait_receipt for entry in request.entries]
            return pb.AppendBatchResponse(results=await self._acknowledge(results, wanted))

    async def GetReceipt(
        self, request: pb.GetReceiptRequest, context: Context
    ) -> pb.GetReceiptResponse:
        async with _special_statuses(context):
            name = wire.entry_name(request)
            seconds = wire.wait_seconds(request.wait_ms)
            located = await self._locate(peer(context).uri, name, seconds)
            head = self._publication.head
            receipt = await self._read(self._reading.receipt, located, head)
            forms = all_forms(receipt, head, self._identity.key)
            return pb.GetReceiptResponse(
                receipt=forms.receipt,
                entry=located.data,
                tlog_proof=forms.tlog_proof,
                cose_receipt=forms.cose_receipt,
            )

    async def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, context: Context
    ) -> pb.GetCheckpointResponse:
        async with _special_statuses(context):
            min_size = wire.index(request.min_size, "min_size")
            seconds = wire.wait_seconds(request.wait_ms)
            if not await self._publication.reach(peer(context).uri, min_size, seconds):
                raise CheckpointUnknownError(
                    f"the log has {self._publication.head.tree_size} entries", field="min_size"
                )
            return pb.GetCheckpointResponse(checkpoint=self._publication.head.note)

    async def WatchCheckpoints(
        self, request: pb.WatchCheckpointsRequest, context: Context
    ) -> AsyncIterator[pb.WatchCheckpointsResponse]:
        async with _special_statuses(context):
            size = wire.index(request.min_size, "min_size")
            caller = peer(context).uri
            while (
                await self._publication.reach(caller, size, None) and not self._publication.closed
            ):
                head = self._publication.head
                yield pb.WatchCheckpointsResponse(checkpoint=head.note)
                size = head.tree_size + 1

    async def WatchEntries(
        self, request: pb.WatchEntriesRequest, context: Context
    ) -> AsyncIterator[pb.WatchEntriesResponse]:
        async with _special_statuses(context):
            kinds = wire.entry_kinds(request.kinds)
            cursor = wire.index(request.from_index, "from_index")
            if cursor > self._publication.head.tree_size:
                raise CursorBeyondLogError(
                    f"the log has {self._publication.head.tree_size} entries, the cursor is at "
                    f"{cursor}",
                    field="from_index",
                )
            if cursor == self._publication.head.tree_size:
                # Nothing new, and a consumer wants to know that it is connected and up to date.
                yield pb.WatchEntriesResponse(next_index=cursor)
            caller = peer(context).uri
            while (
                await self._publication.reach(caller, cursor + 1, None)
                and not self._publication.closed
            ):
                head = self._publication.head
                stored = await self._read(self._reading.entries, cursor, WATCH_ENTRIES, head)
                cursor += len(stored)
                yield pb.WatchEntriesResponse(
                    entries=[wire.log_entry(each) for each in stored if each.kind in kinds],
                    next_index=cursor,
                )

    async def GetEntries(
        self, request: pb.GetEntriesRequest, context: Context
    ) -> pb.GetEntriesResponse:
        async with _special_statuses(context):
            first = wire.index(request.from_index, "from_index")
            count = limits.bounded_int(
                request.max_entries, "max_entries", minimum=1, maximum=wire.MAX_RANGE_ENTRIES
            )
            head = self._publication.head
            stored = await self._read(self._reading.entries, first, count, head)
            return pb.GetEntriesResponse(entries=[wire.log_entry(each) for each in stored])

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        async with _special_statuses(context):
            head = self._publication.head
            leaf_index = wire.index(request.leaf_index, "leaf_index")
            size = wire.index(request.tree_size, "tree_size") or head.tree_size
            proof, hashed = await self._read(self._reading.inclusion_proof, leaf_index, size, head)
            return pb.GetInclusionProofResponse(
                inclusion_proof=proof, leaf_hash=hashed, tree_size=size
            )

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        async with _special_statuses(context):
            head = self._publication.head
            new_size = wire.index(request.new_size, "new_size") or head.tree_size
            old_size = limits.bounded_int(
                request.old_size, "old_size", minimum=1, maximum=max(1, new_size)
            )
            proof = await self._read(self._reading.consistency_proof, old_size, new_size, head)
            return pb.GetConsistencyProofResponse(consistency_proof=proof, new_size=new_size)

    async def GetTile(self, request: pb.GetTileRequest, context: Context) -> pb.GetTileResponse:
        async with _special_statuses(context):
            head = self._publication.head
            tile = wire.hash_tile(request)
            if request.entries:
                data = await self._read(self._reading.bundle, tile.index, tile.width, head)
            else:
                data = await self._read(self._reading.tile, tile, head)
            return pb.GetTileResponse(tile=data)

    async def PutBlob(
        self, request_iterator: AsyncIterator[pb.PutBlobRequest], context: Context
    ) -> pb.PutBlobResponse:
        async with _special_statuses(context):
            parts = aiter(request_iterator)
            digest, size_bytes = await wire.blob_header(parts, self._max_blob_bytes)
            caller = self._writer(context, size_bytes)
            chunks = wire.blob_chunks(parts)
            existed = await self._transfers.store(caller.uri, digest, size_bytes, chunks)
            return pb.PutBlobResponse(digest=digest, existed=existed)

    async def GetBlob(  # type: ignore[override]  # the stubs know generators only
        self, request: pb.GetBlobRequest, context: Context
    ) -> None:
        # Written from here, not yielded: the time that a client takes to read is bounded too.
        async def write(chunk: bytes) -> None:
            await context.write(pb.GetBlobResponse(chunk=chunk))

        async with _special_statuses(context):
            digest = wire.digest(request.digest, "digest")
            await self._transfers.load(peer(context).uri, digest, write)

    async def HasBlobs(self, request: pb.HasBlobsRequest, context: Context) -> pb.HasBlobsResponse:
        async with _special_statuses(context):
            digests = wire.digests(request.digests, "digests")
            return pb.HasBlobsResponse(held=await self._transfers.held(digests))

    async def PlaceHold(
        self, request: pb.PlaceHoldRequest, context: Context
    ) -> pb.PlaceHoldResponse:
        async with _special_statuses(context):
            _not_built("nothing is deleted yet, so there is nothing to hold")

    async def ReleaseHold(
        self, request: pb.ReleaseHoldRequest, context: Context
    ) -> pb.ReleaseHoldResponse:
        async with _special_statuses(context):
            _not_built("nothing is deleted yet, so there is nothing to hold")

    async def SubmitObservedCheckpoint(
        self, request: pb.SubmitObservedCheckpointRequest, context: Context
    ) -> pb.SubmitObservedCheckpointResponse:
        async with _special_statuses(context):
            _not_built("observed checkpoints are not compared yet; see GetConsistencyProof")

    async def GetLogInfo(
        self, request: pb.GetLogInfoRequest, context: Context
    ) -> pb.GetLogInfoResponse:
        async with _special_statuses(context):
            head = self._publication.head
            return pb.GetLogInfoResponse(
                origin=self._identity.origin,
                vkey=str(self._identity.key.verifier),
                tree_size=head.tree_size,
                root_hash=head.root_hash,
            )

    def _writer(self, context: Context, size_bytes: int) -> Caller:
        """Who wants to add so many bytes. Raises RationUsedUpError."""
        caller = peer(context)
        if caller.role not in SERVICES:
            self._guests.use(caller.uri, size_bytes)
        return caller

    async def _append(self, offered: Sequence[Offered], caller: Caller) -> list[Registered]:
        return await self._appender.append(offered, caller.uri, trusted=caller.role in SERVICES)

    async def _acknowledge(
        self, results: Sequence[Registered], wanted: Sequence[bool]
    ) -> list[pb.AppendEntryResponse]:
        """The responses to an append, with receipts where they are wanted."""
        if not any(wanted):
            return [wire.append_response(result) for result in results]
        # One step on a thread for all of them: neighbours share most of their proofs.
        return await self._read(self._with_receipts, results, wanted, self._publication.head)

    def _with_receipts(
        self, results: Sequence[Registered], wanted: Sequence[bool], head: Head
    ) -> list[pb.AppendEntryResponse]:
        responses = []
        for result, wants in zip(results, wanted, strict=True):
            receipt = b""
            if wants:
                located = Located(result.leaf_index, result.entry)
                receipt = self._reading.receipt(located, head).encode()
            responses.append(wire.append_response(result, receipt))
        return responses

    async def _locate(self, caller: str, name: int | Key, seconds: float) -> Located:
        """The entry that a request names, waiting so long for it to be published."""
        if isinstance(name, int):
            await self._publication.reach(caller, name + 1, seconds)
            return await self._read(self._reading.entry, name, self._publication.head)
        with self._publication.expect(name.prefix) as expected:
            located = await self._read(self._reading.find, name, self._publication.head)
            if located is None and seconds:
                await expected.wait(caller, seconds)
                located = await self._read(self._reading.find, name, self._publication.head)
        if located is None:
            raise EntryUnknownError("the log has no such entry", field=name.by.name.lower())
        return located

    async def _read(self, read: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, read, *arguments)


def _not_built(message: str) -> NoReturn:
    raise NotBuiltError(message)


@asynccontextmanager
async def _special_statuses(context: Context) -> AsyncIterator[None]:
    """The two refusals whose code is not that of a refusal's kind; all others pass."""
    try:
        yield
    except DamagedError as refusal:
        log.error("stored_data_damaged", error=refusal.message)
        await _abort(context, refusal, grpc.StatusCode.DATA_LOSS)
    except NotBuiltError as refusal:
        await _abort(context, refusal, grpc.StatusCode.UNIMPLEMENTED)


async def _abort(context: Context, refusal: Refusal, code: grpc.StatusCode) -> None:
    status = status_of(refusal, request_id=current_request_id())
    number, _ = code.value
    status.code = number
    await abort_with(context, status)
