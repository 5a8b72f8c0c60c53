"""Machines of other devices than the development TEE's own, under its PKI: whole and affirmable.

A protected-PCIe group of eight Hopper GPUs and four switches, and Blackwell GPUs; each with the
manifests and responses that a verifier needs to say yes, so that a test can take one thing away.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from otr_devtee import devices, rim_issuing
from otr_devtee.devices import BLACKWELL, HOPPER, NVSWITCH, Device, Fields, Model
from otr_devtee.ocsp_issuing import respond
from otr_devtee.reference_values import DRIVER_INDICES, REFERENCE_VALUES, VBIOS_INDICES
from otr_protocol import binding
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.nvidia.switch_appraisal import BIOS_RIM_PREFIX
from otr_protocol.binding import GpuEvidence
from support import devtee_world as world

NONCE = binding.gpu_nonce(binding.anchor(**world.BOUND))


def make(model: Model) -> Device:
    start = datetime.fromtimestamp(world.NOW - 3600, UTC)
    return devices.issue_device(model, world.pki().device_ica, start)


@lru_cache(maxsize=1)
def gpus() -> tuple[Device, ...]:
    return tuple(make(HOPPER) for _ in range(8))


@lru_cache(maxsize=1)
def switches() -> tuple[Device, ...]:
    return tuple(make(NVSWITCH) for _ in range(4))


@lru_cache(maxsize=1)
def blackwells() -> tuple[Device, ...]:
    return tuple(make(BLACKWELL) for _ in range(2))


def issuers() -> tuple[bytes, ...]:
    pki = world.pki()
    return (pki.device_ica.der, pki.device_identity.der, pki.device_root.der)


def manifest(version: str, active: tuple[int, ...], product: str) -> bytes:
    pki = world.pki()
    return rim_issuing.signed_manifest(
        version,
        active,
        REFERENCE_VALUES.golden,
        pki.rim_signer,
        (pki.rim_l3.der, pki.rim_ca.der, pki.rim_root.der),
        product=product,
    )


@lru_cache(maxsize=1)
def collateral() -> CollateralBundle:
    """What is needed to affirm any of these devices."""
    pki, honest = world.pki(), world.collateral()
    bios, driver = devices.SWITCH_BIOS_VERSION, REFERENCE_VALUES.driver_version
    responses = [
        respond(
            device.brom.certificate,
            pki.device_ica.certificate,
            pki.responders["device-ica"],
            world.NOW - 60,
        )
        for device in (*gpus(), *switches(), *blackwells())
    ]
    return collect(
        rims=dict(honest.rims)
        | {
            BIOS_RIM_PREFIX + bios.replace(".", ""): manifest(bios, tuple(range(31)), "LS10"),
            f"NV_GPU_CC_DRIVER_GB100_{driver}": manifest(driver, DRIVER_INDICES, "GB100"),
        },
        ocsp_responses=[*honest.ocsp_responses, *responses],
        snp_issuers=honest.snp_issuers,
        crls=honest.crls,
    )


def blackwell_collateral() -> CollateralBundle:
    """The same where the VBIOS manifest is the Blackwell's: it is filed under the same name."""
    name = REFERENCE_VALUES.vbios_rim_id
    vbios = manifest(REFERENCE_VALUES.vbios_version, VBIOS_INDICES, "GB100")
    common = collateral()
    return collect(
        rims=dict(common.rims) | {name: vbios},
        ocsp_responses=common.ocsp_responses,
        snp_issuers=common.snp_issuers,
        crls=common.crls,
    )


def evidence(device: Device, fields: Fields) -> GpuEvidence:
    return devices.evidence(device, issuers(), NONCE, fields)


def gpu_evidence(device: Device) -> GpuEvidence:
    """A GPU of the group, which names all switches."""
    return evidence(device, devices.protected_fields([switch.pdi for switch in switches()]))


def switch_evidence(device: Device, changes: dict[int, bytes] | None = None) -> GpuEvidence:
    """A switch of the group, which names all GPUs."""
    fields = dict(devices.switch_fields(device.pdi, [gpu.pdi for gpu in gpus()]))
    return evidence(device, list((fields | (changes or {})).items()))


def group() -> tuple[GpuEvidence, ...]:
    """Fresh evidence of the whole group, GPUs first."""
    return (
        *(gpu_evidence(gpu) for gpu in gpus()),
        *(switch_evidence(switch) for switch in switches()),
    )
