"""The queue in front of a real engine: fair, bounded, and honest when the engine breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from otr_client.models_at_hand import find_model
from otr_inference.engine_worker import (
    ClientQueueFullError,
    Ended,
    EngineFailedError,
    EngineStoppedError,
    EngineWorker,
    Job,
    QueueFullError,
)
from otr_numerics.engine import Engine, Slot
from otr_numerics.generation import Generation
from otr_numerics.model_file import LoadedModel, load_model
from otr_protocol.output import Finish
from otr_protocol.request import generation_input

SALT = b"s" * 32
SECONDS = 10.0


class BreakingEngine(Engine):
    """A real engine in which one call fails as a test says, like hardware that gives up."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model, slots=1, max_positions=64)
        self.at_close: BaseException | None = None
        self.at_forward: BaseException | None = None
        self.rows_lost = 0

    def close(self, slot: Slot) -> None:
        if self.at_close is not None:
            raise self.at_close
        super().close(slot)

    def forward(self, feeds: Any, **options: Any) -> Any:
        if self.at_forward is not None:
            raise self.at_forward
        logits = super().forward(feeds, **options)
        return logits[self.rows_lost :]


class Hardware(BaseException):
    """What no handler of ordinary errors catches."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(find_model("otr-tiny").directory)


@pytest.fixture
def engine(model: LoadedModel) -> BreakingEngine:
    return BreakingEngine(model)


@pytest.fixture
def job(model: LoadedModel) -> Callable[..., Job]:
    def make(client: str = "a", max_tokens: int = 2) -> Job:
        request = generation_input([1, 2, 3], max_tokens=max_tokens)
        return Job(
            client=client,
            capacity=3 + max_tokens,
            make=lambda engine, slot: Generation(model, request, SALT, slot),
            events=asyncio.Queue(),
            loop=asyncio.get_running_loop(),
        )

    return make


def worker_of(engine: Engine, **limits: int) -> EngineWorker:
    return EngineWorker(
        engine, **{"max_running": 1, "max_waiting": 8, "max_waiting_per_client": 8, **limits}
    )


async def end_of(job: Job) -> Any:
    """The last event of a job."""
    async with asyncio.timeout(SECONDS):
        while True:
            event = await job.events.get()
            if isinstance(event, Ended | BaseException):
                return event


async def test_a_cancelled_job_gives_its_place_in_the_queue_back_at_once(
    engine: BreakingEngine, job: Callable[..., Job]
) -> None:
    worker = worker_of(engine)  # not started: nothing leaves the queue by being served
    jobs = [job("greedy") for _ in range(8)]
    for each in jobs:
        worker.submit(each)
    with pytest.raises(QueueFullError):
        worker.submit(job("patient"))
    for each in jobs:
        worker.cancel(each, Finish.CANCELLED)
        worker.cancel(each, Finish.CANCELLED)
    assert worker.waiting == 0
    assert [type(await end_of(each)) for each in jobs] == [asyncio.CancelledError] * 8
    worker.submit(job("patient"))


async def test_one_client_cannot_take_every_place(
    engine: BreakingEngine, job: Callable[..., Job]
) -> None:
    worker = worker_of(engine, max_waiting_per_client=2)
    worker.submit(job("greedy"))
    worker.submit(job("greedy"))
    with pytest.raises(ClientQueueFullError) as caught:
        worker.submit(job("greedy"))
    assert (caught.value.retry_after_ms or 0) > 0
    worker.submit(job("patient"))


async def test_a_slot_that_cannot_be_closed_ends_its_job_and_is_not_used_again(
    engine: BreakingEngine, job: Callable[..., Job]
) -> None:
    worker = worker_of(engine)
    worker.start()
    engine.at_close = RuntimeError("close")
    first, second = job(), job()
    worker.submit(first)
    worker.submit(second)
    assert isinstance(await end_of(first), Ended)
    # It was the only slot: nothing can be answered any more, and everybody is told.
    assert isinstance(await end_of(second), EngineFailedError)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(EngineStoppedError):
            await worker.watch()
    worker.stop()


async def test_too_few_logits_end_the_jobs_and_not_the_thread(
    engine: BreakingEngine, job: Callable[..., Job]
) -> None:
    worker = worker_of(engine)
    worker.start()
    engine.rows_lost = 1
    broken, whole = job(), job()
    worker.submit(broken)
    assert isinstance(await end_of(broken), EngineFailedError)
    engine.rows_lost = 0
    worker.submit(whole)
    assert isinstance(await end_of(whole), Ended)
    worker.stop()


async def test_when_the_thread_dies_every_job_and_the_process_hear_of_it(
    engine: BreakingEngine, job: Callable[..., Job]
) -> None:
    worker = worker_of(engine)
    engine.at_forward = Hardware()
    jobs = [job(), job()]
    for each in jobs:
        worker.submit(each)
    watching = asyncio.create_task(worker.watch())
    worker.start()
    for each in jobs:
        assert isinstance(await end_of(each), EngineFailedError)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(EngineStoppedError):
            await watching
    with pytest.raises(EngineStoppedError):
        worker.submit(job())
    worker.stop()
