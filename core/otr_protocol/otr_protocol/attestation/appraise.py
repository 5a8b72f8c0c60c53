"""The composite verdict: a pure function of evidence, collateral, policy, roots and time.

    appraise(evidence, collateral, policy, trust_roots, now_s) -> Verdict

A dispute can replay it from the three digests, byte for byte (`Verdict.digest`). CPU and GPUs are
appraised each by itself and then against each other: bound to the same anchor, chained to the same
set of roots, every device counted once, as many as the policy requires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol import binding
from otr_protocol.attestation import revocation
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal, appraise_cpu
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.attestation.gpu_appraisal import GpuAppraisal, appraise_gpu
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.attestation.verdict import Finding, Status, worst
from otr_protocol.digest import hash_record

VERDICT_DOMAIN: Final = "otr-verdict-v1"
PLATFORM: Final = "platform"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one appraisal, with everything it rests on.

    `findings` are ordered: CPU, GPUs in the bundle's order, then what concerns the whole. Digests
    are 32 bytes, times seconds since 1970 UTC. `not_after` is the earliest expiry of what the
    verdict rests on and never later than the policy's token lifetime from now; it is in the past
    or present for a verdict that is not trusted.
    """

    status: Status
    findings: tuple[Finding, ...]
    evidence_digest: bytes
    collateral_digest: bytes
    policy_digest: bytes
    appraised_at: int
    not_after: int
    simulated: bool
    cpu: CpuAppraisal
    gpus: tuple[GpuAppraisal, ...]

    @property
    def digest(self) -> bytes:
        """Identifies the verdict: 32 bytes. Messages are for people and not part of it."""
        return hash_record(
            VERDICT_DOMAIN,
            int(self.status),
            [
                [f.reason, f.component, int(f.status), f.index, f.golden, f.runtime]
                for f in self.findings
            ],
            self.evidence_digest,
            self.collateral_digest,
            self.policy_digest,
            self.appraised_at,
            self.not_after,
            int(self.simulated),
        )


def appraise(
    evidence: EvidenceBundle,
    collateral: CollateralBundle,
    policy: Policy,
    trust_roots: Sequence[TrustRootSet],
    now_s: int,
) -> Verdict:
    """Appraise a bundle at `now_s` (seconds since 1970 UTC).

    Never raises for what the evidence or collateral hold: every refusal becomes a finding. That the
    bundle answers the challenge that was asked is `EvidenceBundle.require_binding`, which only the
    asker can check.
    """
    anchor = evidence.anchor
    nonce = binding.gpu_nonce(anchor)
    cpu = appraise_cpu(
        evidence.cpu,
        report_data=binding.report_data(anchor, binding.gpu_digest(evidence.gpus)),
        collateral=collateral,
        policy=policy,
        roots=trust_roots,
        now_s=now_s,
    )
    gpus = tuple(
        appraise_gpu(
            gpu,
            nonce=nonce,
            collateral=collateral,
            policy=policy,
            roots=trust_roots,
            now_s=now_s,
            component=f"gpu-{number}",
        )
        for number, gpu in enumerate(evidence.gpus)
    )
    root_sets = {roots for roots in (cpu.roots, *(gpu.roots for gpu in gpus)) if roots is not None}
    simulated = any(roots.simulated for roots in root_sets)
    findings = [
        *cpu.findings,
        *(finding for gpu in gpus for finding in gpu.findings),
        *_check_platform(gpus, policy),
        *_check_roots(root_sets, policy, simulated=simulated),
        *_check_collateral(collateral),
    ]
    status = worst(*(finding.status for finding in findings))
    not_after = now_s
    if status.trusted:
        not_after = min(
            now_s + policy.max_token_lifetime_s, cpu.not_after, *(gpu.not_after for gpu in gpus)
        )
    return Verdict(
        status=status,
        findings=tuple(findings),
        evidence_digest=evidence.digest,
        collateral_digest=collateral.digest,
        policy_digest=policy.digest,
        appraised_at=now_s,
        not_after=not_after,
        simulated=simulated,
        cpu=cpu,
        gpus=gpus,
    )


def _check_platform(gpus: Sequence[GpuAppraisal], policy: Policy) -> list[Finding]:
    findings: list[Finding] = []
    if len(gpus) < policy.required_gpus:
        findings.append(
            _finding("GPU_MISSING", f"{policy.required_gpus} GPUs are required, not {len(gpus)}")
        )
    # By the boot ROM's certificate, one per device: fresh reports of one GPU differ in bytes.
    devices = Counter(gpu.chain.device_identity for gpu in gpus if gpu.chain is not None)
    keys = Counter(gpu.chain.attestation_key.der for gpu in gpus if gpu.chain is not None)
    if any(count > 1 for count in (*devices.values(), *keys.values())):
        findings.append(_finding("GPU_DUPLICATE", "one GPU is presented as several"))
    return findings


def _check_roots(root_sets: set[TrustRootSet], policy: Policy, *, simulated: bool) -> list[Finding]:
    findings: list[Finding] = []
    if len(root_sets) > 1:
        findings.append(
            _finding("TRUST_ROOTS_MIXED", "CPU and GPUs chain to different sets of roots")
        )
    if simulated and not policy.accept_simulated:
        findings.append(_finding("SIMULATED_EVIDENCE", "the evidence is from a development TEE"))
    return findings


def _check_collateral(collateral: CollateralBundle) -> list[Finding]:
    malformed = revocation.index(collateral.ocsp_responses).malformed
    if not malformed:
        return []
    return [
        Finding(
            reason="OCSP_MALFORMED",
            component="collateral",
            status=Status.WARNING,
            message=f"{malformed} OCSP responses cannot be read",
        )
    ]


def _finding(reason: str, message: str) -> Finding:
    return Finding(
        reason=reason, component=PLATFORM, status=Status.CONTRAINDICATED, message=message
    )
