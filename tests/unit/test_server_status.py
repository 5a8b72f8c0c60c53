"""What a refusal says on the wire, and that a client reads the same (otr_server.status)."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol.errors import ExhaustedError, MalformedError, Refusal, RejectedError
from otr_server.status import (
    DETAILS_KEY,
    MAX_MESSAGE_CHARACTERS,
    code_of,
    field_of,
    incident_of,
    internal_status,
    reason_of,
    retry_after_ms_of,
    status_of,
)
from support.probe_service import REFUSALS


def received(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    """The error that a client gets for a status."""
    return with_trailer(status.SerializeToString())


def with_trailer(value: bytes) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNKNOWN,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("other", "x"), (DETAILS_KEY, value)),
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("malformed", grpc.StatusCode.INVALID_ARGUMENT),
        ("rejected", grpc.StatusCode.FAILED_PRECONDITION),
        ("unknown", grpc.StatusCode.NOT_FOUND),
        ("conflict", grpc.StatusCode.ALREADY_EXISTS),
        ("exhausted", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("unavailable", grpc.StatusCode.UNAVAILABLE),
        ("unauthenticated", grpc.StatusCode.UNAUTHENTICATED),
        ("denied", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_each_kind_of_refusal_has_its_code(name: str, code: grpc.StatusCode) -> None:
    assert code_of(REFUSALS[name]) is code


def test_a_refusal_of_no_kind_is_a_failed_precondition() -> None:
    assert code_of(Refusal("no")) is grpc.StatusCode.FAILED_PRECONDITION


@given(st.text(max_size=40), st.none() | st.text(max_size=20), st.none() | st.integers(0, 10**9))
def test_a_client_reads_what_the_refusal_said(
    message: str, field: str | None, retry_after_ms: int | None
) -> None:
    refusal = ExhaustedError(message, field=field, retry_after_ms=retry_after_ms)
    error = received(status_of(refusal, request_id="r-1"))
    assert reason_of(error) == reason_of(refusal) == "EXHAUSTED"
    assert field_of(error) == field_of(refusal) == field
    assert retry_after_ms_of(error) == retry_after_ms_of(refusal) == retry_after_ms


def test_an_incident_says_nothing_but_its_id() -> None:
    error = received(internal_status("0123456789abcdef"))
    assert reason_of(error) == "INTERNAL"
    assert incident_of(error) == "0123456789abcdef"


def test_a_long_or_unencodable_message_is_cut_or_replaced() -> None:
    status = status_of(RejectedError("x" * 10_000))
    assert len(status.message) == MAX_MESSAGE_CHARACTERS
    assert status_of(MalformedError("bad \ud800")).message == "bad ?"


def test_reasons_of_another_domain_are_not_ours() -> None:
    status = status_pb2.Status(code=9)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="REJECTED", domain="else.org"))
    assert reason_of(received(status)) is None


@pytest.mark.parametrize("trailer", [b"", b"\xff\xff", b"\x1a\x05\x0a\x03abc", b"\x08\x09"])
def test_a_server_that_sends_nonsense_is_a_server_without_reason(trailer: bytes) -> None:
    error = with_trailer(trailer)
    assert reason_of(error) is None
    assert field_of(error) is None
    assert retry_after_ms_of(error) is None


@given(st.binary(max_size=200))
def test_no_trailer_makes_a_client_fail(trailer: bytes) -> None:
    error = with_trailer(trailer)
    reason_of(error)
    retry_after_ms_of(error)


def test_other_exceptions_have_no_reason() -> None:
    assert reason_of(ValueError("x")) is None
    assert retry_after_ms_of(OSError()) is None
    assert field_of(grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN)) is None
