"""What the log takes (spec/log.md; PROTOCOL section 3).

Anyone may append, and conflicting records are all kept, since they are evidence. What is refused is
what could never be used by anybody: records that are not the one encoding of what their kind is,
that their own key did not sign, or statements whose request blob, attestation token or evidence is
not held, because nobody could re-execute or appraise those. Whether a key was delegated, a token is
trusted or a seq repeats is for others to judge.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from otr_commitment.lookup import By, prefix_of
from otr_commitment.ports import Blobs
from otr_commitment.token_evidence import evidence_digest_of
from otr_protocol import cose
from otr_protocol.attestation.ear import MAX_TOKEN_BYTES
from otr_protocol.errors import RejectedError
from otr_protocol.fields import MAX_SIGNED_BYTES
from otr_protocol.identity import open_delegation
from otr_protocol.payment import open_close
from otr_protocol.registry import open_model_record
from otr_protocol.statement import Statement, open_statement, statement_from_payload
from otr_protocol.tlog.entry import EntryKind, idempotency_key

# One token serves every answer of a session, up to an hour: few are in use at once.
REMEMBERED_TOKENS: Final = 4096


class KindNotTakenError(RejectedError):
    """Records of this kind are not taken yet."""

    reason = "ENTRY_KIND_NOT_TAKEN"


class RequestBlobMissingError(RejectedError):
    """The statement's request blob is not held: put it first."""

    reason = "REQUEST_BLOB_MISSING"


class AttestationTokenMissingError(RejectedError):
    """The statement's attestation token is not held as a blob: put it first."""

    reason = "ATTESTATION_TOKEN_MISSING"


class EvidenceMissingError(RejectedError):
    """The evidence bundle that the statement's token names is not held: put it first."""

    reason = "EVIDENCE_MISSING"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A record that may be appended. `request_id` is that of a statement, else None."""

    kind: EntryKind
    record: bytes
    idempotency_key: bytes
    request_id: bytes | None

    def prefixes(self, leaf_hash: bytes) -> tuple[int, ...]:
        """The lookup prefixes of the entry that this record becomes."""
        found = (
            prefix_of(By.IDEMPOTENCY_KEY, self.idempotency_key),
            prefix_of(By.LEAF_HASH, leaf_hash),
        )
        if self.request_id is None:
            return found
        return (*found, prefix_of(By.REQUEST_ID, self.request_id))


@dataclass(frozen=True, slots=True)
class Parsed:
    """A well-formed record; of a statement, what it needs is still to be checked."""

    admitted: Admitted
    statement: Statement | None


class Admission:
    """Decides about records. Any thread may call.

    `verify_statements` checks the session key's signature on statements, which is most of what an
    append costs (0.2 ms). Without it the log takes any well-formed statement, and only readers, who
    verify anyhow, find out that nobody signed it. Rarer kinds are always verified.
    """

    def __init__(self, blobs: Blobs, *, verify_statements: bool = True) -> None:
        self._blobs = blobs
        self._verify_statements = verify_statements
        self._evidence_of: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def parse(self, kind: EntryKind, record: bytes) -> Parsed:
        """Open a record as what its kind says.

        Raises what the kind's parser raises: MalformedError for another encoding, KeyMismatchError
        or SignatureRejectedError; KindNotTakenError for kinds without a parser yet.
        """
        statement: Statement | None = None
        match kind:
            case EntryKind.STATEMENT if self._verify_statements:
                statement = open_statement(record).statement
            case EntryKind.STATEMENT:
                payload = cose.peek_payload(record, max_bytes=MAX_SIGNED_BYTES)
                statement = statement_from_payload(payload)
            case EntryKind.DELEGATION:
                open_delegation(record)
            case EntryKind.MODEL:
                open_model_record(record)
            case EntryKind.CLOSE:
                open_close(record)
            case _:
                raise KindNotTakenError(
                    f"records of kind {kind.name} are not taken yet", field="kind"
                )
        request_id = None if statement is None else statement.request_id
        admitted = Admitted(kind, record, idempotency_key(kind, record), request_id)
        return Parsed(admitted, statement)

    def require_blobs(self, statement: Statement, tokens_seen: set[bytes]) -> None:
        """Refuse a statement unless its request blob, its token and the token's evidence are held.

        `tokens_seen` are digests of tokens found complete earlier in the same call: the statements
        of a batch mostly share one.
        Raises RequestBlobMissingError, AttestationTokenMissingError, TokenUnreadableError,
        EvidenceMissingError, or DamagedError when the stored token has changed.
        """
        if not self._blobs.held(statement.blob_digest):
            raise RequestBlobMissingError("put the request blob first", field="blob_digest")
        if statement.token_digest in tokens_seen:
            return
        if not self._blobs.held(statement.token_digest):
            raise AttestationTokenMissingError("put the token first", field="token_digest")
        if not self._blobs.held(self._evidence(statement.token_digest)):
            raise EvidenceMissingError(
                "put the evidence bundle that the token names first", field="token_digest"
            )
        tokens_seen.add(statement.token_digest)

    def _evidence(self, token_digest: bytes) -> bytes:
        """The evidence that a held token names; a digest's content never changes, so it is kept."""
        with self._lock:
            known = self._evidence_of.get(token_digest)
            if known is not None:
                self._evidence_of.move_to_end(token_digest)
                return known
        token = self._blobs.read(token_digest, max_bytes=MAX_TOKEN_BYTES)
        # None is a blob that is no token, being too large: refused like any other that is none.
        digest = evidence_digest_of(b"" if token is None else token)
        with self._lock:
            self._evidence_of[token_digest] = digest
            if len(self._evidence_of) > REMEMBERED_TOKENS:
                self._evidence_of.popitem(last=False)
        return digest
