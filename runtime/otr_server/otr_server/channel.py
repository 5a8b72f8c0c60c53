"""Client channels: mTLS with the server's role checked, a deadline on every call, retries.

Defaults are applied by the channel, so that no call can be without them: a unary call without a
timeout gets the channel's, the request id of the call being handled is passed on, and
`wait_for_ready` is off unless the channel says otherwise. Turn it on between services, which start
in any order; leave it off for people, who want to hear at once that nobody is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from otr_server.backoff import Backoff
from otr_server.handshake import (
    ClientCertificateRefusedError,
    ServerNotTrustedError,
    UnreachableError,
    classify_handshake,
    peer_certificate,
)
from otr_server.identity import server_name
from otr_server.status import retry_after_ms_of
from otr_server.telemetry import REQUEST_ID_KEY, current_request_id
from otr_server.tls import ClientTls

__all__ = [
    "Backoff",
    "ClientCertificateRefusedError",
    "ClientTls",
    "ServerNotTrustedError",
    "UnreachableError",
    "classify_handshake",
    "open_channel",
    "peer_certificate",
    "retry",
]

Result = TypeVar("Result")


def open_channel(
    target: str,
    tls: ClientTls | None,
    server_role: str,
    *,
    timeout_seconds: float = 10.0,
    stream_timeout_seconds: float | None = None,
    wait_for_ready: bool = False,
    max_response_bytes: int = 64 << 20,
    pinned_certificate: bytes | None = None,
) -> grpc.aio.Channel:
    """A channel to a server of `server_role`; nothing is connected yet.

    The server's certificate must chain to the CA (or be `pinned_certificate`, DER) and carry the
    DNS name `<server_role>.<trust domain>`, whatever address is dialled. `timeout_seconds` is for
    unary calls, `stream_timeout_seconds` for streaming ones (None: no limit), each unless the call
    gives its own. `tls` None is plaintext, for loopback. Raises TlsFileError.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_response_bytes),
        ("grpc.max_metadata_size", 32 << 10),
        # Find a dead server while a call is open; the servers here bear a ping every 10 s.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Reconnect quickly: our backoff between attempts is in `retry`, and peers restart often
        # in development.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # Channels to the same target share connections otherwise, with the first one's identity.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    unary = _Defaults(timeout_seconds, wait_for_ready)
    stream = _Defaults(stream_timeout_seconds, wait_for_ready)
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (
        _UnaryUnary(unary),
        _UnaryStream(stream),
        _StreamUnary(stream),
        _StreamStream(stream),
    )
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    options.append(("grpc.ssl_target_name_override", server_name(server_role, tls.trust_domain)))
    credentials = tls.credentials(pinned_certificate=pinned_certificate)
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)


async def retry(
    call: Callable[[], Awaitable[Result]],
    *,
    attempts: int = 5,
    deadline_seconds: float | None = None,
    backoff: Backoff | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Result:
    """Make a call again while trying again can help; the call must be idempotent.

    Retried are UNAVAILABLE, and RESOURCE_EXHAUSTED that says when to come back (RetryInfo); without
    it the request itself is too large. RetryInfo is the least that is waited, with UNAVAILABLE too.
    Raises the last error when `attempts` are used up, or when waiting would pass the deadline.
    """
    pause = backoff if backoff is not None else Backoff()
    loop = asyncio.get_running_loop()
    give_up_at = None if deadline_seconds is None else loop.time() + deadline_seconds
    attempt = 1
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            retry_after_ms = retry_after_ms_of(error)
            may_help = error.code() is grpc.StatusCode.UNAVAILABLE or (
                error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after_ms is not None
            )
            delay = pause.next_seconds(at_least=(retry_after_ms or 0) / 1000)
            too_late = give_up_at is not None and loop.time() + delay > give_up_at
            if not may_help or attempt >= attempts or too_late:
                raise
        attempt += 1
        await sleep(delay)


class _Defaults:
    """What a call gets unless it says otherwise."""

    __slots__ = ("_timeout_seconds", "_wait_for_ready")

    def __init__(self, timeout_seconds: float | None, wait_for_ready: bool) -> None:
        self._timeout_seconds = timeout_seconds
        self._wait_for_ready = wait_for_ready

    def apply(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        request_id = current_request_id()
        if request_id is not None and metadata.get(REQUEST_ID_KEY) is None:
            metadata.add(REQUEST_ID_KEY, request_id)
        timeout = details.timeout if details.timeout is not None else self._timeout_seconds
        waits = details.wait_for_ready
        return grpc.aio.ClientCallDetails(
            details.method,
            timeout,
            metadata,
            details.credentials,
            self._wait_for_ready if waits is None else waits,
        )


# grpc.aio files an interceptor under the first kind it is an instance of, hence four classes.


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, defaults: _Defaults) -> None:
        self._defaults = defaults

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._defaults.apply(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, defaults: _Defaults) -> None:
        self._defaults = defaults

    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._defaults.apply(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, defaults: _Defaults) -> None:
        self._defaults = defaults

    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(self._defaults.apply(client_call_details), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, defaults: _Defaults) -> None:
        self._defaults = defaults

    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(self._defaults.apply(client_call_details), request_iterator)
