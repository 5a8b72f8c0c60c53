"""The engine's thread: a fair queue in front of continuous batching.

One thread owns the engine. Every round it admits waiting jobs while slots are free, asks each
running generation what to feed, runs one forward pass over all of them, and hands the outcomes to
the event loop in one call. The kernels release the GIL, so gRPC keeps streaming while the model
computes. Cancellation takes effect before the next pass, and at once for a job that waits. Jobs
wait in one queue per client, served in turn and bounded, so that one client's burst cannot starve
another.

The thread outlives a pass that fails and ends only with `stop`, or for good when something fails
that no job can be blamed for: then every job hears of it, nothing more is taken, and `watch` raises
so that the process says NOT_SERVING and gives up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from otr_numerics.engine import Engine, Slot
from otr_numerics.generation import Generation, GenerationResult, StepOutcome
from otr_protocol.errors import ExhaustedError, UnavailableError
from otr_protocol.output import Finish

log = structlog.get_logger(__name__)


class QueueFullError(ExhaustedError):
    """Every place in the queue is taken."""

    reason = "QUEUE_FULL"


class ClientQueueFullError(ExhaustedError):
    """This client has as many requests in the queue as one client may have."""

    reason = "CLIENT_QUEUE_FULL"


class EngineStoppedError(UnavailableError):
    """The engine's thread has ended and this process answers nothing more."""

    reason = "ENGINE_STOPPED"


class EngineFailedError(Exception):
    """The engine raised; the job has no answer. A bug, not a refusal."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of a job: what was generated and the clock readings around it."""

    result: GenerationResult
    queued_ns: int
    started_ns: int
    first_token_ns: int
    last_token_ns: int


Event = StepOutcome | Ended | BaseException


@dataclass(eq=False, slots=True)
class Job:
    """One generation on its way through the queue and the engine.

    Events arrive in `events` on the loop that submitted the job: step outcomes, then one `Ended`
    (or an exception).
    """

    client: str
    capacity: int
    make: Callable[[Engine, Slot], Generation]
    events: asyncio.Queue[Event]
    loop: asyncio.AbstractEventLoop
    queued_ns: int = field(default_factory=time.monotonic_ns)
    cancel_as: Finish | None = None
    generation: Generation | None = None
    slot: Slot | None = None
    started_ns: int = 0
    first_token_ns: int = 0

    def mark_cancelled(self, finish: Finish) -> None:
        """Have the engine's thread end this with `finish`. The first reason given stays."""
        if self.cancel_as is None:
            self.cancel_as = finish


class EngineWorker:
    """Owns the engine and its thread."""

    def __init__(
        self, engine: Engine, *, max_running: int, max_waiting: int, max_waiting_per_client: int
    ) -> None:
        self._engine = engine
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_waiting_per_client = max_waiting_per_client
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._waiting_count = 0
        self._running: list[Job] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._died: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._recent_seconds = 1.0

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End every job as aborted by the server and join the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def running(self) -> int:
        """Generations in progress."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Generations in the queue."""
        return self._waiting_count

    async def watch(self) -> None:
        """Wait for ever; raises EngineStoppedError once the thread has failed for good."""
        await asyncio.shield(asyncio.wrap_future(self._died))
        raise EngineStoppedError("the engine's thread has ended")

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises QueueFullError or ClientQueueFullError with a hint when to come back, and
        EngineStoppedError.
        """
        with self._wake:
            if self._died.done():
                raise EngineStoppedError("the engine's thread has ended")
            if self._stopping:
                raise QueueFullError("the server is shutting down", retry_after_ms=5_000)
            if self._waiting_count >= self._max_waiting:
                raise QueueFullError(
                    f"{self._waiting_count} requests are waiting already",
                    retry_after_ms=self._retry_ms(self._waiting_count),
                )
            own = len(self._waiting.get(job.client, ()))
            if own >= self._max_waiting_per_client:
                raise ClientQueueFullError(
                    f"{own} requests of this client are waiting already",
                    retry_after_ms=self._retry_ms(own),
                )
            self._waiting.setdefault(job.client, deque()).append(job)
            self._waiting_count += 1
            self._wake.notify()

    def cancel(self, job: Job, finish: Finish) -> None:
        """End a job with `finish`: at once if it waits, else before the next pass.

        Without effect on a job that has ended; the first reason given stays.
        """
        job.mark_cancelled(finish)
        with self._wake:
            queue = self._waiting.get(job.client)
            if queue is None or job not in queue:
                return
            queue.remove(job)
            self._waiting_count -= 1
            if not queue:
                del self._waiting[job.client]
        self._post(job, asyncio.CancelledError("cancelled in the queue"))

    def _retry_ms(self, ahead: int) -> int:
        rounds = 1 + ahead // max(1, self._max_running)
        return max(100, int(1000 * self._recent_seconds * rounds))

    def _work(self) -> None:
        try:
            self._work_until_stopped()
        except BaseException as error:
            log.critical("engine_thread_ended", exc_info=error)
            with self._wake:  # from here on nothing is queued any more
                self._died.set_result(None)
            for job in self._drain_everything():
                self._fail(job, error)

    def _work_until_stopped(self) -> None:
        while True:
            with self._wake:
                while not self._running and not self._waiting_count and not self._stopping:
                    self._wake.wait()
                if self._stopping:
                    break
                if not self._max_running:
                    raise EngineFailedError("every slot is lost")
                admitted = self._take_waiting()
            for job in admitted:
                self._begin(job)
            self._round()
        for job in self._drain_everything():
            job.mark_cancelled(Finish.ABORTED)
            self._finish(job)

    def _drain_everything(self) -> list[Job]:
        with self._wake:
            jobs = self._running + [job for queue in self._waiting.values() for job in queue]
            self._running = []
            self._waiting.clear()
            self._waiting_count = 0
        return jobs

    def _take_waiting(self) -> list[Job]:
        """Move waiting jobs to the running set, one client after another."""
        taken: list[Job] = []
        while self._waiting and len(self._running) < self._max_running:
            client, queue = self._waiting.popitem(last=False)
            job = queue.popleft()
            self._waiting_count -= 1
            if queue:
                self._waiting[client] = queue
            self._running.append(job)
            taken.append(job)
        return taken

    def _begin(self, job: Job) -> None:
        """Give a job its slot. A cancelled one gets none and ends in the round that follows."""
        job.started_ns = time.monotonic_ns()
        if job.cancel_as is not None:
            return
        try:
            job.slot = self._engine.open(job.capacity)
            job.generation = job.make(self._engine, job.slot)
        except Exception as error:
            self._running.remove(job)
            self._fail(job, error)

    def _round(self) -> None:
        """End what was cancelled, then advance everything else by one pass."""
        for job in [job for job in self._running if job.cancel_as is not None]:
            self._running.remove(job)
            self._finish(job)
        jobs = list(self._running)
        if not jobs:
            return
        try:
            feeds = [(job.slot, job.generation.feed()) for job in jobs]  # type: ignore[union-attr]
            logits = self._engine.forward(feeds)  # type: ignore[arg-type]
            if len(logits) != len(jobs):
                raise EngineFailedError(f"{len(logits)} rows of logits for {len(jobs)} jobs")
        except Exception as error:
            self._running.clear()
            for job in jobs:
                self._fail(job, error)
            return
        for job, row in zip(jobs, logits, strict=True):
            try:
                outcome = job.generation.accept(row)  # type: ignore[union-attr]
            except Exception as error:
                self._running.remove(job)
                self._fail(job, error)
                continue
            if outcome is None:  # a chunk of the prompt: no token yet
                continue
            if not job.first_token_ns:
                job.first_token_ns = time.monotonic_ns()
            self._post(job, outcome)
            if outcome.finish is not None:
                self._running.remove(job)
                self._finish(job)

    def _finish(self, job: Job) -> None:
        """Close a job's generation and post its end."""
        last = time.monotonic_ns()
        try:
            if job.generation is None:
                self._post(job, asyncio.CancelledError("cancelled in the queue"))
                return
            if job.cancel_as is not None:
                job.generation.stop(job.cancel_as)
            result = job.generation.result()
            seconds = (last - job.started_ns) / 1e9
            self._recent_seconds = 0.8 * self._recent_seconds + 0.2 * seconds
            self._post(
                job,
                Ended(result, job.queued_ns, job.started_ns, job.first_token_ns or last, last),
            )
        except Exception as error:
            self._fail(job, error)
        finally:
            self._close_slot(job)

    def _fail(self, job: Job, error: BaseException) -> None:
        log.error("engine_failed", exc_info=error)
        self._close_slot(job)
        failure = EngineFailedError("the engine failed")
        failure.__cause__ = error
        self._post(job, failure)

    def _close_slot(self, job: Job) -> None:
        """Give the slot back; one that cannot be closed is lost, and its job has ended anyway."""
        slot, job.slot = job.slot, None
        if slot is None:
            return
        try:
            self._engine.close(slot)
        except Exception as error:
            log.error("slot_lost", exc_info=error)
            self._max_running -= 1

    @staticmethod
    def _post(job: Job, event: Event) -> None:
        try:
            job.loop.call_soon_threadsafe(job.events.put_nowait, event)
        except RuntimeError:  # the loop is gone: nobody is left to tell
            log.warning("event_without_listener")
