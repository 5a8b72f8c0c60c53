"""One NVIDIA device, GPU or switch: is it genuine, fresh, running released firmware, and allowed?

What both kinds share: how evidence is verified, how chains and manifests are judged, and the form
of the result. What only GPUs or only switches have is in `gpu_appraisal` and `switch_appraisal`,
handed in as `DeviceRules`.

Order matters: nothing is read from a report before its signature, and no signature is believed
before its chain. Where one of these fails nothing else about the device is said; afterwards every
check runs, so that a verdict names all that is wrong and not the first thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from otr_protocol.attestation import revocation
from otr_protocol.attestation.certificates import (
    CertificateExpiredError,
    ChainRejectedError,
    Validity,
)
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.nvidia import device_chain, measurements, rim, spdm_report
from otr_protocol.attestation.nvidia.device_chain import DeviceChain
from otr_protocol.attestation.nvidia.opaque import OpaqueData
from otr_protocol.attestation.nvidia.products import (
    ArchitectureUnsupportedError,
    DeviceKind,
    Product,
)
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


class GpuNonceError(RejectedError):
    """The report answers another challenge."""

    reason = "GPU_NONCE_MISMATCH"


class ReferenceUnknownError(UnknownError):
    """No manifest for this version is at hand, so nothing can be said about it."""

    reason = "UNKNOWN_REFERENCE"


@dataclass(frozen=True, slots=True)
class VerifiedDevice:
    """Evidence whose chain and signature verified; whose content nobody has judged yet."""

    chain: DeviceChain
    report: SpdmReport
    roots: TrustRootSet


@dataclass(frozen=True, slots=True)
class ManifestNeed:
    """Which manifest fits a device: the name it is filed under, and the version it must state."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """What one kind of device must satisfy beyond what all do.

    `checks` raise a Refusal each. `manifests` say for every kind of manifest that a device needs
    which one that is, or raise a Refusal; `exempt` names the measurements that are not compared.
    """

    kind: DeviceKind
    checks: Sequence[Callable[[VerifiedDevice, Policy], None]]
    manifests: Mapping[RimKind, Callable[[Product, OpaqueData], ManifestNeed]]
    exempt: Callable[[SpdmReport], frozenset[int]]


@dataclass(frozen=True, slots=True)
class RimAppraisal:
    """A verified manifest and what is known about its signers."""

    rim: Rim
    standing: ChainStanding


@dataclass(frozen=True, slots=True)
class DeviceAppraisal:
    """What was established about one device.

    `chain`, `report` and `roots` are None unless chain and signature verified. `not_after` is the
    earliest expiry of what the appraisal rests on (seconds since 1970 UTC).
    """

    component: str
    kind: DeviceKind
    findings: tuple[Finding, ...]
    roots: TrustRootSet | None = None
    chain: DeviceChain | None = None
    report: SpdmReport | None = None
    device_standing: ChainStanding | None = None
    manifests: Mapping[RimKind, RimAppraisal] = field(default_factory=dict)
    not_after: int = 0


def verify(evidence: GpuEvidence, roots: Sequence[TrustRootSet]) -> VerifiedDevice:
    """Verify chain and report signature under the first of `roots` that pins the chain's root.

    Raises the refusals of `spdm_report.parse`, `device_chain.verify` and
    `SpdmReport.require_signature`, or RootUntrustedError.
    """
    report = spdm_report.parse(evidence.report)
    if len(evidence.certificates) != device_chain.CHAIN_LENGTH:
        raise ChainRejectedError("a device chain has five certificates")
    trusted = set_of_device(roots, evidence.certificates[-1])
    chain = device_chain.verify(evidence.certificates, trusted.device_root)
    report.require_signature(chain.attestation_key.key)
    return VerifiedDevice(chain=chain, report=report, roots=trusted)


def appraise_device(
    evidence: GpuEvidence,
    rules: DeviceRules,
    *,
    nonce: bytes,
    collateral: CollateralBundle,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    now_s: int,
    component: str,
) -> DeviceAppraisal:
    """Verify and appraise one device's evidence at `now_s`; every failure becomes a finding.

    `nonce` is the 32 bytes the report must carry. Pure: equal arguments give equal results.
    """
    try:
        device = verify(evidence, roots)
        if device.chain.product.kind is not rules.kind:
            raise ArchitectureUnsupportedError(f"{device.chain.hwmodel!r} is no {rules.kind.value}")
    except Refusal as refusal:
        return DeviceAppraisal(component, rules.kind, (finding_of(refusal, component),))
    chain, report = device.chain, device.report
    findings = _check_state(device, rules, policy, nonce, component)
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
    for kind, need in rules.manifests.items():
        part = f"{component}/{kind.value}"
        try:
            manifest = _manifest(need(chain.product, report.opaque), device, collateral)
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
    if len(appraised) == len(rules.manifests):
        manifests = {kind: part.rim for kind, part in appraised.items()}
        try:
            findings += measurements.compare(report, manifests, rules.exempt(report), component)
        except Refusal as refusal:
            findings.append(finding_of(refusal, component))
    return DeviceAppraisal(
        component=component,
        kind=rules.kind,
        findings=tuple(findings),
        roots=device.roots,
        chain=chain,
        report=report,
        device_standing=standing,
        manifests=appraised,
        not_after=min(
            chain.validity.not_after,
            standing.expires_at,
            *(part.rim.validity.not_after for part in appraised.values()),
            *(part.standing.expires_at for part in appraised.values()),
        ),
    )


def _check_state(
    device: VerifiedDevice, rules: DeviceRules, policy: Policy, nonce: bytes, component: str
) -> list[Finding]:
    """What the report says about the device itself, against challenge, chain and policy."""
    findings: list[Finding] = []
    if device.report.requester_nonce != nonce:
        findings.append(finding_of(GpuNonceError("the report answers another nonce"), component))
    for check in rules.checks:
        try:
            check(device, policy)
        except Refusal as refusal:
            findings.append(finding_of(refusal, component))
    for kind in device.report.opaque.unknown_types:
        findings.append(
            Finding(
                reason="OPAQUE_FIELD_UNKNOWN",
                component=component,
                status=Status.WARNING,
                message=f"the report holds a field of unknown type {kind}",
            )
        )
    return findings


def _expiry(validity: Validity, now_s: int, component: str) -> list[Finding]:
    try:
        validity.require(now_s, "the chain")
    except CertificateExpiredError as refusal:
        return [finding_of(refusal, component)]
    return []


def _manifest(need: ManifestNeed, device: VerifiedDevice, collateral: CollateralBundle) -> Rim:
    """The verified manifest that fits the report, under the roots its device chained to."""
    document = collateral.rim(need.name)
    if document is None:
        raise ReferenceUnknownError(f"no manifest {need.name} is at hand")
    manifest = rim.verify(document, device.roots.rim_root)
    manifest.require_for(
        version=need.version,
        product=device.chain.product.chip,
        manufacturer_id=MANUFACTURER_ID,
    )
    return manifest
