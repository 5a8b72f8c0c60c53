"""The identity of an NVIDIA GPU: five certificates from attestation key to pinned root.

    GH100 A01 GSP FMC LF <- GH100 A01 GSP BROM <- Provisioner ICA <- GH100 Identity <- Device root

All are P-384, and all of NVIDIA's device certificates say notAfter 9999-12-31: expiry protects
nothing here, only revocation does (`ocsp`), for the three between leaf and root.

The leaf carries the firmware identity (DICE CompositeDeviceID, 2.23.133.5.4.1) that the boot ROM
measured when it certified the attestation key:

    SEQUENCE { INTEGER 1, SubjectPublicKeyInfo of the boot ROM's key,
               SEQUENCE { OID sha384, OCTET STRING firmware identity (48) } }

A report that states another firmware identity comes from firmware that the key was not made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import (
    Certificate,
    ChainRejectedError,
    Validity,
)
from otr_protocol.attestation.nvidia.opaque import FWID_BYTES
from otr_protocol.errors import UnknownError

CHAIN_LENGTH: Final = 5
DICE_COMPOSITE_DEVICE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
HOPPER: Final = "GH100"

# SEQUENCE of 186 bytes, INTEGER 1; then SEQUENCE of 61 bytes, OID sha384, OCTET STRING of 48.
_DEVICE_ID_HEAD: Final = bytes.fromhex("3081ba020101")
_FWID_HEAD: Final = bytes.fromhex("303d06096086480165030402020430")


class ArchitectureUnsupportedError(UnknownError):
    """The chain belongs to a device that this version cannot appraise."""

    reason = "GPU_ARCHITECTURE_UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A verified chain. `certificates` are leaf first, root last; `fwid` is 48 bytes or None."""

    certificates: tuple[Certificate, ...]
    validity: Validity
    hwmodel: str
    ueid: str
    fwid: bytes | None

    @property
    def attestation_key(self) -> Certificate:
        """The certificate whose key signs reports."""
        return self.certificates[0]

    @property
    def device_identity(self) -> bytes:
        """The DER of the boot ROM's certificate: one per physical device, whatever it booted."""
        return self.certificates[1].der

    @property
    def product(self) -> str:
        """The chip, such as "GH100": the first word of the hardware model."""
        return self.hwmodel.split(" ", 1)[0]


def verify(chain: Sequence[bytes], pinned_root: bytes) -> DeviceChain:
    """Verify DER certificates, leaf first, ending at the pinned root (DER).

    Signatures, names, constraints, count and root are checked; validity periods are returned in
    `validity`. Raises ChainRejectedError, RootUntrustedError, CertificateMalformedError or
    ArchitectureUnsupportedError.
    """
    if len(chain) != CHAIN_LENGTH:
        raise ChainRejectedError(
            f"a device chain has {CHAIN_LENGTH} certificates, not {len(chain)}"
        )
    parsed = tuple(certificates.parse(der) for der in chain)
    validity = certificates.require_chain(parsed, pinned_root)
    hwmodel = parsed[1].common_name
    verified = DeviceChain(
        certificates=parsed,
        validity=validity,
        hwmodel=hwmodel,
        ueid=str(parsed[0].serial),
        fwid=_fwid(parsed[0], parsed[1]),
    )
    if verified.product != HOPPER:
        raise ArchitectureUnsupportedError(f"{hwmodel!r} is not a Hopper GPU")
    return verified


def _fwid(leaf: Certificate, issuer: Certificate) -> bytes | None:
    """The firmware identity of the leaf, if it has one; read as a whole, not from its end."""
    try:
        extension = leaf.parsed.extensions.get_extension_for_oid(DICE_COMPOSITE_DEVICE_ID)
    except x509.ExtensionNotFound:
        return None
    value = extension.value
    device = issuer.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if isinstance(value, x509.UnrecognizedExtension):
        fwid = value.value[-FWID_BYTES:]
        if value.value == composite_device_id(device, fwid):
            return fwid
    raise ChainRejectedError("the firmware identity of the leaf cannot be read")


def composite_device_id(device_spki: bytes, fwid: bytes) -> bytes:
    """The extension's DER for a P-384 device key (SPKI, 120 bytes) and a firmware identity."""
    return _DEVICE_ID_HEAD + device_spki + _FWID_HEAD + fwid
