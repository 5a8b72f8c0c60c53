"""HTTP as vendors are asked: bounded in time, size, number and pace; never redirected.

A request is made again, after a pause that grows, when the connection fails or the server says 429
or 5xx. `Retry-After` holds for everybody who asks the same host.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx
import structlog

from otr_attestation.pacing import Pace
from otr_attestation.ports import CollateralUnavailableError
from otr_attestation.settings import VendorSettings
from otr_server.backoff import Backoff

_AGENT: Final = "otr-attestation/0.1"
_NOT_THERE: Final = frozenset({404, 410})
_MAX_HEADER_BYTES: Final = 64 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer; header names are in lower case."""

    body: bytes
    headers: Mapping[str, str]


class _TryAgainError(Exception):
    def __init__(self, why: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_seconds = retry_after_seconds


class Http:
    """One pool of connections for all vendors, and one pace per host."""

    def __init__(self, settings: VendorSettings, *, paces: Mapping[str, float]) -> None:
        """`paces` are intervals in seconds by host name, for hosts with one of their own.

        Raises OSError for a `ca_file` that cannot be read.
        """
        self._settings = settings
        self._intervals = paces
        self._hosts: dict[str, Pace] = {}
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(
                cafile=None if settings.ca_file is None else str(settings.ca_file)
            ),
            proxy=settings.proxy_url,
            trust_env=False,
            follow_redirects=False,
            timeout=settings.timeout_seconds,
            headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=8),
        )

    async def get(self, url: str) -> Answer | None:
        """The answer to a GET, None for 404. Raises CollateralUnavailableError."""
        return await self._ask("GET", url, b"", {})

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a POST, None for 404. Raises CollateralUnavailableError."""
        return await self._ask("POST", url, body, headers)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _ask(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer | None:
        host = urlsplit(url).hostname or ""
        settings = self._settings
        pace = self._hosts.get(host)
        if pace is None:
            interval = self._intervals.get(host, settings.host_interval_seconds)
            pace = self._hosts[host] = Pace(interval, settings.max_wait_seconds)
        backoff = Backoff(
            initial_seconds=settings.backoff_seconds,
            maximum_seconds=max(settings.backoff_seconds, settings.max_wait_seconds),
        )
        attempt = 1
        while True:
            await pace.turn()
            try:
                async with asyncio.timeout(settings.timeout_seconds):
                    return await self._once(method, url, body, headers)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, _TryAgainError) as error:
                why = str(error) or type(error).__name__
                told = error.retry_after_seconds if isinstance(error, _TryAgainError) else None
            log.info("vendor_failed", host=host, attempt=attempt, error=why)
            if told is not None:
                pace.pause(told)
            delay = backoff.next_seconds(at_least=told or 0.0)
            if attempt >= settings.attempts or delay > settings.max_wait_seconds:
                raise CollateralUnavailableError(f"{host}: {why}", field="key")
            attempt += 1
            await asyncio.sleep(delay)

    async def _once(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer | None:
        async with self._client.stream(
            method, url, content=body or None, headers=dict(headers)
        ) as response:
            status = response.status_code
            if status in _NOT_THERE:
                return None
            if status == 429 or status >= 500:
                raise _TryAgainError(
                    f"HTTP {status}", _seconds(response.headers.get("retry-after"))
                )
            if status != 200:
                raise CollateralUnavailableError(f"the vendor answers HTTP {status}", field="key")
            received = bytearray()
            # Raw bytes: an encoding that was not asked for is not undone either.
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > self._settings.max_response_bytes:
                    raise CollateralUnavailableError("the vendor's answer is too long", field="key")
            found = {name.lower(): value for name, value in response.headers.items()}
            if sum(map(len, found.values())) > _MAX_HEADER_BYTES:
                raise CollateralUnavailableError("the vendor's headers are too long", field="key")
            return Answer(bytes(received), found)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds; the form with a date is not used by these vendors."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return None
    return float(min(int(retry_after[:6]), 86_400))
