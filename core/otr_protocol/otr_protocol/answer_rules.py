"""The single rules of answer verification (spec/statement.md, "verifying an answer").

Each rule takes what earlier rules established and returns what it establishes, with a line for
people, or raises a typed refusal. `verify_answer` alone decides their order.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from otr_protocol import answer_refusals as refusals
from otr_protocol import signer
from otr_protocol.answer import Answer, open_answer
from otr_protocol.attestation.compact_jws import TokenKeyUnknownError
from otr_protocol.attestation.ear import AttestationResult, verify_token
from otr_protocol.attestation.verdict import Status
from otr_protocol.cose import KeyMismatchError
from otr_protocol.digest import H
from otr_protocol.identity import Delegation, open_delegation
from otr_protocol.output import Finish
from otr_protocol.payment import Allowance, open_allowance
from otr_protocol.registry import open_model_record
from otr_protocol.request import sub_salt
from otr_protocol.request_blob import RequestBlob, open_blob
from otr_protocol.sealed_blob import is_sealed, open_sealed
from otr_protocol.signer import MAX_CLOCK_SKEW_MS
from otr_protocol.statement import Profile, Statement, VerifiedStatement, open_statement
from otr_protocol.tlog import receipt as log_receipt
from otr_protocol.tlog.checkpoint import Cosignature
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.receipt import Receipt, VerifiedReceipt
from otr_protocol.trace.segments import trace_positions
from otr_protocol.trust import TrustRoots

Established = TypeVar("Established")
# What a rule returns: what now holds, and how to say it in a line.
Outcome: TypeAlias = "tuple[Established, str]"


def encoding(data: bytes) -> Outcome[Answer]:
    """The file is the one encoding of its parts."""
    answer = open_answer(data)
    return answer, f"one canonical record of {len(data)} bytes"


def statement_signature(answer: Answer) -> Outcome[VerifiedStatement]:
    """The statement is signed by the session key that it names."""
    verified = open_statement(answer.statement)
    return verified, f"signed by session key {_short(verified.statement.session_key)}"


def delegation(answer: Answer, statement: Statement, roots: TrustRoots) -> Outcome[Delegation]:
    """The operator, by its own key, made that session key speak for it."""
    if H(answer.delegation) != statement.delegation_digest:
        raise refusals.DelegationDigestError("not the delegation that the statement names")
    found = open_delegation(answer.delegation).delegation
    signer.require_delegated(statement, found)
    if roots.operators and statement.operator_id not in roots.operators:
        raise refusals.OperatorNotPinnedError("the operator is not pinned", field="operator_id")
    if roots.logs:
        # Also without a receipt: an operator bound to some other log need never show up in ours.
        _log_keys(found.log_origin, roots)
    return found, f"delegated by operator {_short(statement.operator_id)} for {found.log_origin}"


def attestation_token(
    answer: Answer, statement: Statement, roots: TrustRoots
) -> Outcome[AttestationResult]:
    """The token that the statement names is by a pinned issuer, under a key pinned for it."""
    if H(answer.token) != statement.token_digest:
        raise refusals.TokenDigestError("not the token that the statement names")
    result = pinned_token(answer.token, roots)
    return result, f"issued by {result.issuer}"


def pinned_token(token: bytes, roots: TrustRoots) -> AttestationResult:
    """What a token says that is by a pinned issuer, under a key pinned for it.

    Raises TokenKeyUnknownError, IssuerMismatchError or what `verify_token` does.
    """
    for issuer in roots.issuers:
        try:
            result = verify_token(token, issuer.keys)
        except TokenKeyUnknownError:
            continue
        if result.issuer != issuer.issuer:
            raise refusals.IssuerMismatchError(
                "the token names another issuer than the one its key is pinned for", field="iss"
            )
        return result
    raise TokenKeyUnknownError("the token is signed by a key that is not pinned", field="kid")


def attestation_status(attestation: AttestationResult, roots: TrustRoots) -> Outcome[None]:
    """The appraisal ended in the trust that the relying party asks for."""
    if attestation.status is not Status.AFFIRMING and not (
        attestation.status is Status.WARNING and roots.allow_warning
    ):
        raise refusals.AppraisalStatusError("the appraisal has warnings", field="ear_status")
    if roots.policies and attestation.policy_digest not in roots.policies:
        raise refusals.PolicyNotPinnedError("appraised under another policy", field="policy_digest")
    if attestation.simulated and not roots.allow_simulated:
        raise refusals.SimulatedEvidenceError(
            "the evidence comes from a development TEE and proves nothing about hardware",
            field="simulated",
        )
    kind = "SIMULATED evidence, allowed by these roots" if attestation.simulated else "evidence"
    return None, f"{attestation.status.tier}, {kind}"


def attestation_binding(
    answer: Answer, statement: Statement, attestation: AttestationResult
) -> Outcome[None]:
    """The evidence named this operator, this session key and this model."""
    signer.require_attested(statement, attestation)
    if attestation.evidence_digest != answer.evidence_digest:
        raise refusals.EvidenceDigestError("not the evidence of this token", field="evidence")
    return None, f"evidence {_short(answer.evidence_digest)} names this session key and model"


def times(statement: Statement, attestation: AttestationResult, now_ms: int) -> Outcome[None]:
    """The token covers the answer from start to end, and the answer is not from the future.

    Judged at the statement's own times: an answer stays valid after its token has expired.
    """
    attestation.require_covers(statement.start_ms, statement.end_ms)
    if statement.end_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise refusals.FutureStatementError("the answer ends in the future", field="end_ms")
    milliseconds = statement.end_ms - statement.start_ms
    return None, f"the token covers the answer's {milliseconds} ms"


def model(answer: Answer, statement: Statement, roots: TrustRoots) -> Outcome[str | None]:
    """A pinned publisher vouches for the model, or the model id itself is pinned.

    Establishes the name that a pinned publisher gives the model, if one does.
    """
    name = None
    if answer.model_record:
        record = open_model_record(answer.model_record)
        if record.model_id != statement.model_id:
            raise refusals.ModelRecordError("the record is about another model", field="model_id")
        if record.publisher_key in roots.publishers:
            name = record.name
    if name is None and statement.model_id not in roots.models:
        raise refusals.ModelNotPinnedError("nobody trusted vouches for this model", field="model")
    called = f'called "{name}" by a pinned publisher' if name is not None else "pinned by its id"
    return name, f"model {_short(statement.model_id)}, {called}"


def blob(answer: Answer, statement: Statement) -> Outcome[RequestBlob]:
    """The blob is the one the log stores, and readable by exactly the recipients it names."""
    if H(answer.blob) != statement.blob_digest:
        raise refusals.BlobDigestError("not the request blob that the statement names")
    if not is_sealed(answer.blob):
        opened = open_blob(answer.blob)
        if opened.request.is_sealed or answer.content_key:
            raise refusals.BlobSealingError("a request with recipients lies open")
        return opened, "public"
    if not answer.content_key:
        raise refusals.BlobSealingError("the content key is missing", field="content_key")
    sealed = open_sealed(answer.blob)
    opened = open_blob(sealed.open(answer.content_key))
    if opened.request.recipients != sealed.recipients:
        raise refusals.BlobSealingError("sealed to others than the request's recipients")
    return opened, f"sealed to {len(sealed.recipients)} recipients, every box checked"


def input_digest(statement: Statement, opened: RequestBlob) -> Outcome[None]:
    """The statement is about this request."""
    if len(opened.request.prompt_ids) != statement.prompt_count:
        raise refusals.CountMismatchError("another number of prompt ids", field="prompt_count")
    if opened.input_digest() != statement.input_digest:
        raise refusals.InputDigestError("the request does not hash to the input digest")
    return None, f"{statement.prompt_count} prompt ids and all parameters"


def output_digest(statement: Statement, opened: RequestBlob) -> Outcome[bytes]:
    """The statement is about these output ids. Establishes their root."""
    if len(opened.output_ids) != statement.output_count:
        raise refusals.CountMismatchError("another number of output ids", field="output_count")
    opening = opened.output_opening()
    if opening.digest() != statement.output_digest:
        raise refusals.OutputDigestError("the output does not hash to the output digest")
    opened.check_finish()
    return opening.out_root, f"{statement.output_count} output ids, finish {opened.finish.name}"


def trace_root(statement: Statement, opened: RequestBlob, out_root: bytes) -> Outcome[None]:
    """The trace preimage is that of the trace root, and about this prompt and output.

    How many segments the model has stands in its manifest, which a relying party need not hold.
    """
    if statement.profile is not Profile.EXACT_INT8:
        raise refusals.ProfileError("only exact-int8 has a trace to check", field="profile")
    trace = opened.trace
    if trace.trace_root() != statement.trace_root:
        raise refusals.TraceRootError("the preimage does not hash to the trace root")
    if trace.sub_trace != sub_salt(opened.salt, "trace"):
        raise refusals.TraceRootError("salted with another salt", field="sub_trace")
    if trace.out_root != out_root:
        raise refusals.TraceRootError("about other output ids", field="out_root")
    if trace.positions != trace_positions(statement.prompt_count, statement.output_count):
        raise refusals.TraceRootError("over other positions", field="positions")
    return None, f"{len(trace.segments)} segments over {trace.positions} positions committed"


def exposure(statement: Statement, opened: RequestBlob) -> Outcome[None]:
    """The operator risks at least what the client declared, and an aborted answer is free.

    That seq 0 starts the running sum, and that no fee is due without a voucher, the statement's
    own type guarantees; gaps and double use of a seq are seen in the log only.
    """
    if statement.exposure < opened.request.declared_value:
        raise refusals.ExposureError("less than the declared value", field="exposure")
    if statement.fee and opened.finish is Finish.ABORTED:
        raise refusals.FeeError("an aborted answer is free", field="fee")
    return None, (
        f"seq {statement.seq} exposes {statement.exposure}, {statement.cumulative_exposure} in all"
    )


def allowance(
    answer: Answer, statement: Statement, log_origin: str, roots: TrustRoots
) -> Outcome[Allowance]:
    """A pinned arbiter allows the session this much exposure."""
    for key in roots.arbiters:
        try:
            found = open_allowance(answer.allowance, key)
        except KeyMismatchError:
            continue
        found.check_statement(statement, log_origin)
        return found, f"within {found.max_cumulative} allowed by a pinned arbiter"
    raise refusals.ArbiterNotPinnedError("the allowance is by no pinned arbiter", field="kid")


def receipt(
    answer: Answer,
    statement: Statement,
    log_origin: str,
    roots: TrustRoots,
    now_ms: int,
) -> Outcome[VerifiedReceipt]:
    """The pinned log that the delegation names has registered exactly this statement."""
    found = log_receipt.verify(
        EntryKind.STATEMENT,
        answer.statement,
        Receipt.decode(answer.receipt),
        _log_keys(log_origin, roots),
        witness_vkeys=roots.witnesses,
    )
    if len(found.cosignatures) < roots.witness_quorum:
        raise refusals.WitnessQuorumError(
            f"{len(found.cosignatures)} of {roots.witness_quorum} witnesses have cosigned",
            field="checkpoint",
        )
    signer.require_log_time(statement, found.log_time_ms)
    for cosignature in found.cosignatures:
        _require_witness_time(cosignature, found.log_time_ms, now_ms)
    if found.log_time_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise refusals.LogTimeError("registered in the future", field="log_time_ms")
    witnesses = f", {len(found.cosignatures)} witnesses" if roots.witnesses else ""
    return found, (
        f"leaf {found.leaf_index} of {found.checkpoint.tree_size} in {log_origin}{witnesses}"
    )


def _require_witness_time(cosignature: Cosignature, log_time_ms: int, now_ms: int) -> None:
    """A witness saw the entry after the log had it, and not in the future."""
    witnessed_ms = cosignature.timestamp * 1000
    if not log_time_ms - MAX_CLOCK_SKEW_MS <= witnessed_ms <= now_ms + MAX_CLOCK_SKEW_MS:
        raise refusals.LogTimeError(
            f"{cosignature.witness.name} cosigned at an impossible time", field="checkpoint"
        )


def _log_keys(log_origin: str, roots: TrustRoots) -> tuple[VerifierKey, ...]:
    keys = tuple(key for key in roots.logs if key.name == log_origin)
    if not keys:
        raise refusals.LogNotPinnedError("the log is not pinned", field="log_origin")
    return keys


def _short(digest: bytes) -> str:
    return digest.hex()[:16]
