"""Simulated devices of every kind that is appraised: Hopper and Blackwell GPUs, and switches.

The chain of a development machine's own GPUs is made here too. What the other kinds need beyond
that (manifests, responses) is for whoever wants such a machine to issue.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr_devtee import reports
from otr_devtee.issuing import NO_EXPIRY, Identity, issue
from otr_devtee.reference_values import BLOCKS, REFERENCE_VALUES
from otr_protocol.attestation.nvidia.device_chain import PDI_BYTES
from otr_protocol.attestation.nvidia.fwid import (
    COMPOSITE_DEVICE_ID,
    TCB_INFO,
    composite_device_id,
)
from otr_protocol.attestation.nvidia.links import GPU_LINKS, SWITCH_GPU_PDIS_BYTES, SWITCH_GPUS
from otr_protocol.attestation.nvidia.opaque import FeatureFlag, OpaqueType, Switch
from otr_protocol.attestation.nvidia.spdm_report import NONCE_BYTES
from otr_protocol.binding import GpuEvidence

SWITCH_BLOCKS: Final = 31
SWITCH_BIOS_VERSION: Final = "96.10.55.00.01"

# DiceTcbInfo as on a GB100: the second of the two firmware identities is all zeros.
_TCB_INFO_HEAD: Final = bytes.fromhex("80064e5649444941") + b"\x81\x0dGB100 A01 GSP"
_TCB_INFO_NUMBERS: Final = bytes.fromhex("82023031830101840100850100")
_TCB_INFO_TAIL: Final = bytes.fromhex("870500800000018801c0890100")
_FWID_HEAD: Final = bytes.fromhex("303d06096086480165030402020430")

Fields = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Model:
    """One kind of device: its hardware model, its key's name, what its PDI is prefixed with."""

    chip: str
    hwmodel: str
    leaf_name: str
    serial_prefix: int
    firmware: Callable[[Identity], x509.UnrecognizedExtension]


@dataclass(frozen=True, slots=True)
class Device:
    """One simulated device: the boot ROM's identity and the attestation key it certified."""

    model: Model
    brom: Identity
    leaf: Identity

    @property
    def pdi(self) -> bytes:
        """By which other devices name it: 8 bytes."""
        serial = self.brom.certificate.serial_number
        return serial.to_bytes(PDI_BYTES + 1, "big")[1:]


def _composite(brom: Identity) -> x509.UnrecognizedExtension:
    spki = brom.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return x509.UnrecognizedExtension(
        COMPOSITE_DEVICE_ID, composite_device_id(spki, REFERENCE_VALUES.fwid)
    )


def _tcb_info(brom: Identity) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(TCB_INFO, tcb_info([REFERENCE_VALUES.fwid, bytes(48)]))


def tcb_info(fwids: Sequence[bytes]) -> bytes:
    """A DiceTcbInfo extension's DER with these firmware identities (48 bytes each)."""
    listed = b"".join(_FWID_HEAD + fwid for fwid in fwids)
    content = _TCB_INFO_HEAD + _TCB_INFO_NUMBERS + _item(0xA6, listed) + _TCB_INFO_TAIL
    return _item(0x30, content)


def _item(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((size,)) if size < 0x80 else b"\x81" + bytes((size,))
    return bytes((tag,)) + length + content


HOPPER: Final = Model(
    "GH100", REFERENCE_VALUES.hwmodel, "GH100 A01 GSP FMC LF SIMULATED", 0x41, _composite
)
BLACKWELL: Final = Model(
    "GB100", "GB100 A01 GSP BROM SIMULATED", "GB100 A01 GSP FMC LF SIMULATED", 0x41, _tcb_info
)
NVSWITCH: Final = Model(
    "LS10", "LS_10 A01 FSP BROM SIMULATED", "LS_10 A01 FSP FMC LF SIMULATED", 0x50, _composite
)


def issue_device(model: Model, device_ica: Identity, start: datetime) -> Device:
    """A new device, certified by the provisioning authority from `start` on."""
    brom = issue(
        model.hwmodel,
        device_ica,
        not_before=start,
        not_after=NO_EXPIRY,
        ca=True,
        serial=int.from_bytes(
            bytes((model.serial_prefix,)) + secrets.token_bytes(PDI_BYTES), "big"
        ),
    )
    leaf = issue(
        model.leaf_name,
        brom,
        not_before=start,
        not_after=NO_EXPIRY,
        ca=False,
        extensions=[model.firmware(brom)],
    )
    return Device(model, brom, leaf)


def blackwell_fields() -> Fields:
    """The vendor data of a Blackwell GPU passed through together with others."""
    return [
        *reports.opaque_fields(REFERENCE_VALUES),
        (OpaqueType.OPAQUE_DATA_VERSION, b"\x01\0"),
        (OpaqueType.CHIP_INFO, BLACKWELL.chip.encode() + b"\0"),
        (OpaqueType.FEATURE_FLAG, bytes((FeatureFlag.MULTI_PASSTHROUGH, 0))),
    ]


def protected_fields(switches: Sequence[bytes]) -> Fields:
    """The vendor data of a Hopper GPU in a protected group with these switches (PDIs)."""
    links = [switches[number % len(switches)] for number in range(GPU_LINKS)]
    changed = {
        OpaqueType.PROTECTED_PCIE_STATUS: bytes((Switch.ENABLED,)),
        OpaqueType.SWITCH_PDI: b"".join(pdi[::-1] for pdi in links),
        OpaqueType.OPAQUE_DATA_VERSION: b"\x01\0",
        OpaqueType.FEATURE_FLAG: bytes((FeatureFlag.PROTECTED_PCIE, 0)),
    }
    return list((dict(reports.opaque_fields(REFERENCE_VALUES)) | changed).items())


def switch_fields(own: bytes, gpus: Iterable[bytes]) -> Fields:
    """The vendor data of a locked switch `own` that is linked to these GPUs (PDIs)."""
    listed = b"".join(gpus).ljust(SWITCH_GPUS * PDI_BYTES, b"\0")
    return [
        (OpaqueType.VBIOS_VERSION, SWITCH_BIOS_VERSION.encode()),
        (OpaqueType.SWITCH_PDI, own),
        (OpaqueType.SWITCH_GPU_PDIS, listed.ljust(SWITCH_GPU_PDIS_BYTES, b"\xff")),
        (OpaqueType.FLOORSWEPT_PORTS, b"\xec\0"),
        (OpaqueType.POSITION_ID, bytes(2)),
        (OpaqueType.LOCK_SWITCH_STATUS, b"\x01\0"),
    ]


def evidence(
    device: Device, issuers: Sequence[bytes], nonce: bytes, fields: Sequence[tuple[int, bytes]]
) -> GpuEvidence:
    """A fresh report of `device` with this vendor data; `issuers` stand above its boot ROM."""
    if device.model is NVSWITCH:
        measured = [REFERENCE_VALUES.golden(index)[-1] for index in range(SWITCH_BLOCKS)]
    else:
        measured = [REFERENCE_VALUES.runtime(index) for index in range(BLOCKS)]
    report = reports.gpu_report(
        nonce,
        secrets.token_bytes(NONCE_BYTES),
        measured,
        fields,
        reports.raw_signer(device.leaf.key),
    )
    return GpuEvidence(report=report, certificates=(device.leaf.der, device.brom.der, *issuers))
