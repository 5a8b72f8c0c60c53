r"""Where a statement stands between the log and finality (spec/finality.md).

    RECEIVED -> PROVISIONAL -> FINAL
        \-> IGNORED

A logged statement is RECEIVED. It becomes PROVISIONAL when it is somebody's (a logged delegation)
and its token covers it, and FINAL when its window ends unrefuted. A statement that nobody answers
for, or whose token establishes nothing about its signer, is IGNORED: kept, but never paid. Disputes
and draws add their states to this table; windows run from the log's time, and the lowest index of a
payload fixes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, unique
from typing import Final

from otr_protocol.attestation.ear import AttestationResult
from otr_protocol.errors import RejectedError
from otr_protocol.identity import VerifiedDelegation
from otr_protocol.statement import Statement

LATE_MS: Final = 10 * 60 * 1000
"""Logged later than the token's end plus this: kept, not payable."""


@unique
class State(IntEnum):
    """The states, numbered as in the contract."""

    RECEIVED = 1
    PROVISIONAL = 2
    FINAL = 4
    IGNORED = 7


class NotDelegatedError(RejectedError):
    """The delegation that the statement names is not for this session, log or time."""

    reason = "NOT_DELEGATED"


class TokenNotForStatementError(RejectedError):
    """The token was issued for another operator, session key or model."""

    reason = "TOKEN_NOT_FOR_STATEMENT"


class SimulatedEvidenceError(RejectedError):
    """The evidence comes from a development TEE and this arbiter does not accept that."""

    reason = "SIMULATED_EVIDENCE"


@dataclass(frozen=True, slots=True)
class Standing:
    """One statement as the arbiter sees it; times in ms, `reason` empty while nothing is wrong."""

    payload_hash: bytes
    leaf_index: int
    log_time_ms: int
    window_ends_ms: int
    state: State = State.RECEIVED
    operator_id: bytes = b""
    payable: bool = False
    reason: str = ""


def require_delegated(
    statement: Statement, delegation: VerifiedDelegation, log_origin: str
) -> None:
    """Raise NotDelegatedError unless `delegation` makes the operator answer for `statement`."""
    granted = delegation.delegation
    if granted.session_key != statement.session_key:
        raise NotDelegatedError("the delegation is for another session key")
    if granted.operator_id != statement.operator_id:
        raise NotDelegatedError("the delegation is by another operator")
    if granted.log_origin != log_origin:
        raise NotDelegatedError("the delegation is for another log")
    if statement.end_ms > granted.not_after:
        raise NotDelegatedError("the delegation ended before the answer did")


def require_attested(
    statement: Statement, result: AttestationResult, *, accept_simulated: bool
) -> None:
    """Raise unless the token is for this statement's signer and model and covers its time."""
    bound = (
        result.operator_id == statement.operator_id
        and result.session_key == statement.session_key
        and result.model_id == statement.model_id
    )
    if not bound:
        raise TokenNotForStatementError("the token binds another operator, session key or model")
    if result.simulated and not accept_simulated:
        raise SimulatedEvidenceError("simulated evidence proves nothing about hardware")
    result.require_covers(statement.start_ms, statement.end_ms)


def provisional(standing: Standing, statement: Statement, result: AttestationResult) -> Standing:
    """The standing after both checks passed."""
    payable = standing.log_time_ms <= result.expires_at * 1000 + LATE_MS
    return replace(
        standing,
        state=State.PROVISIONAL,
        operator_id=statement.operator_id,
        payable=payable,
        reason="" if payable else "LOGGED_LATE",
    )


def ignored(standing: Standing, reason: str) -> Standing:
    """The standing of a statement that establishes nothing."""
    return replace(standing, state=State.IGNORED, reason=reason)


def advance(standing: Standing, now_ms: int) -> Standing:
    """FINAL once the window of a PROVISIONAL statement has ended, else unchanged."""
    if standing.state is State.PROVISIONAL and now_ms >= standing.window_ends_ms:
        return replace(standing, state=State.FINAL)
    return standing
