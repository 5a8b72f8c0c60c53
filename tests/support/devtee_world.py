"""A development machine and its verifier at a fixed time, with the keys at hand for attackers."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from otr_devtee import Attester, DevelopmentPki, reports
from otr_devtee.reference_values import BLOCKS
from otr_protocol import binding
from otr_protocol.attestation import evidence
from otr_protocol.attestation.appraise import Verdict, appraise
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.evidence import CpuEvidence, EvidenceBundle
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.verdict import Status
from otr_protocol.binding import GpuEvidence

NOW = 1_800_000_000
ISSUER = "https://attestation.example"
BOUND = {
    "challenge": bytes([1]) * 32,
    "operator_id": bytes([2]) * 32,
    "session_key": bytes([3]) * 32,
    "tls_spki_sha256": bytes([4]) * 32,
    "model_id": bytes([5]) * 32,
}


@lru_cache(maxsize=1)
def pki() -> DevelopmentPki:
    """One PKI per test process: its two RSA keys take seconds."""
    directory = Path(tempfile.mkdtemp(prefix="otr-devtee-test-")) / "devtee"
    return DevelopmentPki.create(directory, now_s=NOW - 3600)


@lru_cache(maxsize=1)
def collateral() -> CollateralBundle:
    return pki().collateral(NOW - 60)


@lru_cache(maxsize=1)
def token_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def bundle(gpus: int = 1) -> EvidenceBundle:
    """Fresh honest evidence."""
    return evidence.decode(Attester(pki(), gpus=gpus).collect(**BOUND))


def judge(
    evidence: EvidenceBundle,
    *,
    collateral_bundle: CollateralBundle | None = None,
    policy: Policy | None = None,
    now_s: int = NOW,
) -> Verdict:
    """The verdict of the development stack's own verifier, or of one with other knowledge."""
    return appraise(
        evidence,
        collateral_bundle if collateral_bundle is not None else collateral(),
        policy if policy is not None else pki().policy(),
        [pki().trust_roots()],
        now_s,
    )


def reasons(verdict: Verdict) -> set[tuple[str, str]]:
    """(component, reason) of every finding."""
    return {(finding.component, finding.reason) for finding in verdict.findings}


def refused_for(verdict: Verdict, component: str, reason: str) -> bool:
    """Whether no token may be issued, and this is among the causes."""
    return not verdict.status.trusted and (component, reason) in reasons(verdict)


def gpu_evidence(
    number: int = 0,
    *,
    nonce: bytes | None = None,
    measurements: dict[int, bytes] | None = None,
    opaque: dict[int, bytes] | None = None,
) -> GpuEvidence:
    """A GPU's evidence with chosen contents, genuinely signed by that GPU."""
    values = pki().reference_values
    measured = [values.runtime(index) for index in range(BLOCKS)]
    for index, value in (measurements or {}).items():
        measured[index] = value
    fields = dict(reports.opaque_fields(values)) | (opaque or {})
    report = reports.gpu_report(
        nonce if nonce is not None else binding.gpu_nonce(binding.anchor(**BOUND)),
        bytes(range(32)),
        measured,
        list(fields.items()),
        reports.raw_signer(pki().gpus[number].leaf.key),
    )
    return GpuEvidence(report=report, certificates=pki().device_chain(number))


def with_gpus(*gpus: GpuEvidence, **cpu: object) -> EvidenceBundle:
    """A bundle of given GPUs with a CPU report that commits to exactly them."""
    ordered = tuple(sorted(gpus, key=lambda gpu: gpu.report))
    return dataclasses.replace(bundle(0), devices=ordered, cpu=cpu_evidence(ordered, **cpu))


def cpu_evidence(gpus: tuple[GpuEvidence, ...], **changes: object) -> CpuEvidence:
    """A CPU report with chosen contents, genuinely signed by the chip."""
    values = pki().reference_values
    arguments: dict[str, object] = {
        "report_data": binding.report_data(binding.anchor(**BOUND), binding.gpu_digest(gpus)),
        "measurement": values.cpu_measurement,
        "chip_id": pki().chip_id,
        "tcb": values.tcb,
        "key": pki().vcek_key,
    }
    report = reports.snp_report(**(arguments | changes))  # type: ignore[arg-type]
    return evidence.sev_snp(report, pki().vcek)


def trusted(verdict: Verdict) -> bool:
    return verdict.status is Status.AFFIRMING
