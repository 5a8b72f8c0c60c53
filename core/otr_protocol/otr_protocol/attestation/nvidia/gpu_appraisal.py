"""One NVIDIA GPU: is it genuine, fresh, running released firmware and driver, and allowed?

Order matters: nothing is read from a report before its signature, and no signature is believed
before its chain. Where one of these fails nothing else about the device is said; afterwards every
check runs, so that a verdict names all that is wrong and not the first thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.attestation import certificates, revocation
from otr_protocol.attestation.certificates import ChainRejectedError, Validity
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.nvidia import device_chain, measurements, rim, spdm_report
from otr_protocol.attestation.nvidia.device_chain import DeviceChain
from otr_protocol.attestation.nvidia.opaque import driver_order
from otr_protocol.attestation.nvidia.rim import Rim, RimKind
from otr_protocol.attestation.nvidia.spdm_report import SpdmReport
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.revocation import ChainStanding
from otr_protocol.attestation.trust_roots import TrustRootSet, set_of_device
from otr_protocol.attestation.verdict import Finding, Status, finding_of
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import Refusal, RejectedError, UnknownError

# The leaf is not served by the vendor's OCSP service; the root is pinned.
DEVICE_CHECKED: Final = (1, 2, 3)
RIM_CHECKED: Final = (0, 1, 2)
MANUFACTURER_ID: Final = "5703"
# From this driver on, every Hopper report states the firmware identity.
FWID_SINCE_DRIVER: Final = (550,)


class GpuNonceError(RejectedError):
    """The report answers another challenge."""

    reason = "GPU_NONCE_MISMATCH"


class FwidError(RejectedError):
    """The firmware that reports is not the one its key was certified for."""

    reason = "GPU_FWID_MISMATCH"


class ProtectedPcieError(UnknownError):
    """The GPU belongs to a protected-PCIe group, whose switches are not appraised here."""

    reason = "GPU_PROTECTED_PCIE"


class HwmodelRefusedError(RejectedError):
    """The policy does not allow this hardware model."""

    reason = "GPU_MODEL_REFUSED"


class DriverTooOldError(RejectedError):
    """The driver is older than the policy's minimum."""

    reason = "GPU_DRIVER_TOO_OLD"


class VbiosTooOldError(RejectedError):
    """The VBIOS is older than the policy's minimum."""

    reason = "GPU_VBIOS_TOO_OLD"


class ReferenceUnknownError(UnknownError):
    """No manifest for this version is at hand, so nothing can be said about it."""

    reason = "UNKNOWN_REFERENCE"


@dataclass(frozen=True, slots=True)
class RimAppraisal:
    """A verified manifest and what is known about its signers."""

    rim: Rim
    standing: ChainStanding


@dataclass(frozen=True, slots=True)
class GpuAppraisal:
    """What was established about one GPU.

    `chain`, `report` and `roots` are None unless chain and signature verified. `not_after` is the
    earliest expiry of what the appraisal rests on (seconds since 1970 UTC).
    """

    component: str
    findings: tuple[Finding, ...]
    roots: TrustRootSet | None = None
    chain: DeviceChain | None = None
    report: SpdmReport | None = None
    device_standing: ChainStanding | None = None
    driver: RimAppraisal | None = None
    vbios: RimAppraisal | None = None
    not_after: int = 0


def appraise_gpu(
    evidence: GpuEvidence,
    *,
    nonce: bytes,
    collateral: CollateralBundle,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    now_s: int,
    component: str,
) -> GpuAppraisal:
    """Verify and appraise one GPU's evidence at `now_s`; every failure becomes a finding.

    `nonce` is the 32 bytes the report must carry. Pure: equal arguments give equal results.
    """
    try:
        report = spdm_report.parse(evidence.report)
        if len(evidence.certificates) != device_chain.CHAIN_LENGTH:
            raise ChainRejectedError("a device chain has five certificates")
        trusted = set_of_device(roots, evidence.certificates[-1])
        chain = device_chain.verify(evidence.certificates, trusted.device_root)
        report.require_signature(chain.attestation_key.key)
    except Refusal as refusal:
        return GpuAppraisal(component, (finding_of(refusal, component),))
    findings: list[Finding] = []
    if report.requester_nonce != nonce:
        findings.append(finding_of(GpuNonceError("the report answers another nonce"), component))
    findings += _check_state(report, chain, policy, component)
    findings += _expiry(chain.validity, now_s, component)
    responses = revocation.index(collateral.ocsp_responses)
    standing = revocation.judge(
        chain.certificates,
        DEVICE_CHECKED,
        responses,
        policy=policy,
        now_s=now_s,
        component=component,
        hold_tolerated=False,
    )
    findings += standing.findings
    appraised: dict[RimKind, RimAppraisal] = {}
    for kind in RimKind:
        part = f"{component}/{kind.value}"
        try:
            manifest = _manifest(kind, report, chain, collateral, trusted)
        except Refusal as refusal:
            findings.append(finding_of(refusal, part))
            continue
        signers = revocation.judge(
            manifest.chain,
            RIM_CHECKED,
            responses,
            policy=policy,
            now_s=now_s,
            component=part,
            hold_tolerated=policy.accept_rim_hold,
        )
        findings += _expiry(manifest.validity, now_s, part)
        findings += signers.findings
        appraised[kind] = RimAppraisal(manifest, signers)
    driver, vbios = appraised.get(RimKind.DRIVER), appraised.get(RimKind.VBIOS)
    if driver is not None and vbios is not None:
        try:
            findings += measurements.compare(report, driver.rim, vbios.rim, component)
        except Refusal as refusal:
            findings.append(finding_of(refusal, component))
    return GpuAppraisal(
        component=component,
        findings=tuple(findings),
        roots=trusted,
        chain=chain,
        report=report,
        device_standing=standing,
        driver=driver,
        vbios=vbios,
        not_after=min(
            chain.validity.not_after,
            standing.expires_at,
            *(part.rim.validity.not_after for part in appraised.values()),
            *(part.standing.expires_at for part in appraised.values()),
        ),
    )


def _check_state(
    report: SpdmReport, chain: DeviceChain, policy: Policy, component: str
) -> list[Finding]:
    """What the report says about the device itself, against chain and policy."""
    findings: list[Finding] = []
    for check in (_check_fwid, _check_mode, _check_model, _check_driver, _check_vbios):
        try:
            check(report, chain, policy)
        except Refusal as refusal:
            findings.append(finding_of(refusal, component))
    for kind in report.opaque.unknown_types:
        findings.append(
            Finding(
                reason="OPAQUE_FIELD_UNKNOWN",
                component=component,
                status=Status.WARNING,
                message=f"the report holds a field of unknown type {kind}",
            )
        )
    return findings


def _check_fwid(report: SpdmReport, chain: DeviceChain, policy: Policy) -> None:
    stated = report.opaque.fwid
    if stated is None:
        if driver_order(report.opaque.driver_version) >= FWID_SINCE_DRIVER:
            raise FwidError("the report states no firmware identity")
        return
    if stated != chain.fwid:
        raise FwidError("the firmware identity is not that of the attestation key")


def _check_mode(report: SpdmReport, chain: DeviceChain, policy: Policy) -> None:
    if report.opaque.protected_pcie:
        raise ProtectedPcieError("a protected-PCIe group needs its switches' evidence too")


def _check_model(report: SpdmReport, chain: DeviceChain, policy: Policy) -> None:
    if chain.hwmodel not in policy.allowed_hwmodels:
        raise HwmodelRefusedError(f"{chain.hwmodel!r} is not allowed", field="allowed_hwmodels")


def _check_driver(report: SpdmReport, chain: DeviceChain, policy: Policy) -> None:
    version = report.opaque.driver_version
    minimum = policy.min_driver_version
    if minimum and driver_order(version) < driver_order(minimum):
        raise DriverTooOldError(f"driver {version} is older than {minimum}")


def _check_vbios(report: SpdmReport, chain: DeviceChain, policy: Policy) -> None:
    # Two hex digits a part, so that text order is version order.
    version = report.opaque.vbios_version
    if version < policy.min_vbios_version:
        raise VbiosTooOldError(f"VBIOS {version} is older than {policy.min_vbios_version}")


def _expiry(validity: Validity, now_s: int, component: str) -> list[Finding]:
    try:
        validity.require(now_s, "the chain")
    except certificates.CertificateExpiredError as refusal:
        return [finding_of(refusal, component)]
    return []


def _manifest(
    kind: RimKind,
    report: SpdmReport,
    chain: DeviceChain,
    collateral: CollateralBundle,
    roots: TrustRootSet,
) -> Rim:
    """The verified manifest that fits the report, under the roots its device chained to."""
    if kind is RimKind.DRIVER:
        name, version = report.opaque.driver_rim_id, report.opaque.driver_version
    else:
        name, version = report.opaque.vbios_rim_id, report.opaque.vbios_version
    document = collateral.rim(name)
    if document is None:
        raise ReferenceUnknownError(f"no manifest {name} is at hand")
    manifest = rim.verify(document, roots.rim_root)
    manifest.require_for(version=version, product=chain.product, manufacturer_id=MANUFACTURER_ID)
    return manifest
