"""Who answers for a statement: the rules that a relying party and the arbiter share.

A statement is an operator's when the operator's delegation is for its session key and time, and it
is attested when the token names the same operator, session key and model. Both sides of a payment
must agree on these to the bit, so they are written once (spec/statement.md, spec/finality.md).
"""

from __future__ import annotations

from typing import Final

from otr_protocol import answer_refusals as refusals
from otr_protocol.attestation.ear import AttestationResult
from otr_protocol.identity import Delegation
from otr_protocol.statement import Statement

# A statement logged later than this after its token expired is kept, and not paid.
LATE_REGISTRATION_MS: Final = 600_000
# Clocks of honest machines differ; a larger difference is a false time (facts: at most 120 s).
MAX_CLOCK_SKEW_MS: Final = 120_000


def require_delegated(statement: Statement, delegation: Delegation) -> None:
    """Refuse unless `delegation` makes its operator answer for `statement`.

    Raises DelegationMismatchError or DelegationExpiredError.
    """
    if delegation.operator_id != statement.operator_id:
        raise refusals.DelegationMismatchError("by another operator", field="operator_id")
    if delegation.session_key != statement.session_key:
        raise refusals.DelegationMismatchError("of another session key", field="session_key")
    if statement.end_ms > delegation.not_after:
        raise refusals.DelegationExpiredError("the delegation had expired", field="not_after")


def require_attested(statement: Statement, attestation: AttestationResult) -> None:
    """Refuse unless the evidence named this operator, session key and model.

    Raises AttestationBindingError.
    """
    for field in ("operator_id", "session_key", "model_id"):
        if getattr(attestation, field) != getattr(statement, field):
            raise refusals.AttestationBindingError(
                f"the evidence names another {field}", field=field
            )


def require_log_time(statement: Statement, log_time_ms: int) -> None:
    """Refuse with LogTimeError a statement that was registered before it can have been made.

    Windows run from the log's time: what was signed ahead could be final before it has ended.
    """
    if log_time_ms + MAX_CLOCK_SKEW_MS < statement.end_ms:
        raise refusals.LogTimeError("registered before the answer ended", field="log_time_ms")


def is_payable(log_time_ms: int, attestation: AttestationResult) -> bool:
    """Whether a statement registered at `log_time_ms` was in time to be paid."""
    return log_time_ms <= attestation.expires_at * 1000 + LATE_REGISTRATION_MS
