"""Verify a whole answer offline, from bytes, trust roots and `now` (spec/statement.md).

The checks run in one fixed order, each on what the earlier ones established, and stop at the first
refusal. A `VerifiedAnswer` exists only when every check that applies has run: there is no partial
success. What does not apply (no receipt, no allowance) is said in `notes`, never passed over.

What verification does not show: that the model computes these output ids (re-execution or a
dispute does), and, without a receipt, that the stated time is true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final, ParamSpec, TypeVar

from otr_protocol import answer_rules as rules
from otr_protocol.answer import Answer
from otr_protocol.answer_refusals import (
    AllowanceMissingError,
    AnotherRequestError,
    ReceiptMissingError,
)
from otr_protocol.attestation.ear import AttestationResult
from otr_protocol.errors import Refusal
from otr_protocol.identity import Delegation
from otr_protocol.output import Finish
from otr_protocol.payment import Allowance
from otr_protocol.request import GenerationInput
from otr_protocol.request_blob import RequestBlob
from otr_protocol.signer import is_payable
from otr_protocol.statement import Statement, VerifiedStatement
from otr_protocol.tlog.receipt import VerifiedReceipt
from otr_protocol.trust import TrustRoots

# The checks in their order. The last two apply only when the file has the part or the relying
# party requires it.
CHECKS: Final = (
    "encoding",
    "statement_signature",
    "delegation",
    "attestation_token",
    "attestation_status",
    "attestation_binding",
    "times",
    "model",
    "blob",
    "input_digest",
    "output_digest",
    "trace_root",
    "exposure",
    "allowance",
    "receipt",
)

Established = TypeVar("Established")
Arguments = ParamSpec("Arguments")


@unique
class TimeBasis(StrEnum):
    """Whose word the answer's time is."""

    LOG = "log"
    """A pinned log registered the statement at `receipt.log_time_ms`."""
    OPERATOR = "operator"
    """Nobody but the operator says when: there is no receipt."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check that ran and held: its name among `CHECKS`, and a line for people."""

    name: str
    line: str


class AnswerRefusedError(Refusal):
    """An answer is not verified: `check` failed because of `cause`, after `passed` had held.

    `reason` and `field` are those of the cause.
    """

    def __init__(self, check: str, passed: tuple[Check, ...], cause: Refusal) -> None:
        super().__init__(f"{check}: {cause.message}", field=cause.field)
        self.check = check
        self.passed = passed
        self.cause = cause
        # One exception type carries what any step refused; clients match on that step's reason.
        self.reason = cause.reason  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class VerifiedAnswer:
    """An answer for which every applicable check ran and held.

    `model_name` is a pinned publisher's name for the model, None when only its id is pinned.
    `payable` says whether a fee may still be claimed: not known (None) before the log has
    registered the statement. `notes` name what did not apply.
    """

    answer: Answer
    signed: VerifiedStatement
    delegation: Delegation
    attestation: AttestationResult
    blob: RequestBlob
    model_name: str | None
    allowance: Allowance | None
    receipt: VerifiedReceipt | None
    payable: bool | None
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def statement(self) -> Statement:
        """The verified statement."""
        return self.signed.statement

    @property
    def time_basis(self) -> TimeBasis:
        """Whose word the answer's time is."""
        return TimeBasis.OPERATOR if self.receipt is None else TimeBasis.LOG

    def require_request(
        self,
        *,
        request_id: bytes,
        client_nonce: bytes,
        salt: bytes,
        model_id: bytes,
        request: GenerationInput,
        cancelled: bool = False,
    ) -> None:
        """Refuse a genuine answer to somebody else's request, or by another model than was asked.

        `model_id` is part of it: one publisher's small model is as genuine as its large one. So is
        whether the caller `cancelled`: only then may the answer have ended for that reason, which
        frees the operator from giving the rest. Raises AnotherRequestError naming the field.
        """
        statement, blob = self.statement, self.blob
        for name, ours, theirs in (
            ("request_id", request_id, statement.request_id),
            ("client_nonce", client_nonce, statement.client_nonce),
            ("salt", salt, blob.salt),
            ("model_id", model_id, statement.model_id),
            ("request", request, blob.request),
        ):
            if ours != theirs:
                raise AnotherRequestError(f"the answer has another {name}", field=name)
        self.require_not_cancelled(cancelled=cancelled)

    def require_not_cancelled(self, *, cancelled: bool) -> None:
        """Refuse an answer that says its client cancelled it when the client did not.

        Raises AnotherRequestError with the field "finish".
        """
        if self.blob.finish is Finish.CANCELLED and not cancelled:
            raise AnotherRequestError("the answer says that it was cancelled", field="finish")


class _Steps:
    """Runs rules, remembers those that held, and says which one did not."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed: list[Check] = []

    def run(
        self,
        check: str,
        rule: Callable[Arguments, rules.Outcome[Established]],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Established:
        try:
            established, line = rule(*args, **kwargs)
        except Refusal as refusal:
            raise AnswerRefusedError(check, tuple(self.passed), refusal) from refusal
        self.passed.append(Check(check, line))
        return established

    def missing(self, check: str, refusal: Refusal) -> AnswerRefusedError:
        return AnswerRefusedError(check, tuple(self.passed), refusal)


def verify_answer(data: bytes, roots: TrustRoots, now_ms: int) -> VerifiedAnswer:
    """Verify an answer file against `roots` at `now_ms` (ms since 1970 UTC).

    Raises AnswerRefusedError, whose `check`, `passed` and `reason` say what failed; nothing else
    escapes, whatever the bytes. `now_ms` only serves to refuse answers from the future.
    """
    steps = _Steps()
    answer = steps.run("encoding", rules.encoding, data)
    signed = steps.run("statement_signature", rules.statement_signature, answer)
    statement = signed.statement
    delegation = steps.run("delegation", rules.delegation, answer, statement, roots)
    attestation = steps.run("attestation_token", rules.attestation_token, answer, statement, roots)
    steps.run("attestation_status", rules.attestation_status, attestation, roots)
    steps.run("attestation_binding", rules.attestation_binding, answer, statement, attestation)
    steps.run("times", rules.times, statement, attestation, now_ms)
    model_name = steps.run("model", rules.model, answer, statement, roots)
    blob = steps.run("blob", rules.blob, answer, statement)
    steps.run("input_digest", rules.input_digest, statement, blob)
    out_root = steps.run("output_digest", rules.output_digest, statement, blob)
    steps.run("trace_root", rules.trace_root, statement, blob, out_root)
    steps.run("exposure", rules.exposure, statement, blob)

    log_origin = delegation.log_origin
    allowance = None
    if answer.allowance:
        allowance = steps.run("allowance", rules.allowance, answer, statement, log_origin, roots)
    elif roots.require_allowance:
        raise steps.missing("allowance", AllowanceMissingError("there is no allowance"))
    receipt = None
    if answer.receipt:
        receipt = steps.run("receipt", rules.receipt, answer, statement, log_origin, roots, now_ms)
    elif roots.require_receipt or roots.witness_quorum:
        raise steps.missing("receipt", ReceiptMissingError("there is no receipt"))

    payable = None
    if receipt is not None:
        payable = is_payable(receipt.log_time_ms, attestation)
    return VerifiedAnswer(
        answer=answer,
        signed=signed,
        delegation=delegation,
        attestation=attestation,
        blob=blob,
        model_name=model_name,
        allowance=allowance,
        receipt=receipt,
        payable=payable,
        checks=tuple(steps.passed),
        notes=_notes(statement, blob, attestation, allowance, receipt, payable),
    )


def _notes(
    statement: Statement,
    blob: RequestBlob,
    attestation: AttestationResult,
    allowance: Allowance | None,
    receipt: VerifiedReceipt | None,
    payable: bool | None,
) -> tuple[str, ...]:
    notes = []
    if attestation.simulated:
        notes.append("the TEE is simulated: nothing is known about the hardware")
    if blob.finish is Finish.CANCELLED:
        notes.append("cut short: the operator says that the client cancelled")
    if blob.finish is Finish.ABORTED:
        notes.append("cut short: the server gave up, and nothing is due")
    if receipt is None:
        notes.append("no receipt: time claimed by the operator")
    elif receipt.log_time_ms < statement.end_ms:
        notes.append("the log's clock or the operator's is wrong: registered before the end")
    if payable is False:
        notes.append("registered too late after the token expired: kept, not payable")
    if allowance is None:
        notes.append("no allowance: no arbiter says that the exposure is covered")
    if statement.voucher_digest:
        notes.append("the voucher is not part of the file: the fee was not compared with its price")
    return tuple(notes)
