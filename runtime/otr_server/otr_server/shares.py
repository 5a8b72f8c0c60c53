"""No caller takes everything: places that callers hold, and amounts that they use up.

Every bound of a process that callers can fill is kept by one of these two, so that a single
certificate can never shut out the others. Callers are identities' URIs; nobody queues, who is over
a bound is refused with a hint when to come back. Event loop only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from otr_protocol.errors import ExhaustedError

DEFAULT_SHARE = 0.25


def share_of(limit: int, share: float = DEFAULT_SHARE, *, least: int = 1) -> int:
    """How much of `limit` one caller may take: that fraction, and `least` if there is so much."""
    return max(int(limit * share), min(least, limit))


class Shares:
    """`limit` places for all callers together, at most `each` of them for one.

    Raises `refusal` with the hint `retry_ms` where there is no place; `what` is its message's noun.
    """

    def __init__(
        self, limit: int, each: int, refusal: type[ExhaustedError], what: str, *, retry_ms: int
    ) -> None:
        self._limit = limit
        self._each = each
        self._refusal = refusal
        self._what = what
        self._retry_ms = retry_ms
        self._taken = 0
        self._by_caller: dict[str, int] = {}

    def take(self, caller: str, places: int = 1) -> None:
        """Take places, to be given back. Raises the refusal, and takes nothing then."""
        if self._taken + places > self._limit:
            raise self._refusal(f"too many {self._what}", retry_after_ms=self._retry_ms)
        own = self._by_caller.get(caller, 0) + places
        if own > self._each:
            raise self._refusal(
                f"too many {self._what} of one caller: {self._each} at most",
                retry_after_ms=self._retry_ms,
            )
        self._taken += places
        self._by_caller[caller] = own

    def give_back(self, caller: str, places: int = 1) -> None:
        """Give back what was taken."""
        self._taken -= places
        self._by_caller[caller] -= places
        if not self._by_caller[caller]:
            del self._by_caller[caller]

    @contextmanager
    def taken(self, caller: str, places: int = 1) -> Iterator[None]:
        """Places for the time of a block."""
        self.take(caller, places)
        try:
            yield
        finally:
            self.give_back(caller, places)


class Ration:
    """An amount that each caller may use up in every period of `seconds`, then none until the next.

    Raises `refusal` with the rest of the period as its hint; `what` is its message's noun.
    """

    def __init__(
        self,
        each: int,
        seconds: float,
        refusal: type[ExhaustedError],
        what: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each = each
        self._seconds = seconds
        self._refusal = refusal
        self._what = what
        self._clock = clock
        self._period = 0
        self._used: dict[str, int] = {}

    def use(self, caller: str, amount: int) -> None:
        """Use some of a caller's ration. Raises the refusal, and uses nothing then."""
        now = self._clock()
        period = int(now // self._seconds)
        if period != self._period:
            self._period, self._used = period, {}
        used = self._used.get(caller, 0) + amount
        if used > self._each:
            left = (period + 1) * self._seconds - now
            raise self._refusal(
                f"one caller may use {self._each} {self._what} per {self._seconds:g} s",
                retry_after_ms=int(left * 1000) + 1,
            )
        self._used[caller] = used
