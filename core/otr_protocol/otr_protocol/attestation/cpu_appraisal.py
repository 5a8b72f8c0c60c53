"""The CPU TEE: a genuine chip, a private guest, the expected image, bound to this attestation.

The launch measurement is what stands for the software: the measured image hashes the model's
weights when it loads them and puts `model_id` into the anchor, so a GPU that measures only its own
firmware gains a model through this report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otr_protocol.attestation import snp_chain, snp_crl, snp_report
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.snp_chain import SnpChain, SnpKeyMissingError
from otr_protocol.attestation.snp_report import SnpReport
from otr_protocol.attestation.trust_roots import TrustRootSet, set_of_ark
from otr_protocol.attestation.verdict import Finding, Status, finding_of
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, Refusal, RejectedError, UnknownError

COMPONENT = "cpu"


class CpuKindUnsupportedError(UnknownError):
    """The CPU evidence is of a kind that this version cannot appraise."""

    reason = "CPU_KIND_UNSUPPORTED"


class CpuEvidenceError(MalformedError):
    """SNP evidence comes with exactly the chip's certificate."""

    reason = "CPU_EVIDENCE_MALFORMED"


class ReportDataError(RejectedError):
    """The report commits to another challenge, key, model or GPU than the bundle says."""

    reason = "CPU_REPORT_DATA_MISMATCH"


class DebugGuestError(RejectedError):
    """The host may read the guest's memory."""

    reason = "CPU_DEBUG_ENABLED"


class MigrationAgentError(RejectedError):
    """Another guest may move this one, and therefore hold its secrets."""

    reason = "CPU_MIGRATION_AGENT"


class VmplError(RejectedError):
    """The report was asked for by less privileged software than the policy accepts."""

    reason = "CPU_VMPL_REFUSED"


class CpuImageUnknownError(UnknownError):
    """The policy names no CPU image, so the measurement cannot be judged."""

    reason = "CPU_IMAGE_UNKNOWN"


class TcbTooOldError(RejectedError):
    """The chip's firmware is older than the policy's minimum."""

    reason = "CPU_TCB_TOO_OLD"


@dataclass(frozen=True, slots=True)
class CpuAppraisal:
    """What was established about the CPU TEE.

    `chain`, `report` and `roots` are None unless chain and signature verified. `not_after` is the
    earliest expiry of what the appraisal rests on (seconds since 1970 UTC).
    """

    component: str
    findings: tuple[Finding, ...]
    roots: TrustRootSet | None = None
    chain: SnpChain | None = None
    report: SnpReport | None = None
    not_after: int = 0


def appraise_cpu(
    evidence: CpuEvidence,
    *,
    report_data: bytes,
    collateral: CollateralBundle,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    now_s: int,
) -> CpuAppraisal:
    """Verify and appraise the CPU's evidence at `now_s`; every failure becomes a finding.

    `report_data` is the 64 bytes the report must carry. Pure: equal arguments, equal results.
    """
    try:
        if evidence.kind != SEV_SNP:
            raise CpuKindUnsupportedError(f"{evidence.kind!r} is not appraised here")
        if len(evidence.certificates) != 1:
            raise CpuEvidenceError("SNP evidence comes with the chip's certificate alone")
        report = snp_report.parse(evidence.report)
        trusted, chain = _chain(evidence.certificates[0], collateral, roots)
        chain.require_report(report)
    except Refusal as refusal:
        return CpuAppraisal(COMPONENT, (finding_of(refusal, COMPONENT),))
    findings = _check_state(report, report_data, policy)
    not_after = chain.validity.not_after
    try:
        chain.validity.require(now_s, "the chip's chain")
        crl_expiry = snp_crl.require_not_revoked(
            collateral.crls, chain, now_s=now_s, required=policy.require_snp_crl
        )
        if crl_expiry is not None:
            not_after = min(not_after, crl_expiry)
    except Refusal as refusal:
        findings.append(finding_of(refusal, COMPONENT))
    return CpuAppraisal(
        component=COMPONENT,
        findings=tuple(findings),
        roots=trusted,
        chain=chain,
        report=report,
        not_after=not_after,
    )


def _chain(
    vcek: bytes, collateral: CollateralBundle, roots: Sequence[TrustRootSet]
) -> tuple[TrustRootSet, SnpChain]:
    """The chip's chain through the vendor certificates at hand, and the roots it ends at."""
    issuer = snp_chain.parse(vcek).issuer
    refused: Refusal | None = None
    for ask, ark in collateral.snp_issuers:
        try:
            # Several roots can share a name; the signature decides which one it is.
            if snp_chain.parse(ask).subject != issuer:
                continue
            trusted = set_of_ark(roots, H(ark))
            return trusted, snp_chain.verify(vcek, ask, ark, trusted.snp_arks)
        except Refusal as refusal:
            refused = refusal
    if refused is not None:
        raise refused
    raise SnpKeyMissingError("the vendor certificates of this chip are not at hand")


def _check_state(report: SnpReport, report_data: bytes, policy: Policy) -> list[Finding]:
    refusals: list[Refusal] = []
    if report.report_data != report_data:
        refusals.append(ReportDataError("the report is bound to something else"))
    if report.debug:
        refusals.append(DebugGuestError("the guest's policy allows debugging"))
    if report.migration_agent:
        refusals.append(MigrationAgentError("the guest's policy allows a migration agent"))
    if report.vmpl > policy.max_vmpl:
        refusals.append(VmplError(f"the report is from VMPL {report.vmpl}"))
    if not report.reported_tcb.at_least(policy.min_snp_tcb):
        refusals.append(TcbTooOldError(f"{report.reported_tcb} is below the minimum"))
    if not policy.cpu_measurements:
        refusals.append(CpuImageUnknownError("the policy names no CPU image"))
    findings = [finding_of(refusal, COMPONENT) for refusal in refusals]
    if policy.cpu_measurements and report.measurement not in policy.cpu_measurements:
        findings.append(
            Finding(
                reason="CPU_IMAGE_REFUSED",
                component=COMPONENT,
                status=Status.CONTRAINDICATED,
                message="the launch measurement is not that of an allowed image",
                golden=policy.cpu_measurements[0],
                runtime=report.measurement,
            )
        )
    return findings
