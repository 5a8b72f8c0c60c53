"""A consumer's place in the log, kept in its own SQLite database.

The functions take the consumer's connection, so that the cursor commits in the same transaction as
the effects of the entries before it.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from otr_protocol.tlog.tree import HASH_BYTES, Frontier

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS log_cursor (
  only INTEGER PRIMARY KEY CHECK (only = 1), tree_size INTEGER NOT NULL, hashes BLOB NOT NULL
);
"""


def load(db: sqlite3.Connection) -> Frontier:
    """The frontier over every entry applied so far; empty for a new consumer."""
    row = db.execute("SELECT tree_size, hashes FROM log_cursor").fetchone()
    if row is None:
        return Frontier()
    tree_size, hashes = row
    starts = range(0, len(hashes), HASH_BYTES)
    return Frontier(tree_size, tuple(hashes[at : at + HASH_BYTES] for at in starts))


def save(db: sqlite3.Connection, cursor: Frontier) -> None:
    """Replace the cursor, inside the caller's transaction."""
    db.execute(
        "INSERT OR REPLACE INTO log_cursor VALUES (1,?,?)",
        (cursor.tree_size, b"".join(cursor.hashes)),
    )
