"""Vouchers, allowances and closes (spec/statement.md)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import cbor2
import pytest

from otr_protocol import cose
from otr_protocol.cose import KeyMismatchError
from otr_protocol.digest import H
from otr_protocol.errors import Refusal
from otr_protocol.fields import FieldError
from otr_protocol.output import Finish
from otr_protocol.payment import (
    Allowance,
    AllowanceExceededError,
    Close,
    Voucher,
    VoucherMismatchError,
    countersign_voucher,
    open_allowance,
    open_close,
    open_countersigned_voucher,
    open_voucher,
    sign_close,
    sign_voucher,
)
from otr_protocol.statement import Profile, Statement
from support.answers import (
    ARBITER,
    END_MS,
    MODEL_ID,
    OPERATOR,
    PAYER,
    SESSION,
    World,
    blob_of,
    stored_bytes,
)
from support.log_of import LOG_KEY, OTHER_KEY

VOUCHER = Voucher(
    log_origin=LOG_KEY.name,
    payer_id=H(PAYER.public),
    operator_id=H(OPERATOR.public),
    request_id=H(b"test request id")[:16],
    client_nonce=H(b"test nonce")[:16],
    model_id=MODEL_ID,
    profile=Profile.EXACT_INT8,
    input_digest=blob_of().input_digest(),
    price_in=50_000,
    price_out=200_000,
    max_fee=900,
    not_after=END_MS,
)


def statement(**changes: Any) -> Statement:
    blob = blob_of()
    paid = {"voucher_digest": VOUCHER.digest(), "fee": 4}
    return World().statement(blob, stored_bytes(blob), b"delegation", b"token", **(paid | changes))


def test_a_voucher_is_the_record_an_independent_encoder_writes() -> None:
    values = [getattr(VOUCHER, each.name) for each in fields(VOUCHER)]
    values = [str(value) if isinstance(value, Profile) else value for value in values]
    assert VOUCHER.payload() == cbor2.dumps(["otr-voucher-v1", *values])
    assert VOUCHER.digest() == H(VOUCHER.payload())


def test_a_voucher_needs_the_payer_and_then_the_arbiter() -> None:
    signed = sign_voucher(VOUCHER, PAYER.sign, PAYER.public)
    assert open_voucher(signed, PAYER.public) == VOUCHER
    locked = countersign_voucher(signed, ARBITER.sign, ARBITER.public)
    assert open_countersigned_voucher(locked, ARBITER.public, PAYER.public) == VOUCHER
    with pytest.raises(Refusal):
        open_countersigned_voucher(signed, PAYER.public, PAYER.public)
    with pytest.raises(KeyMismatchError):
        open_countersigned_voucher(locked, PAYER.public, PAYER.public)


def test_nobody_spends_in_another_payers_name() -> None:
    forged = cose.sign1(VOUCHER.payload(), OPERATOR.sign, OPERATOR.public)
    with pytest.raises(VoucherMismatchError):
        open_voucher(forged, OPERATOR.public)


def test_a_voucher_pays_for_the_statement_that_it_names() -> None:
    VOUCHER.check_statement(statement(), LOG_KEY.name, Finish.LENGTH)
    free = statement(fee=0)
    VOUCHER.check_statement(free, LOG_KEY.name, Finish.ABORTED)


def test_a_voucher_of_another_log_pays_for_nothing() -> None:
    with pytest.raises(VoucherMismatchError) as caught:
        VOUCHER.check_statement(statement(), OTHER_KEY.name, Finish.LENGTH)
    assert caught.value.field == "log_origin"


def test_an_aborted_answer_is_not_paid() -> None:
    with pytest.raises(VoucherMismatchError):
        VOUCHER.check_statement(statement(), LOG_KEY.name, Finish.ABORTED)


@pytest.mark.parametrize(
    "change",
    [
        {"operator_id": bytes(32)},
        {"request_id": bytes(16)},
        {"client_nonce": bytes(16)},
        {"model_id": bytes(32)},
        {"profile": Profile.FLOAT},
        {"input_digest": bytes(32)},
        {"voucher_digest": bytes(32)},
        {"end_ms": END_MS + 1},
        {"fee": 3},
        {"fee": 5},
        {"fee": 901},
    ],
)
def test_a_voucher_pays_for_nothing_else(change: dict[str, Any]) -> None:
    with pytest.raises(VoucherMismatchError):
        VOUCHER.check_statement(statement(**change), LOG_KEY.name, Finish.LENGTH)


@pytest.mark.parametrize(
    ("prompt", "output", "finish", "fee"),
    [
        (12, 20, Finish.LENGTH, 4),  # 600,000 + 4,000,000 per million, rounded down
        (12, 20, Finish.CANCELLED, 4),
        (12, 20, Finish.ABORTED, 0),
        (1, 0, Finish.LENGTH, 0),
        (10**6, 10**6, Finish.LENGTH, 900),
    ],
)
def test_the_fee_is_for_what_was_streamed(
    prompt: int, output: int, finish: Finish, fee: int
) -> None:
    assert VOUCHER.fee(prompt, output, finish) == fee


def test_an_allowance_is_the_arbiters_word_about_one_session() -> None:
    allowance = open_allowance(World().allowance(), ARBITER.public)
    assert allowance.session_key == SESSION.public
    allowance.check_statement(statement(), LOG_KEY.name)
    with pytest.raises(KeyMismatchError):
        open_allowance(World().allowance(), OPERATOR.public)


@pytest.mark.parametrize(
    "change",
    [
        {"max_single": 999},
        {"max_cumulative": 3_999},
        {"session_key": bytes(32)},
        {"log_origin": "other.example/log"},
        {"not_after": END_MS - 1},
    ],
)
def test_a_statement_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    fits = Allowance(LOG_KEY.name, SESSION.public, 4_000, 1_000, END_MS)
    fits.check_statement(statement(), LOG_KEY.name)
    with pytest.raises(AllowanceExceededError):
        replace(fits, **change).check_statement(statement(), LOG_KEY.name)


def test_a_close_is_the_sessions_own_last_word() -> None:
    close = Close(SESSION.public, 41, 77_000)
    assert open_close(sign_close(close, SESSION.sign)) == close
    assert close.payload() == cbor2.dumps(["otr-close-v1", SESSION.public, 41, 77_000])
    with pytest.raises(KeyMismatchError):
        open_close(cose.sign1(close.payload(), OPERATOR.sign, OPERATOR.public))


def test_money_is_never_negative() -> None:
    for make in (
        lambda: replace(VOUCHER, max_fee=-1),
        lambda: replace(VOUCHER, price_in=-1),
        lambda: Allowance(LOG_KEY.name, SESSION.public, -1, 0, 0),
        lambda: Close(SESSION.public, 0, -1),
    ):
        with pytest.raises(FieldError):
            make()
