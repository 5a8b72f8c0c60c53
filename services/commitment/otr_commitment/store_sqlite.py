"""The log in one SQLite file: WAL, synchronous=FULL, one writer, readers beside it.

    entry    leaf_index, kind, the entry's bytes lookup   (prefix, leaf_index): the first 8 bytes of
    a hash of whatever an entry is found by tile     level and index in one key, the tile's hashes;
    partial tiles are overwritten as they grow head     one row: size, root, signed checkpoint, time
    of the last entry identity one row: the origin and key that this log is signed with

A pool of entries with its lookups, tiles and head is one transaction; the head's update is a
compare-and-swap on the tree size, so that a second writer that got past the lock still fails.
Prefixes are 8 bytes instead of 32 because three of them per entry would otherwise be most of the
file; they may collide, by accident or by work, so whoever looks something up compares the entry.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from otr_commitment.ports import (
    RETRY_FULL_MS,
    Candidate,
    DamagedError,
    Head,
    Pool,
    StorageFullError,
    StoredEntry,
)
from otr_protocol.errors import RejectedError
from otr_protocol.tlog.entry import entry_kind
from otr_protocol.tlog.tiles import HashTile

SCHEMA_VERSION: Final = 1
CACHE_KIB: Final = 64 << 10
CHECKPOINT_PAGES: Final = 4000
WAL_BYTES_KEPT: Final = 64 << 20
_LEVEL_SHIFT: Final = 56  # tile indices are below 2^55, levels below 8
_SCHEMA: Final = """
CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL,
                       vkey TEXT NOT NULL);
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), tree_size INTEGER NOT NULL,
                   root_hash BLOB NOT NULL, note TEXT NOT NULL, log_time_ms INTEGER NOT NULL);
CREATE TABLE entry (leaf_index INTEGER PRIMARY KEY, kind INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE lookup (prefix INTEGER NOT NULL, leaf_index INTEGER NOT NULL,
                     PRIMARY KEY (prefix, leaf_index)) WITHOUT ROWID;
CREATE TABLE tile (place INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""


class SchemaError(RejectedError):
    """The database is no log of ours, or of another version."""

    reason = "LOG_SCHEMA"


class IdentityChangedError(RejectedError):
    """The database belongs to a log with another origin or key."""

    reason = "LOG_IDENTITY_CHANGED"


class SqliteReader:
    """Reads from any thread, each with a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []

    def read_tile(self, tile: HashTile) -> bytes:
        """The stored bytes of a tile; DamagedError if there are none."""
        return _read_tile(self._connection(), tile)

    def entries(self, first: int, count: int, *, max_bytes: int) -> list[StoredEntry]:
        """The `count` entries from `first` on, bounded by `max_bytes` after the first one."""
        return _entries(self._connection(), first, count, max_bytes)

    def candidates(self, prefixes: Sequence[int]) -> list[Candidate]:
        """Entries written with any of these prefixes, lowest index first."""
        return _candidates(self._connection(), prefixes)

    def close(self) -> None:
        """Close every thread's connection; nobody may be reading."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Only this thread uses it, but `close` runs on another one.
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only=ON")
            with self._lock:
                self._connections.append(connection)
            self._local.connection = connection
        return connection


class SqliteWriter:
    """The writing connection. Opened by one thread and then used by the sequencer's alone.

    `origin` and `vkey` become the identity of a new database and must be that of an old one.
    `max_bytes` bounds the size of the database file; None leaves it to the disk. Raises SchemaError
    or IdentityChangedError.
    """

    def __init__(self, path: Path, *, origin: str, vkey: str, max_bytes: int | None = None) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA fullfsync=ON")  # where fsync alone stops at the drive's cache
            self._db.execute("PRAGMA trusted_schema=OFF")
            # Look-ups land on random pages: keep them in memory, and fold the log into the file
            # after many commits, so that a page that changes often is written once.
            self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._db.execute(f"PRAGMA journal_size_limit={WAL_BYTES_KEPT}")
            if max_bytes is not None:
                (page_size,) = self._db.execute("PRAGMA page_size").fetchone()
                self._db.execute(f"PRAGMA max_page_count={max(1, max_bytes // int(page_size))}")
            self._open(origin, vkey)
        except BaseException:
            self._db.close()
            raise

    def head(self) -> Head | None:
        """The committed head, or None in a new store."""
        row = self._db.execute(
            "SELECT tree_size, root_hash, note, log_time_ms FROM head"
        ).fetchone()
        return None if row is None else Head(*row)

    def read_tile(self, tile: HashTile) -> bytes:
        """The stored bytes of a tile; DamagedError if there are none."""
        return _read_tile(self._db, tile)

    def entries(self, first: int, count: int, *, max_bytes: int) -> list[StoredEntry]:
        """The `count` entries from `first` on, bounded by `max_bytes` after the first one."""
        return _entries(self._db, first, count, max_bytes)

    def candidates(self, prefixes: Sequence[int]) -> list[Candidate]:
        """Entries written with any of these prefixes, lowest index first."""
        return _candidates(self._db, prefixes)

    def commit(self, pool: Pool) -> None:
        """Write a pool in one transaction; StorageFullError if it does not fit."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            self._write(pool)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if _is_full(error):
                raise StorageFullError(
                    "the log's disk or quota is full; nothing of this request was kept",
                    retry_after_ms=RETRY_FULL_MS,
                ) from error
            raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and close."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # everything is durable in the write-ahead log; the next start folds it in
        finally:
            self._db.close()

    def _open(self, origin: str, vkey: str) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables != (0,):
                raise SchemaError("the database is not a log")
            # executescript commits what is open; the version is set in the same transaction.
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise SchemaError(f"the database has schema {version}, this program {SCHEMA_VERSION}")
        self._db.execute("INSERT OR IGNORE INTO identity VALUES (1, ?, ?)", (origin, vkey))
        stored = self._db.execute("SELECT origin, vkey FROM identity").fetchone()
        if stored != (origin, vkey):
            raise IdentityChangedError(
                f"the database is the log {stored[0]} with key {stored[1]}, not {origin}, {vkey}"
            )

    def _write(self, pool: Pool) -> None:
        db, head = self._db, pool.head
        _ENTRIES.insert(db, [(new.leaf_index, int(new.kind), new.data) for new in pool.entries])
        _LOOKUPS.insert(db, _lookups(pool))
        db.executemany(
            "INSERT OR REPLACE INTO tile VALUES (?, ?)",
            [(_place(each.tile), each.data) for each in pool.tiles],
        )
        row = (head.tree_size, head.root_hash, head.note, head.log_time_ms)
        before = head.tree_size - len(pool.entries)
        if before == 0 and not db.execute("SELECT 1 FROM head").fetchone():
            db.execute("INSERT INTO head VALUES (1, ?, ?, ?, ?)", row)
            return
        swapped = db.execute(
            "UPDATE head SET tree_size=?, root_hash=?, note=?, log_time_ms=? WHERE tree_size=?",
            (*row, before),
        )
        if swapped.rowcount != 1:
            raise sqlite3.IntegrityError(f"the tree no longer has {before} leaves")


class _Insertion:
    """Inserts rows in groups of 64.

    `executemany` gives up Python's lock at every row, and in a process whose other threads are busy
    too, getting it back costs more than the row: 70 of 180 microseconds per entry.
    """

    GROUP: Final = 64

    def __init__(self, one: str, columns: int) -> None:
        row = f"({', '.join('?' * columns)})"
        self._one = f"{one} {row}"
        self._group = f"{one} {', '.join([row] * self.GROUP)}"

    def insert(self, db: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert all rows."""
        grouped = len(rows) - len(rows) % self.GROUP
        for at in range(0, grouped, self.GROUP):
            db.execute(self._group, list(chain.from_iterable(rows[at : at + self.GROUP])))
        db.executemany(self._one, rows[grouped:])


_ENTRIES: Final = _Insertion("INSERT INTO entry VALUES", 3)
_LOOKUPS: Final = _Insertion("INSERT INTO lookup VALUES", 2)


def _lookups(pool: Pool) -> list[tuple[int, int]]:
    # Sorted, so that a large pool walks the index once instead of jumping about in it.
    return sorted((prefix, new.leaf_index) for new in pool.entries for prefix in new.prefixes)


def _place(tile: HashTile) -> int:
    return tile.level << _LEVEL_SHIFT | tile.index


def _read_tile(db: sqlite3.Connection, tile: HashTile) -> bytes:
    row = db.execute("SELECT data FROM tile WHERE place=?", (_place(tile),)).fetchone()
    if row is None:
        raise DamagedError(f"{tile.path} is missing")
    return bytes(row[0])


def _entries(db: sqlite3.Connection, first: int, count: int, max_bytes: int) -> list[StoredEntry]:
    found: list[StoredEntry] = []
    total = 0
    rows = db.execute(
        "SELECT leaf_index, kind, data FROM entry WHERE leaf_index BETWEEN ? AND ?"
        " ORDER BY leaf_index",
        (first, first + count - 1),
    )
    for leaf_index, kind, data in rows:
        total += len(data)
        if found and total > max_bytes:
            break
        if leaf_index != first + len(found):
            raise DamagedError(f"entry {first + len(found)} is missing")
        found.append(StoredEntry(leaf_index, entry_kind(kind), data))
    else:
        if len(found) < count:
            raise DamagedError(f"entry {first + len(found)} is missing")
    rows.close()
    return found


def _candidates(db: sqlite3.Connection, prefixes: Sequence[int]) -> list[Candidate]:
    # One statement for a whole pool: each look-up of its own would take and drop a read lock.
    rows = db.execute(
        "SELECT prefix, leaf_index FROM lookup WHERE prefix IN (SELECT value FROM json_each(?))"
        " ORDER BY leaf_index",
        (json.dumps(prefixes),),
    )
    return [Candidate(prefix, leaf_index) for prefix, leaf_index in rows]


def _is_full(error: sqlite3.Error) -> bool:
    """Whether a write failed for want of space: then the transaction left nothing behind.

    SQLite calls a full disk FULL, and an exceeded quota or file size limit a failed write. A failed
    *sync* is neither: after it nobody knows what reached the disk.
    """
    code = getattr(error, "sqlite_errorcode", None)
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
