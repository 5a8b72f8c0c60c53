"""Group commit: the one thread that gives out indices (spec/log.md, "Appending").

    queue -> pool -> entries, lookups, tiles, head in one transaction -> guard -> published

What waits in the queue while a commit runs is the next pool, so a lonely record is committed at
once and a crowd shares its syncs. There is no timer: the disk sets the pace, and a pause for more
records was measured to make nothing cheaper. An index leaves this thread after the transaction is
durable and the guard has moved; until then nobody, readers included, has heard of it. A record that
is in the log, or twice in a pool, gets its one index every time.

Failures. When the disk is full the transaction left nothing behind: the pool is refused and the
next one is tried. After any other failure nobody knows what reached the disk, and signing on could
make a fork: the process appends no more, and the checks at the next start decide (continuity).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import structlog

from otr_commitment.admission import Admitted
from otr_commitment.lookup import By, Key, first_of, prefix_of
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import (
    Clock,
    Guard,
    GuardConflictError,
    Head,
    Mark,
    NewEntry,
    Pool,
    StorageFullError,
    Writer,
)
from otr_commitment.standing import Standing
from otr_protocol.errors import RejectedError, UnavailableError
from otr_protocol.tlog.checkpoint import Checkpoint, sign_checkpoint
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.entry import Entry
from otr_protocol.tlog.note import SignerKey
from otr_protocol.tlog.tree import EMPTY_ROOT, leaf_hash

MAX_POOL_ENTRIES: Final = 256

log = structlog.get_logger(__name__)


class WriterFailedError(RejectedError):
    """The writer failed in a way that leaves its state unknown; the process must be restarted."""

    reason = "LOG_WRITER_FAILED"


class OutcomeUnknownError(UnavailableError):
    """Whether the record was kept will be known after a restart; appending it again is safe."""

    reason = "APPEND_OUTCOME_UNKNOWN"


class StoppingError(UnavailableError):
    """The log is stopping and takes nothing more."""

    reason = "LOG_STOPPING"


@dataclass(frozen=True, slots=True)
class Registered:
    """A record in the log. `entry` is the leaf's bytes; `leaf_hash` has 32."""

    leaf_index: int
    leaf_hash: bytes
    log_time_ms: int
    duplicate: bool
    entry: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """Records of one call, kept together: they go into one pool, in order."""

    records: Sequence[Admitted]
    submitter: str
    future: asyncio.Future[list[Registered]]
    submitted_at: float = field(default_factory=time.perf_counter)


Outcome: TypeAlias = "list[Registered] | Exception"


@dataclass(frozen=True, slots=True)
class Committed:
    """What a pool came to. `head` is the head to publish, None if nothing was added."""

    head: Head | None
    prefixes: tuple[int, ...]
    outcomes: Sequence[tuple[Submission, Outcome]]


@dataclass(frozen=True, slots=True)
class Start:
    """The checked state that a process appends to."""

    edge: Edge
    head: Head


def first_head(writer: Writer, key: SignerKey) -> Head:
    """Sign and store the head of the empty tree: the beginning of a log."""
    note = sign_checkpoint(Checkpoint(key.name, 0, EMPTY_ROOT), key)
    head = Head(0, EMPTY_ROOT, note, 0)
    writer.commit(Pool((), (), head))
    return head


class Sequencer:
    """Owns the writer. `submit` may be called from any thread, `announce` is called on its own."""

    def __init__(
        self,
        writer: Writer,
        guard: Guard,
        start: Start,
        key: SignerKey,
        clock: Clock,
        standing: Standing,
        announce: Callable[[Committed], None],
        metrics: LogMetrics,
    ) -> None:
        self._writer = writer
        self._guard = guard
        self._edge = start.edge
        self._head = start.head
        self._key = key
        self._clock = clock
        self._standing = standing
        self._announce = announce
        self._metrics = metrics
        self._queue: deque[Submission] = deque()
        self._ready = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log sequencer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue records, at most 256. Raises StoppingError."""
        if len(submission.records) > MAX_POOL_ENTRIES:
            raise ValueError(f"a call appends at most {MAX_POOL_ENTRIES} records")
        with self._ready:
            if self._stopping:
                raise StoppingError("the log is stopping")
            self._queue.append(submission)
            self._ready.notify()

    def stop(self) -> None:
        """Commit what is queued and end the thread; blocks until it has ended."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while pool := self._next_pool():
            committed = self._outcome_of(pool)
            self._measure(committed)
            self._announce(committed)

    def _outcome_of(self, pool: Sequence[Submission]) -> Committed:
        if not self._standing.good:
            return _failed(pool, OutcomeUnknownError("the log has stopped appending"))
        try:
            return self._commit(pool)
        except StorageFullError as error:
            log.error("log_storage_full", entries=sum(len(each.records) for each in pool))
            return _failed(pool, error)
        except GuardConflictError as error:
            self._metrics.equivocations.inc()
            self._standing.refuse(error)
        except Exception as error:
            log.critical("log_writer_failed", exc_info=error)
            self._standing.refuse(
                WriterFailedError("the log's writer failed: look at the disk and restart")
            )
        return _failed(pool, OutcomeUnknownError("the commit failed: append again after a restart"))

    def _next_pool(self) -> list[Submission]:
        """The submissions of the next pool; none when stopping and all is done."""
        pool: list[Submission] = []
        room = MAX_POOL_ENTRIES
        with self._ready:
            while not self._queue and not self._stopping:
                self._ready.wait()
            # Whole calls only; the first always fits.
            while self._queue and len(self._queue[0].records) <= room:
                pool.append(self._queue.popleft())
                room -= len(pool[-1].records)
        return pool

    def _commit(self, submissions: Sequence[Submission]) -> Committed:
        # The entries of a pool share one time; it never runs backwards, whatever the clock does.
        now_ms = max(self._clock.now_ms(), self._head.log_time_ms)
        new, outcomes = self._number(submissions, now_ms)
        if not new:
            return Committed(None, (), outcomes)
        edge, tiles = self._edge.append([entry.leaf_hash for entry in new])
        root = edge.root()
        note = sign_checkpoint(Checkpoint(self._key.name, edge.tree_size, root), self._key)
        head = Head(edge.tree_size, root, note, now_ms)
        self._writer.commit(Pool(tuple(new), tiles, head))
        self._guard.swap(
            Mark(self._head.tree_size, self._head.root_hash), Mark(head.tree_size, root)
        )
        self._edge, self._head = edge, head
        return Committed(head, tuple(p for entry in new for p in entry.prefixes), outcomes)

    def _number(
        self, submissions: Sequence[Submission], now_ms: int
    ) -> tuple[list[NewEntry], list[tuple[Submission, Outcome]]]:
        """Give every record its index: a new one, or the one that it has already."""
        known = self._known(submissions)
        new: list[NewEntry] = []
        outcomes: list[tuple[Submission, Outcome]] = []
        for submission in submissions:
            results: list[Registered] = []
            for record in submission.records:
                found = known.get(record.idempotency_key)
                if found is None:
                    entry = Entry(record.kind, record.record, submission.submitter, now_ms)
                    data = entry.encode()
                    hashed = leaf_hash(data)
                    found = Registered(self._edge.tree_size + len(new), hashed, now_ms, False, data)
                    known[record.idempotency_key] = found
                    prefixes = record.prefixes(hashed)
                    new.append(NewEntry(found.leaf_index, record.kind, data, hashed, prefixes))
                    results.append(found)
                else:
                    results.append(replace(found, duplicate=True))
            outcomes.append((submission, results))
        return new, outcomes

    def _known(self, submissions: Sequence[Submission]) -> dict[bytes, Registered]:
        """The entries that already hold records of a pool, as duplicates, by idempotency key."""
        keys = {
            record.idempotency_key: prefix_of(By.IDEMPOTENCY_KEY, record.idempotency_key)
            for submission in submissions
            for record in submission.records
        }
        candidates = self._writer.candidates(list(keys.values()))
        if not candidates:
            return {}
        hits = {candidate.prefix for candidate in candidates}
        known: dict[bytes, Registered] = {}
        for key, prefix in keys.items():
            if prefix not in hits:
                continue
            found = first_of(self._writer, Key(By.IDEMPOTENCY_KEY, key), candidates)
            if found is not None:
                entry = Entry.decode(found.data)
                hashed = leaf_hash(found.data)
                known[key] = Registered(
                    found.leaf_index, hashed, entry.log_time_ms, True, found.data
                )
        return known

    def _measure(self, committed: Committed) -> None:
        now = time.perf_counter()
        size = 0
        for submission, outcome in committed.outcomes:
            self._metrics.append_seconds.observe(now - submission.submitted_at)
            if isinstance(outcome, Exception):
                self._metrics.append_error.inc(len(submission.records))
                continue
            added = sum(not result.duplicate for result in outcome)
            self._metrics.append_new.inc(added)
            self._metrics.append_duplicate.inc(len(outcome) - added)
            size += added
        if size:
            self._metrics.batch_size.observe(size)


def _failed(pool: Sequence[Submission], error: Exception) -> Committed:
    # A copy each: an exception collects the frames of everybody who raises it.
    return Committed(None, (), [(submission, copy(error)) for submission in pool])
