"""The published tree, and who waits for more of it. Event loop only.

A head is published when its entries are durable and the guard has marked it. Readers never look
beyond the published head, although the store may already hold the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from otr_commitment.ports import Head, Mark
from otr_protocol.errors import ExhaustedError, RejectedError
from otr_server.shares import DEFAULT_SHARE, Shares, share_of

RETRY_MS = 1000


class TooManyWaitersError(ExhaustedError):
    """As many calls as may are waiting for the log to grow."""

    reason = "TOO_MANY_WAITERS"


class NotPublishedError(RejectedError):
    """The log has no tree to show: its data do not lead to what it has signed."""

    reason = "LOG_NOT_PUBLISHED"


class Publication:
    """The newest published head; started with None, there is nothing to stand behind.

    At most `max_waiters` calls wait for more of it, of one caller the part `share` of them.
    """

    def __init__(
        self, head: Head | None, *, max_waiters: int, share: float = DEFAULT_SHARE
    ) -> None:
        self._head = head
        self._waiters = Shares(
            max_waiters,
            share_of(max_waiters, share),
            TooManyWaitersError,
            "calls that wait for the log",
            retry_ms=RETRY_MS,
        )
        self._closed = False
        self._by_size: dict[asyncio.Future[None], int] = {}
        self._by_prefix: dict[int, set[asyncio.Future[None]]] = {}

    @property
    def head(self) -> Head:
        """The newest published head; NotPublishedError if there is none."""
        if self._head is None:
            raise NotPublishedError("the log's data do not lead to its signed checkpoint")
        return self._head

    @property
    def mark(self) -> Mark:
        """Size and root of the newest published tree."""
        head = self.head
        return Mark(head.tree_size, head.root_hash)

    @property
    def closed(self) -> bool:
        """Whether the process is stopping: endless streams end."""
        return self._closed

    def publish(self, head: Head, prefixes: Collection[int]) -> None:
        """Show a new head and wake who waited for its size, or for an entry with such a prefix."""
        self._head = head
        for waiter, size in self._by_size.items():
            if size <= head.tree_size:
                _wake(waiter)
        if self._by_prefix:
            for prefix in self._by_prefix.keys() & set(prefixes):
                for waiter in self._by_prefix[prefix]:
                    _wake(waiter)

    def close(self) -> None:
        """Wake everybody: nothing more will be published."""
        self._closed = True
        for waiter in self._by_size:
            _wake(waiter)
        for waiters in self._by_prefix.values():
            for waiter in waiters:
                _wake(waiter)

    async def reach(self, caller: str, tree_size: int, seconds: float | None) -> bool:
        """Whether the published tree has `tree_size` leaves, waiting so long for it (None: ever).

        Raises TooManyWaitersError.
        """
        if self.head.tree_size < tree_size:
            waiter = self._new_waiter()
            self._by_size[waiter] = tree_size
            try:
                await self._wait(caller, waiter, seconds)
            finally:
                del self._by_size[waiter]
        return self.head.tree_size >= tree_size

    def expect(self, prefix: int) -> Expected:
        """Notice entries with this prefix from now on; to be used as a context manager."""
        return Expected(self, prefix)

    def _new_waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            waiter.set_result(None)
        return waiter

    async def _wait(self, caller: str, waiter: asyncio.Future[None], seconds: float | None) -> None:
        try:
            with self._waiters.taken(caller), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter
        finally:
            waiter.cancel()


class Expected:
    """Waits for an entry that can be looked up under one prefix."""

    def __init__(self, publication: Publication, prefix: int) -> None:
        self._publication = publication
        self._prefix = prefix
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Expected:
        self._waiter = self._publication._new_waiter()
        self._publication._by_prefix.setdefault(self._prefix, set()).add(self._waiter)
        return self

    def __exit__(self, *_: object) -> None:
        waiters = self._publication._by_prefix.get(self._prefix, set())
        if self._waiter is not None:
            self._waiter.cancel()
            waiters.discard(self._waiter)
        if not waiters:
            self._publication._by_prefix.pop(self._prefix, None)

    async def wait(self, caller: str, seconds: float) -> None:
        """Return when such an entry was published, or after `seconds`."""
        assert self._waiter is not None
        await self._publication._wait(caller, self._waiter, seconds)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
