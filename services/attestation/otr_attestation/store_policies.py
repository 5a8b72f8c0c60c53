"""Signed policies on disk, by the digest of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from otr_attestation.ports import StoreFullError
from otr_attestation.store_sqlite import RETRY_FULL_MS, SqliteFile
from otr_protocol.attestation.signed_policy import SignedPolicy
from otr_protocol.errors import ConflictError

_APPLICATION: Final = 0x4F545250  # "OTRP"
_SCHEMA: Final = """
CREATE TABLE policy (digest BLOB PRIMARY KEY, sequence INTEGER NOT NULL, signed BLOB NOT NULL)
    WITHOUT ROWID;
CREATE UNIQUE INDEX policy_sequence ON policy (sequence) WHERE sequence > 0;
"""


class PolicySequenceTakenError(ConflictError):
    """Another policy is signed under the same sequence number."""

    reason = "POLICY_SEQUENCE_TAKEN"


class PolicyDatabase:
    """`ports.PolicyStore` in one SQLite file."""

    def __init__(self, directory: Path, *, max_policies: int) -> None:
        self._max_policies = max_policies
        self._file = SqliteFile(
            directory / "policies.sqlite",
            application=_APPLICATION,
            version=1,
            schema=_SCHEMA,
            max_bytes=None,
        )

    def put(self, signed: SignedPolicy) -> None:
        """See `ports.PolicyStore`."""
        digest, sequence = signed.policy.digest, signed.sequence
        with self._file.writing() as db:
            held = db.execute("SELECT sequence FROM policy WHERE digest = ?", (digest,)).fetchone()
            if held is not None and held[0] >= sequence:
                return
            taken = db.execute(
                "SELECT 1 FROM policy WHERE sequence = ? AND sequence > 0", (sequence,)
            ).fetchone()
            if taken is not None:
                raise PolicySequenceTakenError(
                    f"another policy has the sequence number {sequence}", field="policy"
                )
            (count,) = db.execute("SELECT count(*) FROM policy").fetchone()
            if held is None and count >= self._max_policies:
                raise StoreFullError(f"{count} policies are kept", retry_after_ms=RETRY_FULL_MS)
            db.execute(
                "INSERT INTO policy VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE"
                " SET sequence = excluded.sequence, signed = excluded.signed",
                (digest, sequence, signed.signed),
            )

    def get(self, digest: bytes) -> bytes | None:
        """See `ports.PolicyStore`."""
        with self._file.reading() as db:
            row = db.execute("SELECT signed FROM policy WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else bytes(row[0])

    def by_sequence(self) -> list[bytes]:
        """See `ports.PolicyStore`."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT signed FROM policy WHERE sequence > 0 ORDER BY sequence DESC"
            ).fetchall()
        return [bytes(row[0]) for row in rows]

    def close(self) -> None:
        """Close the database."""
        self._file.close()
