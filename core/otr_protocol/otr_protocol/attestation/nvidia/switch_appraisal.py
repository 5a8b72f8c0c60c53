"""What an NVSwitch (LS10) must show beyond what every device must: its BIOS, and who it is.

A switch report has 31 blocks. Its vendor data hold neither driver nor SKU nor firmware identity,
the BIOS version as text (a GPU's is binary), the switch's own PDI and those of its GPUs (`links`).
All switches of this kind have one board, so the manifest's name differs in the version only:

    NV_SWITCH_BIOS_5612_0002_890_<version without dots>

Which hardware models are allowed is no question of policy here: LS10 is the one that is known, and
a switch computes nothing. Whether switches and GPUs belong together is judged in `topology`.
"""

from __future__ import annotations

from typing import Final

from otr_protocol.attestation.nvidia import links
from otr_protocol.attestation.nvidia.device_appraisal import (
    DeviceRules,
    ManifestNeed,
    VerifiedDevice,
)
from otr_protocol.attestation.nvidia.opaque import OpaqueData
from otr_protocol.attestation.nvidia.products import DeviceKind, Product
from otr_protocol.attestation.nvidia.rim import RimKind
from otr_protocol.attestation.nvidia.spdm_report import SpdmReport
from otr_protocol.attestation.policy import Policy
from otr_protocol.errors import RejectedError

BIOS_RIM_PREFIX: Final = "NV_SWITCH_BIOS_5612_0002_890_"


class SwitchFwidError(RejectedError):
    """The firmware that reports is not the one its key was certified for."""

    reason = "SWITCH_FWID_MISMATCH"


class SwitchBiosTooOldError(RejectedError):
    """The switch's BIOS is older than the policy's minimum."""

    reason = "SWITCH_BIOS_TOO_OLD"


class SwitchPdiError(RejectedError):
    """The report speaks of another switch than the one its chain identifies."""

    reason = "SWITCH_PDI_MISMATCH"


def _check_fwid(device: VerifiedDevice, policy: Policy) -> None:
    stated = device.report.opaque.fwid
    if stated is not None and stated != device.chain.fwid:
        raise SwitchFwidError("the firmware identity is not that of the attestation key")


def _check_bios(device: VerifiedDevice, policy: Policy) -> None:
    # Two hex digits a part, so that text order is version order.
    version = device.report.opaque.vbios_version
    if version < policy.min_switch_bios_version:
        raise SwitchBiosTooOldError(
            f"BIOS {version} is older than {policy.min_switch_bios_version}"
        )


def _check_pdi(device: VerifiedDevice, policy: Policy) -> None:
    if links.pdi_of_switch(device.report.opaque) != device.chain.pdi:
        raise SwitchPdiError("the PDI in the report is not that of the switch's certificate")


def _bios_manifest(product: Product, opaque: OpaqueData) -> ManifestNeed:
    version = opaque.vbios_version
    return ManifestNeed(BIOS_RIM_PREFIX + version.replace(".", ""), version)


def _exempt(report: SpdmReport) -> frozenset[int]:
    return frozenset()


SWITCH_RULES: Final = DeviceRules(
    kind=DeviceKind.SWITCH,
    checks=(_check_fwid, _check_bios, _check_pdi),
    manifests={RimKind.SWITCH_BIOS: _bios_manifest},
    exempt=_exempt,
)
