"""Durable state of the operator: signed answers, sequence numbers and the outbox to the log.

Before a signature leaves the process, the statement and its `seq` are on disk (spec/statement.md):
`seal` assigns the sequence number, calls the signer and commits with fsync in one transaction. The
same transaction queues the records for the log, so that an answer can be neither lost nor logged
under two sequence numbers. A disk that is full refuses what is new; one that fails to sync ends the
process. All writes go through one connection on one thread; SQLite runs in WAL
mode with synchronous=FULL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import structlog

from otr_inference.database_file import open_database
from otr_inference.ports import (
    AnswerRow,
    OutboxRow,
    RequestIdReusedError,
    Sealed,
    SessionRow,
    StorageBrokenError,
    StorageFullError,
)

log = structlog.get_logger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

RETRY_FULL_SECONDS = 30.0
"""After the disk was full, how long to refuse what is new before trying again."""

FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})
"""A write that failed for want of space, or of quota: then the transaction left nothing behind.
A failed sync is neither; see `AnswerStore._break`."""


class AnswerStore:
    """The operator's durable state; see the module's docstring for what it guarantees."""

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        """`max_bytes` bounds the database; without it the disk does."""
        self._path = path
        self._max_bytes = max_bytes
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="answer-store")
        self._db: sqlite3.Connection | None = None
        self._full_until = 0.0
        self._broken: Future[None] = Future()

    async def open(self) -> None:
        """Create or open the database; requests that died unanswered are forgotten."""
        await self._run(self._open)

    async def close(self) -> None:
        """Finish queued writes and close."""
        await self._run(self._close)
        self._writer.shutdown()

    async def watch(self) -> None:
        """Wait for ever; raises StorageBrokenError once the disk has failed."""
        await asyncio.shield(asyncio.wrap_future(self._broken))
        raise _storage_broken()

    async def record_session(self, session: SessionRow, now_ms: int) -> None:
        """Store a session before its first signature."""
        await self._run(self._record_session, session, now_ms)

    async def admit(self, client: str, request_id: bytes, fingerprint: bytes) -> AnswerRow | None:
        """Take a request id for `client`, or return the answer already given under it.

        Raises `RequestIdReusedError` for other bytes under a used id and `StorageFullError` when
        the disk takes no more. An id taken without an answer may be taken again.
        """
        return await self._run(self._admit, client, request_id, fingerprint)

    async def release(self, client: str, request_id: bytes) -> None:
        """Forget a request that ended without an answer."""
        await self._run(self._release, client, request_id)

    async def seal(
        self,
        client: str,
        request_id: bytes,
        session_key: bytes,
        exposure: int,
        sign: Callable[[int, int], Sealed],
        *,
        blob: bytes,
        blob_digest: bytes,
        content_key: bytes,
        kind: int,
    ) -> AnswerRow:
        """Assign `seq`, sign by `sign(seq, cumulative_exposure)`, commit, and only then return."""
        return await self._run(
            self._seal,
            client,
            request_id,
            session_key,
            exposure,
            sign,
            blob,
            blob_digest,
            content_key,
            kind,
        )

    async def enqueue(self, kind: int, record: bytes) -> None:
        """Queue a record that is not a statement; the same record once."""
        await self._run(self._enqueue, kind, record)

    async def answer(self, client: str, request_id: bytes) -> AnswerRow | None:
        """The answer given to `client` under `request_id`, or None."""
        return await self._run(self._answer_of, client, request_id)

    async def answer_by_hash(self, payload_hash: bytes) -> AnswerRow | None:
        """The answer whose statement has this payload hash, or None."""
        return await self._run(self._load_answer, payload_hash)

    async def outbox(self, limit: int) -> list[OutboxRow]:
        """The oldest records that the log has not acknowledged."""
        return await self._run(self._outbox, limit)

    async def outbox_size(self) -> int:
        """How many records the log has not acknowledged."""
        return await self._run(self._outbox_size)

    async def set_aside(self, row: OutboxRow, reason: str) -> None:
        """Keep a record that the log refused, with its reason, and stop sending it."""
        await self._run(self._set_aside, row, reason)

    async def acknowledge(self, rows: Sequence[tuple[OutboxRow, bytes]]) -> None:
        """Drop records that the log has, keeping the receipts of statements."""
        await self._run(self._acknowledge, rows)

    async def _run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        work = functools.partial(call, *args, **kwargs)
        # Shielded: a client that leaves must not tear a transaction whose effect is being awaited.
        return await asyncio.shield(loop.run_in_executor(self._writer, work))

    def _open(self) -> None:
        db = open_database(self._path, self._max_bytes)
        db.execute("DELETE FROM request WHERE payload_hash IS NULL")
        self._db = db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connection(self) -> sqlite3.Connection:
        if self._broken.done():
            raise _storage_broken()
        if self._db is None:
            raise RuntimeError("the answer store is not open")
        return self._db

    def _break(self, error: sqlite3.Error) -> None:
        """Use the disk no more: nobody knows what of this transaction is on it.

        The number it gave to a statement may be read back after a restart, so it must not be given
        to another one: two statements under one `seq` are equivocation.
        """
        log.critical("storage_broken", error=error.sqlite_errorname)
        if not self._broken.done():
            self._broken.set_result(None)

    def _in_transaction(self, body: Callable[[sqlite3.Connection], _T]) -> _T:
        db = self._connection()
        try:
            db.execute("BEGIN IMMEDIATE")
            result = body(db)
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            _rollback(db)
            if error.sqlite_errorcode in FULL:
                self._full_until = time.monotonic() + RETRY_FULL_SECONDS
                raise _storage_full() from error
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                self._break(error)
                raise _storage_broken() from error
            raise
        except BaseException:
            _rollback(db)
            raise
        return result

    def _record_session(self, session: SessionRow, now_ms: int) -> None:
        self._in_transaction(
            lambda db: db.execute(
                "INSERT INTO session VALUES (?,?,?,?,?,?,0,0,?)",
                (
                    session.session_key,
                    session.delegation,
                    session.token,
                    session.token_digest,
                    session.evidence,
                    session.evidence_digest,
                    now_ms,
                ),
            )
        )

    def _admit(self, client: str, request_id: bytes, fingerprint: bytes) -> AnswerRow | None:
        # The few bytes of an admission may still fit where an answer did not: do not compute
        # answers that cannot be kept.
        if time.monotonic() < self._full_until and self._answer_of(client, request_id) is None:
            raise _storage_full()

        def body(db: sqlite3.Connection) -> AnswerRow | None:
            row = db.execute(
                "SELECT fingerprint, payload_hash FROM request WHERE client=? AND request_id=?",
                (client, request_id),
            ).fetchone()
            if row is None:
                db.execute(
                    "INSERT INTO request VALUES (?,?,?,NULL)", (client, request_id, fingerprint)
                )
                return None
            if row[0] != fingerprint:
                raise RequestIdReusedError(
                    "this request id was used with a different request", field="request_id"
                )
            return None if row[1] is None else self._load_answer(row[1])

        return self._in_transaction(body)

    def _release(self, client: str, request_id: bytes) -> None:
        self._in_transaction(
            lambda db: db.execute(
                "DELETE FROM request WHERE client=? AND request_id=? AND payload_hash IS NULL",
                (client, request_id),
            )
        )

    def _seal(
        self,
        client: str,
        request_id: bytes,
        session_key: bytes,
        exposure: int,
        sign: Callable[[int, int], Sealed],
        blob: bytes,
        blob_digest: bytes,
        content_key: bytes,
        kind: int,
    ) -> AnswerRow:
        def body(db: sqlite3.Connection) -> bytes:
            seq, cumulative = db.execute(
                "SELECT next_seq, cumulative FROM session WHERE session_key=?", (session_key,)
            ).fetchone()
            sealed = sign(seq, cumulative + exposure)
            db.execute(
                "UPDATE session SET next_seq=?, cumulative=? WHERE session_key=?",
                (seq + 1, cumulative + exposure, session_key),
            )
            db.execute(
                "INSERT INTO answer VALUES (?,?,?,?,?,?,?,NULL)",
                (
                    sealed.payload_hash,
                    session_key,
                    seq,
                    sealed.statement,
                    blob,
                    blob_digest,
                    content_key,
                ),
            )
            db.execute(
                "UPDATE request SET payload_hash=? WHERE client=? AND request_id=?",
                (sealed.payload_hash, client, request_id),
            )
            db.execute(
                "INSERT INTO outbox (kind, record, payload_hash) VALUES (?,?,?)",
                (kind, sealed.statement, sealed.payload_hash),
            )
            return sealed.payload_hash

        answer = self._load_answer(self._in_transaction(body))
        if answer is None:  # pragma: no cover - the row was committed one line above
            raise RuntimeError("a committed answer vanished")
        return answer

    def _enqueue(self, kind: int, record: bytes) -> None:
        self._in_transaction(
            lambda db: db.execute(
                "INSERT OR IGNORE INTO outbox (kind, record) VALUES (?,?)", (kind, record)
            )
        )

    def _answer_of(self, client: str, request_id: bytes) -> AnswerRow | None:
        row = (
            self._connection()
            .execute(
                "SELECT payload_hash FROM request WHERE client=? AND request_id=?",
                (client, request_id),
            )
            .fetchone()
        )
        return None if row is None or row[0] is None else self._load_answer(row[0])

    def _load_answer(self, payload_hash: bytes) -> AnswerRow | None:
        row = (
            self._connection()
            .execute(
                "SELECT a.statement, a.blob, a.blob_digest, a.content_key, a.receipt,"
                " s.session_key, s.delegation, s.token, s.token_digest, s.evidence,"
                " s.evidence_digest FROM answer a JOIN session s USING (session_key)"
                " WHERE a.payload_hash=?",
                (payload_hash,),
            )
            .fetchone()
        )
        if row is None:
            return None
        statement, blob, blob_digest, content_key, receipt = row[:5]
        return AnswerRow(
            payload_hash,
            SessionRow(*row[5:]),
            statement,
            blob,
            blob_digest,
            content_key,
            receipt,
        )

    def _outbox(self, limit: int) -> list[OutboxRow]:
        rows = self._connection().execute(
            "SELECT id, kind, record, payload_hash FROM outbox WHERE refused IS NULL"
            " ORDER BY id LIMIT ?",
            (limit,),
        )
        return [OutboxRow(*row) for row in rows]

    def _outbox_size(self) -> int:
        count: int = (
            self._connection()
            .execute("SELECT count(*) FROM outbox WHERE refused IS NULL")
            .fetchone()[0]
        )
        return count

    def _set_aside(self, row: OutboxRow, reason: str) -> None:
        self._in_transaction(
            lambda db: db.execute("UPDATE outbox SET refused=? WHERE id=?", (reason, row.id))
        )

    def _acknowledge(self, rows: Sequence[tuple[OutboxRow, bytes]]) -> None:
        def body(db: sqlite3.Connection) -> None:
            for row, receipt in rows:
                db.execute("DELETE FROM outbox WHERE id=?", (row.id,))
                if row.payload_hash is not None:
                    db.execute(
                        "UPDATE answer SET receipt=? WHERE payload_hash=? AND receipt IS NULL",
                        (receipt, row.payload_hash),
                    )

        self._in_transaction(body)


def _storage_full() -> StorageFullError:
    return StorageFullError(
        "the operator's disk is full; nothing was accepted",
        retry_after_ms=round(RETRY_FULL_SECONDS * 1000),
    )


def _storage_broken() -> StorageBrokenError:
    return StorageBrokenError("the operator's disk failed; this process answers nothing more")


def _rollback(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        with contextlib.suppress(sqlite3.Error):  # the error that led here says more
            db.execute("ROLLBACK")
