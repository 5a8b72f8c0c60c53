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
from otr_protocol.digest import DIGEST_BYTES
from otr_protocol.errors import ExhaustedError, MalformedError
from otr_server import limits
from otr_server.identity import peer
from otr_server.shares import Shares, share_of
from otr_server.status import Context

MAX_WAIT_MS = 60_000
EVENT_BATCH = 256
RETRY_MS = 1000


class FinalityRequestError(MalformedError):
    """The request names no statement, or waits too long."""

    reason = "FINALITY_REQUEST"


class TooManyWatchersError(ExhaustedError):
    """As many calls as may are waiting for statements to move."""

    reason = "TOO_MANY_WATCHERS"


class ArbitrationServicer(rpc.ArbitrationServiceServicer):
    """Reads the store; the arbiter writes it.

    At most `max_watchers` calls wait for changes. All of them end when `draining` is set and the
    arbiter wakes them.
    """

    def __init__(
        self,
        store: Store,
        arbiter: Arbiter,
        log_origin: str,
        draining: asyncio.Event,
        *,
        max_watchers: int,
    ) -> None:
        self._store = store
        self._arbiter = arbiter
        self._log_origin = log_origin
        self._draining = draining
        self._watchers = Shares(
            max_watchers,
            share_of(max_watchers),
            TooManyWatchersError,
            "calls that wait for changes",
            retry_ms=RETRY_MS,
        )

    async def GetFinality(
        self, request: pb.GetFinalityRequest, context: Context
    ) -> pb.GetFinalityResponse:
        if not 0 <= request.wait_ms <= MAX_WAIT_MS:
            raise FinalityRequestError(f"0 to {MAX_WAIT_MS} milliseconds", field="wait_ms")
        if request.wait_ms:
            with self._watchers.taken(peer(context).uri):
                row = await self._find_within(request, request.wait_ms / 1000)
        else:
            row = await self._find(request)
        if row is None:
            raise wire.StatementUnknownError("no such statement in the log yet")
        return pb.GetFinalityResponse(finality=wire.finality(row))

    async def WatchFinality(
        self, request: pb.WatchFinalityRequest, context: Context
    ) -> AsyncIterator[pb.WatchFinalityResponse]:
        next_event = max(1, wire.index(request.from_event, "from_event"))
        limits.optional_bytes(request.operator_id, "operator_id", DIGEST_BYTES)
        limits.optional_bytes(request.payload_hash, "payload_hash", DIGEST_BYTES)
        with self._watchers.taken(peer(context).uri):
            while not self._draining.is_set():
                changed = self._arbiter.changed
                rows = await self._store.events(next_event, EVENT_BATCH)
                if not rows:
                    await changed.wait()
                    continue
                next_event = rows[-1].event_index + 1
                # Without a change that is wanted too: a durable cursor must not fall behind.
                yield pb.WatchFinalityResponse(
                    changes=[wire.finality(row) for row in rows if _wanted(row, request)],
                    next_event=next_event,
                )

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
            payload_hash = limits.exact_bytes(request.payload_hash, which, DIGEST_BYTES)
            return await self._store.find(payload_hash=payload_hash)
        if which == "leaf_index":
            return await self._store.find(leaf_index=wire.index(request.leaf_index, which))
        raise FinalityRequestError("name a statement", field="statement")

    async def _find_within(self, request: pb.GetFinalityRequest, seconds: float) -> Row | None:
        """The row once it is there; None when the time is up, or the process stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._draining.is_set():
                    changed = self._arbiter.changed
                    if (row := await self._find(request)) is not None:
                        return row
                    await changed.wait()
        return await self._find(request)


def _wanted(row: Row, request: pb.WatchFinalityRequest) -> bool:
    standing = row.standing
    return (not request.operator_id or standing.operator_id == request.operator_id) and (
        not request.payload_hash or standing.payload_hash == request.payload_hash
    )
