"""Waiting for the log to grow: woken in time, never leaked, bounded."""

from __future__ import annotations

import asyncio

import pytest

from otr_commitment.ports import Head
from otr_commitment.publication import NotPublishedError, Publication, TooManyWaitersError
from otr_protocol.digest import H


def head(tree_size: int) -> Head:
    return Head(tree_size, H(b"root"), f"note {tree_size}", 0)


def publication(tree_size: int = 0, *, max_waiters: int = 10) -> Publication:
    return Publication(head(tree_size), max_waiters=max_waiters, share=1)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_size_that_is_there_needs_no_wait() -> None:
    assert await publication(5).reach("a", 5, 0.0)


async def test_waiters_wake_when_their_size_is_published_and_not_before() -> None:
    log = publication(5)
    waits = {size: asyncio.create_task(log.reach("a", size, None)) for size in (6, 7, 10)}
    await settle()
    log.publish(head(7), ())
    await settle()
    assert [size for size, task in waits.items() if task.done()] == [6, 7]
    log.publish(head(10), ())
    assert await waits[10]


async def test_time_that_is_up_is_an_answer() -> None:
    log = publication(5)
    assert not await log.reach("a", 6, 0.0)
    assert log._by_size == {}


async def test_an_entry_is_noticed_by_its_prefix() -> None:
    log = publication()
    with log.expect(17) as expected, log.expect(17) as another:
        waits = [asyncio.create_task(each.wait("a", 60)) for each in (expected, another)]
        await settle()
        log.publish(head(1), (3, 4))
        await settle()
        assert not any(task.done() for task in waits)
        log.publish(head(2), (4, 17))
        await asyncio.gather(*waits)
    assert log._by_prefix == {}


async def test_an_entry_published_between_look_up_and_wait_is_not_missed() -> None:
    log = publication()
    with log.expect(17) as expected:
        log.publish(head(1), (17,))
        await asyncio.wait_for(expected.wait("a", 60), 1)


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    log = publication()
    task = asyncio.create_task(log.reach("a", 1, None))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log._by_size == {}
    assert await publication(1).reach("a", 1, None)


async def test_waiters_are_bounded_and_come_back_when_others_leave() -> None:
    log = publication(max_waiters=2)
    waits = [asyncio.create_task(log.reach("a", 1, None)) for _ in range(2)]
    await settle()
    with pytest.raises(TooManyWaitersError):
        await log.reach("a", 1, 5)
    log.publish(head(1), ())
    await asyncio.gather(*waits)
    assert not await log.reach("a", 2, 0.0)


async def test_one_caller_cannot_be_all_waiters() -> None:
    log = Publication(head(0), max_waiters=8)
    waits = [asyncio.create_task(log.reach("a", 1, None)) for _ in range(2)]
    await settle()
    with pytest.raises(TooManyWaitersError):
        await log.reach("a", 1, 5)
    with pytest.raises(TooManyWaitersError), log.expect(3) as expected:
        await expected.wait("a", 5)
    waits.append(asyncio.create_task(log.reach("b", 1, None)))
    await settle()
    log.publish(head(1), ())
    assert all(await asyncio.gather(*waits))


async def test_everybody_wakes_when_the_process_stops() -> None:
    log = publication()
    waits = [asyncio.create_task(log.reach("a", 1, None))]
    with log.expect(3) as expected:
        waits.append(asyncio.create_task(expected.wait("a", 60)))  # type: ignore[arg-type]
        await settle()
        log.close()
        await asyncio.wait_for(asyncio.gather(*waits), 1)
    assert log.closed
    assert not await log.reach("a", 1, None)


async def test_a_log_with_nothing_to_stand_behind_says_so() -> None:
    with pytest.raises(NotPublishedError):
        await Publication(None, max_waiters=1).reach("a", 0, 0.0)
