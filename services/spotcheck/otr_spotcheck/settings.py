"""Settings of the spot-check service: one frozen dataclass, unknown keys refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otr_server.process import Listen
from otr_server.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `otr-spotcheck` reads from its configuration file."""

    listen: Listen
    data_dir: Path
    commitment_target: str
    log_vkey_file: Path
    """The log's C2SP verifier key, pinned."""
    tls: ServerTls | None = None
    """This service's certificate, also for calling peers; without it, loopback in plaintext."""
    drain_seconds: int = 10
    log_level: str = "info"
    reflection: bool = False
