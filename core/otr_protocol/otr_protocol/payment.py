"""Vouchers, allowances and closes: money and exposure as signed records (spec/statement.md).

* A **voucher** pays for one request. The payer signs it, arbitration countersigns it and locks
  `max_fee`; it is single use and identified by `H` of the payer's payload.

      ["otr-voucher-v1", log_origin, payer_id, operator_id, request_id, client_nonce, model_id,
       profile, input_digest, price_in, price_out, max_fee, not_after]
      countersignature by arbitration over ["otr-voucher-lock-v1", the payer's COSE_Sign1]

* An **allowance** by arbitration bounds what a session key may expose; clients check offline that
  a statement fits, so no answer waits for the arbiter.

      ["otr-allowance-v1", log_origin, session_key, max_cumulative, max_single, not_after]

* A **close** frees the rest of an allowance: the session key's own last word. A statement with a
  later seq convicts the operator.

      ["otr-close-v1", session_key, last_seq, cumulative]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from otr_protocol import cose, dcbor
from otr_protocol.digest import H
from otr_protocol.errors import RejectedError
from otr_protocol.fields import (
    MAX_SIGNED_BYTES,
    as_bytes,
    as_integer,
    as_text,
    check_amount,
    check_digest,
    check_identifier,
    check_name,
    check_time,
)
from otr_protocol.output import Finish
from otr_protocol.statement import Profile, Statement, profile_from_name

VOUCHER_DOMAIN: Final = "otr-voucher-v1"
VOUCHER_LOCK_DOMAIN: Final = "otr-voucher-lock-v1"
ALLOWANCE_DOMAIN: Final = "otr-allowance-v1"
CLOSE_DOMAIN: Final = "otr-close-v1"
# Prices are micro-units per this many tokens: a token of a small model costs less than one.
PRICE_TOKENS: Final = 1_000_000


class VoucherMismatchError(RejectedError):
    """The voucher pays for something else than this statement."""

    reason = "VOUCHER_MISMATCH"


class AllowanceExceededError(RejectedError):
    """The statement does not fit the allowance."""

    reason = "ALLOWANCE_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Voucher:
    """A payer's promise for one request.

    `price_in` and `price_out` are micro-units per million prompt and output tokens, `max_fee` is
    micro-units, `not_after` ms. `payer_id` is `H` of the payer's Ed25519 public key.
    """

    log_origin: str
    payer_id: bytes
    operator_id: bytes
    request_id: bytes
    client_nonce: bytes
    model_id: bytes
    profile: Profile
    input_digest: bytes
    price_in: int
    price_out: int
    max_fee: int
    not_after: int

    def __post_init__(self) -> None:
        check_name(self.log_origin, "log_origin")
        check_digest(self.payer_id, "payer_id")
        check_digest(self.operator_id, "operator_id")
        check_identifier(self.request_id, "request_id")
        check_identifier(self.client_nonce, "client_nonce")
        check_digest(self.model_id, "model_id")
        check_digest(self.input_digest, "input_digest")
        check_amount(self.price_in, "price_in")
        check_amount(self.price_out, "price_out")
        check_amount(self.max_fee, "max_fee")
        check_time(self.not_after, "not_after")

    def payload(self) -> bytes:
        """The record that the payer signs."""
        return dcbor.encode(
            (
                VOUCHER_DOMAIN,
                self.log_origin,
                self.payer_id,
                self.operator_id,
                self.request_id,
                self.client_nonce,
                self.model_id,
                str(self.profile),
                self.input_digest,
                self.price_in,
                self.price_out,
                self.max_fee,
                self.not_after,
            )
        )

    def digest(self) -> bytes:
        """The `voucher_digest` of a statement: `H` of the payer's payload."""
        return H(self.payload())

    def fee(self, prompt_count: int, output_count: int, finish: Finish) -> int:
        """What is due, in micro-units: rounded down, at most `max_fee`, nothing when aborted."""
        if finish is Finish.ABORTED:
            return 0
        due = prompt_count * self.price_in + output_count * self.price_out
        return min(self.max_fee, due // PRICE_TOKENS)

    def check_statement(self, statement: Statement, log_origin: str, finish: Finish) -> None:
        """Raise VoucherMismatchError unless this voucher pays for `statement`, to the unit.

        `log_origin` is the log that registered it, `finish` how its output ended.
        """
        if self.log_origin != log_origin:
            raise VoucherMismatchError("the voucher is for another log", field="log_origin")
        for field in (
            "operator_id",
            "request_id",
            "client_nonce",
            "model_id",
            "profile",
            "input_digest",
        ):
            if getattr(self, field) != getattr(statement, field):
                raise VoucherMismatchError(f"the voucher names another {field}", field=field)
        if statement.voucher_digest != self.digest():
            raise VoucherMismatchError("the statement names another voucher", field="voucher")
        if statement.end_ms > self.not_after:
            raise VoucherMismatchError("the voucher had expired", field="not_after")
        due = self.fee(statement.prompt_count, statement.output_count, finish)
        if statement.fee != due:
            raise VoucherMismatchError(f"the fee is {statement.fee}, {due} is due", field="fee")


def sign_voucher(voucher: Voucher, sign: Callable[[bytes], bytes], payer_key: bytes) -> bytes:
    """The payer's COSE_Sign1. `payer_key` is the raw public key behind `payer_id`."""
    if H(payer_key) != voucher.payer_id:
        raise ValueError("the payer key is not the one behind payer_id")
    return cose.sign1(voucher.payload(), sign, payer_key)


def open_voucher(data: bytes, payer_key: bytes) -> Voucher:
    """Verify a payer's voucher. Raises MalformedError, KeyMismatchError, SignatureRejectedError."""
    voucher = _voucher_from_payload(cose.verify1(data, payer_key, max_bytes=MAX_SIGNED_BYTES))
    if voucher.payer_id != H(payer_key):
        raise VoucherMismatchError("the voucher names another payer", field="payer_id")
    return voucher


def countersign_voucher(
    signed_voucher: bytes, sign: Callable[[bytes], bytes], arbiter_key: bytes
) -> bytes:
    """Arbitration's COSE_Sign1 over the payer's: `max_fee` is locked."""
    payload = dcbor.encode((VOUCHER_LOCK_DOMAIN, signed_voucher))
    return cose.sign1(payload, sign, arbiter_key)


def open_countersigned_voucher(data: bytes, arbiter_key: bytes, payer_key: bytes) -> Voucher:
    """Verify both signatures of a locked voucher."""
    payload = cose.verify1(data, arbiter_key, max_bytes=MAX_SIGNED_BYTES)
    (signed,) = dcbor.open_record(payload, VOUCHER_LOCK_DOMAIN, bytes)
    return open_voucher(as_bytes(signed, "voucher"), payer_key)


def _voucher_from_payload(payload: bytes) -> Voucher:
    fields = dcbor.open_record(
        payload,
        VOUCHER_DOMAIN,
        *(str, bytes, bytes, bytes, bytes, bytes, str, bytes, int, int, int, int),
    )
    origin, payer, operator, request, nonce, model, profile, input_ = fields[:8]
    price_in, price_out, max_fee, not_after = fields[8:]
    return Voucher(
        log_origin=as_text(origin, "log_origin"),
        payer_id=as_bytes(payer, "payer_id"),
        operator_id=as_bytes(operator, "operator_id"),
        request_id=as_bytes(request, "request_id"),
        client_nonce=as_bytes(nonce, "client_nonce"),
        model_id=as_bytes(model, "model_id"),
        profile=profile_from_name(as_text(profile, "profile")),
        input_digest=as_bytes(input_, "input_digest"),
        price_in=as_integer(price_in, "price_in"),
        price_out=as_integer(price_out, "price_out"),
        max_fee=as_integer(max_fee, "max_fee"),
        not_after=as_integer(not_after, "not_after"),
    )


@dataclass(frozen=True, slots=True)
class Allowance:
    """A session key may expose this much (micro-units), in this log, until `not_after` (ms)."""

    log_origin: str
    session_key: bytes
    max_cumulative: int
    max_single: int
    not_after: int

    def __post_init__(self) -> None:
        check_name(self.log_origin, "log_origin")
        check_digest(self.session_key, "session_key")
        check_amount(self.max_cumulative, "max_cumulative")
        check_amount(self.max_single, "max_single")
        check_time(self.not_after, "not_after")

    def payload(self) -> bytes:
        """The record that arbitration signs."""
        return dcbor.encode(
            (
                ALLOWANCE_DOMAIN,
                self.log_origin,
                self.session_key,
                self.max_cumulative,
                self.max_single,
                self.not_after,
            )
        )

    def check_statement(self, statement: Statement, log_origin: str) -> None:
        """Raise AllowanceExceededError unless `statement`, bound for `log_origin`, fits."""
        if self.session_key != statement.session_key:
            raise AllowanceExceededError("it is another session's", field="session_key")
        if self.log_origin != log_origin:
            raise AllowanceExceededError("it is for another log", field="log_origin")
        if statement.exposure > self.max_single:
            raise AllowanceExceededError("the exposure is above max_single", field="exposure")
        if statement.cumulative_exposure > self.max_cumulative:
            raise AllowanceExceededError(
                "the running sum is above max_cumulative", field="cumulative_exposure"
            )
        if statement.end_ms > self.not_after:
            raise AllowanceExceededError("it had expired", field="not_after")


def sign_allowance(
    allowance: Allowance, sign: Callable[[bytes], bytes], arbiter_key: bytes
) -> bytes:
    """Arbitration's COSE_Sign1 over an allowance."""
    return cose.sign1(allowance.payload(), sign, arbiter_key)


def open_allowance(data: bytes, arbiter_key: bytes) -> Allowance:
    """Verify an allowance. Raises MalformedError, KeyMismatchError, SignatureRejectedError."""
    payload = cose.verify1(data, arbiter_key, max_bytes=MAX_SIGNED_BYTES)
    origin, session, max_cumulative, max_single, not_after = dcbor.open_record(
        payload, ALLOWANCE_DOMAIN, str, bytes, int, int, int
    )
    return Allowance(
        log_origin=as_text(origin, "log_origin"),
        session_key=as_bytes(session, "session_key"),
        max_cumulative=as_integer(max_cumulative, "max_cumulative"),
        max_single=as_integer(max_single, "max_single"),
        not_after=as_integer(not_after, "not_after"),
    )


@dataclass(frozen=True, slots=True)
class Close:
    """The session key signs nothing after `last_seq`; `cumulative` micro-units were exposed."""

    session_key: bytes
    last_seq: int
    cumulative: int

    def __post_init__(self) -> None:
        check_digest(self.session_key, "session_key")
        check_amount(self.last_seq, "last_seq")
        check_amount(self.cumulative, "cumulative")

    def payload(self) -> bytes:
        """The record that the session key signs."""
        return dcbor.encode((CLOSE_DOMAIN, self.session_key, self.last_seq, self.cumulative))


def sign_close(close: Close, sign: Callable[[bytes], bytes]) -> bytes:
    """The COSE_Sign1 by the session key itself."""
    return cose.sign1(close.payload(), sign, close.session_key)


def open_close(data: bytes) -> Close:
    """Parse and verify a close record under the session key that it names."""
    payload = cose.peek_payload(data, max_bytes=MAX_SIGNED_BYTES)
    session, last_seq, cumulative = dcbor.open_record(payload, CLOSE_DOMAIN, bytes, int, int)
    close = Close(
        session_key=as_bytes(session, "session_key"),
        last_seq=as_integer(last_seq, "last_seq"),
        cumulative=as_integer(cumulative, "cumulative"),
    )
    cose.verify1(data, close.session_key, max_bytes=MAX_SIGNED_BYTES)
    return close
