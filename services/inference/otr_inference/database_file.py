"""The operator's database as a file: its tables, how it is made durable, and who may read it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

PRIVATE = 0o600

SCHEMA = """
CREATE TABLE IF NOT EXISTS session (
  session_key BLOB PRIMARY KEY, delegation BLOB NOT NULL, token BLOB NOT NULL,
  token_digest BLOB NOT NULL, evidence BLOB NOT NULL, evidence_digest BLOB NOT NULL,
  next_seq INTEGER NOT NULL, cumulative INTEGER NOT NULL, opened_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS request (
  client TEXT NOT NULL, request_id BLOB NOT NULL, fingerprint BLOB NOT NULL,
  payload_hash BLOB, PRIMARY KEY (client, request_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answer (
  payload_hash BLOB PRIMARY KEY, session_key BLOB NOT NULL REFERENCES session, seq INTEGER NOT NULL,
  statement BLOB NOT NULL, blob BLOB NOT NULL, blob_digest BLOB NOT NULL,
  content_key BLOB NOT NULL, receipt BLOB, UNIQUE (session_key, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, record BLOB NOT NULL,
  payload_hash BLOB, refused TEXT, UNIQUE (kind, record)
);
"""


def open_database(path: Path, max_bytes: int | None) -> sqlite3.Connection:
    """Create or open it: WAL, synchronous=FULL, at most `max_bytes` if they are given.

    The connection begins no transaction by itself and may be used by any one thread at a time.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_private(path)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA foreign_keys=ON")
    if max_bytes is not None:
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={max_bytes // page_bytes}")
    db.executescript(SCHEMA)
    return db


def _make_private(path: Path) -> None:
    """Let nobody but this user read the database: it holds content keys and the clients' salts.

    The file is made before SQLite opens it, since SQLite gives its journals the mode of the file.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, PRIVATE))
    for each in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):
            each.chmod(PRIVATE)
