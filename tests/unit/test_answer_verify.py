"""Verifying an answer: each lie fails its own check, for its own reason (spec/statement.md)."""

from __future__ import annotations

from typing import Any

import pytest

from otr_protocol.answer import Answer, open_answer
from otr_protocol.answer_refusals import AnotherRequestError
from otr_protocol.attestation.verdict import Status
from otr_protocol.output import Finish
from otr_protocol.request import seeded
from otr_protocol.request_blob import RequestBlob
from otr_protocol.verify_answer import (
    CHECKS,
    AnswerRefusedError,
    TimeBasis,
    VerifiedAnswer,
    verify_answer,
)
from support.answers import (
    ISSUER,
    LOG_TIME_MS,
    MODEL_ID,
    MODEL_NAME,
    NOW_MS,
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
from support.lie import Lie
from support.lies_of_content import CONTENT_LIES
from support.lies_of_signers import SIGNER_LIES
from support.log_of import LOG_KEY


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


LIES = [*SIGNER_LIES, *CONTENT_LIES]


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
