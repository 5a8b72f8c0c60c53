"""What stands around every handler of a server, in one place so that nothing can be left out.

For each call, in this order: a request id is bound; the call is counted; the caller is identified
and its role checked against the method (fail closed); the number of calls at once is bounded, for
all callers and for each; the request is parsed; the handler runs; what it raised becomes a status;
code and seconds are counted.

    Refusal of any kind     its code, ErrorInfo and RetryInfo (status.py)
    AbortError              the status that the handler chose itself
    NotImplementedError     UNIMPLEMENTED, if the generated base class raised it: not built yet
    CancelledError          the client went away or its deadline passed: passed on; but if it was
                            not this call that was cancelled, UNAVAILABLE (its client still waits)
    anything else           INTERNAL with an incident id; the traceback goes to the log only

Streams are written from here rather than yielded to grpc: so a cancellation while a message is
being written reaches the handler's generator at once, and its `finally` frees what it held.
(grpc.aio leaves an abandoned generator to the garbage collector.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from google.rpc import status_pb2

from otr_protocol.errors import ExhaustedError, Refusal, UnavailableError
from otr_server.identity import Authorizer, bind_peer
from otr_server.metrics import MethodMetrics, ServerMetrics
from otr_server.shares import Shares, share_of
from otr_server.status import (
    Context,
    abort_with,
    code_of,
    internal_status,
    new_incident,
    not_built_status,
    status_of,
)
from otr_server.telemetry import request_id_from, request_scope
from otr_server.unreadable import Unreadable, guarded

BUSY_RETRY_MS = 200
CALLER_SHARE = 0.5
"""How much of all calls at once one identity may have."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class TooManyCallsError(ExhaustedError):
    """The server handles as many calls as it may at once."""

    reason = "TOO_MANY_CALLS"


class WorkAbandonedError(UnavailableError):
    """What the call waited for was given up by others; calling again starts it anew."""

    reason = "WORK_ABANDONED"


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A method's handler as its server registered it, and the same with the boundary around it."""

    original: Handler
    handler: Handler


class Boundary(grpc.aio.ServerInterceptor):
    """The interceptor that a server of ours is built with."""

    def __init__(
        self,
        authorizer: Authorizer,
        metrics: ServerMetrics,
        *,
        max_concurrent_calls: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._authorizer = authorizer
        self._metrics = metrics
        self._calls = Shares(
            max_concurrent_calls,
            share_of(max_concurrent_calls, CALLER_SHARE),
            TooManyCallsError,
            "calls",
            retry_ms=BUSY_RETRY_MS,
        )
        self._clock = clock
        self._guarded: dict[str, _Guarded] = {}
        self._stopped = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """How many handlers run."""
        return self._in_flight

    async def idle(self) -> None:
        """Return when no handler runs, clean-up included; the server has stopped already.

        What a handler raises from now on has nobody to hear it, and is only counted.
        """
        self._stopped = True
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler with the boundary around it; made once per method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # grpc answers UNIMPLEMENTED
        method = str(handler_call_details.method)
        known = self._guarded.get(method)
        if known is None or known.original is not handler:
            known = _Guarded(handler, self._surround(method, handler))
            self._guarded[method] = known
        return known.handler

    def _surround(self, method: str, handler: Handler) -> Handler:
        service, _, name = method.lstrip("/").rpartition("/")
        metrics = self._metrics.method(_kind(handler), service, name)
        read = guarded(handler.request_deserializer)
        write = handler.response_serializer
        behaviour: Any  # typed for the synchronous API only
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

            async def stream(request: Any, context: Context) -> None:
                await self._run(
                    method, metrics, context, lambda: _streamed(behaviour, request, context)
                )

            make_stream = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make_stream(stream, read, write)

        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def single(request: Any, context: Context) -> Any:
            return await self._run(
                method, metrics, context, lambda: _answered(behaviour, request, context, write)
            )

        make_single = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make_single(single, read, None)

    async def _run(
        self,
        method: str,
        metrics: MethodMetrics,
        context: Context,
        work: Callable[[], Awaitable[Result]],
    ) -> Result:
        """Run the handler of one call and account for how it ends."""
        started = self._clock()
        metrics.started()
        request_id = request_id_from(context.invocation_metadata())
        code = grpc.StatusCode.UNKNOWN
        self._enter()
        try:
            with request_scope(request_id, method=method):
                try:
                    caller = self._authorizer.authorize(method, context)
                    bind_peer(caller)
                    with self._calls.taken(caller.uri):
                        result = await work()
                    code = _chosen_code(context, grpc.StatusCode.OK)
                    return result
                except Refusal as refusal:
                    code = code_of(refusal)
                    log.info(
                        "call_refused",
                        code=code.name,
                        reason=refusal.reason,
                        field=refusal.field,
                        error=refusal.message,
                    )
                    await self._end(context, status_of(refusal, request_id=request_id))
                    raise
                except grpc.aio.AbortError:
                    code = _chosen_code(context, grpc.StatusCode.UNKNOWN)
                    raise
                except asyncio.CancelledError:
                    if _is_cancelled():
                        code = _why_cancelled(context)
                        raise
                    abandoned = WorkAbandonedError("what this call waited for was given up")
                    code = code_of(abandoned)
                    log.warning("work_abandoned")
                    await self._end(context, status_of(abandoned, request_id=request_id))
                    raise
                except grpc.aio.BaseError as error:
                    # A message could not be sent: the client is gone, or the server has stopped.
                    if isinstance(error, grpc.aio.UsageError):
                        log.error("grpc_misused", exc_info=error)
                    code = _why_cancelled(context)
                    raise
                except Exception as error:
                    if _is_not_built(error, context):
                        code = grpc.StatusCode.UNIMPLEMENTED
                        await self._end(context, not_built_status(request_id=request_id))
                        raise
                    code = grpc.StatusCode.INTERNAL
                    incident = new_incident()
                    log.error("call_failed", incident=incident, exc_info=error)
                    await self._end(context, internal_status(incident, request_id=request_id))
                    raise
        finally:
            self._leave()
            metrics.handled(code, self._clock() - started)

    async def _end(self, context: Context, status: status_pb2.Status) -> None:
        """Send the status, unless the call is over or the server has stopped under it."""
        if not (self._stopped or context.done()):
            await abort_with(context, status)

    def _enter(self) -> None:
        self._in_flight += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()


def _kind(handler: Handler) -> str:
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return "unary"
        case False, True:
            return "server_stream"
        case True, False:
            return "client_stream"
    return "bidi_stream"


def _chosen_code(context: Context, otherwise: grpc.StatusCode) -> grpc.StatusCode:
    """The code that the handler set itself; the stubs forget that there may be none."""
    code: grpc.StatusCode | None = context.code()
    return otherwise if code is None else code


def _is_not_built(error: Exception, context: Context) -> bool:
    """Whether a method of a generated base class was called, which sets the code and raises."""
    chosen: grpc.StatusCode | None = context.code()
    return isinstance(error, NotImplementedError) and chosen is grpc.StatusCode.UNIMPLEMENTED


def _is_cancelled() -> bool:
    """Whether this call's own task was cancelled, rather than something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _why_cancelled(context: Context) -> grpc.StatusCode:
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining <= 0:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _readable(request: Any) -> Any:
    """The request, or the refusal that its bytes deserve."""
    if isinstance(request, Unreadable):
        raise request.refusal
    return _each_readable(request) if hasattr(request, "__aiter__") else request


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Unreadable):
            raise request.refusal
        yield request


async def _answered(
    behaviour: Any, request: Any, context: Context, write: Callable[[Any], bytes] | None
) -> Any:
    response = await behaviour(_readable(request), context)
    # A handler that set a code itself may have nothing to say.
    if write is None or (response is None and context.code() is not None):
        return response
    # Here rather than in grpc, so that a response of the wrong type is INTERNAL like any bug.
    return write(response)


async def _streamed(behaviour: Any, request: Any, context: Context) -> None:
    produced = behaviour(_readable(request), context)
    if not hasattr(produced, "__aiter__"):
        await produced  # a handler that writes to the context itself
        return
    responses = aiter(produced)
    try:
        async for response in responses:
            await context.write(response)
    finally:
        close = getattr(responses, "aclose", None)
        if close is not None:
            await close()
