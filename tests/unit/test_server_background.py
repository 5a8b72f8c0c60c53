"""A background task cannot fail unseen (otr_server.background)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from otr_server.background import RestartPolicy, Supervisor
from otr_server.metrics import ServerMetrics

QUICK = RestartPolicy(
    initial_seconds=0.001, maximum_seconds=0.002, settle_seconds=0.01, max_failures=4
)


class Watch:
    """A supervisor, and what it said."""

    def __init__(self, policy: RestartPolicy = QUICK) -> None:
        self.registry = CollectorRegistry()
        self.healths: list[bool] = []
        self.hopeless: asyncio.Queue[str] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(
            policy,
            ServerMetrics(self.registry),
            on_change=self._noted,
            on_hopeless=self.hopeless.put_nowait,
        )

    def _noted(self) -> None:
        self.healths.append(self.supervisor.healthy)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def failures(self, task: str) -> float | None:
        return self.registry.get_sample_value("otr_background_failures_total", {"task": task})


class Flaky:
    """Fails the first `failures` times, then runs until it is cancelled."""

    def __init__(self, failures: int, error: BaseException) -> None:
        self.left = failures
        self.error = error
        self.cancelled = False

    async def run(self) -> None:
        if self.left:
            self.left -= 1
            raise self.error
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True


async def test_a_failing_task_is_unhealthy_until_it_has_settled() -> None:
    watch = Watch()
    task = Flaky(2, OSError("disk"))
    watch.supervisor.start([task.run])
    await watch.until(lambda: watch.healths[-1:] == [True])
    assert watch.healths == [False, False, True]
    assert watch.failures("Flaky.run") == 2
    await watch.supervisor.stop()
    assert task.cancelled


async def test_a_task_that_keeps_failing_is_given_up() -> None:
    watch = Watch()
    watch.supervisor.start([Flaky(99, ValueError("bug")).run])
    async with asyncio.timeout(10):
        assert await watch.hopeless.get() == "Flaky.run"
    assert watch.failures("Flaky.run") == QUICK.max_failures
    assert not watch.supervisor.healthy
    await watch.supervisor.stop()


async def test_one_failing_task_does_not_stop_the_others() -> None:
    watch = Watch()
    steady, broken = Flaky(0, OSError()), Flaky(99, OSError())
    watch.supervisor.start([steady.run, broken.run])
    async with asyncio.timeout(10):
        await watch.hopeless.get()
    assert not steady.cancelled
    await watch.supervisor.stop()
    assert steady.cancelled


async def test_a_cancelled_future_inside_a_task_is_a_failure_too() -> None:
    watch = Watch()
    task = Flaky(1, asyncio.CancelledError())
    watch.supervisor.start([task.run])
    await watch.until(lambda: watch.healths[-1:] == [True])
    assert watch.failures("Flaky.run") == 1
    await watch.supervisor.stop()
    assert task.cancelled


async def test_a_task_that_returns_has_finished() -> None:
    watch = Watch()
    done = asyncio.Event()

    async def once() -> None:
        done.set()

    watch.supervisor.start([once])
    async with asyncio.timeout(10):
        await done.wait()
    await watch.supervisor.stop()
    assert watch.supervisor.healthy
    assert watch.hopeless.empty()


async def test_a_task_that_resists_is_left_behind() -> None:
    watch = Watch()
    release = asyncio.Event()
    started = asyncio.Event()

    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    watch.supervisor.start([stubborn])
    await started.wait()
    await watch.supervisor.stop(seconds=0.01)
    release.set()
