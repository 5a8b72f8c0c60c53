"""Real SEV-SNP evidence as values: reports, the certificates of their keys, vendor certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otr_protocol.attestation.amd import snp_report
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.amd.snp_report import SigningKey
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import VENDOR
from support import attestation_vectors as real

NOW = real.at("2026-11-22")
SETS = {
    "milan_v2": ("report.hex", "vcek.der"),
    "milan_debug": ("report.bin", "vcek.der"),
    "milan_dstack_2026": ("report.bin", "vcek.pem"),
    "milan_vlek_v3": ("report.bin", "vlek.der"),
}


def issuers(vectors: Path, kind: SigningKey) -> tuple[bytes, bytes]:
    """The ASK or ASVK, and the ARK, of Milan."""
    ask, ark, asvk = real.certificates((vectors / "amd/milan_ask_ark_asvk.pem").read_bytes())
    return (ask if kind is SigningKey.VCEK else asvk), ark


def turin_issuers(vectors: Path) -> tuple[bytes, bytes]:
    """The ASK and the ARK of Turin."""
    ask, ark = real.certificates((vectors / "amd/turin/ask_ark.pem").read_bytes())
    return ask, ark


def collateral(vectors: Path) -> CollateralBundle:
    """All vendor certificates at hand: the search has to find the right pair."""
    return collect(
        rims={},
        snp_issuers=[
            turin_issuers(vectors),
            *(issuers(vectors, kind) for kind in SigningKey),
        ],
    )


def evidence(vectors: Path, name: str) -> CpuEvidence:
    """A report with its key's certificate."""
    report, certificate = (vectors / "amd" / name / file for file in SETS[name])
    return CpuEvidence(SEV_SNP, real.read(report), real.certificates(certificate.read_bytes()))


def appraise(vectors: Path, name: str, at: str, **policy: Any) -> CpuAppraisal:
    """The appraisal of a set at an ISO date or time, under a policy that knows its image."""
    cpu = evidence(vectors, name)
    return judge(
        cpu,
        report_data=snp_report.parse(cpu.report).report_data,
        collateral_bundle=collateral(vectors),
        now_s=real.at(at),
        **policy,
    )


def judge(
    cpu: CpuEvidence,
    *,
    report_data: bytes,
    collateral_bundle: CollateralBundle,
    now_s: int = NOW,
    **policy: Any,
) -> CpuAppraisal:
    """The appraisal of evidence that may have been changed; the image is allowed as it stands."""
    return appraise_snp(
        cpu,
        report_data=report_data,
        collateral=collateral_bundle,
        policy=Policy(**({"cpu_measurements": (cpu.report[0x90:0xC0],)} | policy)),
        roots=[VENDOR],
        now_s=now_s,
    )
