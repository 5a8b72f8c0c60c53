"""One answer's life in this process: from the queue to the durable signed statement.

An `Answering` runs as a task of its own, apart from the RPC that asked for it. When the client
leaves, the RPC's handler ends and tells the task to stop; the task still seals what was produced,
since what was streamed was computed and is owed a statement. Whoever asks for the same request id
meanwhile waits for the same outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from otr_inference.engine_worker import Ended, EngineWorker, Job
from otr_inference.exposure import Reservation
from otr_inference.ports import AnswerRow, StorageBrokenError, StorageFullError, Store
from otr_inference.sealing import Sealer
from otr_inference.session import Session
from otr_inference.wire import Asked
from otr_numerics.engine import Engine, Slot
from otr_numerics.generation import Generation, GenerationResult, StepOutcome
from otr_protocol.errors import UnavailableError
from otr_protocol.output import Finish
from otr_protocol.request import GenerationInput


class NothingProducedError(UnavailableError):
    """The request ended before its first token; there is nothing to sign."""

    reason = "NOTHING_PRODUCED"


class ServerStoppingError(UnavailableError):
    """The process ends before the answer does."""

    reason = "SERVER_STOPPING"


@dataclass(frozen=True, slots=True)
class Measured:
    """Durations of one answer on the monotonic clock, in nanoseconds."""

    queue_ns: int
    prefill_ns: int
    decode_ns: int
    seal_ns: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A sealed answer, what it cost, and the text that was streamed."""

    row: AnswerRow
    result: GenerationResult
    measured: Measured


@dataclass(eq=False, slots=True)
class Answering:
    """A running answer; `steps()` follows it once, `outcome` is for any number of waiters."""

    client: str
    asked: Asked
    request: GenerationInput
    session: Session
    reservation: Reservation
    start_ms: int
    worker: EngineWorker
    job: Job
    outcome: asyncio.Future[Outcome]
    _steps: asyncio.Queue[StepOutcome | None] = field(default_factory=asyncio.Queue)

    def cancel(self, finish: Finish) -> None:
        """Stop within one step; what was produced is sealed with `finish`. No effect when done."""
        self.worker.cancel(self.job, finish)

    async def steps(self) -> AsyncIterator[list[StepOutcome]]:
        """Outcomes as they come, those that waited together."""
        while (first := await self._steps.get()) is not None:
            batch = [first]
            while not self._steps.empty():
                following = self._steps.get_nowait()
                if following is None:
                    yield batch
                    return
                batch.append(following)
            yield batch

    async def run(self, sealer: Sealer, store: Store, now_ms: Callable[[], int]) -> None:
        """Follow the job to its end and seal; every way out resolves `outcome`."""
        try:
            outcome = await self._follow_and_seal(sealer, now_ms)
        except BaseException as error:
            self.reservation.give_back()
            # Resolved first: storage may fail too, and then the waiters must still hear of this.
            # They were not cancelled, so they hear of a refusal.
            refusal = ServerStoppingError("the server is stopping") if _stopped(error) else error
            if not self.outcome.done():
                self.outcome.set_exception(refusal)
                self.outcome.exception()  # retrieved: nobody may be left to do it
            self._steps.put_nowait(None)
            # The id may be taken again all the same.
            with contextlib.suppress(StorageFullError, StorageBrokenError):
                await store.release(self.client, self.asked.request_id)
            if _stopped(error):
                raise
        else:
            self.outcome.set_result(outcome)
            self._steps.put_nowait(None)

    async def _follow_and_seal(self, sealer: Sealer, now_ms: Callable[[], int]) -> Outcome:
        while True:
            event = await self.job.events.get()
            if isinstance(event, StepOutcome):
                self._steps.put_nowait(event)
            elif isinstance(event, Ended):
                break
            elif isinstance(event, asyncio.CancelledError):
                raise NothingProducedError("the request was cancelled in the queue")
            else:
                raise event
        if not event.result.output_ids:
            raise NothingProducedError("the request was cancelled before its first token")
        sealing_ns = time.monotonic_ns()
        row = await sealer.seal(
            self.client,
            self.asked,
            self.request,
            self.session,
            event.result,
            self.start_ms,
            now_ms(),
        )
        measured = Measured(
            queue_ns=event.started_ns - event.queued_ns,
            prefill_ns=event.first_token_ns - event.started_ns,
            decode_ns=event.last_token_ns - event.first_token_ns,
            # From the last token, not from when this task got its turn.
            seal_ns=time.monotonic_ns() - min(sealing_ns, event.last_token_ns),
        )
        return Outcome(row, event.result, measured)


def _stopped(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)


def start_answering(
    worker: EngineWorker,
    *,
    client: str,
    asked: Asked,
    request: GenerationInput,
    session: Session,
    reservation: Reservation,
    start_ms: int,
    capacity: int,
    make: Callable[[Engine, Slot], Generation],
) -> Answering:
    """Queue the job; raises what `submit` raises. The caller runs `Answering.run` as a task."""
    loop = asyncio.get_running_loop()
    job = Job(client=client, capacity=capacity, make=make, events=asyncio.Queue(), loop=loop)
    outcome: asyncio.Future[Outcome] = loop.create_future()
    answering = Answering(
        client, asked, request, session, reservation, start_ms, worker, job, outcome
    )
    worker.submit(job)
    return answering
