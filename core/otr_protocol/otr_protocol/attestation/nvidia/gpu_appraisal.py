"""What a GPU must show beyond what every device must: mode, model, versions, firmware identity.

Reference manifests, by architecture (the chip is what the report itself states, else the chain):

    driver   NV_GPU_DRIVER_GH100_<version>          Hopper
             NV_GPU_CC_DRIVER_<chip>_<version>      Blackwell; under the Hopper name the vendor
                                                    serves a well-signed manifest of the GH100
    VBIOS    NV_GPU_VBIOS_<project>_<project SKU>_<chip SKU>_<version without dots>
"""

from __future__ import annotations

from typing import Final

from otr_protocol.attestation.nvidia.device_appraisal import (
    DeviceRules,
    ManifestNeed,
    VerifiedDevice,
)
from otr_protocol.attestation.nvidia.opaque import (
    FeatureFlag,
    OpaqueData,
    OpaqueType,
    Switch,
    driver_order,
)
from otr_protocol.attestation.nvidia.products import Architecture, DeviceKind, Product
from otr_protocol.attestation.nvidia.rim import RimKind
from otr_protocol.attestation.nvidia.spdm_report import SpdmReport
from otr_protocol.attestation.policy import Policy
from otr_protocol.errors import RejectedError, UnknownError

# From this driver on, every Hopper report states the firmware identity.
FWID_SINCE_DRIVER: Final = (550,)
NVDEC0_INDEX: Final = 35

# How policies call the modes in which GPUs are passed through.
_MODES: Final = {
    FeatureFlag.SINGLE_PASSTHROUGH: "single",
    FeatureFlag.MULTI_PASSTHROUGH: "multi",
    FeatureFlag.PROTECTED_PCIE: "protected-pcie",
}


class FwidError(RejectedError):
    """The firmware that reports is not the one its key was certified for."""

    reason = "GPU_FWID_MISMATCH"


class CcModeRefusedError(RejectedError):
    """The policy does not allow the mode in which this GPU is passed through."""

    reason = "GPU_CC_MODE_REFUSED"


class CcModeUnknownError(UnknownError):
    """The policy allows some modes only, and the report of an old driver does not say which."""

    reason = "GPU_CC_MODE_UNKNOWN"


class HwmodelRefusedError(RejectedError):
    """The policy does not allow this hardware model."""

    reason = "GPU_MODEL_REFUSED"


class DriverTooOldError(RejectedError):
    """The driver is older than the policy's minimum."""

    reason = "GPU_DRIVER_TOO_OLD"


class VbiosTooOldError(RejectedError):
    """The VBIOS is older than the policy's minimum."""

    reason = "GPU_VBIOS_TOO_OLD"


def cc_modes(opaque: OpaqueData) -> frozenset[str]:
    """The modes a report leaves possible, in the policy's words: one, or two of an old driver.

    Raises OpaqueMalformedError where the report contradicts itself.
    """
    if opaque.protected_pcie:
        return frozenset({_MODES[FeatureFlag.PROTECTED_PCIE]})
    if opaque.feature is not None:
        return frozenset({_MODES[opaque.feature]})
    return frozenset(_MODES.values()) - {_MODES[FeatureFlag.PROTECTED_PCIE]}


def _check_fwid(device: VerifiedDevice, policy: Policy) -> None:
    stated = device.report.opaque.fwid
    if stated is None:
        hopper = device.chain.product.architecture is Architecture.HOPPER
        if not hopper or driver_order(device.report.opaque.driver_version) >= FWID_SINCE_DRIVER:
            raise FwidError("the report states no firmware identity")
        return
    if stated != device.chain.fwid:
        raise FwidError("the firmware identity is not that of the attestation key")


def _check_mode(device: VerifiedDevice, policy: Policy) -> None:
    possible = cc_modes(device.report.opaque)
    refused = possible - set(policy.allowed_cc_modes)
    if refused == possible:
        raise CcModeRefusedError(f"the GPU's mode is {' or '.join(sorted(possible))}")
    if refused:
        raise CcModeUnknownError("the report does not say how the GPU is passed through")


def _check_model(device: VerifiedDevice, policy: Policy) -> None:
    if device.chain.hwmodel not in policy.allowed_hwmodels:
        raise HwmodelRefusedError(
            f"{device.chain.hwmodel!r} is not allowed", field="allowed_hwmodels"
        )


def _check_driver(device: VerifiedDevice, policy: Policy) -> None:
    version = device.report.opaque.driver_version
    minimum = policy.min_driver_version
    if minimum and driver_order(version) < driver_order(minimum):
        raise DriverTooOldError(f"driver {version} is older than {minimum}")


def _check_vbios(device: VerifiedDevice, policy: Policy) -> None:
    # Two hex digits a part, so that text order is version order.
    version = device.report.opaque.vbios_version
    if version < policy.min_vbios_version:
        raise VbiosTooOldError(f"VBIOS {version} is older than {policy.min_vbios_version}")


def _driver_manifest(product: Product, opaque: OpaqueData) -> ManifestNeed:
    version = opaque.driver_version
    if product.architecture is Architecture.HOPPER:
        return ManifestNeed(f"NV_GPU_DRIVER_{product.chip}_{version}", version)
    return ManifestNeed(f"NV_GPU_CC_DRIVER_{opaque.chip or product.chip}_{version}", version)


def _vbios_manifest(product: Product, opaque: OpaqueData) -> ManifestNeed:
    parts = (
        opaque.text(OpaqueType.PROJECT),
        opaque.text(OpaqueType.PROJECT_SKU),
        opaque.text(OpaqueType.CHIP_SKU),
        opaque.vbios_version.replace(".", ""),
    )
    name = "NV_GPU_VBIOS_" + "_".join(part.upper() for part in parts)
    return ManifestNeed(name, opaque.vbios_version)


def _exempt(report: SpdmReport) -> frozenset[int]:
    """Index 35 covers the first video decoder: not compared exactly where that is disabled."""
    disabled = report.opaque.nvdec0 is Switch.DISABLED
    return frozenset({NVDEC0_INDEX}) if disabled else frozenset()


GPU_RULES: Final = DeviceRules(
    kind=DeviceKind.GPU,
    checks=(_check_fwid, _check_mode, _check_model, _check_driver, _check_vbios),
    manifests={RimKind.DRIVER: _driver_manifest, RimKind.VBIOS: _vbios_manifest},
    exempt=_exempt,
)
