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

from otr_protocol import signer
from otr_protocol.answer_refusals import SimulatedEvidenceError
from otr_protocol.attestation.ear import AttestationResult
from otr_protocol.errors import RejectedError
from otr_protocol.identity import VerifiedDelegation
from otr_protocol.statement import Statement


@unique
class State(IntEnum):
    """The states, numbered as in the contract."""

    RECEIVED = 1
    PROVISIONAL = 2
    FINAL = 4
    IGNORED = 7


class OtherLogError(RejectedError):
    """The delegation that the statement names is for another log."""

    reason = "DELEGATION_OF_ANOTHER_LOG"


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


def require_answerable(
    statement: Statement, delegation: VerifiedDelegation, log_origin: str, log_time_ms: int
) -> None:
    """Refuse unless `delegation` makes an operator answer for `statement` in this log, at its time.

    Raises OtherLogError and what `signer.require_delegated` and `require_log_time` raise.
    """
    granted = delegation.delegation
    if granted.log_origin != log_origin:
        raise OtherLogError("the delegation is for another log", field="log_origin")
    signer.require_delegated(statement, granted)
    signer.require_log_time(statement, log_time_ms)


def require_attested(
    statement: Statement, result: AttestationResult, *, accept_simulated: bool
) -> None:
    """Refuse unless the token is for this statement's signer and model and covers its time.

    Raises SimulatedEvidenceError and what `signer.require_attested` and `require_covers` raise.
    """
    signer.require_attested(statement, result)
    if result.simulated and not accept_simulated:
        raise SimulatedEvidenceError("simulated evidence proves nothing about hardware")
    result.require_covers(statement.start_ms, statement.end_ms)


def provisional(standing: Standing, statement: Statement, result: AttestationResult) -> Standing:
    """The standing after both checks passed."""
    payable = signer.is_payable(standing.log_time_ms, result)
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
