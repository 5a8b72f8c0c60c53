"""Reference manifests as NVIDIA signs them: SWID tag, enveloped signature, four certificates."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from lxml import etree

from otr_devtee.issuing import ORGANIZATION, Identity
from otr_devtee.reference_values import BLOCKS
from otr_protocol.attestation.nvidia.device_appraisal import MANUFACTURER_ID
from otr_protocol.attestation.nvidia.xml_signature import (
    C14N11,
    DSIG,
    ECDSA_SHA384,
    ENVELOPED,
    SHA384,
)

_SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_TCG: Final = (
    "https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/"
)
_ZERO: Final = bytes(48)


def signed_manifest(
    version: str,
    active: Sequence[int],
    golden: Callable[[int], tuple[bytes, ...]],
    signer: Identity,
    issuers: Sequence[bytes],
    *,
    product: str = "GH100",
) -> bytes:
    """A manifest of the 64 measurements, those of `active` with their `golden` alternatives.

    `issuers` are the DER certificates above the signer's, root last; `product` is the chip.
    """
    resources = "\n".join(
        _resource(index, golden(index) if index in active else (_ZERO,), active=index in active)
        for index in range(BLOCKS)
    )
    tag_id = hashlib.sha384(f"{ORGANIZATION} {version} {resources}".encode()).hexdigest()
    content = (
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}"'
        f' xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" corpus="false" name="{product}"'
        f' patch="false" supplemental="false" tagId="{tag_id}" version="1.0" tagVersion="0">\n'
        f'    <ns0:Entity name="{ORGANIZATION}" role="softwareCreator tagCreator"/>\n'
        f'    <ns0:Meta xmlns:ns1="{_TCG}" colloquialVersion="{version}" edition="GPU"'
        f' product="{product}" revision="r1" PayloadType="direct" ns1:BindingSpec="RIMIM"'
        f' ns1:BindingSpecVersion="1.01" ns1:PlatformManufacturerId="{MANUFACTURER_ID}"'
        f' ns1:PlatformManufacturerStr="{ORGANIZATION}" ns1:PlatformModel="{product}"'
        f' ns1:FirmwareManufacturer="{ORGANIZATION}"'
        f' ns1:FirmwareManufacturerId="{MANUFACTURER_ID}"/>\n'
        f"    <ns0:Payload>\n{resources}\n    </ns0:Payload>\n"
    )
    return sign(content, signer, issuers)


def sign(content: str, signer: Identity, issuers: Sequence[bytes]) -> bytes:
    """Sign a SWID tag, given up to its closing tag, with an enveloped signature."""
    end = "</SoftwareIdentity>"
    digest = hashlib.sha384(_canonical(content + end)).digest()
    signed_info = (
        f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{C14N11}"/>'
        f'<ds:SignatureMethod Algorithm="{ECDSA_SHA384}"/><ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{ENVELOPED}"/><ds:Transform Algorithm="{C14N11}"/>'
        f'</ds:Transforms><ds:DigestMethod Algorithm="{SHA384}"/>'
        f"<ds:DigestValue>{_base64(digest)}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )
    # SignedInfo is hashed where it will stand: its canonical form names its ancestors' namespaces.
    opening = f'<ds:Signature xmlns:ds="{DSIG}">'
    root = etree.fromstring(f"{content}{opening}{signed_info}</ds:Signature>{end}".encode())
    message = etree.tostring(root[-1][0], method="c14n", exclusive=False)
    r, s = decode_dss_signature(signer.key.sign(message, ec.ECDSA(hashes.SHA384())))
    value = _base64(r.to_bytes(48, "big") + s.to_bytes(48, "big"))
    chain = "".join(
        f"<ds:X509Certificate>{_base64(der)}\n</ds:X509Certificate>"
        for der in (signer.der, *issuers)
    )
    return (
        f"{content}{opening}{signed_info}<ds:SignatureValue>{value}</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{chain}</ds:X509Data></ds:KeyInfo></ds:Signature>{end}"
    ).encode()


def _resource(index: int, alternatives: Sequence[bytes], *, active: bool) -> str:
    values = " ".join(f'ns2:Hash{n}="{value.hex()}"' for n, value in enumerate(alternatives))
    return (
        f'        <ns0:Resource type="Measurement" index="{index}" active="{active}"'
        f' alternatives="{len(alternatives)}" {values} name="Measurement_{index}" size="48"/>'
    )


def _canonical(text: str) -> bytes:
    canonical: bytes = etree.tostring(etree.fromstring(text), method="c14n", exclusive=False)
    return canonical


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
