"""The helper threads of an engine: they all run the same kernel and meet at its barriers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class _Helper:
    """One helper: sleeps until it is given arguments, runs, says so."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.work: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self.start = threading.Semaphore(0)
        self.done = threading.Semaphore(0)

    def loop(self) -> None:
        while True:
            self.start.acquire()
            if self.work is None:
                return
            function, arguments = self.work
            try:
                function(*arguments)
            finally:
                self.work = None
                self.done.release()


def _stop(helpers: list[_Helper]) -> None:
    for helper in helpers:
        helper.work = None
        helper.start.release()


class StepThreads:
    """Runs a kernel in `count` threads, the caller's among them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._helpers = [_Helper(index) for index in range(1, count)]
        for helper in self._helpers:
            threading.Thread(
                target=helper.loop, name=f"otr-step-{helper.index}", daemon=True
            ).start()
        weakref.finalize(self, _stop, self._helpers)

    def run(
        self,
        function: Callable[..., Any],
        barrier: npt.NDArray[np.int64],
        arguments: tuple[Any, ...],
    ) -> None:
        """Call `function(*arguments, thread, count)` once per thread, and wait for all of them."""
        if not self._helpers:
            function(*arguments, 0, 1)
            return
        # Every thread has left the last barrier: `done` was acquired from each.
        barrier[0] = 0
        for helper in self._helpers:
            helper.work = (function, (*arguments, helper.index, self.count))
            helper.start.release()
        try:
            function(*arguments, 0, self.count)
        finally:
            for helper in self._helpers:
                helper.done.acquire()
