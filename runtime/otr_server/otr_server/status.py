"""Refusals on the wire: a gRPC status with google.rpc.ErrorInfo, and how a client reads it back.

The status message is for people. Programs match on `reason_of(error)`, which is permanent, and on
`field_of` and `retry_after_ms_of`. The details travel as google.rpc.Status in the trailer
`grpc-status-details-bin` (grpc.io, "Richer error model"; google/rpc/error_details.proto):

    ErrorInfo(reason="CLOCK_EXPIRED", domain="otr", metadata={"field": "game_id"})
    RetryInfo(retry_delay=...)        with RESOURCE_EXHAUSTED that says when to come back
    RequestInfo(request_id=...)       always, so that a report can be matched with the logs

What is not a refusal is our bug: it becomes INTERNAL with an incident id, and the traceback goes to
the log only.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from otr_protocol.errors import (
    ConflictError,
    DeniedError,
    ExhaustedError,
    MalformedError,
    Refusal,
    RejectedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)

DOMAIN = "otr"
DETAILS_KEY = "grpc-status-details-bin"
INTERNAL_REASON = "INTERNAL"
NOT_BUILT_REASON = "NOT_IMPLEMENTED_YET"
# Trailers share 8 KiB with everything else in many proxies, and the message appears twice in them.
MAX_MESSAGE_CHARACTERS = 512

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_CODES: tuple[tuple[type[Refusal], grpc.StatusCode], ...] = (
    (MalformedError, grpc.StatusCode.INVALID_ARGUMENT),
    (RejectedError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnknownError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.ALREADY_EXISTS),
    (ExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (DeniedError, grpc.StatusCode.PERMISSION_DENIED),
)
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def code_of(refusal: Refusal) -> grpc.StatusCode:
    """The gRPC code of a refusal's kind; a kind not listed is a precondition that failed."""
    for kind, code in _CODES:
        if isinstance(refusal, kind):
            return code
    return grpc.StatusCode.FAILED_PRECONDITION


def status_of(refusal: Refusal, *, request_id: str | None = None) -> status_pb2.Status:
    """google.rpc.Status that says what the refusal says."""
    metadata = {} if refusal.field is None else {"field": refusal.field}
    retry_after_ms = getattr(refusal, "retry_after_ms", None)
    return _status(
        code_of(refusal),
        refusal.message,
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=metadata),
        retry_after_ms=retry_after_ms,
        request_id=request_id,
    )


def internal_status(incident: str, *, request_id: str | None = None) -> status_pb2.Status:
    """INTERNAL that names an incident and nothing of what happened."""
    return _status(
        grpc.StatusCode.INTERNAL,
        f"internal error, incident {incident}",
        error_details_pb2.ErrorInfo(
            reason=INTERNAL_REASON, domain=DOMAIN, metadata={"incident": incident}
        ),
        request_id=request_id,
    )


def not_built_status(*, request_id: str | None = None) -> status_pb2.Status:
    """UNIMPLEMENTED: the contract has the method, and this release does not."""
    return _status(
        grpc.StatusCode.UNIMPLEMENTED,
        "this release does not have the method yet",
        error_details_pb2.ErrorInfo(reason=NOT_BUILT_REASON, domain=DOMAIN),
        request_id=request_id,
    )


def new_incident() -> str:
    """16 hex characters that appear both in the status and in the log."""
    return secrets.token_hex(8)


async def abort_with(context: Context, status: status_pb2.Status) -> None:
    """End the call with a status and its details; never returns, raises grpc.aio.AbortError."""
    kept = tuple(context.trailing_metadata() or ())
    await context.abort(
        _BY_NUMBER[status.code],
        status.message,
        (*kept, (DETAILS_KEY, status.SerializeToString())),
    )


@asynccontextmanager
async def refusals_as_status(context: Context) -> AsyncIterator[None]:
    """Turn a refusal of the block into a status.

    `Process` does this around every handler; the block is for a servicer that is served by a bare
    grpc server.
    """
    try:
        yield
    except Refusal as refusal:
        await abort_with(context, status_of(refusal))


def reason_of(error: BaseException) -> str | None:
    """The permanent reason of a refusal or of a failed call; None if the other side gave none."""
    if isinstance(error, Refusal):
        return error.reason
    info = _error_info(error)
    return info.reason or None if info else None


def field_of(error: BaseException) -> str | None:
    """The request field that a refusal or failed call names, if it names one."""
    if isinstance(error, Refusal):
        return error.field
    info = _error_info(error)
    return info.metadata.get("field") if info else None


def incident_of(error: BaseException) -> str | None:
    """The incident id of an INTERNAL error, to be reported to whoever runs the service."""
    info = _error_info(error)
    return info.metadata.get("incident") if info else None


def retry_after_ms_of(error: BaseException) -> int | None:
    """How many milliseconds the other side asks to wait, if it says so."""
    if isinstance(error, ExhaustedError):
        return error.retry_after_ms
    for detail in _details(error):
        info = error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR) and _unpacks(detail, info):
            delay = info.retry_delay
            return max(0, int(delay.seconds) * 1000 + int(delay.nanos) // 1_000_000)
    return None


def _status(
    code: grpc.StatusCode,
    message: str,
    info: error_details_pb2.ErrorInfo,
    *,
    retry_after_ms: int | None = None,
    request_id: str | None = None,
) -> status_pb2.Status:
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    # A lone surrogate (from undecodable input echoed in a message) has no UTF-8 form to send.
    message = message.encode("utf-8", "replace").decode()
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    if retry_after_ms is not None:
        delay = Duration(seconds=retry_after_ms // 1000, nanos=retry_after_ms % 1000 * 1_000_000)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id is not None:
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return status


def _details(error: BaseException) -> Iterable[Any]:
    """The packed details of a failed call; empty if there are none or they cannot be read."""
    if not isinstance(error, grpc.RpcError):
        return ()
    # The synchronous and the asyncio errors agree on the method, but only the latter is typed so.
    trailers = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return tuple(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return ()
    return ()


def _error_info(error: BaseException) -> error_details_pb2.ErrorInfo | None:
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        # Another domain's reasons are not ours, even where they are spelt alike.
        if detail.Is(info.DESCRIPTOR) and _unpacks(detail, info) and info.domain == DOMAIN:
            return info
    return None


def _unpacks(detail: Any, into: Any) -> bool:
    try:
        return bool(detail.Unpack(into))
    except DecodeError:
        return False
