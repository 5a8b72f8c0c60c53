"""The statement: what an operator signs about one answer (spec/statement.md).

An untagged COSE_Sign1 by the session key over

    ["otr-statement-v1", operator_id, session_key, delegation_digest, request_id, client_nonce,
     model_id, profile, input_digest, output_digest, prompt_count, output_count, trace_root,
     blob_digest, start_ms, end_ms, token_digest, seq, exposure, cumulative_exposure,
     voucher_digest, fee]

A statement is identified by `payload_hash = H(payload)`. Before a signature leaves the process,
statement and `seq` are on disk, since two statements under one `seq` are equivocation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from otr_protocol import cose, dcbor
from otr_protocol.digest import H
from otr_protocol.fields import (
    MAX_SIGNED_BYTES,
    FieldError,
    as_bytes,
    as_integer,
    as_text,
    check_amount,
    check_count,
    check_digest,
    check_identifier,
    check_optional_digest,
    check_range,
    check_time,
)

STATEMENT_DOMAIN: Final = "otr-statement-v1"
_MAX_COUNT: Final = 2**32 - 1


@unique
class Profile(StrEnum):
    """The numerics profile: what re-execution can prove."""

    EXACT_INT8 = "exact-int8"
    FLOAT = "float"


def profile_from_name(name: str) -> Profile:
    """The profile of a name in a record. Raises FieldError for an unknown one."""
    try:
        return Profile(name)
    except ValueError:
        raise FieldError("unknown numerics profile", field="profile") from None


@dataclass(frozen=True, slots=True)
class Statement:
    """One answer, bound to operator, session, model, request, output, trace, time and money.

    Digests and keys have 32 bytes, `request_id` and `client_nonce` 16 to 64. Times are ms since
    1970 UTC, money is micro-units. `voucher_digest` is empty when there is no voucher, and then
    `fee` is 0. `cumulative_exposure` is the sum of `exposure` over seq 0 up to this one.
    """

    operator_id: bytes
    session_key: bytes
    delegation_digest: bytes
    request_id: bytes
    client_nonce: bytes
    model_id: bytes
    profile: Profile
    input_digest: bytes
    output_digest: bytes
    prompt_count: int
    output_count: int
    trace_root: bytes
    blob_digest: bytes
    start_ms: int
    end_ms: int
    token_digest: bytes
    seq: int
    exposure: int
    cumulative_exposure: int
    voucher_digest: bytes
    fee: int

    def __post_init__(self) -> None:
        for digest in (
            "operator_id",
            "session_key",
            "delegation_digest",
            "model_id",
            "input_digest",
            "output_digest",
            "trace_root",
            "blob_digest",
            "token_digest",
        ):
            check_digest(getattr(self, digest), digest)
        check_identifier(self.request_id, "request_id")
        check_identifier(self.client_nonce, "client_nonce")
        check_range(self.prompt_count, 1, _MAX_COUNT, "prompt_count")
        check_count(self.output_count, "output_count")
        check_time(self.start_ms, "start_ms")
        check_time(self.end_ms, "end_ms")
        if self.end_ms < self.start_ms:
            raise FieldError("the answer ends before it starts", field="end_ms")
        check_amount(self.seq, "seq")
        check_amount(self.exposure, "exposure")
        check_amount(self.cumulative_exposure, "cumulative_exposure")
        first_sum_differs = self.seq == 0 and self.cumulative_exposure != self.exposure
        if first_sum_differs or self.cumulative_exposure < self.exposure:
            raise FieldError(
                "cumulative_exposure is no running sum of exposures", field="cumulative_exposure"
            )
        check_optional_digest(self.voucher_digest, "voucher_digest")
        check_amount(self.fee, "fee")
        if self.fee and not self.voucher_digest:
            raise FieldError("a fee needs a voucher", field="fee")

    def payload(self) -> bytes:
        """The signed record."""
        return dcbor.encode(
            (
                STATEMENT_DOMAIN,
                self.operator_id,
                self.session_key,
                self.delegation_digest,
                self.request_id,
                self.client_nonce,
                self.model_id,
                str(self.profile),
                self.input_digest,
                self.output_digest,
                self.prompt_count,
                self.output_count,
                self.trace_root,
                self.blob_digest,
                self.start_ms,
                self.end_ms,
                self.token_digest,
                self.seq,
                self.exposure,
                self.cumulative_exposure,
                self.voucher_digest,
                self.fee,
            )
        )


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """A statement whose signature by its session key holds.

    `payload_hash` identifies it; `signed` is the exact COSE_Sign1 that was verified.
    """

    statement: Statement
    payload_hash: bytes
    signed: bytes


def sign_statement(statement: Statement, sign: Callable[[bytes], bytes]) -> bytes:
    """The COSE_Sign1 by the session key; `sign` maps a message to a 64-byte signature."""
    return cose.sign1(statement.payload(), sign, statement.session_key)


def payload_hash(statement: Statement) -> bytes:
    """The 32-byte identity of a statement, whatever its signature."""
    return H(statement.payload())


def open_statement(data: bytes) -> VerifiedStatement:
    """Parse and verify a statement under the session key that it names.

    Says nothing about who delegated that key. Raises MalformedError subclasses for another
    encoding or an impossible field, KeyMismatchError or SignatureRejectedError.
    """
    statement = statement_from_payload(cose.peek_payload(data, max_bytes=MAX_SIGNED_BYTES))
    payload = cose.verify1(data, statement.session_key, max_bytes=MAX_SIGNED_BYTES)
    return VerifiedStatement(statement, H(payload), data)


def statement_from_payload(payload: bytes) -> Statement:
    """Decode a payload whose signature somebody else has checked, or will."""
    fields = dcbor.open_record(
        payload,
        STATEMENT_DOMAIN,
        *(bytes, bytes, bytes, bytes, bytes, bytes, str, bytes, bytes, int, int),
        *(bytes, bytes, int, int, bytes, int, int, int, bytes, int),
        max_bytes=MAX_SIGNED_BYTES,
    )
    operator, session, delegation, request, nonce, model, profile = fields[:7]
    input_, output, prompt_count, output_count, trace, blob = fields[7:13]
    start, end, token, seq, exposure, cumulative, voucher, fee = fields[13:]
    return Statement(
        operator_id=as_bytes(operator, "operator_id"),
        session_key=as_bytes(session, "session_key"),
        delegation_digest=as_bytes(delegation, "delegation_digest"),
        request_id=as_bytes(request, "request_id"),
        client_nonce=as_bytes(nonce, "client_nonce"),
        model_id=as_bytes(model, "model_id"),
        profile=profile_from_name(as_text(profile, "profile")),
        input_digest=as_bytes(input_, "input_digest"),
        output_digest=as_bytes(output, "output_digest"),
        prompt_count=as_integer(prompt_count, "prompt_count"),
        output_count=as_integer(output_count, "output_count"),
        trace_root=as_bytes(trace, "trace_root"),
        blob_digest=as_bytes(blob, "blob_digest"),
        start_ms=as_integer(start, "start_ms"),
        end_ms=as_integer(end, "end_ms"),
        token_digest=as_bytes(token, "token_digest"),
        seq=as_integer(seq, "seq"),
        exposure=as_integer(exposure, "exposure"),
        cumulative_exposure=as_integer(cumulative, "cumulative_exposure"),
        voucher_digest=as_bytes(voucher, "voucher_digest"),
        fee=as_integer(fee, "fee"),
    )
