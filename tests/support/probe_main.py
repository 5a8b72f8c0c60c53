"""The probe service as a program of its own: what a service's main.py looks like.

    python -m support.probe_main --config FILE.toml

Prints its bound ports as one JSON line, so that a test that starts it knows where to call.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from otr_server.command import run_command
from otr_server.process import Listen, Process, RestartPolicy, ServerTls
from support.probe_service import OPEN_ROLES, Probe, probe_servicer


@dataclass(frozen=True, slots=True)
class Settings:
    tls_certificate_file: Path
    tls_key_file: Path
    tls_ca_file: Path
    listen: Listen = field(default_factory=Listen)
    drain_seconds: int = 30
    log_level: str = "info"
    broken_background: bool = False


async def start(settings: Settings) -> Process:
    async def broken() -> None:
        raise OSError("the disk is gone")

    process = Process(
        "probe",
        settings.listen,
        ServerTls(settings.tls_certificate_file, settings.tls_key_file, settings.tls_ca_file),
        [probe_servicer(Probe())],
        OPEN_ROLES,
        [broken] if settings.broken_background else [],
        drain_seconds=settings.drain_seconds,
        restart=RestartPolicy(initial_seconds=0.001, maximum_seconds=0.001, max_failures=3),
    )
    bound = await process.start()
    process.set_serving(True)
    ports = {
        "port": bound.port,
        "health_port": bound.health_port,
        "metrics_port": bound.metrics_port,
    }
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    return process


def main() -> None:
    raise SystemExit(run_command("otr-probe", Settings, start))


if __name__ == "__main__":
    main()
