"""The statements a sample can be drawn from, with the cursor behind them.

Nothing is drawn yet; what is kept is what a draw will need: the lowest index and log time of each
payload, and the audit rate in force (spec/spotcheck.md).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import structlog

from otr_log import cursor as log_cursor
from otr_log.follow import Numbered
from otr_protocol.errors import Refusal
from otr_protocol.statement import open_statement
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.tree import Frontier

log = structlog.get_logger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS statement (
  payload_hash BLOB PRIMARY KEY, leaf_index INTEGER NOT NULL, log_time_ms INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Population:
    """Statements seen in the log; one connection, used from one worker thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA + log_cursor.SCHEMA)
        self.cursor = log_cursor.load(self._db)
        # Kept, since it is asked for at every scrape, on the event loop.
        self._count: int = self._db.execute("SELECT count(*) FROM statement").fetchone()[0]

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def count(self) -> int:
        """How many distinct statements the log holds."""
        return self._count

    async def apply(self, batch: Sequence[Numbered], cursor: Frontier) -> None:
        """Record a verified batch and the cursor after it, in one transaction."""
        rows = []
        for numbered in batch:
            if numbered.entry.kind is not EntryKind.STATEMENT:
                continue
            try:
                payload_hash = open_statement(numbered.entry.record).payload_hash
            except Refusal as refusal:
                log.warning("entry_ignored", index=numbered.leaf_index, reason=refusal.reason)
                continue
            rows.append((payload_hash, numbered.leaf_index, numbered.entry.log_time_ms))
        self._count += await asyncio.to_thread(self._store, rows, cursor)
        self.cursor = cursor

    def _store(self, rows: Sequence[tuple[bytes, int, int]], cursor: Frontier) -> int:
        """Store rows and cursor; returns how many statements were new."""
        with self._db as db:
            # The lowest index of a payload is the one that counts: later copies change nothing.
            added = db.executemany("INSERT OR IGNORE INTO statement VALUES (?,?,?)", rows).rowcount
            log_cursor.save(db, cursor)
        return max(added, 0)
