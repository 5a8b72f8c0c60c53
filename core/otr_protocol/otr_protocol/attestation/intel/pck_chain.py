"""The certificates that an Intel quote carries: PCK <- PCK CA <- root, in one encoding.

Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5. All three are ECDSA P-256
with SHA-256. A PCK (provisioning certification key) certificate names, under 1.2.840.113741.1.13.1,
the platform family (FMSPC), the security versions its key was derived for, and how the machine is
built. Quotes carry the chain as PEM, which has many spellings; exactly one is read here: base64 in
lines of 64, line feeds, nothing between or around the certificates but the NUL that Intel's library
leaves at the end. The root is compared with the pinned one byte for byte, so that nothing in the
chain is free except the signatures of two certificates, which ECDSA lets anyone rewrite.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation.certificates import (
    MAX_CERTIFICATE_BYTES,
    PARSE_ERRORS,
    CertificateMalformedError,
    ChainRejectedError,
    RootUntrustedError,
    Validity,
)
from otr_protocol.attestation.intel import ecdsa

CHAIN_LENGTH: Final = 3
MAX_CHAIN_BYTES: Final = 12 * 1024
ECDSA_WITH_SHA256: Final = x509.ObjectIdentifier("1.2.840.10045.4.3.2")

_ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----\n"
_END: Final = b"-----END CERTIFICATE-----\n"
_LINE: Final = 64
_CONFIGURATION: Final = "1.2.840.113741.1.13.1.7."
_TRUE: Final = b"\xff"
# By the names that a policy gives them (`policy.TDX_TRAITS`).
_TRAITS: Final = (("cached-keys", "2"), ("dynamic-platform", "1"), ("smt", "3"))


@dataclass(frozen=True, slots=True, eq=False)
class IntelCertificate:
    """One parsed P-256 certificate; `require_issued_by` checks its signature."""

    der: bytes
    tbs: bytes
    serial: int
    subject: bytes
    issuer: bytes
    is_ca: bool
    key: ec.EllipticCurvePublicKey
    signature: bytes
    validity: Validity

    def require_issued_by(self, issuer: IntelCertificate) -> None:
        """Refuse with ChainRejectedError unless `issuer` is a CA that signed this certificate."""
        _require_issued(self, issuer)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the PCK certificate says about the machine.

    `fmspc` (6 bytes) names the family whose TCB levels apply, `cpu_svn` (16 bytes) and `pce_svn`
    the versions the key was derived for, `traits` how the machine is built: sorted names out of
    cached-keys (keys kept by Intel's registration service), dynamic-platform (packages may be
    added) and smt (hyper-threading).
    """

    fmspc: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    traits: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PckChain:
    """PCK certificate, its CA and the root, parsed; `require_signed` checks the signatures."""

    leaf: IntelCertificate
    authority: IntelCertificate
    root: IntelCertificate
    pem: bytes

    @property
    def platform(self) -> Platform:
        """What the PCK certificate says of its machine; ask after `require_signed`.

        Raises CertificateMalformedError.
        """
        return _platform(self.leaf.der)

    @property
    def validity(self) -> Validity:
        """The period in which all three certificates are valid."""
        return self.leaf.validity.intersect(self.authority.validity).intersect(self.root.validity)

    def require_signed(self, pinned_root: bytes) -> None:
        """Refuse a chain that does not hang together below the pinned root (DER).

        Raises RootUntrustedError or ChainRejectedError.
        """
        if self.root.der != pinned_root:
            raise RootUntrustedError("the quote's chain ends at a root that is not pinned")
        if self.leaf.is_ca:
            raise ChainRejectedError("the platform's certificate is one of a CA")
        self.leaf.require_issued_by(self.authority)
        self.authority.require_issued_by(self.root)


@lru_cache(maxsize=256)
def _require_issued(child: IntelCertificate, issuer: IntelCertificate) -> None:
    # Cached because the CA is the same for every machine; a refusal is not cached.
    if child.issuer != issuer.subject or not issuer.is_ca:
        raise ChainRejectedError("a certificate does not name the next one as its issuer")
    ecdsa.require_der(issuer.key, child.signature, child.tbs, ChainRejectedError)


@lru_cache(maxsize=256)
def parse(pem: bytes) -> PckChain:
    """Read the chain out of a quote; `pem` may end in one NUL.

    Raises CertificateMalformedError for anything but three certificates in their one spelling.
    """
    certificates = read_pem(pem.removesuffix(b"\0"))
    if len(certificates) != CHAIN_LENGTH:
        raise CertificateMalformedError(f"a quote carries {CHAIN_LENGTH} certificates")
    leaf, authority, root = (parse_certificate(der) for der in certificates)
    return PckChain(leaf, authority, root, pem)


def pem_of(der: bytes) -> bytes:
    """The one PEM spelling of a certificate."""
    text = base64.b64encode(der)
    lines = (text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))
    return _BEGIN + b"".join(lines) + _END


def read_pem(pem: bytes) -> tuple[bytes, ...]:
    """The DER certificates of a PEM text of at most 12 KiB in its one spelling.

    Raises CertificateMalformedError.
    """
    if len(pem) > MAX_CHAIN_BYTES:
        raise CertificateMalformedError(f"a chain of {len(pem)} bytes is too large")
    blocks = pem.split(_END)[:-1]
    try:
        certificates = tuple(
            base64.b64decode(block.removeprefix(_BEGIN).replace(b"\n", b""), validate=True)
            for block in blocks
        )
    except binascii.Error as error:
        raise CertificateMalformedError("a certificate is not base64") from error
    if b"".join(map(pem_of, certificates)) != pem:
        raise CertificateMalformedError("certificates are not in their one PEM spelling")
    return certificates


@lru_cache(maxsize=256)
def parse_certificate(der: bytes) -> IntelCertificate:
    """Read one DER certificate of at most 8 KiB; CertificateMalformedError otherwise."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateMalformedError(f"a certificate of {len(der)} bytes is too large")
    try:
        parsed = x509.load_der_x509_certificate(der)
        key = parsed.public_key()
        tbs, signature = parsed.tbs_certificate_bytes, parsed.signature
        is_ca = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        # Names are decoded lazily, and a decoding that fails must fail here.
        subject, issuer = parsed.subject.public_bytes(), parsed.issuer.public_bytes()
        validity = Validity(
            int(parsed.not_valid_before_utc.timestamp()),
            int(parsed.not_valid_after_utc.timestamp()),
        )
    except (*PARSE_ERRORS, x509.ExtensionNotFound) as error:
        raise CertificateMalformedError("not a certificate that can be read") from error
    # What lies outside the signed part is built anew, so that none of it can be written otherwise.
    algorithm_and_signature = _ECDSA_WITH_SHA256 + _tlv(0x03, b"\0" + signature)
    if der != _tlv(0x30, tbs + algorithm_and_signature):
        raise CertificateMalformedError("a certificate is not signed with ECDSA and SHA-256")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateMalformedError("a certificate's key is not P-256")
    return IntelCertificate(
        der=der,
        tbs=tbs,
        serial=parsed.serial_number,
        subject=subject,
        issuer=issuer,
        is_ca=is_ca,
        key=key,
        signature=signature,
        validity=validity,
    )


def _tlv(tag: int, content: bytes) -> bytes:
    """A DER element of at most 64 KiB."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    width = 1 if length < 0x100 else 2
    return bytes((tag, 0x80 | width)) + length.to_bytes(width, "big") + content


@lru_cache(maxsize=256)
def _platform(leaf: bytes) -> Platform:
    try:
        extension = dcap_qvl.parse_pck_extension_from_pem(pem_of(leaf))
        return Platform(
            fmspc=bytes(extension.fmspc),
            cpu_svn=bytes(extension.cpu_svn),
            pce_svn=extension.pce_svn,
            pce_id=bytes(extension.pce_id),
            traits=tuple(
                name
                for name, suffix in _TRAITS
                if extension.get_value(_CONFIGURATION + suffix) == _TRUE
            ),
        )
    except ValueError as error:
        raise CertificateMalformedError("the certificate says nothing of its platform") from error
