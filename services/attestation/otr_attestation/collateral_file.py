"""All collateral in one file, as the development stack and air-gapped verifiers have it.

The file is looked at before every appraisal, since revocation answers last a day. A broken new file
is logged and the old one stays in use until it expires by itself: appraisal fails closed on stale
collateral, not on a half-written file.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from otr_protocol.attestation import collateral
from otr_protocol.attestation.collateral import MAX_COLLATERAL_BYTES, CollateralBundle
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.attestation.policy import Policy
from otr_protocol.errors import Refusal

log = structlog.get_logger(__name__)


class CollateralFile:
    """`ports.CollateralSource` from a file that somebody else replaces."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises OSError or the refusals of what it holds."""
        self._path = path
        self._stamp = _stamp(path)
        self._bundle = _read(path)

    async def gather(
        self, evidence: EvidenceBundle, policy: Policy, now_s: int
    ) -> CollateralBundle:
        """Everything that the file holds."""
        return await asyncio.to_thread(self._current)

    def _current(self) -> CollateralBundle:
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._bundle = _read(self._path)
                self._stamp = stamp
                log.info("collateral_reloaded", digest=self._bundle.digest.hex())
        except (OSError, Refusal) as error:
            log.error("collateral_not_reloaded", error=str(error))
        return self._bundle


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> CollateralBundle:
    with path.open("rb") as file:
        return collateral.decode(file.read(MAX_COLLATERAL_BYTES + 1))
