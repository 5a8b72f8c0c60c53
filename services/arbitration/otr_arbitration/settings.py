"""Settings of the arbitration service: one frozen dataclass, unknown keys refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otr_server.process import Listen
from otr_server.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `otr-arbitration` reads from its configuration file."""

    listen: Listen
    data_dir: Path
    commitment_target: str
    log_vkey_file: Path
    """The log's C2SP verifier key, pinned."""
    jwks_file: Path
    """The attestation service's public keys, pinned (RFC 7517)."""
    window_seconds: float = 86_400.0
    """How long a statement backed by attestation alone stays open."""
    accept_simulated: bool = False
    """Development only: count evidence of the development TEE."""
    tls: ServerTls | None = None
    """This service's certificate, also for calling peers; without it, loopback in plaintext."""
    max_watchers: int = 512
    """Calls that wait for statements to move; one identity may make a quarter of them."""
    drain_seconds: int = 10
    log_level: str = "info"
    reflection: bool = False

    def __post_init__(self) -> None:
        if self.max_watchers < 1:
            raise ValueError("max_watchers is at least 1")
