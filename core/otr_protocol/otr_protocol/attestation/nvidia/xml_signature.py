"""The one XML signature profile of NVIDIA's reference manifests (XMLDSig, W3C Recommendation 1.1).

General XML signature verifiers let the document choose algorithms, transforms, references and
keys, and every such choice has been an attack. This one accepts a single shape: an enveloped
signature that is the last child of the root, URI="", canonical XML 1.1, SHA-384, ECDSA P-384, and
KeyInfo that holds nothing but one X509Data. The key is that of the first certificate, which is
handed back together with the content, so that nobody can check one chain and verify with another
key.

Before the parser sees the text, everything it could be asked to fetch, expand or skip is refused:
document types, entities, processing instructions, comments, CDATA. What is left has one reading.
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from lxml import etree

from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import Certificate
from otr_protocol.errors import MalformedError, RejectedError

MAX_XML_BYTES: Final = 256 * 1024
MAX_CERTIFICATES: Final = 8
SIGNATURE_BYTES: Final = 96

DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
C14N11: Final = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED: Final = DSIG + "enveloped-signature"
ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"

_SPACE: Final = " \t\r\n"

# lxml ships no types.
Element: TypeAlias = "etree._Element"


class XmlMalformedError(MalformedError):
    """Not the plain XML that a manifest is written in."""

    reason = "RIM_XML_MALFORMED"


class XmlSignatureProfileError(MalformedError):
    """Signed in another way than the one profile accepted here."""

    reason = "RIM_SIGNATURE_PROFILE"


class XmlSignatureError(RejectedError):
    """The digest or the signature does not fit the content."""

    reason = "RIM_SIGNATURE"


@dataclass(frozen=True, slots=True)
class SignedXml:
    """Content whose signature verifies under the key of `chain[0]`.

    `root` no longer holds the signature: it is exactly what was signed. Whether `chain` leads to
    anybody trusted is not said here.
    """

    root: Element
    chain: tuple[Certificate, ...]


def verify(document: bytes) -> SignedXml:
    """Verify an enveloped signature over the whole document, at most 256 KiB.

    Raises XmlMalformedError, XmlSignatureProfileError, XmlSignatureError or, for an embedded
    certificate, CertificateMalformedError.
    """
    root = _parse(document)
    signature = root[-1] if len(root) else None
    if signature is None or signature.tag != f"{{{DSIG}}}Signature" or signature.tail:
        raise XmlSignatureProfileError("the signature is not the last child of the root")
    if sum(1 for _ in root.iter(f"{{{DSIG}}}Signature")) != 1:
        raise XmlSignatureProfileError("there is more than one signature")
    signed_info, value, key_info = _children(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    digest = _read_signed_info(signed_info)
    chain = _read_key_info(key_info)
    signature_bytes = _base64(value)
    if len(signature_bytes) != SIGNATURE_BYTES:
        raise XmlSignatureProfileError(f"a signature has {SIGNATURE_BYTES} bytes")
    # SignedInfo is canonicalised where it stands: it inherits the namespaces of its ancestors.
    signed_info_bytes = _canonical(signed_info)
    root.remove(signature)
    if hashlib.sha384(_canonical(root)).digest() != digest:
        raise XmlSignatureError("the content is not what was signed")
    half = SIGNATURE_BYTES // 2
    r = int.from_bytes(signature_bytes[:half], "big")
    s = int.from_bytes(signature_bytes[half:], "big")
    try:
        chain[0].key.verify(
            encode_dss_signature(r, s), signed_info_bytes, ec.ECDSA(hashes.SHA384())
        )
    except InvalidSignature as error:
        raise XmlSignatureError("the signature does not verify") from error
    return SignedXml(root=root, chain=chain)


def _parse(document: bytes) -> Element:
    if len(document) > MAX_XML_BYTES:
        raise XmlMalformedError(f"a manifest of {len(document)} bytes is too large")
    # `<!` begins DOCTYPE, comments and CDATA, `<?` declarations and processing instructions, `&`
    # references. NUL and a byte order mark are how another encoding than UTF-8 would announce
    # itself to the parser and slip past these very checks. Canonical XML 1.0, which the library
    # computes, differs from 1.1 in xml:* attributes only, so there are none.
    for forbidden in (b"<!", b"<?", b"&", b"\0", b"xml:", b"XML/1998/namespace"):
        if forbidden in document:
            raise XmlMalformedError(f"a manifest holds {forbidden!r}")
    if not document.startswith(b"<"):
        raise XmlMalformedError("a manifest does not begin with its root element")
    try:
        document.decode("utf-8")
        parser = etree.XMLParser(
            encoding="utf-8",
            resolve_entities=False,
            load_dtd=False,
            no_network=True,
            dtd_validation=False,
            huge_tree=False,
        )
        root = etree.fromstring(document, parser)
    except (ValueError, etree.LxmlError) as error:
        raise XmlMalformedError("a manifest is not well-formed XML") from error
    return root


def _canonical(element: Element) -> bytes:
    try:
        canonical: bytes = etree.tostring(
            element, method="c14n", exclusive=False, with_comments=False
        )
    except etree.LxmlError as error:
        # Relative namespace names, for example, have no canonical form.
        raise XmlMalformedError("a manifest has no canonical form") from error
    return canonical


def _children(element: Element, *names: str, attributes: tuple[str, ...] = ()) -> list[Element]:
    """The children of a signature element, which must be exactly these, with only space around."""
    if [child.tag for child in element] != [f"{{{DSIG}}}{name}" for name in names]:
        raise XmlSignatureProfileError(f"{_local(element)} does not hold {', '.join(names)}")
    if sorted(element.attrib) != sorted(attributes):
        raise XmlSignatureProfileError(f"{_local(element)} has other attributes than expected")
    between = [element.text or "", *(child.tail or "" for child in element)]
    if names and any(text.strip(_SPACE) for text in between):
        raise XmlSignatureProfileError(f"{_local(element)} holds text")
    return list(element)


def _local(element: Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _require_algorithm(element: Element, algorithm: str) -> None:
    _children(element, attributes=("Algorithm",))
    if element.text or element.get("Algorithm") != algorithm:
        raise XmlSignatureProfileError(f"{_local(element)} is not {algorithm}")


def _read_signed_info(signed_info: Element) -> bytes:
    """Check every choice SignedInfo makes and return the digest it signs (48 bytes)."""
    canonicalization, method, reference = _children(
        signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference"
    )
    _require_algorithm(canonicalization, C14N11)
    _require_algorithm(method, ECDSA_SHA384)
    transforms, digest_method, digest_value = _children(
        reference, "Transforms", "DigestMethod", "DigestValue", attributes=("URI",)
    )
    if reference.get("URI") != "":
        raise XmlSignatureProfileError("the reference is not to the whole document")
    enveloped, canonical = _children(transforms, "Transform", "Transform")
    _require_algorithm(enveloped, ENVELOPED)
    _require_algorithm(canonical, C14N11)
    _require_algorithm(digest_method, SHA384)
    return _base64(digest_value)


def _read_key_info(key_info: Element) -> tuple[Certificate, ...]:
    (x509_data,) = _children(key_info, "X509Data")
    if not 1 <= len(x509_data) <= MAX_CERTIFICATES:
        raise XmlSignatureProfileError("X509Data holds no usable number of certificates")
    elements = _children(x509_data, *["X509Certificate"] * len(x509_data))
    return tuple(certificates.parse(_base64(element)) for element in elements)


def _base64(element: Element) -> bytes:
    _children(element)
    text = "".join((element.text or "").split())
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise XmlSignatureProfileError(f"{_local(element)} is not base64") from error
    if binascii.b2a_base64(data, newline=False).decode("ascii") != text:
        raise XmlSignatureProfileError(f"{_local(element)} is not canonical base64")
    return data
