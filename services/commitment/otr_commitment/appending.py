"""From a call to the sequencer and back: admission, and one future per call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from otr_commitment.admission import Admission, Admitted
from otr_commitment.lookup import By, Key, find
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import Reader
from otr_commitment.sequencer import MAX_POOL_ENTRIES, Committed, Registered, Submission
from otr_commitment.standing import Standing
from otr_protocol.errors import ExhaustedError, Refusal
from otr_protocol.tlog.entry import EntryKind
from otr_server.shares import Shares, share_of

RETRY_MS: Final = 200
# Handing a call to a thread and back costs more than to admit a record or two (0.1 to 0.3 ms each).
INLINE_RECORDS: Final = 2


class TooManyPendingError(ExhaustedError):
    """As many records as may are waiting for their commit."""

    reason = "TOO_MANY_PENDING_ENTRIES"


@dataclass(frozen=True, slots=True)
class Offered:
    """A record of a call, and how its request names it in refusals."""

    kind: EntryKind
    record: bytes
    field: str


class Appender:
    """Appends for callers on the event loop."""

    def __init__(
        self,
        admission: Admission,
        reader: Reader,
        standing: Standing,
        threads: Executor,
        metrics: LogMetrics,
        *,
        max_pending: int,
        share: float,
    ) -> None:
        self._admission = admission
        self._reader = reader
        self._submit: Callable[[Submission], None] | None = None
        self._standing = standing
        self._threads = threads
        self._metrics = metrics
        self._pending = Shares(
            max_pending,
            share_of(max_pending, share, least=MAX_POOL_ENTRIES),
            TooManyPendingError,
            "records that wait for their commit",
            retry_ms=RETRY_MS,
        )

    def connect(self, submit: Callable[[Submission], None]) -> None:
        """Where admitted records go; never called for a log that may not go on."""
        self._submit = submit

    async def append(
        self, offered: Sequence[Offered], submitter: str, *, trusted: bool
    ) -> list[Registered]:
        """Append records in one commit, in order; returns when they are durable and published.

        Few records of a trusted submitter are admitted on the event loop. A guest's never are: it
        could choose tokens and blobs that take the disk long to find.
        All or nothing: the first record that is refused refuses the call. Raises what admission
        raises, TooManyPendingError, StorageFullError, OutcomeUnknownError, StoppingError, or the
        reason for which this process appends no more.
        """
        self._standing.require_good()
        self._pending.take(submitter, len(offered))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Registered]] = loop.create_future()
        if trusted and len(offered) <= INLINE_RECORDS:
            self._admit(offered, submitter, future, loop)
        else:
            self._threads.submit(self._admit, offered, submitter, future, loop)
        return await future

    def deliver(self, committed: Committed) -> None:
        """Tell the callers of a pool what came of it; on the event loop."""
        for submission, outcome in committed.outcomes:
            self._finish(submission.submitter, len(submission.records), submission.future, outcome)

    def _admit(
        self,
        offered: Sequence[Offered],
        submitter: str,
        future: asyncio.Future[list[Registered]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Parse and check every record, then queue them together. Runs on any thread."""
        try:
            tokens_seen: set[bytes] = set()
            records = [self._admitted(each, tokens_seen) for each in offered]
            if self._submit is None:
                raise RuntimeError("a log in good standing has a sequencer")
            self._submit(Submission(records, submitter, future))
        except Exception as error:
            if isinstance(error, Refusal):
                self._metrics.append_refused.inc(len(offered))
            loop.call_soon_threadsafe(self._finish, submitter, len(offered), future, error)

    def _admitted(self, offered: Offered, tokens_seen: set[bytes]) -> Admitted:
        try:
            parsed = self._admission.parse(offered.kind, offered.record)
            if parsed.statement is not None:
                try:
                    self._admission.require_blobs(parsed.statement, tokens_seen)
                except Refusal:
                    # What is in the log already was taken when its blobs were there: blobs may be
                    # pruned one day, and a writer that lost our answer must still get it.
                    key = Key(By.IDEMPOTENCY_KEY, parsed.admitted.idempotency_key)
                    if find(self._reader, key) is None:
                        raise
        except Refusal as refusal:
            inner = refusal.field
            refusal.field = offered.field if inner is None else f"{offered.field}.{inner}"
            raise
        return parsed.admitted

    def _finish(
        self,
        submitter: str,
        records: int,
        future: asyncio.Future[list[Registered]],
        outcome: list[Registered] | Exception,
    ) -> None:
        self._pending.give_back(submitter, records)
        if future.done():
            return  # the caller went away; what it sent is in the log all the same
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
