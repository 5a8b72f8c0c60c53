"""Settings of the inference service: one frozen dataclass, unknown keys refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from otr_protocol.fields import MAX_INT64
from otr_server.process import Listen
from otr_server.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request and the queue may take."""

    max_running: int = 4
    """Answers generated at once; each holds one slot of the key/value cache."""
    max_waiting: int = 64
    """Requests queued before RESOURCE_EXHAUSTED."""
    max_waiting_per_client: int = 16
    """Of those, how many may be one client's."""
    max_prompt_tokens: int = 4096
    max_output_tokens: int = 2048
    max_request_bytes: int = 1 << 20
    max_declared_value: int = 1_000_000_000
    """Micro-units that one request may declare as its value: the operator's risk by one answer."""
    max_client_exposure: int = 10_000_000_000
    """Micro-units that one session signs for to one client."""
    max_session_exposure: int = 100_000_000_000
    """Micro-units that one session signs for in total; more is refused until the next session."""

    def __post_init__(self) -> None:
        bounds = (self.max_declared_value, self.max_client_exposure, self.max_session_exposure)
        # The sum is signed as an int64: with this order it cannot leave it.
        if not 0 <= bounds[0] <= bounds[1] <= bounds[2] <= MAX_INT64:
            raise ValueError(
                "0 <= max_declared_value <= max_client_exposure <= max_session_exposure < 2^63"
            )


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where this machine's own evidence comes from (attester = "hardware")."""

    gpus: bool = True
    """False on a machine that serves without a GPU; a policy may well refuse that."""
    gpu_timeout_seconds: float = 45.0
    """For all GPUs; the verifier's challenge does not live much longer."""
    snp_certificate: Path | None = None
    """SEV-SNP: the chip's VCEK, PEM or DER, or a directory of them, if the host has none."""
    privilege_level: int | None = None
    """SEV-SNP: the VMPL to report; None is the least that this guest may."""
    tsm_root: Path = Path("/sys/kernel/config/tsm/report")
    boot_log: Path = Path("/sys/firmware/acpi/tables/data/CCEL")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `otr-inference` reads from its configuration file."""

    listen: Listen
    data_dir: Path
    """Signed answers, the outbox to the log and sequence numbers."""
    model_dir: Path
    model_name: str
    attestation_target: str
    commitment_target: str
    log_origin: str
    log_vkey_file: Path
    """The log's verifier key, of the log named `log_origin`: its receipts must verify under it."""
    operator_public_key_file: Path
    """32 raw bytes, hex: whom this machine serves for."""
    model_record_file: Path | None = None
    """The publisher's signed registry record, if there is one; logged at start."""
    operator_key_file: Path | None = None
    """Development only: the operator's key on the serving machine signs delegations at once."""
    delegation_dir: Path | None = None
    """Otherwise: requests for delegations are written here and answers awaited."""
    attester: str = "development"
    """Who makes evidence: "development" signs simulated reports, "hardware" asks this machine."""
    devtee_dir: Path | None = None
    """The development TEE's key material (attester = "development")."""
    hardware: Hardware = field(default_factory=Hardware)
    tls: ServerTls | None = None
    """This service's certificate, also for calling peers; without it, loopback in plaintext."""
    expected_model_id: str | None = None
    """Hex; a model directory with another id is refused at start."""
    engine_threads: int = 1
    max_positions: int = 2048
    max_database_bytes: int | None = None
    """Quota of the database of answers; None leaves it to the disk."""
    renew_before_seconds: int = 300
    """How long before a token expires the next session is prepared."""
    drain_seconds: int = 30
    log_level: str = "info"
    reflection: bool = False
    limits: Limits = field(default_factory=Limits)
