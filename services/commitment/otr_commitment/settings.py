"""Settings of the commitment service: one frozen dataclass, unknown keys refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from otr_server.process import Listen
from otr_server.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may take of the process."""

    max_pending_entries: int = 8192
    """Records that wait for their commit; more are RESOURCE_EXHAUSTED."""
    max_waiters: int = 1024
    """Calls and streams that wait for the log to grow."""
    max_uploads: int = 32
    """Blobs on their way in at once."""
    max_downloads: int = 64
    """Blobs on their way out at once."""
    caller_share: float = 0.25
    """How much of each of these one identity may take."""
    upload_seconds: float = 120.0
    """How long one upload may take."""
    download_seconds: float = 120.0
    """How long one download may take: a client that does not read holds its place no longer."""
    guest_bytes_per_hour: int = 256 << 20
    """Records and blobs that one identity without a service's role may add in an hour."""
    max_blob_bytes: int = 64 << 20
    """Of one blob; the contract allows no more than 64 MiB."""

    def __post_init__(self) -> None:
        for name in ("max_pending_entries", "max_waiters", "max_uploads", "max_downloads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        if not 1 <= self.max_blob_bytes <= 64 << 20:
            raise ValueError("max_blob_bytes is 1 to 67108864")
        for name in ("upload_seconds", "download_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is more than 0")
        if self.guest_bytes_per_hour < 0:
            raise ValueError("guest_bytes_per_hour is at least 0")
        if not 0 < self.caller_share <= 1:
            raise ValueError("caller_share is more than 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `otr-commitment` reads from its configuration file."""

    listen: Listen
    origin: str
    """The checkpoint origin line, and the name of the log's key: a schema-less URL."""
    data_dir: Path
    """The database and the blobs."""
    guard_file: Path
    """The last published tree; on another volume than `data_dir`, and not in its backups."""
    log_key_file: Path
    """A signed-note signer key with the origin as its name; its verifier key is in `<file>.pub`."""
    tls: ServerTls
    generate_log_key: bool = False
    """Development: make the key at the very first start."""
    adopt_guard: bool = False
    """For one start after the guard was lost: make it anew from the data."""
    verify_statements: bool = True
    """Check session keys' signatures on statements; readers do it in any case."""
    max_database_bytes: int | None = None
    """Quota of the database; None leaves it to the disk."""
    max_total_blob_bytes: int | None = None
    """Quota of all blobs together."""
    min_free_bytes: int = 64 << 20
    """Blobs are refused when the disk would have less left, so that the log can still commit."""
    full_check_entries: int = 1_000_000
    """Up to this size all tiles are checked before the first append; beyond, while serving."""
    drain_seconds: float = 10.0
    log_level: str = "info"
    reflection: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        data_dir, guard_file = self.data_dir.resolve(), self.guard_file.resolve()
        if guard_file.is_relative_to(data_dir):
            raise ValueError(
                "guard_file must not lie in data_dir: an old copy of the data would bring its own"
            )
