"""The collateral service's rules: what is kept, when it is asked for again, what is never served.

A piece is served until its next update and not a second longer. Before that moment it is asked for
again (`refresh`), so that an origin may be away for a while without anybody noticing. What has no
next update, a manifest or a certificate, is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import structlog

from otr_attestation.collateral_items import CollateralMismatchError, check, ocsp_key
from otr_attestation.metrics import CollateralMetrics
from otr_attestation.ports import (
    CollateralStore,
    CollateralUnavailableError,
    CollateralUnknownError,
    Origin,
    Stored,
)
from otr_protocol.attestation import collateral_keys
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind, key_of
from otr_protocol.errors import ExhaustedError, Refusal

MIN_REFRESH_SECONDS: Final = 60
_FAILURES_REMEMBERED: Final = 4096
_CHANGES_WAITING: Final = 256
_REFRESHED_AT_ONCE: Final = 64
_WATCH_RETRY_MS: Final = 1000

log = structlog.get_logger(__name__)


class CollateralExpiredError(CollateralUnknownError):
    """It is here, and must not be used any more."""

    reason = "COLLATERAL_EXPIRED"


class TooManyWatchersError(ExhaustedError):
    """As many watch as may."""

    reason = "TOO_MANY_WATCHERS"


class WatcherTooSlowError(ExhaustedError):
    """Changes came faster than this watcher read them; start over, and ask for what matters."""

    reason = "WATCHER_TOO_SLOW"


class Watch:
    """One watcher's changes, in order."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Stored] = asyncio.Queue(_CHANGES_WAITING)
        self._lost = False

    async def next(self) -> Stored:
        """The next change; raises WatcherTooSlowError if some were lost."""
        if self._lost:
            raise WatcherTooSlowError("changes were lost", retry_after_ms=_WATCH_RETRY_MS)
        return await self._waiting.get()

    def tell(self, item: Stored) -> None:
        """Add a change, or remember that there was no room for it."""
        try:
            self._waiting.put_nowait(item)
        except asyncio.QueueFull:
            self._lost = True


class Collaterals:
    """Answers from the store, then from the origins in order; one question per key at a time.

    `ports.CollateralClient` for a verifier in the same process.
    """

    def __init__(
        self,
        store: CollateralStore,
        origins: Sequence[Origin],
        metrics: CollateralMetrics,
        *,
        now_s: Callable[[], int],
        retry_seconds: float,
        refresh_ahead_seconds: int,
        keep_expired_seconds: int,
        max_fetches: int,
        max_watchers: int,
    ) -> None:
        self._store = store
        self._origins = tuple(origins)
        self._metrics = metrics
        self._now_s = now_s
        self._retry_seconds = retry_seconds
        self._refresh_ahead_seconds = refresh_ahead_seconds
        self._keep_expired_seconds = keep_expired_seconds
        self._max_watchers = max_watchers
        self._turn = asyncio.Semaphore(max_fetches)
        self._asking: dict[CollateralKey, asyncio.Task[Stored]] = {}
        self._failed: OrderedDict[CollateralKey, tuple[float, Refusal]] = OrderedDict()
        self._watches: set[Watch] = set()
        self._next_try: dict[str, int] = {}

    async def get(self, key: CollateralKey) -> Stored:
        """The piece under a key, fetched if it is not here.

        Raises CollateralUnknownError, CollateralUnavailableError or StoreFullError.
        """
        held = await asyncio.to_thread(self._store.by_key, key.text)
        if held is not None and held.usable(self._now_s()):
            self._metrics.answered(key.kind.value, "stored")
            return held
        try:
            fetched = await self._ask(key)
        except Refusal as refusal:
            unknown = isinstance(refusal, CollateralUnknownError)
            self._metrics.answered(key.kind.value, "unknown" if unknown else "unavailable")
            raise
        self._metrics.answered(key.kind.value, "fetched")
        return fetched

    async def get_digest(self, digest: bytes) -> Stored:
        """One content by its SHA-256; raises CollateralUnknownError or CollateralExpiredError."""
        held = await asyncio.to_thread(self._store.by_digest, digest)
        if held is None:
            raise CollateralUnknownError("nothing has this digest here", field="digest")
        if not held.usable(self._now_s()):
            raise CollateralExpiredError("it was to be renewed", field="digest")
        return held

    async def put(self, kind: CollateralKind, name: str, content: bytes) -> Stored:
        """Keep what an operator brings.

        Raises what `collateral_items.check` does, CollateralExpiredError for what has expired
        already, or StoreFullError.
        """
        key = ocsp_key(content) if kind is CollateralKind.OCSP else key_of(kind, name)
        if kind is CollateralKind.OCSP and name not in ("", key.name):
            raise CollateralMismatchError("the answer is about another certificate", field="name")
        item = await asyncio.to_thread(check, key, content)
        if not item.usable(self._now_s()):
            raise CollateralExpiredError("it was to be renewed already", field="content")
        return await self._keep(key, item)

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Changes from now on; raises TooManyWatchersError."""
        if len(self._watches) >= self._max_watchers:
            raise TooManyWatchersError(
                f"{self._max_watchers} watch already", retry_after_ms=_WATCH_RETRY_MS
            )
        watch = Watch()
        self._watches.add(watch)
        self._metrics.watchers.set(len(self._watches))
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            self._metrics.watchers.set(len(self._watches))

    async def refresh(self) -> None:
        """Ask again for what must be renewed soon, and drop what expired long ago."""
        now_s = self._now_s()
        due = await asyncio.to_thread(
            self._store.due, now_s + self._refresh_ahead_seconds, _REFRESHED_AT_ONCE
        )
        self._next_try = {
            item.key: self._next_try[item.key] for item in due if item.key in self._next_try
        }
        for item in due:
            # What nobody has asked for since it expired is not asked for on anybody's behalf.
            if item.next_update_s is None or not item.usable(now_s):
                continue
            if now_s < self._next_try.get(item.key, 0):
                continue
            # Sooner and sooner, so that an origin that is behind is not asked all the time.
            left = item.next_update_s - now_s
            self._next_try[item.key] = now_s + max(MIN_REFRESH_SECONDS, left // 4)
            try:
                await self._ask(collateral_keys.parse(item.key))
            except Refusal as refusal:
                log.info("not_refreshed", key=item.key, reason=refusal.reason)
        await asyncio.to_thread(self._store.forget, now_s - self._keep_expired_seconds)

    async def _ask(self, key: CollateralKey) -> Stored:
        """The newest from the origins; callers that ask for the same key wait for one answer."""
        failed = self._failed.get(key)
        if failed is not None:
            if asyncio.get_running_loop().time() < failed[0]:
                raise type(failed[1])(failed[1].message, field=failed[1].field)
            del self._failed[key]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key), name=f"fetch {key.text[:64]}")
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        # A caller that goes away does not take the answer from the others.
        return await asyncio.shield(task)

    def _asked(self, key: CollateralKey, task: asyncio.Task[Stored]) -> None:
        del self._asking[key]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, CollateralUnknownError | CollateralUnavailableError):
            until = asyncio.get_running_loop().time() + self._retry_seconds
            self._failed[key] = (until, error)
            if len(self._failed) > _FAILURES_REMEMBERED:
                self._failed.popitem(last=False)

    async def _fetch(self, key: CollateralKey) -> Stored:
        held = await asyncio.to_thread(self._store.by_key, key.text)
        current = held if held is not None and held.usable(self._now_s()) else None
        unavailable: Refusal | None = None
        async with self._turn:
            for origin in self._origins:
                try:
                    item = await self._from(origin, key)
                except CollateralUnavailableError as refusal:
                    self._metrics.fetched(origin.name, key.kind.value, "unavailable")
                    unavailable = refusal
                    continue
                # An origin that is behind does not take the place of what lasts longer.
                if item is not None and (current is None or _lasts_longer(item, current)):
                    return await self._keep(key, item)
        if current is not None:
            return current
        if unavailable is not None:
            raise CollateralUnavailableError(unavailable.message, field="key")
        raise CollateralUnknownError("nobody has it", field="key")

    async def _from(self, origin: Origin, key: CollateralKey) -> Stored | None:
        """What an origin has and may be used; raises CollateralUnavailableError."""
        content = await origin.fetch(key)
        if content is None:
            self._metrics.fetched(origin.name, key.kind.value, "absent")
            return None
        try:
            item = await asyncio.to_thread(check, key, content)
            if not item.usable(self._now_s()):
                raise CollateralExpiredError("it was to be renewed already", field="content")
        except Refusal as refusal:
            # What an origin sends is its word; a wrong one is passed over, and seen.
            self._metrics.fetched(origin.name, key.kind.value, "refused")
            log.warning(
                "collateral_refused",
                origin=origin.name,
                key=key.text,
                reason=refusal.reason,
                error=refusal.message,
            )
            return None
        self._metrics.fetched(origin.name, key.kind.value, "found")
        return item

    async def _keep(self, key: CollateralKey, item: Stored) -> Stored:
        if await asyncio.to_thread(self._store.put, item, self._now_s()):
            self._failed.pop(key, None)
            for watch in self._watches:
                watch.tell(item)
        return item


def _lasts_longer(item: Stored, current: Stored) -> bool:
    if item.next_update_s is None or current.next_update_s is None:
        return item.next_update_s is None and current.next_update_s is not None
    return item.next_update_s > current.next_update_s
