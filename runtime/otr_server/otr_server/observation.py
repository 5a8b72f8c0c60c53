"""The observation port: `/metrics` for Prometheus, `/livez` and `/readyz` for old kubelets.

Plain HTTP/1.1 on a port of its own, one response per connection. It is a page of asyncio rather
than a web framework because it has three fixed answers, and rather than prometheus_client's own
server because that one runs in a thread per connection that a drain cannot wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

MAX_REQUEST_BYTES = 8192
MAX_CONNECTIONS = 32
REQUEST_SECONDS = 5.0

_PLAIN = "text/plain; charset=utf-8"


class ObservationServer:
    """Serves the metrics of one registry and the readiness that `ready` tells."""

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port. Raises OSError if it is taken."""
        self._server = await asyncio.start_server(
            self._connected, host, port, limit=MAX_REQUEST_BYTES
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, EOFError, asyncio.CancelledError):
            pass  # the scraper went away, was too slow, or we drain
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        status, kind, body = self._respond(head.decode("latin-1").split("\r\n"))
        only_head = head.startswith(b"HEAD ")
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode("latin-1")
            + (b"" if only_head else body)
        )
        await writer.drain()

    def _respond(self, lines: list[str]) -> tuple[str, str, bytes]:
        match lines[0].split(" "):
            case ["GET" | "HEAD", target, version] if version.startswith("HTTP/1."):
                pass
            case [_, _, version] if version.startswith("HTTP/1."):
                return "405 Method Not Allowed", _PLAIN, b"GET or HEAD\n"
            case _:
                return "400 Bad Request", _PLAIN, b"bad request\n"
        match target.split("?", 1)[0]:
            case "/metrics":
                accept = ""
                for line in lines[1:]:
                    name, _, value = line.partition(":")
                    if name.lower() == "accept":
                        accept = value.strip()
                encode, kind = choose_encoder(accept)
                return "200 OK", kind, encode(self._registry)
            case "/livez":
                return "200 OK", _PLAIN, b"ok\n"
            case "/readyz" if self._ready():
                return "200 OK", _PLAIN, b"ok\n"
            case "/readyz":
                return "503 Service Unavailable", _PLAIN, b"not serving\n"
        return "404 Not Found", _PLAIN, b"/metrics, /livez or /readyz\n"
