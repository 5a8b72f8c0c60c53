"""Turns at one host: an interval between them, a pause when told, and no endless waiting."""

from __future__ import annotations

import pytest

from otr_attestation.pacing import Pace
from otr_attestation.ports import CollateralUnavailableError


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def pace(self, interval: float, max_wait: float) -> Pace:
        return Pace(interval, max_wait, clock=lambda: self.now, sleep=self.sleep)


async def test_turns_are_an_interval_apart() -> None:
    time = Time()
    pace = time.pace(10.0, 100.0)
    for _ in range(3):
        await pace.turn()
    assert time.slept == [10.0, 20.0]
    time.now += 30.0
    await pace.turn()
    assert time.slept == [10.0, 20.0]


async def test_who_would_wait_too_long_is_told_at_once_and_takes_no_turn() -> None:
    time = Time()
    pace = time.pace(10.0, 15.0)
    await pace.turn()
    await pace.turn()
    for _ in range(3):
        with pytest.raises(CollateralUnavailableError):
            await pace.turn()
    time.now += 5.0
    await pace.turn()
    assert time.slept == [10.0, 15.0]


async def test_a_pause_holds_for_everybody() -> None:
    time = Time()
    pace = time.pace(0.0, 60.0)
    pace.pause(30.0)
    await pace.turn()
    await pace.turn()
    assert time.slept == [30.0, 30.0]
    pace.pause(5.0)  # shorter than what holds already
    await pace.turn()
    assert time.slept[-1] == 30.0
    pace.pause(61.0)
    with pytest.raises(CollateralUnavailableError):
        await pace.turn()
