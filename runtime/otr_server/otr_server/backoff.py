"""Exponential backoff with jitter: how long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays that double up to a ceiling, each drawn from the upper half of its step.

    The jitter keeps clients that failed together from returning together; half of the step is fixed
    so that a delay is never close to zero. `draw` returns a number in [0, 1).
    """

    def __init__(
        self,
        *,
        initial_seconds: float = 0.1,
        maximum_seconds: float = 30.0,
        factor: float = 2.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not (0 < initial_seconds <= maximum_seconds and factor >= 1):
            raise ValueError("0 < initial_seconds <= maximum_seconds and factor >= 1")
        self._initial = initial_seconds
        self._maximum = maximum_seconds
        self._factor = factor
        self._draw = draw
        self._step = initial_seconds

    def next_seconds(self, *, at_least: float = 0.0) -> float:
        """The next delay; the jitter comes on top of `at_least`, which the other side asked for."""
        step = self._step
        self._step = min(self._maximum, step * self._factor)
        jitter = self._draw() * step / 2
        return max(step / 2, at_least) + jitter

    def reset(self) -> None:
        """Start over, after a success."""
        self._step = self._initial
