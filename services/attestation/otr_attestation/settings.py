"""Settings of the attestation service: one frozen dataclass, unknown keys refused.

One process takes one or more of three roles: `verifier` (challenges, verdicts, tokens), `policy`
(signed policies) and `collateral`, the only one that may reach beyond the deployment. Verifier and
policy belong together; where egress is to be kept away from the token key, `collateral` runs as a
process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from otr_server.process import Listen
from otr_server.tls import ServerTls

Role = Literal["verifier", "policy", "collateral"]


@dataclass(frozen=True, slots=True)
class VendorSettings:
    """Where vendors are reached, and how hard they are asked. An empty URL means never."""

    nvidia_rim_url: str = "https://rim.attestation.nvidia.com/v1/rim"
    nvidia_ocsp_url: str = "https://ocsp.ndis.nvidia.com/"
    amd_kds_url: str = "https://kdsintf.amd.com"
    intel_pcs_url: str = "https://api.trustedservices.intel.com"
    """Intel's service, or a PCCS near by that speaks the same version 4."""
    intel_root_crl_url: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    """Empty: the PCCS's own `rootcacrl`."""
    ca_file: Path | None = None
    """PEM: who may sign the vendors' TLS certificates, instead of the usual authorities."""
    proxy_url: str | None = None
    timeout_seconds: float = 10.0
    """For each attempt, from connecting to the last byte."""
    attempts: int = 3
    backoff_seconds: float = 0.5
    """The first pause between attempts; it doubles, with jitter."""
    max_wait_seconds: float = 30.0
    """A request that would wait longer for its turn, or as told by the vendor, fails instead."""
    host_interval_seconds: float = 0.05
    """Between two requests to one host."""
    amd_interval_seconds: float = 10.0
    """The same for AMD's service, which answers 429 to more than that."""
    max_response_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.max_response_bytes < 1:
            raise ValueError("attempts and max_response_bytes are at least 1")
        if min(self.timeout_seconds, self.backoff_seconds) <= 0:
            raise ValueError("timeout_seconds and backoff_seconds are more than 0")
        if min(self.host_interval_seconds, self.amd_interval_seconds, self.max_wait_seconds) < 0:
            raise ValueError("intervals and max_wait_seconds are not negative")


@dataclass(frozen=True, slots=True)
class CollateralSettings:
    """The collateral role."""

    data_dir: Path
    directory: Path | None = None
    """Files that an operator puts there; read before any vendor is asked (docs)."""
    vendors: VendorSettings | None = None
    """None: no egress at all."""
    max_store_bytes: int = 1 << 30
    refresh_ahead_seconds: int = 6 * 3600
    """How long before its next update a piece is asked for again."""
    refresh_every_seconds: float = 60.0
    keep_expired_seconds: int = 7 * 24 * 3600
    """For how long what has expired, and is served no more, stays on disk."""
    retry_seconds: float = 30.0
    """How long after a failure the same key is not asked for again."""
    max_fetches: int = 16
    max_watchers: int = 64

    def __post_init__(self) -> None:
        for name in ("max_store_bytes", "max_fetches", "max_watchers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        if self.refresh_every_seconds <= 0 or self.retry_seconds < 0:
            raise ValueError("refresh_every_seconds is more than 0, retry_seconds not negative")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Signed policies, kept where they survive."""

    data_dir: Path
    signer_key_files: tuple[Path, ...]
    """Raw Ed25519 public keys in hex: whose policies are taken."""
    max_policies: int = 1024

    def __post_init__(self) -> None:
        if not self.signer_key_files:
            raise ValueError("signer_key_files names at least one key")
        if self.max_policies < 1:
            raise ValueError("max_policies is at least 1")


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may take of the verifier."""

    max_appraisals: int = 32
    """Appraisals at once; more wait for their turn."""
    max_streams: int = 64
    max_stream_in_flight: int = 8
    """Requests of one stream that are worked on; the next is not read before one is answered."""

    def __post_init__(self) -> None:
        for name in ("max_appraisals", "max_streams", "max_stream_in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `otr-attestation` reads from its configuration file."""

    listen: Listen
    roles: tuple[Role, ...] = ("verifier", "policy")
    issuer: str | None = None
    """`iss` of the tokens: a URI that relying parties pin together with the key."""
    signing_key_file: Path | None = None
    """PEM, EC P-384: signs the EAR tokens. Not the operator's key, nor any machine's under test."""
    trust_roots_file: Path | None = None
    """Canonical CBOR of the device and CPU roots accepted here."""
    collateral_file: Path | None = None
    """Canonical CBOR bundle of all collateral, reread when it changes; the other way to have it is
    a collateral service."""
    collateral_target: str | None = None
    """The collateral service; with neither of the two, this process's own."""
    policy_file: Path | None = None
    """Canonical CBOR of the policy that is active, whatever signers say; without it, the signed
    policy with the highest sequence number is."""
    commitment_target: str | None = None
    policies: PolicySettings | None = None
    collateral: CollateralSettings | None = None
    tls: ServerTls | None = None
    """This service's certificate, also for calling peers; without it, loopback in plaintext."""
    challenge_seconds: int = 60
    max_open_challenges: int = 10_000
    max_evidence_bytes: int = 1 << 20
    limits: Limits = field(default_factory=Limits)
    collateral_fresh_seconds: int = 60
    """For how long a verifier uses what the collateral service said without asking again."""
    drain_seconds: int = 10
    log_level: str = "info"
    reflection: bool = False

    def __post_init__(self) -> None:
        if not self.roles:
            raise ValueError("roles names at least one role")
        if "verifier" in self.roles:
            self._check_verifier()
        if "policy" in self.roles and self.policy_file is None and self.policies is None:
            raise ValueError("the role policy needs policy_file or policies")
        if ("collateral" in self.roles) != (self.collateral is not None):
            raise ValueError("the role collateral and the table collateral go together")

    def _check_verifier(self) -> None:
        for name in ("issuer", "signing_key_file", "trust_roots_file", "commitment_target"):
            if getattr(self, name) is None:
                raise ValueError(f"the role verifier needs {name}")
        if self.policy_file is None and self.policies is None:
            raise ValueError("the role verifier needs policy_file or policies")
        given = [self.collateral_file, self.collateral_target, self.collateral]
        if all(source is None for source in given):
            raise ValueError("the role verifier needs collateral_file or collateral_target")
        if self.collateral_file is not None and self.collateral_target is not None:
            raise ValueError("collateral_file and collateral_target exclude one another")
