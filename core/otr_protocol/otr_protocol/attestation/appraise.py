"""The composite verdict: a pure function of evidence, collateral, policy, roots and time.

    appraise(evidence, collateral, policy, trust_roots, now_s) -> Verdict

A dispute can replay it from the three digests, byte for byte (`Verdict.digest`). CPU and GPUs are
appraised each by itself and then against each other: bound to the same anchor, chained to the same
set of roots, every device counted once, as many as the policy requires.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol import binding, dcbor
from otr_protocol.attestation import policy_expression, revocation
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.cpu_appraisal import (
    CpuAppraisal,
    CpuKindUnsupportedError,
    refused,
)
from otr_protocol.attestation.evidence import (
    INTEL_SGX,
    INTEL_TDX,
    SEV_SNP,
    CpuEvidence,
    EvidenceBundle,
)
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.nvidia.device_appraisal import DeviceAppraisal
from otr_protocol.attestation.nvidia.device_claims import device_claims
from otr_protocol.attestation.nvidia.machine_appraisal import appraise_machine
from otr_protocol.attestation.nvidia.topology import PLATFORM
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.attestation.verdict import Finding, Status, worst
from otr_protocol.binding import GpuEvidence
from otr_protocol.digest import H, hash_record

VERDICT_DOMAIN: Final = "otr-verdict-v2"
PARTS_DOMAIN: Final = "otr-evidence-parts-v1"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one appraisal, with everything it rests on.

    `findings` are ordered: CPU, GPUs, switches, both in the bundle's order, then what concerns the
    whole. Digests
    are 32 bytes, times seconds since 1970 UTC. `not_after` is the earliest expiry of what the
    verdict rests on and never later than the policy's token lifetime from now; it is in the past
    or present for a verdict that is not trusted. `bound` says that all parts commit to one anchor
    and therefore to each other, under a policy that is not for audits only; no other verdict can
    become a token.
    """

    status: Status
    findings: tuple[Finding, ...]
    evidence_digest: bytes
    collateral_digest: bytes
    policy_digest: bytes
    appraised_at: int
    not_after: int
    simulated: bool
    bound: bool
    cpu: CpuAppraisal | None
    gpus: tuple[DeviceAppraisal, ...]
    switches: tuple[DeviceAppraisal, ...] = ()

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
            int(self.bound),
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
    return _appraise(
        evidence.cpu,
        evidence.devices,
        gpu_nonce=binding.gpu_nonce(anchor),
        report_data=binding.report_data(anchor, binding.gpu_digest(evidence.devices)),
        evidence_digest=evidence.digest,
        context=Context(collateral, policy, tuple(trust_roots), now_s),
    )


def appraise_parts(
    cpu: CpuEvidence | None,
    devices: Sequence[GpuEvidence],
    *,
    gpu_nonce: bytes,
    report_data: bytes | None,
    collateral: CollateralBundle,
    policy: Policy,
    trust_roots: Sequence[TrustRootSet],
    now_s: int,
) -> Verdict:
    """Appraise evidence that was collected outside this protocol, for audits; no token follows.

    `gpu_nonce` is the 32 bytes every device report must carry, `report_data` the 64 bytes of the
    CPU's, None if nobody knows them. Nothing here says that the parts belong to one machine
    (`Verdict.bound` is false).
    """
    parts = dcbor.encode(
        (
            PARTS_DOMAIN,
            gpu_nonce,
            report_data or b"",
            () if cpu is None else (cpu.kind, cpu.report, cpu.certificates, cpu.event_log),
            tuple((device.report, device.certificates) for device in devices),
        )
    )
    return _appraise(
        cpu,
        devices,
        gpu_nonce=gpu_nonce,
        report_data=report_data,
        evidence_digest=H(parts),
        context=Context(collateral, policy, tuple(trust_roots), now_s),
        bound=False,
    )


@dataclass(frozen=True, slots=True)
class Context:
    """What every part is appraised against."""

    collateral: CollateralBundle
    policy: Policy
    roots: tuple[TrustRootSet, ...]
    now_s: int


def _appraise(
    cpu_evidence: CpuEvidence | None,
    devices: Sequence[GpuEvidence],
    *,
    gpu_nonce: bytes,
    report_data: bytes | None,
    evidence_digest: bytes,
    context: Context,
    bound: bool = True,
) -> Verdict:
    policy, now_s = context.policy, context.now_s
    cpu = None if cpu_evidence is None else _appraise_cpu(cpu_evidence, report_data, context)
    machine = appraise_machine(
        devices,
        nonce=gpu_nonce,
        collateral=context.collateral,
        policy=policy,
        roots=context.roots,
        now_s=now_s,
    )
    parts = (*(() if cpu is None else (cpu,)), *machine.gpus, *machine.switches)
    root_sets = {part.roots for part in parts if part.roots is not None}
    simulated = any(roots.simulated for roots in root_sets)
    findings = [
        *(finding for part in parts for finding in part.findings),
        *machine.findings,
        *_check_roots(root_sets, policy, simulated=simulated),
        *_check_collateral(context.collateral),
    ]
    if not parts:
        findings.append(_finding("EVIDENCE_MISSING", "there is nothing to appraise"))
    status = worst(*(finding.status for finding in findings))
    if policy.expression and status.trusted:
        # Over what was verified, so only where everything was; it can but worsen the outcome.
        refused_by = _judge_expression(
            cpu, (*machine.gpus, *machine.switches), policy, status, simulated=simulated
        )
        findings += refused_by
        status = worst(status, *(finding.status for finding in refused_by))
    not_after = now_s
    if status.trusted:
        not_after = min(now_s + policy.max_token_lifetime_s, *(part.not_after for part in parts))
    return Verdict(
        status=status,
        findings=tuple(findings),
        evidence_digest=evidence_digest,
        collateral_digest=context.collateral.digest,
        policy_digest=policy.digest,
        appraised_at=now_s,
        not_after=not_after,
        simulated=simulated,
        bound=bound and not policy.revocation.audit_only,
        cpu=cpu,
        gpus=machine.gpus,
        switches=machine.switches,
    )


def _appraise_cpu(
    evidence: CpuEvidence, report_data: bytes | None, context: Context
) -> CpuAppraisal:
    appraiser = _CPU_APPRAISERS.get(evidence.kind)
    if appraiser is None:
        return refused(CpuKindUnsupportedError(f"{evidence.kind!r} is not appraised here"))
    return appraiser(
        evidence,
        report_data=report_data,
        collateral=context.collateral,
        policy=context.policy,
        roots=context.roots,
        now_s=context.now_s,
    )


_CPU_APPRAISERS: Final = {
    SEV_SNP: appraise_snp,
    INTEL_TDX: appraise_tdx,
    INTEL_SGX: appraise_tdx,
}


def _check_roots(root_sets: set[TrustRootSet], policy: Policy, *, simulated: bool) -> list[Finding]:
    findings: list[Finding] = []
    if len(root_sets) > 1:
        findings.append(
            _finding("TRUST_ROOTS_MIXED", "CPU and devices chain to different sets of roots")
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


def _judge_expression(
    cpu: CpuAppraisal | None,
    devices: Sequence[DeviceAppraisal],
    policy: Policy,
    status: Status,
    *,
    simulated: bool,
) -> tuple[Finding, ...]:
    settings = policy.to_mapping()
    return policy_expression.judge(
        policy.expression,
        {
            "cpu": dict(cpu.evidence_claims) if cpu is not None else {},
            "devices": [device_claims(device) for device in devices],
            "status": status.tier,
            "simulated": simulated,
            "policy": {
                name: value
                for name, value in settings.items()
                if name != "expression" and isinstance(value, bool | int | str)
            },
        },
    )


def _finding(reason: str, message: str) -> Finding:
    return Finding(
        reason=reason, component=PLATFORM, status=Status.CONTRAINDICATED, message=message
    )
