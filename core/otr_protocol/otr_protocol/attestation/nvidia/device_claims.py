"""NVIDIA's v3.0 claims about one trusted device, names and values as its own service gives them.

Everything that would be false made the verdict untrusted, and of such a device nothing is claimed;
so the only values that vary are identities, versions, dates and what a policy tolerated.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from otr_protocol.attestation.verdict import Status

if TYPE_CHECKING:  # a token's reader needs none of what made the verdict
    from otr_protocol.attestation.certificates import Validity
    from otr_protocol.attestation.nvidia.device_appraisal import DeviceAppraisal
    from otr_protocol.attestation.revocation import ChainStanding

_RIM_CHECKS: Final = (
    "fetched",
    "schema-validated",
    "signature-verified",
    "version-match",
    "measurements-available",
)
_SWITCH: Final = "switch"


def device_claims(device: DeviceAppraisal) -> dict[str, Any]:
    """The claims about a GPU or a switch whose appraisal is trusted."""
    return switch_claims(device) if device.kind.value == _SWITCH else gpu_claims(device)


def gpu_claims(gpu: DeviceAppraisal) -> dict[str, Any]:
    """The claims about one GPU whose appraisal is trusted."""
    report, chain = gpu.report, gpu.chain
    assert report is not None
    assert chain is not None
    claims = _shared_claims(gpu, "x-nvidia-gpu-attestation-report-") | {
        "oemid": next(iter(gpu.manifests.values())).rim.manufacturer_id,
        "x-nvidia-gpu-driver-version": report.opaque.driver_version,
        "x-nvidia-gpu-vbios-version": report.opaque.vbios_version,
        "x-nvidia-gpu-arch-check": True,
        "x-nvidia-gpu-vbios-index-no-conflict": True,
    }
    for kind, part in gpu.manifests.items():
        claims |= _rim_claims(f"x-nvidia-gpu-{kind.value}-", part.rim.validity, part.standing)
    return claims


def switch_claims(switch: DeviceAppraisal) -> dict[str, Any]:
    """The claims about one switch whose appraisal is trusted; the vendor states no `oemid` here."""
    report = switch.report
    assert report is not None
    claims = _shared_claims(switch, "x-nvidia-switch-attestation-report-") | {
        "oemid": None,
        "x-nvidia-switch-bios-version": report.opaque.vbios_version,
        "x-nvidia-switch-arch-check": True,
    }
    for part in switch.manifests.values():
        claims |= _rim_claims("x-nvidia-switch-bios-rim-", part.rim.validity, part.standing)
    return claims


def _shared_claims(device: DeviceAppraisal, prefix: str) -> dict[str, Any]:
    report, chain, standing = device.report, device.chain, device.device_standing
    assert report is not None
    assert chain is not None
    assert standing is not None
    fwid = report.opaque.fwid
    warnings = sorted({f.reason for f in device.findings if f.status is Status.WARNING})
    return {
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "hwmodel": chain.hwmodel,
        "ueid": chain.ueid,
        "eat_nonce": report.requester_nonce.hex(),
        "x-nvidia-attestation-warning": ", ".join(warnings) or None,
        f"{prefix}parsed": True,
        f"{prefix}nonce-match": True,
        f"{prefix}signature-verified": True,
        # As the vendor has it, also true where an old driver or a switch states none.
        f"{prefix}cert-chain-fwid-match": fwid is None or fwid == chain.fwid,
        f"{prefix}cert-chain": _chain_claims(chain.validity, standing),
    }


def _rim_claims(prefix: str, validity: Validity, standing: ChainStanding) -> dict[str, Any]:
    checks: dict[str, Any] = {prefix + check: True for check in _RIM_CHECKS}
    return checks | {f"{prefix}cert-chain": _chain_claims(validity, standing)}


def _chain_claims(validity: Validity, standing: ChainStanding) -> dict[str, Any]:
    expires = datetime.fromtimestamp(validity.not_after, UTC)
    status = standing.ocsp_status
    return {
        "x-nvidia-cert-status": "revoked" if standing.on_hold else "valid",
        "x-nvidia-cert-ocsp-status": status.value if status is not None else "unknown",
        "x-nvidia-cert-expiration-date": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "x-nvidia-cert-revocation-reason": "certificate_hold" if standing.on_hold else None,
    }
