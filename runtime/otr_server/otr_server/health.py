"""grpc.health.v1 for the kubelet: the whole process ("") and one entry per service.

All entries change together: a process either serves or does not. The state is set synchronously, so
that NOT_SERVING is visible before the first step of a drain (which grpcio-health-checking's own
servicer, whose `set` is a coroutine, leaves to the scheduler).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otr_protocol.errors import ExhaustedError, UnknownError
from otr_server.status import Context, refusals_as_status

# The port has neither TLS nor authorization, so that watching it must not cost much.
MAX_WATCHERS = 64


class UnknownServiceError(UnknownError):
    """Health of a service that this process does not have."""

    reason = "UNKNOWN_SERVICE"


class TooManyWatchersError(ExhaustedError):
    """The health port takes no more watchers."""

    reason = "TOO_MANY_WATCHERS"


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the stubs are untyped
    """Answers Check, List and Watch; NOT_SERVING until `set(True)`."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._closed = False
        self._changed = asyncio.Event()
        self._watchers = 0

    @property
    def serving(self) -> bool:
        """What Check answers now."""
        return self._serving

    def set(self, serving: bool) -> None:
        """Change what Check answers, and tell all watchers."""
        if serving != self._serving:
            self._serving = serving
            self._wake()

    def close(self) -> None:
        """End all watches, so that the health server can stop."""
        self._closed = True
        self._wake()

    async def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The state of one service, or NOT_FOUND."""
        async with refusals_as_status(context):
            if request.service not in self._services:
                raise UnknownServiceError("no such service here", field="service")
            return self._response(request.service)

    async def List(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """The state of every service."""
        return health_pb2.HealthListResponse(
            statuses={service: self._response(service) for service in self._services}
        )

    async def Watch(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state of one service now and after every change."""
        async with refusals_as_status(context):
            if self._watchers >= MAX_WATCHERS:
                raise TooManyWatchersError("too many watchers", retry_after_ms=1000)
        self._watchers += 1
        try:
            told: int | None = None
            while not self._closed:
                changed = self._changed
                response = self._response(request.service)
                if response.status != told:
                    told = response.status
                    yield response
                await changed.wait()
        finally:
            self._watchers -= 1

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._services:
            status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        elif self._serving:
            status = health_pb2.HealthCheckResponse.SERVING
        else:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)


def health_server(health: Health) -> grpc.aio.Server:
    """A server with health and nothing else, for a plaintext port."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", 4096),
            ("grpc.max_metadata_size", 4096),
            ("grpc.max_concurrent_streams", 100),
            ("grpc.so_reuseport", 0),
        )
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return server
