"""Turns at one host: at most one request per interval, and a pause when the host asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from otr_attestation.ports import CollateralUnavailableError


class Pace:
    """The turns of one host. `clock` counts seconds; `sleep` waits for some."""

    def __init__(
        self,
        interval_seconds: float,
        max_wait_seconds: float,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval = interval_seconds
        self._max_wait = max_wait_seconds
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait for one's turn; CollateralUnavailableError at once if that would take too long."""
        now = self._now()
        start = max(now, self._free_at)
        if start - now > self._max_wait:
            raise CollateralUnavailableError(
                f"the host is asked no more for {start - now:.0f} s", field="key"
            )
        self._free_at = start + self._interval
        if start > now:
            await self._sleep(start - now)

    def pause(self, seconds: float) -> None:
        """Nobody gets a turn for that long: the host said so."""
        self._free_at = max(self._free_at, self._now() + seconds)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()
