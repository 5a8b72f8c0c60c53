"""The identity of an NVIDIA device: five certificates from attestation key to pinned root.

    GH100 A01 GSP FMC LF <- GH100 A01 GSP BROM <- Provisioner ICA <- GH100 Identity <- Device root

The same for Blackwell GPUs and for NVSwitches, whose identity authority is the GH100's. All are
P-384, and all of NVIDIA's device certificates say notAfter 9999-12-31: expiry protects nothing
here, only revocation does (`ocsp`), for the three between leaf and root.

The serial number of the boot ROM's certificate ends in the device's PDI (per-device identifier, 8
bytes), by which GPUs and switches name each other in their reports; so it was in every real chain
seen (14 GPUs, 5 switches; the byte before it is 0x41 in a GPU and 0x50 in a switch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import (
    Certificate,
    ChainRejectedError,
    Validity,
)
from otr_protocol.attestation.nvidia import fwid, products
from otr_protocol.attestation.nvidia.products import Product

CHAIN_LENGTH: Final = 5
PDI_BYTES: Final = 8

_PDI_MODULUS: Final = 1 << 8 * PDI_BYTES


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A verified chain. `certificates` are leaf first, root last; `fwid` is 48 bytes or None."""

    certificates: tuple[Certificate, ...]
    validity: Validity
    hwmodel: str
    product: Product
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
    def pdi(self) -> bytes:
        """The 8 bytes by which other devices name this one, as a switch spells them."""
        return (self.certificates[1].serial % _PDI_MODULUS).to_bytes(PDI_BYTES, "big")


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
    product = products.of_hwmodel(hwmodel)
    return DeviceChain(
        certificates=parsed,
        validity=validity,
        hwmodel=hwmodel,
        product=product,
        ueid=str(parsed[0].serial),
        fwid=fwid.of_leaf(parsed[0], parsed[1], product.architecture),
    )
