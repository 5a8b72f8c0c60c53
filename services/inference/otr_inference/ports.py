"""What the inference service needs from the outside, as small protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from otr_protocol.errors import ConflictError, ExhaustedError, UnavailableError


class Verifier(Protocol):
    """The attestation service."""

    async def challenge(self, binding: KeyBinding) -> bytes:
        """A fresh 32-byte challenge bound to `binding`."""
        ...

    async def verify(self, challenge: bytes, binding: KeyBinding, evidence: bytes) -> bytes:
        """The attestation token for `evidence`; raises a refusal with the findings otherwise."""
        ...

    async def jwks(self) -> str:
        """The verifier's public keys, to check its own answer with."""
        ...


class Attester(Protocol):
    """Collects evidence from the machine this process runs on."""

    def collect(self, challenge: bytes, binding: KeyBinding) -> bytes:
        """The evidence bundle bound to challenge and keys (spec/attestation.md)."""
        ...


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """What the evidence commits to besides the challenge; 32 bytes each."""

    operator_id: bytes
    session_key: bytes
    tls_spki_sha256: bytes
    model_id: bytes


class StorageFullError(ExhaustedError):
    """The disk is full: nothing new is accepted, what was acknowledged stays."""

    reason = "STORAGE_FULL"


class StorageBrokenError(UnavailableError):
    """The disk failed in a way that leaves open what is on it: this process must end."""

    reason = "STORAGE_BROKEN"


class RequestIdReusedError(ConflictError):
    """The request id was used before with other bytes."""

    reason = "REQUEST_ID_REUSED"


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as stored: what its statements refer to."""

    session_key: bytes
    delegation: bytes
    token: bytes
    token_digest: bytes
    evidence: bytes
    evidence_digest: bytes


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """A sealed answer as stored."""

    payload_hash: bytes
    session: SessionRow
    statement: bytes
    blob: bytes
    blob_digest: bytes
    content_key: bytes
    receipt: bytes | None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A record waiting for the log; statements bring the blobs the log must hold first."""

    id: int
    kind: int
    record: bytes
    payload_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the signer returns for an assigned sequence number."""

    payload_hash: bytes
    statement: bytes


class Store(Protocol):
    """The operator's durable state: what is returned has been committed with fsync."""

    async def record_session(self, session: SessionRow, now_ms: int) -> None:
        """Store a session before its first signature."""
        ...

    async def admit(self, client: str, request_id: bytes, fingerprint: bytes) -> AnswerRow | None:
        """Take a request id for `client`, or return the answer already given under it.

        Raises `RequestIdReusedError` for other bytes under a used id and `StorageFullError` when
        the disk takes no more. An id taken without an answer may be taken again.
        """
        ...

    async def release(self, client: str, request_id: bytes) -> None:
        """Forget a request that ended without an answer."""
        ...

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
        ...

    async def enqueue(self, kind: int, record: bytes) -> None:
        """Queue a record that is not a statement; the same record once."""
        ...

    async def answer(self, client: str, request_id: bytes) -> AnswerRow | None:
        """The answer given to `client` under `request_id`, or None."""
        ...

    async def answer_by_hash(self, payload_hash: bytes) -> AnswerRow | None:
        """The answer whose statement has this payload hash, or None."""
        ...

    async def outbox(self, limit: int) -> list[OutboxRow]:
        """The oldest records that the log has not acknowledged."""
        ...

    async def outbox_size(self) -> int:
        """How many records the log has not acknowledged."""
        ...

    async def set_aside(self, row: OutboxRow, reason: str) -> None:
        """Keep a record that the log refused, with its reason, and stop sending it."""
        ...

    async def acknowledge(self, rows: Sequence[tuple[OutboxRow, bytes]]) -> None:
        """Drop records that the log has, keeping the receipts of statements."""
        ...
