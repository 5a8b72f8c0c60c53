"""Equivocation: two signed statements that cannot both be honest (spec/statement.md).

Slashed without a game, since the signatures alone convict:

* same (session_key, seq), different payloads; or
* same (operator_id, request_id, client_nonce, input_digest, model_id), both exact-int8, neither
  aborted nor cancelled, with different output_digest or trace_root. Exact arithmetic has one
  answer, and the input digest holds the salt that both digests are salted with.

The finish code is inside the output digest, so the second rule needs both digests opened.
"""

from __future__ import annotations

from enum import StrEnum, unique

from otr_protocol.errors import RejectedError
from otr_protocol.output import OutputOpening
from otr_protocol.statement import Profile, Statement, VerifiedStatement


class NoEquivocationError(RejectedError):
    """Two statements that an honest operator may have signed."""

    reason = "NO_EQUIVOCATION"


@unique
class Equivocation(StrEnum):
    """Which rule two statements break."""

    SAME_SEQ = "same-seq"
    SAME_REQUEST = "same-request"


def same_seq(first: VerifiedStatement, second: VerifiedStatement) -> Equivocation:
    """The first rule. Raises NoEquivocationError when the pair does not break it."""
    one, other = first.statement, second.statement
    if (one.session_key, one.seq) != (other.session_key, other.seq):
        raise NoEquivocationError("another session key or seq", field="seq")
    if first.payload_hash == second.payload_hash:
        raise NoEquivocationError("the same statement twice", field="payload")
    return Equivocation.SAME_SEQ


def same_request(
    first: VerifiedStatement,
    first_output: OutputOpening,
    second: VerifiedStatement,
    second_output: OutputOpening,
) -> Equivocation:
    """The second rule. Raises NoEquivocationError, or OutputOpeningError for a false opening.

    Both session keys must be delegated by the operator named: the caller checks that first.
    """
    one, other = first.statement, second.statement
    if _request_key(one) != _request_key(other):
        raise NoEquivocationError("another request", field="request_id")
    if one.profile is not Profile.EXACT_INT8 or other.profile is not Profile.EXACT_INT8:
        raise NoEquivocationError("only exact-int8 has one answer", field="profile")
    first_output.check(one.output_digest)
    second_output.check(other.output_digest)
    if not (first_output.finish.is_complete and second_output.finish.is_complete):
        raise NoEquivocationError("an aborted or cancelled answer may differ", field="finish")
    if (one.output_digest, one.trace_root) == (other.output_digest, other.trace_root):
        raise NoEquivocationError("the same output and trace", field="output_digest")
    return Equivocation.SAME_REQUEST


def _request_key(statement: Statement) -> tuple[bytes, ...]:
    return (
        statement.operator_id,
        statement.request_id,
        statement.client_nonce,
        statement.input_digest,
        statement.model_id,
    )
