"""A small gRPC service for tests of otr_server, made without protoc: its messages are StringValue.

What it does is steered by the request's text, so that each test reads on its own; what must wait
waits for events that the test sets, never for time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

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
from otr_server.identity import ANY_ROLE, peer
from otr_server.process import Servicer
from otr_server.telemetry import current_request_id

SERVICE = "otr.test.v1.Probe"
ECHO = f"/{SERVICE}/Echo"
REFUSE = f"/{SERVICE}/Refuse"
STREAM = f"/{SERVICE}/Stream"
FLOOD = f"/{SERVICE}/Flood"
WRITE = f"/{SERVICE}/Write"
JOIN = f"/{SERVICE}/Join"
MIRROR = f"/{SERVICE}/Mirror"
METHODS = (ECHO, REFUSE, STREAM, FLOOD, WRITE, JOIN, MIRROR)
OPEN_ROLES: Mapping[str, frozenset[str]] = dict.fromkeys(METHODS, ANY_ROLE)


class ClockExpiredError(RejectedError):
    reason = "CLOCK_EXPIRED"


REFUSALS: dict[str, Refusal] = {
    "malformed": MalformedError("no number", field="count"),
    "rejected": ClockExpiredError("the clock ran out"),
    "unknown": UnknownError("no such game"),
    "conflict": ConflictError("other bytes under this id"),
    "exhausted": ExhaustedError("the queue is full", retry_after_ms=1500),
    "unavailable": UnavailableError("the log does not answer"),
    "unauthenticated": UnauthenticatedError("who are you"),
    "denied": DeniedError("not you"),
}
SECRET = "the-weights-password"


class Probe:
    """The implementation; `entered` and `left` are set when a held handler starts and ends."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.left = asyncio.Event()
        self.calls = 0

    async def Echo(self, request: StringValue, context: Any) -> StringValue:
        self.calls += 1
        match request.value:
            case "who":
                return StringValue(value=peer(context).uri)
            case "request-id":
                return StringValue(value=current_request_id() or "")
            case "hold":
                await self._hold()
            case "stubborn":
                try:
                    await self._hold()
                except asyncio.CancelledError:
                    await self.release.wait()
                    raise REFUSALS["unavailable"] from None
            case "abandoned":
                others = asyncio.ensure_future(self._hold())
                await self.entered.wait()
                others.cancel()
                await others
            case "abort":
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "chosen by the handler")
            case "wrong-type":
                return 7  # type: ignore[return-value]
        return StringValue(value=request.value)

    async def Refuse(self, request: StringValue, context: Any) -> StringValue:
        self.calls += 1
        raise_named(request.value)
        return StringValue()

    async def Stream(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        """`first`, then what the request says, then `last`."""
        yield StringValue(value="first")
        if request.value == "hold":
            await self._hold()
        else:
            raise_named(request.value)
        yield StringValue(value="last")

    async def Flood(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        """Endless: the flow control of the connection stops it in the middle of a write."""
        self.entered.set()
        try:
            while True:
                yield StringValue(value="x" * 65536)
        finally:
            self.left.set()
            if request.value == "slow clean-up":
                await self.release.wait()

    async def Write(self, request: StringValue, context: Any) -> None:
        """Like Stream, by writing to the context."""
        await context.write(StringValue(value="first"))
        raise_named(request.value)
        await context.write(StringValue(value="last"))

    async def Join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value=" ".join([request.value async for request in requests]))

    async def Mirror(
        self, requests: AsyncIterator[StringValue], context: Any
    ) -> AsyncIterator[StringValue]:
        async for request in requests:
            raise_named(request.value)
            yield request

    async def _hold(self) -> None:
        self.entered.set()
        try:
            await self.release.wait()
        finally:
            self.left.set()


def raise_named(what: str) -> None:
    if what in REFUSALS:
        raise REFUSALS[what]
    if what == "crash":
        raise ZeroDivisionError(SECRET)


def add_probe(instance: Any, server: Any) -> None:
    """What generated code does: register the methods by name and as a generic handler."""
    read, write = StringValue.FromString, StringValue.SerializeToString
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(instance.Echo, read, write),
        "Refuse": grpc.unary_unary_rpc_method_handler(instance.Refuse, read, write),
        "Stream": grpc.unary_stream_rpc_method_handler(instance.Stream, read, write),
        "Flood": grpc.unary_stream_rpc_method_handler(instance.Flood, read, write),
        "Write": grpc.unary_stream_rpc_method_handler(instance.Write, read, write),
        "Join": grpc.stream_unary_rpc_method_handler(instance.Join, read, write),
        "Mirror": grpc.stream_stream_rpc_method_handler(instance.Mirror, read, write),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


def probe_servicer(probe: Probe) -> Servicer:
    return Servicer(add_probe, probe, SERVICE)


class ProbeStub:
    """The client's side of a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        write, read = StringValue.SerializeToString, StringValue.FromString
        self.Echo = channel.unary_unary(ECHO, write, read)
        self.Refuse = channel.unary_unary(REFUSE, write, read)
        self.Stream = channel.unary_stream(STREAM, write, read)
        self.Flood = channel.unary_stream(FLOOD, write, read)
        self.Write = channel.unary_stream(WRITE, write, read)
        self.Join = channel.stream_unary(JOIN, write, read)
        self.Mirror = channel.stream_stream(MIRROR, write, read)
        self.RawEcho: Any = channel.unary_unary(ECHO)
        self.RawMirror: Any = channel.stream_stream(MIRROR)


def text(value: str) -> StringValue:
    return StringValue(value=value)
