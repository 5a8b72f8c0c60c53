"""ArbitrationService: finality as it stands, and as it changes.

Every other RPC of the contract answers UNIMPLEMENTED, from the generated base class.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from importlib.metadata import version

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr.arbitration.v1 import arbitration_pb2_grpc as rpc
from otr_arbitration import wire
from otr_arbitration.arbiter import Arbiter
from otr_arbitration.ports import Row, Store
from otr_protocol.errors import MalformedError
from otr_server.status import Context

MAX_WAIT_MS = 60_000
EVENT_BATCH = 256
RECHECK_SECONDS = 0.5
"""A change between the look-up and the wait is seen at the latest after this."""


class FinalityRequestError(MalformedError):
    """The request names no statement, or waits too long."""

    reason = "FINALITY_REQUEST"


class ArbitrationServicer(rpc.ArbitrationServiceServicer):
    """Reads the store; the arbiter writes it."""

    def __init__(self, store: Store, arbiter: Arbiter, log_origin: str) -> None:
        self._store = store
        self._arbiter = arbiter
        self._log_origin = log_origin

    async def GetFinality(
        self, request: pb.GetFinalityRequest, context: Context
    ) -> pb.GetFinalityResponse:
        if not 0 <= request.wait_ms <= MAX_WAIT_MS:
            raise FinalityRequestError(f"0 to {MAX_WAIT_MS} milliseconds", field="wait_ms")
        deadline = time.monotonic() + request.wait_ms / 1000
        while (row := await self._find(request)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise wire.StatementUnknownError("no such statement in the log yet")
            await self._wait_for_change(min(left, RECHECK_SECONDS))
        return pb.GetFinalityResponse(finality=wire.finality(row))

    async def WatchFinality(
        self, request: pb.WatchFinalityRequest, context: Context
    ) -> AsyncIterator[pb.WatchFinalityResponse]:
        next_event = max(1, request.from_event)
        while True:
            rows = await self._store.events(next_event, EVENT_BATCH)
            if not rows:
                await self._wait_for_change(RECHECK_SECONDS)
                continue
            next_event = rows[-1].event_index + 1
            changes = [wire.finality(row) for row in rows if _wanted(row, request)]
            if changes:
                yield pb.WatchFinalityResponse(changes=changes, next_event=next_event)

    async def GetServiceInfo(
        self, request: pb.GetServiceInfoRequest, context: Context
    ) -> pb.GetServiceInfoResponse:
        return pb.GetServiceInfoResponse(
            server_version=version("otr-arbitration"),
            log_origin=self._log_origin,
            next_index=self._arbiter.next_index,
            arbiter_ms=time.time_ns() // 1_000_000,
        )

    async def _find(self, request: pb.GetFinalityRequest) -> Row | None:
        which = request.WhichOneof("statement")
        if which == "payload_hash":
            return await self._store.find(payload_hash=request.payload_hash)
        if which == "leaf_index":
            return await self._store.find(leaf_index=request.leaf_index)
        raise FinalityRequestError("name a statement", field="statement")

    async def _wait_for_change(self, seconds: float) -> None:
        changed = self._arbiter.changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), changed:
                await changed.wait()


def _wanted(row: Row, request: pb.WatchFinalityRequest) -> bool:
    standing = row.standing
    return (not request.operator_id or standing.operator_id == request.operator_id) and (
        not request.payload_hash or standing.payload_hash == request.payload_hash
    )
