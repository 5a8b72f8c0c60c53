"""One SEV-SNP guest: a genuine chip, a private guest, current firmware, the expected image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otr_protocol.attestation.amd import amd_certificate, snp_chain, snp_crl, snp_report
from otr_protocol.attestation.amd.snp_chain import SnpChain, SnpKeyMissingError
from otr_protocol.attestation.amd.snp_report import PLATFORM_FACTS, SigningKey, SnpReport
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.cpu_appraisal import (
    COMPONENT,
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
from otr_protocol.attestation.verdict import Finding, Status
from otr_protocol.digest import H
from otr_protocol.errors import Refusal, RejectedError


class MigrationAgentError(RejectedError):
    """Another guest may move this one, and therefore hold its secrets."""

    reason = "CPU_MIGRATION_AGENT"


class VmplError(RejectedError):
    """The report was asked for by less privileged software than the policy accepts."""

    reason = "CPU_VMPL_REFUSED"


class VlekRefusedError(RejectedError):
    """The key is a cloud provider's, so the report names no chip, and the policy wants one."""

    reason = "CPU_VLEK_REFUSED"


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
    findings += _check_state(report, chain, policy)
    findings += _check_platform(report)
    findings += check_image(report.measurement, policy)
    not_after = chain.validity.not_after
    try:
        chain.require_period(now_s)
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
    issuer = amd_certificate.parse(key_certificate).issuer
    last: Refusal | None = None
    for intermediate, ark in collateral.snp_issuers:
        try:
            # Several roots can share a name; the signature decides which one it is.
            if amd_certificate.parse(intermediate).subject != issuer:
                continue
            trusted = set_of_ark(roots, H(ark))
            return trusted, snp_chain.verify(key_certificate, intermediate, ark, trusted.snp_arks)
        except Refusal as refusal:
            last = refusal
    if last is not None:
        raise last
    raise SnpKeyMissingError("the vendor certificates of this chip are not at hand")


def _check_state(report: SnpReport, chain: SnpChain, policy: Policy) -> list[Finding]:
    refusals: list[Refusal] = []
    if report.debug:
        refusals.append(DebugGuestError("the guest's policy allows debugging"))
    if report.migration_agent:
        refusals.append(MigrationAgentError("the guest's policy allows a migration agent"))
    if chain.kind is SigningKey.VLEK and not policy.accept_vlek:
        refusals.append(VlekRefusedError(f"the report is signed by a key of {chain.provider!r}"))
    if report.vmpl > policy.max_vmpl:
        refusals.append(VmplError(f"the report is from VMPL {report.vmpl}"))
    if not chain.tcb.at_least(policy.min_snp_tcb):
        refusals.append(TcbTooOldError(f"{chain.tcb} is below {policy.min_snp_tcb}"))
    return findings_of(refusals)


def _check_platform(report: SnpReport) -> list[Finding]:
    """A fact about the platform that has no name here is shown and not passed over."""
    if not report.unknown_platform_bits:
        return []
    return [
        Finding(
            reason="SNP_PLATFORM_INFO_UNKNOWN",
            component=COMPONENT,
            status=Status.WARNING,
            message="the platform reports something that this version does not know",
            runtime=report.unknown_platform_bits.to_bytes(8, "big"),
        )
    ]


def _claims(report: SnpReport, chain: SnpChain) -> dict[str, Any]:
    tcb = chain.tcb
    claims: dict[str, Any] = {
        "hwmodel": chain.product.name,
        "dbgstat": "disabled",
        "measres": "success",
        "otr-snp-report-version": report.version,
        "otr-snp-evidence-id": report.evidence_id.hex(),
        "otr-snp-measurement": report.measurement.hex(),
        "otr-snp-host-data": report.host_data.hex(),
        "otr-snp-policy": f"{report.policy:016x}",
        "otr-snp-platform": {
            fact: bool(report.platform_info & bit) for fact, bit in PLATFORM_FACTS.items()
        },
        "otr-snp-signing-key": chain.kind.name.lower(),
        "otr-snp-reported-tcb": {
            "boot-loader": tcb.boot_loader,
            "tee": tcb.tee,
            "snp": tcb.snp,
            "microcode": tcb.microcode,
        },
        "otr-snp-vmpl": report.vmpl,
        "otr-snp-guest-svn": report.guest_svn,
    }
    if chain.product.has_fmc:
        claims["otr-snp-reported-tcb"]["fmc"] = tcb.fmc
    if chain.kind is SigningKey.VLEK:
        claims["otr-snp-provider"] = chain.provider
    if any(report.id_key_digest):
        claims["otr-snp-id-key"] = report.id_key_digest.hex()
    if report.has_author_key:
        claims["otr-snp-author-key"] = report.author_key_digest.hex()
    if report.mitigations is not None:
        claims["otr-snp-mitigations"] = [f"{vector:016x}" for vector in report.mitigations]
    return claims
