"""One SEV-SNP guest: a genuine chip, a private guest, current firmware, the expected image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otr_protocol.attestation.amd import snp_chain, snp_crl, snp_report
from otr_protocol.attestation.amd.snp_chain import SnpChain, SnpKeyMissingError
from otr_protocol.attestation.amd.snp_report import SnpReport
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.cpu_appraisal import (
    CpuAppraisal,
    CpuEvidenceError,
    DebugGuestError,
    check_image,
    check_report_data,
    findings_of,
    refused,
)
from otr_protocol.attestation.evidence import CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet, set_of_ark
from otr_protocol.attestation.verdict import Finding
from otr_protocol.digest import H
from otr_protocol.errors import Refusal, RejectedError


class MigrationAgentError(RejectedError):
    """Another guest may move this one, and therefore hold its secrets."""

    reason = "CPU_MIGRATION_AGENT"


class VmplError(RejectedError):
    """The report was asked for by less privileged software than the policy accepts."""

    reason = "CPU_VMPL_REFUSED"


class TcbTooOldError(RejectedError):
    """The chip's firmware is older than the policy's minimum."""

    reason = "CPU_TCB_TOO_OLD"


def appraise_snp(
    evidence: CpuEvidence,
    *,
    report_data: bytes | None,
    collateral: CollateralBundle,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    now_s: int,
) -> CpuAppraisal:
    """Verify and appraise an SNP report at `now_s`; every failure becomes a finding.

    `report_data` is the 64 bytes the report must carry, None if unknown. Pure: equal arguments,
    equal results.
    """
    try:
        if len(evidence.certificates) != 1 or evidence.event_log:
            raise CpuEvidenceError("SNP evidence comes with the certificate of its key alone")
        report = snp_report.parse(evidence.report)
        trusted, chain = _chain(evidence.certificates[0], collateral, roots)
        chain.require_report(report)
    except Refusal as refusal:
        return refused(refusal)
    findings = check_report_data(report.report_data, report_data)
    findings += _check_state(report, policy)
    findings += check_image(report.measurement, policy)
    not_after = chain.validity.not_after
    try:
        chain.validity.require(now_s, "the chip's chain")
        crl_expiry = snp_crl.require_not_revoked(
            collateral.crls, chain, now_s=now_s, required=policy.require_snp_crl
        )
        if crl_expiry is not None:
            not_after = min(not_after, crl_expiry)
    except Refusal as refusal:
        findings += findings_of([refusal])
    return CpuAppraisal(
        findings=tuple(findings),
        roots=trusted,
        evidence_claims=_claims(report, chain),
        not_after=not_after,
    )


def _chain(
    key_certificate: bytes, collateral: CollateralBundle, roots: Sequence[TrustRootSet]
) -> tuple[TrustRootSet, SnpChain]:
    """The key's chain through the vendor certificates at hand, and the roots it ends at."""
    issuer = snp_chain.parse(key_certificate).issuer
    last: Refusal | None = None
    for intermediate, ark in collateral.snp_issuers:
        try:
            # Several roots can share a name; the signature decides which one it is.
            if snp_chain.parse(intermediate).subject != issuer:
                continue
            trusted = set_of_ark(roots, H(ark))
            return trusted, snp_chain.verify(key_certificate, intermediate, ark, trusted.snp_arks)
        except Refusal as refusal:
            last = refusal
    if last is not None:
        raise last
    raise SnpKeyMissingError("the vendor certificates of this chip are not at hand")


def _check_state(report: SnpReport, policy: Policy) -> list[Finding]:
    refusals: list[Refusal] = []
    if report.debug:
        refusals.append(DebugGuestError("the guest's policy allows debugging"))
    if report.migration_agent:
        refusals.append(MigrationAgentError("the guest's policy allows a migration agent"))
    if report.vmpl > policy.max_vmpl:
        refusals.append(VmplError(f"the report is from VMPL {report.vmpl}"))
    if not report.reported_tcb.at_least(policy.min_snp_tcb):
        refusals.append(TcbTooOldError(f"{report.reported_tcb} is below the minimum"))
    return findings_of(refusals)


def _claims(report: SnpReport, chain: SnpChain) -> dict[str, Any]:
    tcb = report.reported_tcb
    return {
        "hwmodel": chain.product,
        "dbgstat": "disabled",
        "measres": "success",
        "otr-snp-measurement": report.measurement.hex(),
        "otr-snp-policy": f"{report.policy:016x}",
        "otr-snp-reported-tcb": {
            "boot-loader": tcb.boot_loader,
            "tee": tcb.tee,
            "snp": tcb.snp,
            "microcode": tcb.microcode,
        },
        "otr-snp-vmpl": report.vmpl,
    }
