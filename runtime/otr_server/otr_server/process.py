"""A gRPC process: start, serve, drain (DESIGN sections 2 and 12; facts/serving.md section 3).

Three ports: the services over TLS with required client certificates; grpc.health.v1 in plaintext,
because the kubelet cannot do mTLS; metrics over HTTP. Health says NOT_SERVING until `set_serving`,
and again from the first moment of a drain:

    SIGTERM -> NOT_SERVING -> no new calls, calls in flight finish (at most `drain_seconds`)
            -> background tasks end -> what main opened is closed -> exit

Everything belongs to the object, nothing to the Python process, so that the whole stack can run in
one interpreter: `start` and `drain` are all that such a user needs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import structlog
from prometheus_client import CollectorRegistry

from otr_server.background import BackgroundTask, RestartPolicy, Supervisor
from otr_server.boundary import Boundary
from otr_server.health import Health, health_server
from otr_server.identity import ANY_ROLE, DEFAULT_TRUST_DOMAIN, ROLES, Authorizer, Identity
from otr_server.metrics import ServerMetrics, new_registry
from otr_server.observation import ObservationServer
from otr_server.tls import ServerTls

__all__ = [
    "Bound",
    "Listen",
    "Process",
    "ProcessStartError",
    "RestartPolicy",
    "ServerTls",
    "Servicer",
]

REFLECTION_METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# How long a cancelled handler may take to clean up before its stores are closed under it.
CLEANUP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class ProcessStartError(RuntimeError):
    """The process cannot start: a port is taken, or main's tables contradict each other."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a process listens; port 0 takes any free one."""

    host: str = "127.0.0.1"
    port: int = 0
    health_port: int = 0
    metrics_port: int = 0

    def __post_init__(self) -> None:
        for name in ("port", "health_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must be between 0 and 65535")

    def address(self, port: int) -> str:
        """`host:port` as gRPC wants it."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nobody outside of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Bound:
    """The ports that a started process listens on."""

    host: str
    port: int
    health_port: int
    metrics_port: int

    @property
    def target(self) -> str:
        """What a client's channel dials."""
        return Listen(self.host).address(self.port)


@dataclass(frozen=True, slots=True)
class Servicer:
    """One service: the generated `add_..._to_server`, its implementation, and its full name."""

    add: Callable[[Any, grpc.aio.Server], None]
    instance: object
    full_name: str


class Process:
    """One process of ours. See the module's docstring; every argument has a safe default.

    `roles` maps full methods to the roles that may call them; methods not listed are denied.
    `background` tasks run as long as the process and are restarted if they fail (background.py).
    `closing` is awaited in reverse order at the end of a drain: stores, channels.
    `draining` is set when a drain begins: endless streams should watch it and end.
    `announce_seconds` delays the drain after NOT_SERVING for load balancers that poll health.
    `plaintext_peer` is who every caller is taken for when `tls` is None, on loopback only.
    """

    def __init__(
        self,
        name: str,
        listen: Listen,
        tls: ServerTls | None,
        servicers: Sequence[Servicer],
        roles: Mapping[str, Iterable[str]],
        background: Sequence[BackgroundTask] = (),
        *,
        reflection: bool = False,
        max_request_bytes: int = 4 << 20,
        max_response_bytes: int = 64 << 20,
        max_concurrent_calls: int = 1024,
        drain_seconds: float = 30.0,
        announce_seconds: float = 0.0,
        restart: RestartPolicy | None = None,
        closing: Sequence[Callable[[], Awaitable[None]]] = (),
        draining: asyncio.Event | None = None,
        registry: CollectorRegistry | None = None,
        plaintext_peer: Identity | None = None,
    ) -> None:
        if tls is None and not listen.is_loopback:
            raise ProcessStartError("without TLS a process listens on loopback only")
        if tls is not None and plaintext_peer is not None:
            raise ProcessStartError("with TLS the peer is whom its certificate names")
        self.name = name
        self.registry = registry if registry is not None else new_registry()
        self.draining = draining if draining is not None else asyncio.Event()
        self._listen = listen
        self._tls = tls
        self._servicers = tuple(servicers)
        self._background = tuple(background)
        self._closing = tuple(closing)
        self._reflection = reflection
        self._max_request_bytes = max_request_bytes
        self._max_response_bytes = max_response_bytes
        self._drain_seconds = drain_seconds
        self._announce_seconds = announce_seconds
        self._roles = {method: frozenset(allowed) for method, allowed in roles.items()}
        if reflection:
            self._roles[REFLECTION_METHOD] = ANY_ROLE
        self._metrics = ServerMetrics(self.registry)
        self._boundary = Boundary(
            Authorizer(
                DEFAULT_TRUST_DOMAIN if tls is None else tls.trust_domain,
                self._roles,
                plaintext_peer,
            ),
            self._metrics,
            max_concurrent_calls=max_concurrent_calls,
        )
        self._health = Health(servicer.full_name for servicer in self._servicers)
        self._observation = ObservationServer(self.registry, lambda: self._health.serving)
        self._supervisor = Supervisor(
            restart if restart is not None else RestartPolicy(),
            self._metrics,
            on_change=self._tell_health,
            on_hopeless=self._give_up,
        )
        self._server: grpc.aio.Server | None = None
        self._health_server: grpc.aio.Server | None = None
        self._bound: Bound | None = None
        self._wanted = False
        self._drain: asyncio.Task[None] | None = None
        self._hurry: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._gave_up_on: str | None = None

    async def start(self) -> Bound:
        """Listen on the three ports and start the background tasks; health stays NOT_SERVING.

        Raises ProcessStartError, or TlsFileError for unusable TLS files; nothing is left open then.
        """
        if self._server is not None:
            raise ProcessStartError("a process starts once")
        try:
            self._bound = await self._open_ports()
        except BaseException:
            await self._close_ports(grace=None)
            raise
        self._supervisor.start(self._background)
        log.info(
            "started",
            process=self.name,
            port=self._bound.port,
            health_port=self._bound.health_port,
            metrics_port=self._bound.metrics_port,
            tls=self._tls is not None,
        )
        return self._bound

    @property
    def bound(self) -> Bound:
        """The ports of a started process."""
        if self._bound is None:
            raise ProcessStartError("the process has not started")
        return self._bound

    @property
    def serving(self) -> bool:
        """What health says."""
        return self._health.serving

    @property
    def gave_up_on(self) -> str | None:
        """The background task that failed for good, if one did."""
        return self._gave_up_on

    def set_serving(self, serving: bool) -> None:
        """Say whether the process is ready; it shows while no background task is failing."""
        self._wanted = serving
        self._tell_health()

    async def drain(self) -> None:
        """NOT_SERVING, finish what is in flight, stop. Safe to call more than once."""
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_now(), name=f"drain {self.name}")
        await asyncio.shield(self._drain)

    async def run_until_signal(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short.

        Returns the exit code: 0, or 1 if a background task failed for good.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            await self._stop.wait()
            await self.drain()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        return 0 if self._gave_up_on is None else 1

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.drain()

    async def _open_ports(self) -> Bound:
        self._server = grpc.aio.server(
            interceptors=(self._boundary,),
            options=_server_options(self._max_request_bytes, self._max_response_bytes),
        )
        self._add_servicers(self._server)
        listen = self._listen
        port = _bind(self._server, listen, listen.port, self._tls)
        self._health_server = health_server(self._health)
        health_port = _bind(self._health_server, listen, listen.health_port, None)
        try:
            metrics_port = await self._observation.start(listen.host, listen.metrics_port)
        except OSError as error:
            raise ProcessStartError(
                f"cannot listen on {listen.address(listen.metrics_port)}: {error.strerror}"
            ) from error
        await self._health_server.start()
        await self._server.start()
        return Bound(listen.host, port, health_port, metrics_port)

    def _add_servicers(self, server: grpc.aio.Server) -> None:
        methods: set[str] = set()
        for servicer in self._servicers:
            registrar = _Registrar(server, methods)
            servicer.add(servicer.instance, registrar)  # type: ignore[arg-type]
            if not any(method.startswith(f"/{servicer.full_name}/") for method in methods):
                raise ProcessStartError(f"{servicer.full_name} has no methods: wrong full_name?")
        if self._reflection:
            from grpc_reflection.v1alpha import reflection  # only where it was asked for

            names = [servicer.full_name for servicer in self._servicers]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
            methods.add(REFLECTION_METHOD)
        # A misspelt method in the table would deny everybody, and be noticed in production.
        unknown = sorted(set(self._roles) - methods)
        if unknown:
            raise ProcessStartError(f"roles for methods that nobody serves: {', '.join(unknown)}")
        for method, allowed in self._roles.items():
            if not allowed <= ROLES:
                raise ProcessStartError(f"{method}: unknown roles {sorted(allowed - ROLES)}")
        for method in sorted(methods - set(self._roles)):
            log.warning("method_denied_to_all", method=method)

    def _tell_health(self) -> None:
        serving = self._wanted and self._supervisor.healthy and not self.draining.is_set()
        if serving != self._health.serving:
            self._health.set(serving)
            self._metrics.serving(serving)
            log.info("serving" if serving else "not_serving", process=self.name)

    def _give_up(self, task: str) -> None:
        self._gave_up_on = task
        self._stop.set()

    def _signalled(self, number: signal.Signals) -> None:
        log.info("signal", process=self.name, signal=signal.Signals(number).name)
        if self._stop.is_set() and self._server is not None:
            self._hurry = asyncio.create_task(self._server.stop(None))
        self._stop.set()

    async def _drain_now(self) -> None:
        self.draining.set()
        self._tell_health()
        if self._announce_seconds:
            await asyncio.sleep(self._announce_seconds)
        log.info("draining", process=self.name, in_flight=self._boundary.in_flight)
        if self._server is not None:
            await self._server.stop(self._drain_seconds)
        try:
            # The wire is closed; handlers that were cut off still run their clean-up.
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._boundary.idle()
        except TimeoutError:
            log.error("handlers_resist", in_flight=self._boundary.in_flight)
        await self._supervisor.stop()
        for close in reversed(self._closing):
            try:
                await close()
            except Exception as error:  # the others must still be closed
                log.error("closing_failed", what=repr(close), exc_info=error)
        await self._close_ports(grace=1.0)
        log.info("stopped", process=self.name)

    async def _close_ports(self, grace: float | None) -> None:
        self._health.close()
        if self._server is not None:
            await self._server.stop(grace)
        if self._health_server is not None:
            await self._health_server.stop(grace)
        await self._observation.close()


class _Registrar:
    """What a generated `add_..._to_server` sees of a server, noting the methods on the way."""

    def __init__(self, server: grpc.aio.Server, methods: set[str]) -> None:
        self._server = server
        self._methods = methods

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Note the methods, and pass them on."""
        self._methods.update(f"/{service_name}/{method}" for method in method_handlers)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Pass them on: generated code registers every method under its name as well."""
        self._server.add_generic_rpc_handlers(handlers)


def _bind(server: grpc.aio.Server, listen: Listen, port: int, tls: ServerTls | None) -> int:
    address = listen.address(port)
    credentials = None if tls is None else tls.credentials()
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ProcessStartError(f"cannot listen on {address}: is it in use?") from error


def _server_options(max_request_bytes: int, max_response_bytes: int) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", max_response_bytes),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.absolute_max_metadata_size", 32 << 10),
        ("grpc.max_concurrent_streams", 1024),
        # Find dead peers within about a minute, and bear clients that ping every 10 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Two processes that share a port by mistake would each get half of the calls.
        ("grpc.so_reuseport", 0),
    )
