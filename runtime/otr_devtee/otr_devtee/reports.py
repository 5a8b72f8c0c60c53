"""The two report formats, written: the counterparts of `spdm_report.parse` and `snp_report.parse`.

Layouts are documented there. Reports are signed by whoever calls, so that tests can write reports
that a TEE would not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from otr_devtee.reference_values import BLOCKS, ReferenceValues
from otr_protocol.attestation.amd.snp_product import MILAN, ProductLine
from otr_protocol.attestation.amd.snp_report import SigningKey, TcbVersion
from otr_protocol.attestation.nvidia.opaque import OpaqueType, Switch

SNP_POLICY: Final = 0x30000  # SMT allowed, no debugging, no migration agent


def opaque_fields(values: ReferenceValues) -> list[tuple[int, bytes]]:
    """The vendor data of a GPU in confidential mode, in the order of a real report."""
    major, build, revision = (
        bytes.fromhex(values.vbios_version.replace(".", ""))[part]
        for part in (slice(0, 2), slice(2, 4), slice(4, 5))
    )
    return [
        (OpaqueType.VBIOS_VERSION, (bytes(3) + revision + major + build)[::-1]),
        (OpaqueType.BOARD_ID, bytes.fromhex("b1030000")),
        (OpaqueType.CHIP_SKU, values.chip_sku.encode().ljust(9, b"\0")),
        (OpaqueType.CHIP_SKU_MOD, b"0".ljust(5, b"\0")),
        (OpaqueType.PROJECT, values.project.encode().ljust(5, b"\0")),
        (OpaqueType.PROJECT_SKU, values.project_sku.encode().ljust(5, b"\0")),
        (OpaqueType.PROJECT_SKU_MOD, bytes(2)),
        (OpaqueType.DRIVER_VERSION, values.driver_version.encode() + b"\0"),
        (OpaqueType.GPU_INFO, bytes.fromhex("8001000000000000")),
        (OpaqueType.MSRSCNT, b"".join((1).to_bytes(4, "little") for _ in range(BLOCKS))),
        (OpaqueType.CPRINFO, bytes.fromhex("00c00100")),
        (OpaqueType.NVDEC0_STATUS, bytes((Switch.DISABLED,))),
        (OpaqueType.FWID, values.fwid),
        (OpaqueType.PROTECTED_PCIE_STATUS, bytes((Switch.DISABLED,))),
    ]


def gpu_report(
    nonce: bytes,
    responder_nonce: bytes,
    measurements: Sequence[bytes],
    opaque: Sequence[tuple[int, bytes]],
    sign: Callable[[bytes], bytes],
) -> bytes:
    """An SPDM report over `measurements` (48 bytes each); `sign` gives r || s (96 bytes)."""
    blocks = b"".join(
        bytes((index + 1, 1, 51, 0, 1, 48, 0)) + value for index, value in enumerate(measurements)
    )
    data = b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
        for kind, value in opaque
    )
    message = b"".join(
        (
            bytes.fromhex("11e001ff"),
            nonce,
            bytes.fromhex("0011600000"),
            bytes((len(measurements),)),
            len(blocks).to_bytes(3, "little"),
            blocks,
            responder_nonce,
            len(data).to_bytes(2, "little"),
            data,
        )
    )
    return message + sign(message)


def snp_report(
    report_data: bytes,
    measurement: bytes,
    chip_id: bytes,
    tcb: TcbVersion,
    key: ec.EllipticCurvePrivateKey,
    *,
    policy: int = SNP_POLICY,
    vmpl: int = 0,
    version: int = 3,
    line: ProductLine = MILAN,
    signing_key: int = SigningKey.VCEK,
    fields: Mapping[int, bytes] | None = None,
) -> bytes:
    """An SNP report of a chip of one product line, signed by its VCEK or a VLEK.

    `fields` are further values by their offset, as they should stand there before `key` signs.
    """
    packed = line.tcb_bytes(tcb)
    processor = bytes((line.family, line.models[0][0] + 1, 1)) if version >= 3 else b""
    report = bytearray(1184)
    for offset, value in (
        (0x000, version.to_bytes(4, "little")),
        (0x008, policy.to_bytes(8, "little")),
        (0x030, vmpl.to_bytes(4, "little")),
        (0x034, (1).to_bytes(4, "little")),
        (0x038, packed),
        (0x048, (signing_key << 2).to_bytes(4, "little")),
        (0x050, report_data),
        (0x090, measurement),
        (0x180, packed),
        (0x188, processor),
        (0x1A0, chip_id),
        (0x1E0, packed),
        (0x1F0, packed),
        *(fields or {}).items(),
    ):
        report[offset : offset + len(value)] = value
    r, s = decode_dss_signature(key.sign(bytes(report[:0x2A0]), ec.ECDSA(hashes.SHA384())))
    report[0x2A0 : 0x2A0 + 48] = r.to_bytes(48, "little")
    report[0x2E8 : 0x2E8 + 48] = s.to_bytes(48, "little")
    return bytes(report)


def raw_signer(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    """A function that signs with ECDSA P-384 and SHA-384 and returns r || s, big-endian."""

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(48, "big") + s.to_bytes(48, "big")

    return sign
