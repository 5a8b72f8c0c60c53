"""VerifyStream: many requests over one call, answered in their order, each with its own outcome.

At most `max_in_flight` requests of a stream are worked on; the next one is not read before the
oldest is answered and the answer written, so that a client that does not read is not read from
either. A refused request is answered with its refusal and the stream goes on. When the process
drains, no further request is read, what was read is answered, and the stream ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from otr.attestation.v1 import attestation_pb2 as pb
from otr_attestation import wire
from otr_attestation.metrics import VerifierMetrics
from otr_attestation.verifying import Verifying
from otr_protocol.errors import ExhaustedError, Refusal
from otr_server.status import INTERNAL_REASON, new_incident

RETRY_MS: Final = 1000

log = structlog.get_logger(__name__)


class TooManyStreamsError(ExhaustedError):
    """As many streams are open as may be."""

    reason = "TOO_MANY_STREAMS"


class Streaming:
    """The streams of one process."""

    def __init__(
        self,
        verifying: Verifying,
        metrics: VerifierMetrics,
        draining: asyncio.Event,
        *,
        max_streams: int,
        max_in_flight: int,
    ) -> None:
        self._verifying = verifying
        self._metrics = metrics
        self._draining = draining
        self._max_streams = max_streams
        self._max_in_flight = max_in_flight
        self._open = 0

    async def answers(
        self, requests: AsyncIterator[pb.VerifyStreamRequest]
    ) -> AsyncIterator[pb.VerifyStreamResponse]:
        """One answer for each request, in order. Raises TooManyStreamsError."""
        if self._open >= self._max_streams:
            raise TooManyStreamsError("too many streams", retry_after_ms=RETRY_MS)
        self._open += 1
        self._metrics.streams.set(self._open)
        working: deque[asyncio.Task[pb.VerifyStreamResponse]] = deque()
        reading: asyncio.Task[pb.VerifyStreamRequest | None] | None = None
        drained = asyncio.create_task(self._draining.wait())
        over = False
        try:
            while working or not over:
                if not over and reading is None and len(working) < self._max_in_flight:
                    reading = asyncio.create_task(_next(requests))
                waiting: list[asyncio.Task[Any]] = [] if over else [drained]
                waiting += [*list(working)[:1], *([] if reading is None else [reading])]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if working and working[0].done():
                    yield working.popleft().result()
                if reading is not None and reading.done():
                    request = reading.result()
                    reading = None
                    if request is None:
                        over = True
                    else:
                        working.append(asyncio.create_task(self._answer(request)))
                if drained.done() and not over:
                    over = True
                    if reading is not None:
                        reading.cancel()
                        reading = None
        finally:
            for task in (*working, drained, *(() if reading is None else (reading,))):
                task.cancel()
            self._open -= 1
            self._metrics.streams.set(self._open)

    async def _answer(self, request: pb.VerifyStreamRequest) -> pb.VerifyStreamResponse:
        try:
            appraised = await self._verifying.verify(wire.attempt(request.request))
        except Refusal as refusal:
            self._metrics.refused(refusal.reason)
            error = wire.stream_error(refusal)
        except Exception as bug:
            incident = new_incident()
            log.error("call_failed", incident=incident, exc_info=bug)
            self._metrics.refused(INTERNAL_REASON)
            error = wire.stream_incident(incident)
        else:
            return pb.VerifyStreamResponse(
                sequence=request.sequence, response=wire.verify_response(appraised)
            )
        return pb.VerifyStreamResponse(sequence=request.sequence, error=error)


async def _next(requests: AsyncIterator[pb.VerifyStreamRequest]) -> pb.VerifyStreamRequest | None:
    return await anext(requests, None)
