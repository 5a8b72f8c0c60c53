"""One SQLite file per store: WAL, synchronous=FULL, one connection behind one lock.

Both stores are small and seldom written; a lock is simpler than a pool and as fast. `put` returns
after the commit is on disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from otr_attestation.ports import StoreFullError
from otr_protocol.errors import RejectedError

RETRY_FULL_MS: Final = 60_000
_PAGE_BYTES: Final = 4096


class StoreSchemaError(RejectedError):
    """The file is no store of this kind, or of another version."""

    reason = "STORE_SCHEMA"


class SqliteFile:
    """An open database whose `user_version` is `version`; made if the file is new."""

    def __init__(
        self, path: Path, *, application: int, version: int, schema: str, max_bytes: int | None
    ) -> None:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open(path, application, version, schema)
            if max_bytes is not None:
                pages = max(1, max_bytes // _PAGE_BYTES)
                self._db.execute(f"PRAGMA max_page_count={pages}")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreSchemaError(f"{path} is no database of ours: {error}") from error
        except BaseException:
            self._db.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that change nothing."""
        with self._lock:
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection inside one transaction, durable after the block or without effect.

        Raises StoreFullError for a full disk or quota.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise StoreFullError(str(error), retry_after_ms=RETRY_FULL_MS) from error
                raise

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _open(self, path: Path, application: int, version: int, schema: str) -> None:
        self._db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA trusted_schema=OFF")
        self._db.execute("PRAGMA foreign_keys=ON")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        (owner,) = self._db.execute("PRAGMA application_id").fetchone()
        if (found, owner) == (0, 0):
            self._db.executescript(
                f"BEGIN IMMEDIATE; {schema} PRAGMA application_id={application};"
                f" PRAGMA user_version={version}; COMMIT;"
            )
        elif (found, owner) != (version, application):
            raise StoreSchemaError(f"{path} is another database, or of another version")
