"""Verifying an answer: each lie fails its own check, for its own reason (spec/statement.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.answer import Answer, open_answer
from otr_protocol.answer_refusals import AnotherRequestError
from otr_protocol.attestation.compact_jws import Jwks, jwks_document
from otr_protocol.attestation.verdict import Status
from otr_protocol.digest import H
from otr_protocol.output import Finish
from otr_protocol.request import seeded
from otr_protocol.request_blob import RequestBlob
from otr_protocol.sealed_blob import seal
from otr_protocol.statement import Profile
from otr_protocol.tlog.note import COSIGNATURE_V1, SignerKey, parse_note
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.trace.root import empty_trace
from otr_protocol.trust import TokenIssuer
from otr_protocol.verify_answer import (
    CHECKS,
    AnswerRefusedError,
    TimeBasis,
    VerifiedAnswer,
    verify_answer,
)
from support.answers import (
    CLIENT_RECIPIENT,
    CONTENT_KEY,
    END_MS,
    ISSUER,
    ISSUER_KEY,
    LOG_TIME_MS,
    MODEL_ID,
    MODEL_NAME,
    NOW_MS,
    OPERATOR,
    SALT,
    START_MS,
    TOKEN_ISSUED,
    TOKEN_SECONDS,
    Key,
    World,
    blob_of,
    request_of,
    sealed_request,
    sign_token,
)
from support.log_of import LOG_KEY, OTHER_KEY, WITNESS_KEY

SECOND_WITNESS = SignerKey("witness.example/w2", b"\x05" * 32, COSIGNATURE_V1).verifier


def verified(answer: Answer, world: World, **roots: Any) -> VerifiedAnswer:
    return verify_answer(answer.encode(), world.roots(**roots), NOW_MS)


@pytest.mark.parametrize(
    "blob",
    [
        blob_of(),
        blob_of(output_count=0, finish=Finish.ABORTED),
        blob_of(request_of(300, sampling=seeded(94_548, top_k=40), seed=bytes([9]) * 32)),
        blob_of(request_of(max_tokens=20, stop_strings=["\n\n"]), finish=Finish.LENGTH),
        blob_of(sealed_request(), finish=Finish.STOP_ID),
    ],
)
def test_an_honest_answer_passes_every_check_in_order(blob: RequestBlob) -> None:
    world = World()
    result = verified(world.answer(blob), world)
    assert tuple(check.name for check in result.checks) == CHECKS
    assert all(check.line for check in result.checks)
    assert result.blob == blob
    assert result.model_name == MODEL_NAME
    assert result.time_basis is TimeBasis.LOG
    assert result.receipt is not None
    assert result.receipt.log_time_ms == LOG_TIME_MS
    assert result.payable is True
    assert bool(result.notes) is (blob.finish is Finish.ABORTED)


def test_an_answer_cut_short_counts_only_for_a_client_that_cancelled() -> None:
    world = World()
    result = verified(world.answer(blob_of(finish=Finish.CANCELLED)), world)
    assert any("cut short" in note for note in result.notes)
    result.require_not_cancelled(cancelled=True)
    with pytest.raises(AnotherRequestError) as caught:
        result.require_not_cancelled(cancelled=False)
    assert caught.value.field == "finish"


def test_without_a_receipt_the_time_is_the_operators_claim() -> None:
    world = World()
    result = verified(world.answer(with_receipt=False), world)
    assert result.time_basis is TimeBasis.OPERATOR
    assert result.payable is None
    assert "no receipt: time claimed by the operator" in result.notes
    assert tuple(check.name for check in result.checks) == CHECKS[:-1]


def test_a_receipt_added_later_verifies() -> None:
    world = World()
    early = world.answer(with_receipt=False)
    late = early.with_receipt(world.receipt(early.statement))
    assert open_answer(late.encode()) == late
    assert verified(late, world).time_basis is TimeBasis.LOG


def test_without_an_allowance_the_answer_says_so() -> None:
    world = World()
    result = verified(world.answer(allowance=b""), world)
    assert result.allowance is None
    assert any("no allowance" in note for note in result.notes)


def test_an_answer_stays_valid_after_its_token_has_expired() -> None:
    world = World()
    years_later = NOW_MS + 10 * 365 * 86_400_000
    verify_answer(world.answer().encode(), world.roots(), years_later)


def test_registration_after_expiry_is_kept_but_not_paid() -> None:
    world = World()
    latest = (TOKEN_ISSUED + TOKEN_SECONDS) * 1000 + 600_000
    for log_time_ms, payable in ((latest, True), (latest + 1, False)):
        answer = world.answer(log_time_ms=log_time_ms)
        result = verify_answer(answer.encode(), world.roots(), latest + 1)
        assert result.payable is payable
        assert any("not payable" in note for note in result.notes) is not payable


def test_simulated_evidence_is_allowed_only_where_it_is_named() -> None:
    world = World()
    answer = world.answer(token=sign_token(world.token_claims(simulated=True)))
    result = verified(answer, world, allow_simulated=True)
    assert any("simulated" in note for note in result.notes)
    assert any("SIMULATED" in check.line for check in result.checks)


def test_warnings_are_allowed_only_where_it_is_named() -> None:
    world = World()
    answer = world.answer(token=sign_token(world.token_claims() | {"ear_status": "warning"}))
    result = verified(answer, world, allow_warning=True)
    assert result.attestation.status is Status.WARNING


def test_a_model_id_can_be_pinned_without_a_publisher() -> None:
    world = World()
    for record in (b"", world.model_record(Key("stranger"))):
        answer = world.answer(model_record=record)
        result = verified(answer, world, models=(MODEL_ID,))
        assert result.model_name is None


def test_witnesses_that_are_pinned_may_cosign() -> None:
    world = World()
    answer = world.answer(witness_time=LOG_TIME_MS // 1000 + 1)
    result = verified(answer, world, witness_quorum=1)
    assert result.receipt is not None
    assert len(result.receipt.cosignatures) == 1


def test_a_fee_is_said_to_be_unchecked() -> None:
    world = World()
    answer = world.answer(statement={"voucher_digest": bytes([7]) * 32, "fee": 5})
    assert any("voucher" in note for note in verified(answer, world).notes)


def test_an_answer_is_held_against_the_request_that_was_sent() -> None:
    world = World()
    result = verified(world.answer(), world)
    asked: dict[str, Any] = {
        "request_id": result.statement.request_id,
        "client_nonce": result.statement.client_nonce,
        "salt": SALT,
        "model_id": MODEL_ID,
        "request": request_of(),
    }
    result.require_request(**asked)
    changes: dict[str, Any] = {
        "request_id": bytes(16),
        "client_nonce": bytes(16),
        "salt": bytes(32),
        "model_id": bytes(32),
        "request": request_of(13),
    }
    for name, value in changes.items():
        with pytest.raises(AnotherRequestError) as caught:
            result.require_request(**(asked | {name: value}))
        assert caught.value.field == name


@dataclass(frozen=True)
class Lie:
    """A false answer or a stricter reader, the check that must fail, and its reason."""

    name: str
    check: str
    reason: str
    answer: Callable[[World], Answer]
    roots: Callable[[World], dict[str, Any]] = lambda _: {}
    now_ms: int = NOW_MS


def signed_by_a_key_no_evidence_names(world: World) -> Answer:
    claims = world.token_claims(session_key=Key("another session").public)
    return world.answer(token=sign_token(claims))


def another_issuer(_: World) -> dict[str, Any]:
    keys = Jwks.parse(jwks_document([ISSUER_KEY.public_key()]))
    return {"issuers": (TokenIssuer("https://other.example", keys),)}


def receipt_of_another_answer(world: World) -> Answer:
    other = world.answer(statement={"seq": 4})
    return world.answer(with_receipt=False).with_receipt(other.receipt)


def receipt_with(change: Callable[[Receipt], Receipt]) -> Callable[[World], Answer]:
    def build(world: World) -> Answer:
        answer = world.answer()
        return answer.with_receipt(change(Receipt.decode(answer.receipt)).encode())

    return build


def cosignature_first(world: World) -> Answer:
    answer = world.answer(witness_time=LOG_TIME_MS // 1000 + 1)
    receipt = Receipt.decode(answer.receipt)
    parsed = parse_note(receipt.checkpoint_note)
    turned = str(replace(parsed, lines=tuple(reversed(parsed.lines))))
    return answer.with_receipt(replace(receipt, checkpoint_note=turned).encode())


def truncated_proof(receipt: Receipt) -> Receipt:
    return replace(receipt, inclusion_proof=receipt.inclusion_proof[:-1])


def token_of(**claims: Any) -> Callable[[World], Answer]:
    return lambda world: world.answer(token=sign_token(world.token_claims() | claims))


def private_claim(**claims: Any) -> Callable[[World], Answer]:
    return lambda world: world.answer(token=sign_token(world.token_claims(**claims)))


def signed_with(**changes: Any) -> Callable[[World], Answer]:
    return lambda world: world.answer(statement=changes)


def part(**changes: Any) -> Callable[[World], Answer]:
    return lambda world: replace(world.answer(), **changes)


def about(blob: Callable[[], RequestBlob]) -> Callable[[World], Answer]:
    return lambda world: world.answer(blob())


def open_blob_of_a_sealed_request(world: World) -> Answer:
    blob = blob_of(sealed_request())
    stored = blob.encode()
    honest = world.answer(blob, statement={"blob_digest": H(stored)})
    return replace(honest, blob=stored, content_key=b"")


def sealed_to_fewer(world: World) -> Answer:
    blob = blob_of(sealed_request())
    lying = seal(blob.encode(), CONTENT_KEY, (CLIENT_RECIPIENT.public,))
    return replace(world.answer(blob, statement={"blob_digest": H(lying)}), blob=lying)


WITHOUT_TRACE = replace(blob_of(), trace=empty_trace(blob_of().trace.sub_trace, 5))
LIES = [
    Lie(
        "a statement that is no statement",
        "statement_signature",
        "COSE_MALFORMED",
        part(statement=b"statement"),
    ),
    Lie(
        "another session's delegation",
        "delegation",
        "DELEGATION_MISMATCH",
        lambda world: world.answer(delegation=world.delegation(session_key=Key("x").public)),
    ),
    Lie(
        "a delegation exchanged after signing",
        "delegation",
        "DELEGATION_DIGEST_MISMATCH",
        lambda world: replace(world.answer(), delegation=world.delegation(not_after=END_MS)),
    ),
    Lie(
        "an operator who did not delegate",
        "delegation",
        "DELEGATION_MISMATCH",
        signed_with(operator_id=bytes([7]) * 32),
    ),
    Lie(
        "an expired delegation",
        "delegation",
        "DELEGATION_EXPIRED",
        lambda world: world.answer(delegation=world.delegation(not_after=END_MS - 1)),
    ),
    Lie(
        "an operator that is not pinned",
        "delegation",
        "OPERATOR_NOT_PINNED",
        lambda world: world.answer(),
        lambda _: {"operators": (bytes(32),)},
    ),
    Lie(
        "a log that is not pinned",
        "delegation",
        "LOG_NOT_PINNED",
        lambda world: world.answer(with_receipt=False),
        lambda _: {"logs": (OTHER_KEY.verifier,)},
    ),
    Lie(
        "another token than the statement names",
        "attestation_token",
        "TOKEN_DIGEST_MISMATCH",
        lambda world: replace(world.answer(), token=sign_token(world.token_claims() | {"x": 1})),
    ),
    Lie(
        "an issuer that is not pinned",
        "attestation_token",
        "TOKEN_KEY_UNKNOWN",
        lambda world: world.answer(),
        lambda _: {"issuers": ()},
    ),
    Lie(
        "a key pinned for another issuer",
        "attestation_token",
        "ISSUER_MISMATCH",
        lambda world: world.answer(),
        another_issuer,
    ),
    Lie(
        "a token signed by a key that nobody pinned",
        "attestation_token",
        "TOKEN_KEY_UNKNOWN",
        lambda world: world.answer(
            token=sign_token(world.token_claims(), ec.generate_private_key(ec.SECP384R1()))
        ),
    ),
    Lie(
        "a token that is no token",
        "attestation_token",
        "TOKEN_MALFORMED",
        lambda world: world.answer(token=b"no.token"),
    ),
    Lie(
        "an appraisal that refused",
        "attestation_token",
        "TOKEN_NOT_TRUSTED",
        token_of(ear_status="contraindicated"),
    ),
    Lie(
        "an appraisal with warnings",
        "attestation_status",
        "APPRAISAL_STATUS",
        token_of(ear_status="warning"),
    ),
    Lie(
        "simulated evidence",
        "attestation_status",
        "EVIDENCE_SIMULATED",
        private_claim(simulated=True),
    ),
    Lie(
        "an appraisal under a lax policy",
        "attestation_status",
        "POLICY_NOT_PINNED",
        private_claim(policy_digest=H(b"lax")),
    ),
    Lie(
        "a session key that no evidence names",
        "attestation_binding",
        "ATTESTATION_BINDING",
        signed_by_a_key_no_evidence_names,
    ),
    Lie(
        "evidence about another model",
        "attestation_binding",
        "ATTESTATION_BINDING",
        private_claim(model_id=H(b"another model")),
    ),
    Lie(
        "another operator's evidence",
        "attestation_binding",
        "ATTESTATION_BINDING",
        private_claim(operator_id=H(b"another operator")),
    ),
    Lie(
        "evidence exchanged in the file",
        "attestation_binding",
        "EVIDENCE_DIGEST_MISMATCH",
        part(evidence_digest=H(b"other evidence")),
    ),
    Lie(
        "an answer begun before its token",
        "times",
        "TOKEN_TIME",
        signed_with(start_ms=TOKEN_ISSUED * 1000 - 1),
    ),
    Lie(
        "an answer that outlived its token",
        "times",
        "TOKEN_TIME",
        signed_with(end_ms=(TOKEN_ISSUED + TOKEN_SECONDS) * 1000 + 1),
    ),
    Lie(
        "an answer from the future",
        "times",
        "STATEMENT_IN_FUTURE",
        lambda world: world.answer(),
        now_ms=END_MS - 120_001,
    ),
    Lie(
        "a model that nobody trusted vouches for",
        "model",
        "MODEL_NOT_PINNED",
        lambda world: world.answer(model_record=world.model_record(Key("stranger"))),
    ),
    Lie(
        "a model without a record",
        "model",
        "MODEL_NOT_PINNED",
        lambda world: world.answer(model_record=b""),
    ),
    Lie(
        "a record about another model",
        "model",
        "MODEL_RECORD_MISMATCH",
        lambda world: world.answer(model_record=world.model_record(model_id=H(b"other"))),
    ),
    Lie(
        "an output id changed in the blob",
        "blob",
        "BLOB_DIGEST_MISMATCH",
        part(blob=replace(blob_of(), output_ids=(9, *blob_of().output_ids[1:])).encode()),
    ),
    Lie(
        "a sealed blob without its key",
        "blob",
        "BLOB_SEALING_MISMATCH",
        lambda world: replace(world.answer(blob_of(sealed_request())), content_key=b""),
    ),
    Lie(
        "a sealed blob with another key",
        "blob",
        "SEAL_BROKEN",
        lambda world: replace(world.answer(blob_of(sealed_request())), content_key=bytes(32)),
    ),
    Lie(
        "a public blob with a key",
        "blob",
        "BLOB_SEALING_MISMATCH",
        part(content_key=CONTENT_KEY),
    ),
    Lie(
        "a request with recipients, lying open",
        "blob",
        "BLOB_SEALING_MISMATCH",
        open_blob_of_a_sealed_request,
    ),
    Lie(
        "a request sealed to fewer than it names", "blob", "BLOB_SEALING_MISMATCH", sealed_to_fewer
    ),
    Lie(
        "an answer to another prompt",
        "input_digest",
        "INPUT_DIGEST_MISMATCH",
        signed_with(input_digest=blob_of(request_of(13)).input_digest()),
    ),
    Lie(
        "a miscounted prompt",
        "input_digest",
        "COUNT_MISMATCH",
        signed_with(prompt_count=13),
    ),
    Lie(
        "another output under the digest",
        "output_digest",
        "OUTPUT_DIGEST_MISMATCH",
        signed_with(output_digest=bytes(32)),
    ),
    Lie("a miscounted output", "output_digest", "COUNT_MISMATCH", signed_with(output_count=21)),
    Lie(
        "a stop id that nobody produced",
        "output_digest",
        "FINISH_CONTRADICTS_OUTPUT",
        about(lambda: replace(blob_of(), finish=Finish.STOP_ID)),
    ),
    Lie(
        "cancelled after all tokens were there",
        "output_digest",
        "FINISH_CONTRADICTS_OUTPUT",
        about(lambda: blob_of(request_of(max_tokens=20), finish=Finish.CANCELLED)),
    ),
    Lie(
        "another trace root",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        signed_with(trace_root=bytes(32)),
    ),
    Lie(
        "a trace of nothing for an answer of something",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: WITHOUT_TRACE),
    ),
    Lie(
        "a trace over other positions",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: replace(blob_of(), trace=replace(blob_of().trace, positions=30))),
    ),
    Lie(
        "a trace under another salt",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: replace(blob_of(), trace=replace(blob_of().trace, sub_trace=bytes(32)))),
    ),
    Lie(
        "a trace of other output",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: replace(blob_of(), trace=replace(blob_of().trace, out_root=bytes(32)))),
    ),
    Lie(
        "a float answer, for which there are no rules",
        "trace_root",
        "PROFILE_NOT_SUPPORTED",
        signed_with(profile=Profile.FLOAT),
    ),
    Lie(
        "less exposure than the client declared",
        "exposure",
        "EXPOSURE_TOO_SMALL",
        signed_with(exposure=999, cumulative_exposure=4_000),
    ),
    Lie(
        "a fee for an aborted answer",
        "exposure",
        "FEE_NOT_DUE",
        lambda world: world.answer(
            blob_of(finish=Finish.ABORTED), statement={"voucher_digest": bytes(32), "fee": 1}
        ),
    ),
    Lie(
        "an allowance by nobody pinned",
        "allowance",
        "ARBITER_NOT_PINNED",
        lambda world: world.answer(allowance=world.allowance(OPERATOR)),
    ),
    Lie(
        "more than the allowance",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        signed_with(exposure=50_001, cumulative_exposure=60_000),
    ),
    Lie(
        "an allowance of another log",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        lambda world: world.answer(allowance=world.allowance(log_origin=OTHER_KEY.name)),
    ),
    Lie(
        "an allowance of another session",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        lambda world: world.answer(allowance=world.allowance(session_key=Key("x").public)),
    ),
    Lie(
        "an expired allowance",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        lambda world: world.answer(allowance=world.allowance(not_after=END_MS - 1)),
    ),
    Lie(
        "no allowance where one is required",
        "allowance",
        "ALLOWANCE_MISSING",
        lambda world: world.answer(allowance=b""),
        lambda _: {"require_allowance": True},
    ),
    Lie(
        "no receipt where one is required",
        "receipt",
        "RECEIPT_MISSING",
        lambda world: world.answer(with_receipt=False),
        lambda _: {"require_receipt": True},
    ),
    Lie(
        "a receipt, and no log to hold it against",
        "receipt",
        "LOG_NOT_PINNED",
        lambda world: world.answer(),
        lambda _: {"logs": ()},
    ),
    Lie(
        "the receipt of another answer", "receipt", "INCLUSION_REJECTED", receipt_of_another_answer
    ),
    Lie("a truncated log proof", "receipt", "INCLUSION_REJECTED", receipt_with(truncated_proof)),
    Lie(
        "another log time than the leaf has",
        "receipt",
        "INCLUSION_REJECTED",
        receipt_with(lambda receipt: replace(receipt, log_time_ms=receipt.log_time_ms + 1)),
    ),
    Lie(
        "another place in the log",
        "receipt",
        "INCLUSION_REJECTED",
        receipt_with(lambda receipt: replace(receipt, leaf_index=receipt.leaf_index - 1)),
    ),
    Lie(
        "too few witnesses",
        "receipt",
        "WITNESS_QUORUM",
        lambda world: world.answer(),
        lambda _: {"witness_quorum": 1},
    ),
    Lie(
        "one witness of the two that are asked for",
        "receipt",
        "WITNESS_QUORUM",
        lambda world: world.answer(witness_time=LOG_TIME_MS // 1000 + 1),
        lambda _: {"witness_quorum": 2, "witnesses": (WITNESS_KEY.verifier, SECOND_WITNESS)},
    ),
    Lie(
        "no receipt where witnesses are asked for",
        "receipt",
        "RECEIPT_MISSING",
        lambda world: world.answer(with_receipt=False),
        lambda _: {"witness_quorum": 1},
    ),
    Lie(
        "a witness that cosigned before the log had it",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(witness_time=LOG_TIME_MS // 1000 - 121),
    ),
    Lie(
        "a witness that cosigned in the future",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(witness_time=NOW_MS // 1000 + 121),
    ),
    Lie(
        "a cosignature put before the log's signature",
        "receipt",
        "NOTE_REJECTED",
        cosignature_first,
    ),
    Lie(
        "a cosignature that the reader cannot check",
        "receipt",
        "NOTE_REJECTED",
        lambda world: world.answer(witness_time=1),
        lambda _: {"witnesses": ()},
    ),
    Lie(
        "registered before it ended",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(log_time_ms=END_MS - 120_001),
    ),
    Lie(
        "registered in the future",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(log_time_ms=NOW_MS + 120_001),
    ),
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_fails_its_own_check_for_its_own_reason(lie: Lie) -> None:
    world = World()
    data = lie.answer(world).encode()
    with pytest.raises(AnswerRefusedError) as caught:
        verify_answer(data, world.roots(**lie.roots(world)), lie.now_ms)
    refusal = caught.value
    assert (refusal.check, refusal.reason) == (lie.check, lie.reason)
    assert refusal.reason == refusal.cause.reason
    ran = tuple(check.name for check in refusal.passed)
    assert ran == tuple(name for name in CHECKS[: CHECKS.index(lie.check)] if name in ran)
    assert len(ran) >= min(CHECKS.index(lie.check), 13)


def test_every_check_has_a_lie_that_it_alone_finds() -> None:
    # The first check is about the file as a whole: the next test lies to it.
    assert {lie.check for lie in LIES} | {"encoding"} == set(CHECKS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "DCBOR_MALFORMED"),
        (b"\x80", "RECORD_SHAPE"),
        (b"not an answer", "DCBOR_MALFORMED"),
        (bytes(4 << 20) + b"\x00", "ANSWER_TOO_LARGE"),
        (World().answer().encode() + b"\x00", "DCBOR_MALFORMED"),
        (World().answer().encode()[:-1], "DCBOR_MALFORMED"),
    ],
    ids=["empty", "another record", "text", "too large", "trailing byte", "cut short"],
)
def test_a_file_that_is_no_answer_fails_the_first_check(data: bytes, reason: str) -> None:
    with pytest.raises(AnswerRefusedError) as caught:
        verify_answer(data, World().roots(), NOW_MS)
    assert (caught.value.check, caught.value.passed) == ("encoding", ())
    assert caught.value.reason == reason


def test_the_start_of_an_answer_may_be_the_moment_its_token_was_issued() -> None:
    world = World()
    token = sign_token(world.token_claims() | {"iat": START_MS // 1000, "nbf": START_MS // 1000})
    result = verified(world.answer(token=token), world)
    assert result.attestation.issued_at * 1000 == result.statement.start_ms


def test_the_issuer_is_the_one_pinned() -> None:
    world = World()
    assert verified(world.answer(), world).attestation.issuer == ISSUER
    assert LOG_KEY.name == verified(world.answer(), world).delegation.log_origin
