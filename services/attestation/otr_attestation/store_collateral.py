"""Collateral on disk: contents by their SHA-256, keys that point to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from otr_attestation.ports import Stored
from otr_attestation.store_sqlite import SqliteFile
from otr_protocol.digest import H
from otr_protocol.errors import UnavailableError

_APPLICATION: Final = 0x4F545243  # "OTRC"
_SCHEMA: Final = """
CREATE TABLE content (digest BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (number INTEGER PRIMARY KEY, key TEXT NOT NULL,
                    digest BLOB NOT NULL REFERENCES content, next_update_s INTEGER,
                    stored_s INTEGER NOT NULL);
CREATE VIEW piece AS SELECT number, key, digest, data, next_update_s
    FROM entry JOIN content USING (digest);
CREATE INDEX entry_key ON entry (key, number);
CREATE INDEX entry_digest ON entry (digest);
CREATE INDEX entry_next_update ON entry (next_update_s);
"""
_BY_KEY: Final = "SELECT * FROM piece WHERE key = ? ORDER BY number DESC LIMIT 1"
_BY_DIGEST: Final = "SELECT * FROM piece WHERE digest = ? ORDER BY number DESC LIMIT 1"
_DUE: Final = """
SELECT * FROM piece WHERE next_update_s < ?
    AND number = (SELECT max(number) FROM entry WHERE entry.key = piece.key)
    ORDER BY next_update_s LIMIT ?
"""


class ContentDamagedError(UnavailableError):
    """The bytes on disk no longer have the digest under which they were stored."""

    reason = "COLLATERAL_DAMAGED"


class CollateralDatabase:
    """`ports.CollateralStore` in one SQLite file. Of each key the last one put is the newest."""

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        self._file = SqliteFile(
            directory / "collateral.sqlite",
            application=_APPLICATION,
            version=1,
            schema=_SCHEMA,
            max_bytes=max_bytes,
        )

    def by_key(self, key: str) -> Stored | None:
        """See `ports.CollateralStore`; raises ContentDamagedError."""
        return self._one(_BY_KEY, key)

    def by_digest(self, digest: bytes) -> Stored | None:
        """See `ports.CollateralStore`; raises ContentDamagedError."""
        return self._one(_BY_DIGEST, digest)

    def put(self, item: Stored, now_s: int) -> bool:
        """See `ports.CollateralStore`."""
        with self._file.writing() as db:
            newest = db.execute(
                "SELECT digest FROM entry WHERE key = ? ORDER BY number DESC LIMIT 1", (item.key,)
            ).fetchone()
            if newest is not None and newest[0] == item.digest:
                return False
            db.execute(
                "INSERT INTO content VALUES (?, ?) ON CONFLICT DO NOTHING",
                (item.digest, item.content),
            )
            db.execute(
                "INSERT INTO entry (key, digest, next_update_s, stored_s) VALUES (?, ?, ?, ?)",
                (item.key, item.digest, item.next_update_s, now_s),
            )
        return True

    def due(self, before_s: int, limit: int) -> list[Stored]:
        """See `ports.CollateralStore`; raises ContentDamagedError."""
        with self._file.reading() as db:
            rows = db.execute(_DUE, (before_s, limit)).fetchall()
        return [_stored(row) for row in rows]

    def forget(self, before_s: int) -> int:
        """See `ports.CollateralStore`."""
        with self._file.writing() as db:
            dropped = db.execute("DELETE FROM entry WHERE next_update_s < ?", (before_s,)).rowcount
            db.execute(
                "DELETE FROM content WHERE NOT EXISTS"
                " (SELECT 1 FROM entry WHERE entry.digest = content.digest)"
            )
        return int(dropped)

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    def _one(self, query: str, value: str | bytes) -> Stored | None:
        with self._file.reading() as db:
            row = db.execute(query, (value,)).fetchone()
        return None if row is None else _stored(row)


def _stored(row: Any) -> Stored:
    _, key, digest, data, next_update_s = row
    if H(data) != digest:
        raise ContentDamagedError(f"the content of {key} has changed on disk")
    return Stored(key, digest, data, next_update_s)
