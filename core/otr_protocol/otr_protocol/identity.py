"""Who answers for a statement: operators and their delegations (spec/statement.md, "identity").

An operator is an Ed25519 key kept outside the serving machines; `operator_id = H(public key)`. It
delegates to the session keys that live inside TEEs with a logged COSE_Sign1 over

    ["otr-delegation-v1", operator_public_key, session_key, log_origin, not_after]

A statement by a session key without a delegation is nobody's: it may be logged, but nobody is paid
or slashed for it. Statements name the delegation by `H` of its exact bytes, so that the answer
file has no second form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from otr_protocol import cose, dcbor
from otr_protocol.digest import H
from otr_protocol.fields import (
    MAX_SIGNED_BYTES,
    FieldError,
    as_bytes,
    as_integer,
    as_text,
    check_digest,
    check_name,
    check_time,
)

DELEGATION_DOMAIN: Final = "otr-delegation-v1"


def operator_id(operator_public_key: bytes) -> bytes:
    """The 32-byte identity of an operator: `H` of its raw 32-byte Ed25519 public key."""
    check_digest(operator_public_key, "operator_public_key")
    return H(operator_public_key)


@dataclass(frozen=True, slots=True)
class Delegation:
    """`session_key` may sign statements for this operator, in this log, until `not_after` (ms)."""

    operator_public_key: bytes
    session_key: bytes
    log_origin: str
    not_after: int

    def __post_init__(self) -> None:
        check_digest(self.operator_public_key, "operator_public_key")
        check_digest(self.session_key, "session_key")
        check_name(self.log_origin, "log_origin")
        check_time(self.not_after, "not_after")
        if self.operator_public_key == self.session_key:
            raise FieldError("an operator's key signs no statements", field="session_key")

    @property
    def operator_id(self) -> bytes:
        """The operator that this delegation makes answerable."""
        return operator_id(self.operator_public_key)

    def payload(self) -> bytes:
        """The record that the operator signs."""
        return dcbor.encode(
            (
                DELEGATION_DOMAIN,
                self.operator_public_key,
                self.session_key,
                self.log_origin,
                self.not_after,
            )
        )


@dataclass(frozen=True, slots=True)
class VerifiedDelegation:
    """A delegation whose signature by its operator holds, and the digest statements name it by."""

    delegation: Delegation
    digest: bytes


def sign_delegation(delegation: Delegation, sign: Callable[[bytes], bytes]) -> bytes:
    """The COSE_Sign1 by the operator's key; `sign` maps a message to a 64-byte signature."""
    return cose.sign1(delegation.payload(), sign, delegation.operator_public_key)


def open_delegation(data: bytes) -> VerifiedDelegation:
    """Parse and verify a delegation under the operator key that it names.

    That the key is the right operator's is for the caller to compare. Raises MalformedError for
    another encoding, KeyMismatchError or SignatureRejectedError.
    """
    payload = cose.peek_payload(data, max_bytes=MAX_SIGNED_BYTES)
    key, session_key, log_origin, not_after = dcbor.open_record(
        payload, DELEGATION_DOMAIN, bytes, bytes, str, int
    )
    delegation = Delegation(
        operator_public_key=as_bytes(key, "operator_public_key"),
        session_key=as_bytes(session_key, "session_key"),
        log_origin=as_text(log_origin, "log_origin"),
        not_after=as_integer(not_after, "not_after"),
    )
    cose.verify1(data, delegation.operator_public_key, max_bytes=MAX_SIGNED_BYTES)
    return VerifiedDelegation(delegation, H(data))
