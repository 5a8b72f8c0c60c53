"""Settings of the attestation service: one frozen dataclass, unknown keys refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otr_server.process import Listen
from otr_server.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `otr-attestation` reads from its configuration file."""

    listen: Listen
    issuer: str
    """`iss` of the tokens: a URI that relying parties pin together with the key."""
    signing_key_file: Path
    """PEM, EC P-384: signs the EAR tokens. Not the operator's key, nor any machine's under test."""
    trust_roots_file: Path
    """Canonical CBOR of the device and CPU roots accepted here."""
    collateral_file: Path
    """Canonical CBOR bundle of RIMs, OCSP responses and CA certificates; reread when it changes."""
    policy_file: Path
    commitment_target: str
    tls: ServerTls | None = None
    """This service's certificate, also for calling peers; without it, loopback in plaintext."""
    challenge_seconds: int = 60
    max_open_challenges: int = 10_000
    max_evidence_bytes: int = 1 << 20
    drain_seconds: int = 10
    log_level: str = "info"
    reflection: bool = False
