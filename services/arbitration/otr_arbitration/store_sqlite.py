"""The arbiter's durable state: log cursor, delegations, standings, and the events clients follow.

Entries, the cursor after them and the events they cause commit in one transaction (WAL,
synchronous=FULL), so a restart goes on exactly where the last commit ended. All access goes through
one connection on one thread.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from otr_arbitration.ports import Deferred, Received, Row
from otr_log import cursor as log_cursor
from otr_protocol.finality import Standing, State
from otr_protocol.tlog.tree import Frontier

_P = ParamSpec("_P")
_T = TypeVar("_T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS delegation (digest BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS standing (
  payload_hash BLOB PRIMARY KEY, statement BLOB NOT NULL, leaf_index INTEGER NOT NULL UNIQUE,
  log_time_ms INTEGER NOT NULL, window_ends_ms INTEGER NOT NULL, state INTEGER NOT NULL,
  operator_id BLOB NOT NULL, payable INTEGER NOT NULL, reason TEXT NOT NULL,
  exposure INTEGER NOT NULL, fee INTEGER NOT NULL, event_index INTEGER NOT NULL,
  delegation_digest BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS standing_open ON standing (state, window_ends_ms);
CREATE INDEX IF NOT EXISTS standing_delegated ON standing (state, delegation_digest);
CREATE TABLE IF NOT EXISTS event (
  event_index INTEGER PRIMARY KEY AUTOINCREMENT, payload_hash BLOB NOT NULL, state INTEGER NOT NULL,
  operator_id BLOB NOT NULL, payable INTEGER NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS deferred (
  payload_hash BLOB PRIMARY KEY, until_ms INTEGER NOT NULL, attempts INTEGER NOT NULL
) WITHOUT ROWID;
"""
COLUMNS = (
    "s.payload_hash, s.statement, s.leaf_index, s.log_time_ms, s.window_ends_ms, s.state,"
    " s.operator_id, s.payable, s.reason, s.exposure, s.fee, s.event_index"
)
EVENT_COLUMNS = (
    "s.payload_hash, s.statement, s.leaf_index, s.log_time_ms, s.window_ends_ms, e.state,"
    " e.operator_id, e.payable, e.reason, s.exposure, s.fee, e.event_index"
)


class ArbiterStore:
    """See the module's docstring."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="arbiter-store")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> Frontier:
        """Open or create the database and return the cursor."""
        return await self._run(self._open)

    async def cursor(self) -> Frontier:
        """The frontier over every entry applied so far."""
        return await self._run(lambda: log_cursor.load(self._connection()))

    async def close(self) -> None:
        """Finish queued work and close."""
        await self._run(self._close)
        self._worker.shutdown()

    async def apply(
        self,
        delegations: Sequence[tuple[bytes, bytes]],
        statements: Sequence[Received],
        cursor: Frontier,
    ) -> None:
        """Store (digest, record) delegations, new statements and the cursor after them."""
        await self._run(self._apply, delegations, statements, cursor)

    async def move(self, standings: Sequence[Standing]) -> None:
        """Store changed standings, one event each."""
        await self._run(self._move, standings)

    async def delegation(self, digest: bytes) -> bytes | None:
        """The logged delegation of this digest."""
        return await self._run(self._delegation, digest)

    async def defer(self, deferred: Sequence[Deferred]) -> None:
        """Put statements off; forgotten when they move."""
        await self._run(self._defer, deferred)

    async def judgeable(self, now_ms: int, limit: int) -> list[Row]:
        """RECEIVED rows whose delegation is in the log and that are not put off, by log index.

        The others wait without being looked at, so that nobody's statements cannot hold up
        anybody's.
        """
        return await self._run(self._judgeable, now_ms, limit)

    async def due(self, now_ms: int, limit: int) -> list[Row]:
        """PROVISIONAL rows whose window has ended, by log index."""
        return await self._run(self._due, now_ms, limit)

    async def find(self, *, payload_hash: bytes = b"", leaf_index: int = -1) -> Row | None:
        """One row by payload hash or by index."""
        return await self._run(self._find, payload_hash, leaf_index)

    async def events(self, from_event: int, limit: int) -> list[Row]:
        """Changes from `from_event` on, each as it stood then."""
        return await self._run(self._events, from_event, limit)

    async def _run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        work = functools.partial(call, *args, **kwargs)
        return await asyncio.shield(loop.run_in_executor(self._worker, work))

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the arbiter's store is not open")
        return self._db

    def _open(self) -> Frontier:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._db = db = sqlite3.connect(
            self._path, isolation_level="IMMEDIATE", check_same_thread=False
        )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(SCHEMA + log_cursor.SCHEMA)
        return log_cursor.load(db)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _apply(
        self,
        delegations: Sequence[tuple[bytes, bytes]],
        statements: Sequence[Received],
        cursor: Frontier,
    ) -> None:
        db = self._connection()
        with db:
            db.executemany("INSERT OR IGNORE INTO delegation VALUES (?,?)", delegations)
            for received in statements:
                standing = received.standing
                known = db.execute(
                    "SELECT 1 FROM standing WHERE payload_hash=?", (standing.payload_hash,)
                ).fetchone()
                if known is None:  # the lowest index of a payload fixes everything
                    event = self._event(db, standing)
                    db.execute(
                        "INSERT INTO standing VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                        (
                            standing.payload_hash,
                            received.statement,
                            standing.leaf_index,
                            standing.log_time_ms,
                            standing.window_ends_ms,
                            int(standing.state),
                            standing.operator_id,
                            int(standing.payable),
                            standing.reason,
                            received.exposure,
                            received.fee,
                            event,
                            received.delegation_digest,
                        ),
                    )
            log_cursor.save(db, cursor)

    def _move(self, standings: Sequence[Standing]) -> None:
        db = self._connection()
        with db:
            for standing in standings:
                event = self._event(db, standing)
                db.execute(
                    "UPDATE standing SET state=?, operator_id=?, payable=?, reason=?,"
                    " window_ends_ms=?, event_index=? WHERE payload_hash=?",
                    (
                        int(standing.state),
                        standing.operator_id,
                        int(standing.payable),
                        standing.reason,
                        standing.window_ends_ms,
                        event,
                        standing.payload_hash,
                    ),
                )
            db.executemany(
                "DELETE FROM deferred WHERE payload_hash=?",
                [(standing.payload_hash,) for standing in standings],
            )

    def _defer(self, deferred: Sequence[Deferred]) -> None:
        with self._connection() as db:
            db.executemany(
                "INSERT OR REPLACE INTO deferred VALUES (?,?,?)",
                [(each.payload_hash, each.until_ms, each.attempts) for each in deferred],
            )

    @staticmethod
    def _event(db: sqlite3.Connection, standing: Standing) -> int:
        inserted = db.execute(
            "INSERT INTO event (payload_hash, state, operator_id, payable, reason)"
            " VALUES (?,?,?,?,?)",
            (
                standing.payload_hash,
                int(standing.state),
                standing.operator_id,
                int(standing.payable),
                standing.reason,
            ),
        )
        return inserted.lastrowid or 0

    def _delegation(self, digest: bytes) -> bytes | None:
        row = self._connection().execute("SELECT record FROM delegation WHERE digest=?", (digest,))
        found = row.fetchone()
        return None if found is None else found[0]

    def _judgeable(self, now_ms: int, limit: int) -> list[Row]:
        rows = self._connection().execute(
            f"SELECT {COLUMNS}, ifnull(p.attempts, 0) FROM standing s"  # noqa: S608 - constants
            " JOIN delegation d ON s.delegation_digest = d.digest"
            " LEFT JOIN deferred p ON s.payload_hash = p.payload_hash"
            " WHERE s.state = ? AND ifnull(p.until_ms, 0) <= ? ORDER BY s.leaf_index LIMIT ?",
            (int(State.RECEIVED), now_ms, limit),
        )
        return [replace(_row(each[:-1]), attempts=each[-1]) for each in rows]

    def _due(self, now_ms: int, limit: int) -> list[Row]:
        rows = self._connection().execute(
            f"SELECT {COLUMNS} FROM standing s"  # noqa: S608 - constants
            " WHERE s.state = ? AND s.window_ends_ms <= ? ORDER BY s.leaf_index LIMIT ?",
            (int(State.PROVISIONAL), now_ms, limit),
        )
        return [_row(each) for each in rows]

    def _find(self, payload_hash: bytes, leaf_index: int) -> Row | None:
        where = "payload_hash = :hash" if payload_hash else "leaf_index = :index"
        found = (
            self._connection()
            .execute(
                f"SELECT {COLUMNS} FROM standing s WHERE {where}",  # noqa: S608 - constants
                {"hash": payload_hash, "index": leaf_index},
            )
            .fetchone()
        )
        return None if found is None else _row(found)

    def _events(self, from_event: int, limit: int) -> list[Row]:
        rows = self._connection().execute(
            f"SELECT {EVENT_COLUMNS} FROM event e JOIN standing s USING (payload_hash)"  # noqa: S608
            " WHERE e.event_index >= ? ORDER BY e.event_index LIMIT ?",
            (from_event, limit),
        )
        return [_row(each) for each in rows]


def _row(columns: tuple[bytes, bytes, int, int, int, int, bytes, int, str, int, int, int]) -> Row:
    payload_hash, statement, index, log_time, window_ends, state = columns[:6]
    operator_id, payable, reason, exposure, fee, event = columns[6:]
    standing = Standing(
        payload_hash, index, log_time, window_ends, State(state), operator_id, bool(payable), reason
    )
    return Row(standing, statement, exposure, fee, event)
