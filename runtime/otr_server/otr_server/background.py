"""Background tasks that cannot fail unseen.

A background task runs for as long as the process does: it tails the log, renews a session, sends an
outbox. If it raises, the failure is logged with its traceback and counted, health goes to
NOT_SERVING, and the task is started again after a backoff. Once it has run for `settle_seconds`
without failing, it counts as healthy. After `max_failures` failures in a row without settling in
between, the process gives up: it drains and exits with 1, because a supervisor that restarts it
cleans more than we can from inside, and an operator sees a restarting pod.

What a task expects to fail, such as a peer that does not answer, it handles itself: this is for
what it did not expect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from otr_server.backoff import Backoff
from otr_server.metrics import ServerMetrics

BackgroundTask = Callable[[], Awaitable[None]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How failing background tasks are treated."""

    initial_seconds: float = 0.1
    maximum_seconds: float = 30.0
    settle_seconds: float = 5.0
    max_failures: int = 10


class Supervisor:
    """Runs background tasks.

    `on_change` is called when `healthy` may have changed, `on_hopeless` with the name of a task
    that is not started again.
    """

    def __init__(
        self,
        policy: RestartPolicy,
        metrics: ServerMetrics,
        *,
        on_change: Callable[[], None],
        on_hopeless: Callable[[str], None],
    ) -> None:
        self._policy = policy
        self._metrics = metrics
        self._on_change = on_change
        self._on_hopeless = on_hopeless
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[int] = set()

    @property
    def healthy(self) -> bool:
        """Whether every task runs, finished by itself, or has settled since its last failure."""
        return not self._failing

    def start(self, tasks: Sequence[BackgroundTask]) -> None:
        """Start all tasks."""
        for index, run in enumerate(tasks, start=len(self._tasks)):
            name = getattr(run, "__qualname__", repr(run))
            task = asyncio.create_task(self._keep(index, name, run), name=f"background {name}")
            self._tasks.append(task)

    async def stop(self, *, seconds: float = 5.0) -> None:
        """Cancel all tasks and wait for them; one that resists longer than `seconds` is left."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, resisting = await asyncio.wait(self._tasks, timeout=seconds)
            for task in resisting:
                log.error("background_resists", task=task.get_name())
        self._tasks.clear()

    async def _keep(self, index: int, name: str, run: BackgroundTask) -> None:
        loop = asyncio.get_running_loop()
        policy = self._policy
        backoff = Backoff(
            initial_seconds=policy.initial_seconds, maximum_seconds=policy.maximum_seconds
        )
        failures = 0
        while True:
            started = loop.time()
            settling = loop.call_later(policy.settle_seconds, self._recovered, index)
            try:
                await run()
            except asyncio.CancelledError as error:
                if _cancelled_from_outside():
                    raise
                # A future that the task awaited was cancelled: to the task that is a failure.
                cause: BaseException = error
            except Exception as error:
                cause = error
            else:
                log.info("background_finished", task=name)
                self._recovered(index)
                return
            finally:
                settling.cancel()
            if loop.time() - started >= policy.settle_seconds:
                failures = 0
                backoff.reset()
            failures += 1
            self._metrics.background_failed(name)
            self._failing.add(index)
            self._on_change()
            if failures >= policy.max_failures:
                log.critical("background_hopeless", task=name, failures=failures, exc_info=cause)
                self._on_hopeless(name)
                return
            delay = backoff.next_seconds()
            log.error(
                "background_failed",
                task=name,
                failures=failures,
                restart_seconds=round(delay, 3),
                exc_info=cause,
            )
            await asyncio.sleep(delay)

    def _recovered(self, index: int) -> None:
        if index in self._failing:
            self._failing.discard(index)
            self._on_change()


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
