"""A real process that serves the probe service over mutual TLS on loopback, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from otr_server.channel import open_channel
from otr_server.dev_pki import DevPki
from otr_server.process import Listen, Process
from support.probe_service import OPEN_ROLES, Probe, ProbeStub, probe_servicer


def process_for(pki: DevPki, probe: Probe, **changes: Any) -> Process:
    arguments: dict[str, Any] = {
        "listen": Listen(),
        "tls": pki.server_tls("commitment"),
        "servicers": [probe_servicer(probe)],
        "roles": OPEN_ROLES,
        "drain_seconds": 10,
    }
    return Process("probe", **{**arguments, **changes})


@asynccontextmanager
async def client(
    process: Process, pki: DevPki, role: str = "client", **options: Any
) -> AsyncIterator[ProbeStub]:
    async with open_channel(
        process.bound.target, pki.client_tls(role), "commitment", **options
    ) as channel:
        yield ProbeStub(channel)
