"""What stands under each key of the collateral service, and how a bundle is made of it.

Content is checked for being what its key says before it is kept: of the right form, about the right
thing, and with the time at which it must be renewed. That is no verification: whoever appraises
does that, under the roots that are pinned there.

Two kinds have a form of their own here, because their origins send several parts at once: Intel's
record (`intel.tdx_collateral`) and AMD's vendor certificates:

    ["otr-snp-issuers-v1", ASK or ASVK, ARK]             DER
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otr_attestation.ports import Stored
from otr_protocol import dcbor
from otr_protocol.attestation import collateral_keys, ocsp
from otr_protocol.attestation.amd import amd_certificate, snp_crl
from otr_protocol.attestation.certificates import PARSE_ERRORS
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind
from otr_protocol.attestation.intel import tdx_collateral, tdx_quote
from otr_protocol.attestation.nvidia import xml_signature
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, Refusal
from otr_protocol.fields import as_bytes

ISSUERS_DOMAIN: Final = "otr-snp-issuers-v1"
MAX_CONTENT_BYTES: Final = 1 << 20
_PEM: Final = b"-----BEGIN"
_TEES: Final = {CollateralKind.TDX: tdx_quote.TDX, CollateralKind.SGX: tdx_quote.SGX}


class CollateralMismatchError(MalformedError):
    """The content is not what its key says."""

    reason = "COLLATERAL_MISMATCH"


def check(key: CollateralKey, content: bytes) -> Stored:
    """The content of a key in the form in which it is kept, with its time.

    Takes what origins send: PEM chains of AMD, JSON of Intel's tools. Raises
    CollateralMismatchError or the refusals of the parser of its kind.
    """
    if not 1 <= len(content) <= MAX_CONTENT_BYTES:
        raise CollateralMismatchError(f"1 to {MAX_CONTENT_BYTES} bytes", field="content")
    kept, next_update_s = _CHECKS[key.kind](key, content)
    return Stored(key.text, H(kept), kept, next_update_s)


def ocsp_key(content: bytes) -> CollateralKey:
    """The key of a revocation answer, which names its certificate itself.

    Raises OcspMalformedError, or CollateralMismatchError for another hash than SHA-384.
    """
    response = ocsp.parse(content)
    if response.hash_name != "sha384":
        raise CollateralMismatchError("the CertID is not one of SHA-384", field="content")
    return collateral_keys.ocsp(
        response.issuer_name_hash, response.issuer_key_hash, response.serial
    )


def assemble(contents: Mapping[CollateralKey, bytes]) -> CollateralBundle:
    """The bundle of what was found; a VCEK is part of evidence and not of a bundle.

    Raises CollateralMalformedError for more than a bundle holds.
    """
    of: dict[CollateralKind, list[tuple[str, bytes]]] = {kind: [] for kind in CollateralKind}
    for key, content in contents.items():
        of[key.kind].append((key.name, content))
    return collect(
        rims=dict(of[CollateralKind.RIM]),
        ocsp_responses=[content for _, content in of[CollateralKind.OCSP]],
        snp_issuers=[_issuers(content) for _, content in of[CollateralKind.SNP_ISSUERS]],
        crls=[content for _, content in of[CollateralKind.SNP_CRL]],
        intel=[content for kind in _TEES for _, content in of[kind]],
    )


def _check_rim(key: CollateralKey, content: bytes) -> tuple[bytes, None]:
    # Signed by whom it says, at least; whether that is anybody is for the appraisal.
    xml_signature.verify(content)
    return content, None


def _check_ocsp(key: CollateralKey, content: bytes) -> tuple[bytes, int]:
    if ocsp_key(content) != key:
        raise CollateralMismatchError("the answer is about another certificate", field="content")
    return content, ocsp.parse(content).next_update


def _check_issuers(key: CollateralKey, content: bytes) -> tuple[bytes, None]:
    pair = _pem_pair(content) if content.startswith(_PEM) else _issuers(content)
    intermediate, ark = (amd_certificate.parse(der) for der in pair)
    product = key.parts[0]
    kind = "SEV-VLEK-" if len(key.parts) > 1 else "SEV-"
    if (intermediate.common_name, ark.common_name) != (kind + product, f"ARK-{product}"):
        raise CollateralMismatchError("the certificates are another line's", field="content")
    amd_certificate.require_issued(ark, ark)
    amd_certificate.require_issued(intermediate, ark)
    return dcbor.encode((ISSUERS_DOMAIN, *pair)), None


def _check_crl(key: CollateralKey, content: bytes) -> tuple[bytes, int]:
    crl = snp_crl.parse(content)
    if f"ARK-{key.parts[0]}".encode() not in crl.issuer:
        raise CollateralMismatchError("the list is another line's", field="content")
    return content, crl.next_update


def _check_vcek(key: CollateralKey, content: bytes) -> tuple[bytes, None]:
    if f"SEV-{key.parts[0]}".encode() not in amd_certificate.parse(content).issuer:
        raise CollateralMismatchError("the certificate is another line's", field="content")
    return content, None


def _check_intel(key: CollateralKey, content: bytes) -> tuple[bytes, int]:
    if content.lstrip().startswith(b"{"):
        content = tdx_collateral.from_json(content).encode()
    known = tdx_collateral.read(content)
    fmspc, authority = key.parts
    if (known.tee, known.fmspc.hex().upper()) != (_TEES[key.kind], fmspc):
        raise CollateralMismatchError("the record is another family's", field="content")
    if f"PCK {authority.capitalize()} CA".encode() not in known.pck_issuer:
        raise CollateralMismatchError("the record is another CA's", field="content")
    return content, known.validity.not_after + 1


_CHECKS: Final = {
    CollateralKind.RIM: _check_rim,
    CollateralKind.OCSP: _check_ocsp,
    CollateralKind.SNP_ISSUERS: _check_issuers,
    CollateralKind.SNP_CRL: _check_crl,
    CollateralKind.SNP_VCEK: _check_vcek,
    CollateralKind.TDX: _check_intel,
    CollateralKind.SGX: _check_intel,
}


def _pem_pair(pem: bytes) -> tuple[bytes, bytes]:
    try:
        parsed = x509.load_pem_x509_certificates(pem)
        ders = [certificate.public_bytes(Encoding.DER) for certificate in parsed]
    except PARSE_ERRORS as error:
        raise CollateralMismatchError("not PEM certificates", field="content") from error
    if len(ders) != 2:
        raise CollateralMismatchError("two certificates, ASK before ARK", field="content")
    return ders[0], ders[1]


def _issuers(content: bytes) -> tuple[bytes, bytes]:
    try:
        intermediate, ark = dcbor.open_record(
            content, ISSUERS_DOMAIN, bytes, bytes, max_depth=1, max_items=4
        )
    except Refusal as refusal:
        raise CollateralMismatchError("not a pair of issuers", field="content") from refusal
    return as_bytes(intermediate, "content"), as_bytes(ark, "content")
