"""AMD's certificates, taken apart (AMD 57230; RFC 5280, the part needed).

AMD gives every chip's certificate the serial number 0, which RFC 5280 forbids and X.509 libraries
have begun to refuse. So these certificates are read by `der`, which has no opinion on serials;
keys and signatures are handled by the same library as everywhere. All of AMD's signatures are
RSA-4096, PSS with SHA-384 throughout, and the two encodings of that are the only ones accepted:

    SEQUENCE { rsassaPss, { [0] sha384, [1] mgf1 { sha384 }, [2] 48 } }
    SEQUENCE { rsassaPss, { [0] sha384, [1] mgf1 { sha384 }, [2] 48, [3] 1 } }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from otr_protocol.attestation.amd import der
from otr_protocol.attestation.certificates import (
    MAX_CERTIFICATE_BYTES,
    CertificateMalformedError,
    ChainRejectedError,
    Validity,
)

RSA_BITS: Final = 4096
SALT_BYTES: Final = 48
_SHA384: Final = hashes.SHA384()
_PSS: Final = padding.PSS(mgf=padding.MGF1(_SHA384), salt_length=SALT_BYTES)

_PSS_PARAMETERS: Final = bytes.fromhex(
    "a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500"
    "a203020130"
)
_RSASSA_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
PSS_ALGORITHMS: Final = (
    b"\x30\x41" + _RSASSA_PSS + b"\x30\x34" + _PSS_PARAMETERS,
    b"\x30\x46" + _RSASSA_PSS + b"\x30\x39" + _PSS_PARAMETERS + bytes.fromhex("a303020101"),
)

_VERSION_3: Final = bytes.fromhex("a003020102")
_COMMON_NAME: Final = der.object_identifier("2.5.4.3")
_BASIC_CONSTRAINTS: Final = der.object_identifier("2.5.29.19")
_KEY_USAGE: Final = der.object_identifier("2.5.29.15")
_EXTENSIONS: Final = 0xA3
_KEY_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02
_ALL_USAGES: Final = 0xFF


@dataclass(frozen=True, slots=True)
class AmdCertificate:
    """A parsed certificate whose signature nobody has checked yet.

    `subject` and `issuer` are encoded names, `extensions` maps the content bytes of an object
    identifier to the bytes of its value. `usages` is the first byte of the key usage, all ones if
    the certificate does not restrict it.
    """

    der: bytes
    serial: int
    subject: bytes
    issuer: bytes
    common_name: str
    tbs: bytes
    signature: bytes
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    extensions: Mapping[bytes, bytes]
    is_ca: bool
    usages: int
    validity: Validity

    def require_signature(self, signature: bytes, message: bytes) -> None:
        """Refuse with ChainRejectedError unless this RSA key signed `message`."""
        if not isinstance(self.key, rsa.RSAPublicKey):
            raise ChainRejectedError(f"{self.common_name!r} has no RSA key")
        try:
            self.key.verify(signature, message, _PSS, _SHA384)
        except InvalidSignature as error:
            raise ChainRejectedError(
                f"a signature of {self.common_name!r} does not verify"
            ) from error

    @property
    def may_sign_lists(self) -> bool:
        """Whether its key may sign revocation lists."""
        return self.is_ca and bool(self.usages & _CRL_SIGN)


@lru_cache(maxsize=512)
def parse(data: bytes) -> AmdCertificate:
    """Read one DER certificate of at most 8 KiB; CertificateMalformedError otherwise."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise CertificateMalformedError(f"a certificate of {len(data)} bytes is too large")
    try:
        return _parse(data)
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm) as error:
        raise CertificateMalformedError("not a certificate that can be read") from error


def require_issued(child: AmdCertificate, issuer: AmdCertificate) -> None:
    """Refuse with ChainRejectedError unless `issuer` is a CA that signed `child`."""
    if child.issuer != issuer.subject:
        raise ChainRejectedError(f"{child.common_name!r} names another issuer")
    if not issuer.is_ca or not issuer.usages & _KEY_CERT_SIGN:
        raise ChainRejectedError(f"{issuer.common_name!r} may not sign certificates")
    _check_signature(child.der, issuer.der)


class SignedDocument(NamedTuple):
    """What certificates and revocation lists have in common; the signature is not checked yet."""

    signed: der.Element
    algorithm: bytes
    signature: bytes

    def require_algorithm(self, named: der.Element) -> None:
        """Refuse with DerError a signed part that names another algorithm than its signature."""
        if named.encoded != self.algorithm:
            raise der.DerError("two signature algorithms are named")


def open_signed(data: bytes) -> SignedDocument:
    """Take a signed document apart; DerError unless it is one, signed with AMD's algorithm."""
    signed, algorithm, signature = der.children(der.whole(data, der.SEQUENCE), der.SEQUENCE)
    if algorithm.encoded not in PSS_ALGORITHMS:
        raise der.DerError("the signature is not RSA-PSS with SHA-384")
    value = der.bit_string(signature)
    if len(value) != RSA_BITS // 8:
        raise der.DerError("the signature has another length than the key")
    return SignedDocument(signed, algorithm.encoded, value)


def _parse(data: bytes) -> AmdCertificate:
    document = open_signed(data)
    version, serial, algorithm, issuer, validity, subject, spki, extended = der.children(
        document.signed, der.SEQUENCE
    )
    if version.encoded != _VERSION_3:
        raise der.DerError("not a certificate of version 3")
    document.require_algorithm(algorithm)
    not_before, not_after = der.children(validity, der.SEQUENCE)
    values = _extensions(extended)
    return AmdCertificate(
        der=data,
        serial=der.integer(serial),
        subject=der.expect(subject, der.SEQUENCE).encoded,
        issuer=der.expect(issuer, der.SEQUENCE).encoded,
        common_name=_common_name(subject),
        tbs=document.signed.encoded,
        signature=document.signature,
        key=_key(der.expect(spki, der.SEQUENCE).encoded),
        extensions=values,
        is_ca=_is_ca(values.get(_BASIC_CONSTRAINTS)),
        usages=_usages(values.get(_KEY_USAGE)),
        validity=Validity(der.seconds(not_before), der.seconds(not_after)),
    )


@lru_cache(maxsize=512)
def _check_signature(child_der: bytes, issuer_der: bytes) -> None:
    # Cached because the upper certificates are the same for every chip; a refusal is not cached.
    child = parse(child_der)
    parse(issuer_der).require_signature(child.signature, child.tbs)


def _key(spki: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    key = serialization.load_der_public_key(spki)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size == RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    raise der.DerError("the key is neither RSA-4096 nor P-384")


def _common_name(subject: der.Element) -> str:
    names = [
        der.text(value)
        for relative in der.children(subject, der.SEQUENCE)
        for attribute in der.children(relative, der.SET)
        for kind, value in (der.children(attribute, der.SEQUENCE),)
        if kind.content == _COMMON_NAME
    ]
    (name,) = names
    return name


def extensions(element: der.Element, understood: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """The extensions in a sequence of them, each at most once.

    DerError for a critical one that is not `understood` (RFC 5280, section 4.2).
    """
    found: dict[bytes, bytes] = {}
    for extension in der.children(element, der.SEQUENCE):
        identifier, *critical, value = der.children(extension, der.SEQUENCE)
        oid = der.expect(identifier, der.OBJECT_IDENTIFIER).content
        if oid in found:
            raise der.DerError("an extension occurs twice")
        # A second element can only be the flag, and DER leaves a flag out that has its default.
        if critical:
            (flag,) = critical
            if not der.boolean(flag):
                raise der.DerError("an extension says that it is not critical")
            if oid not in understood:
                raise der.DerError("a critical extension is not understood")
        found[oid] = der.expect(value, der.OCTET_STRING).content
    return found


def _extensions(element: der.Element) -> dict[bytes, bytes]:
    return extensions(
        der.only_child(element, _EXTENSIONS), understood=(_BASIC_CONSTRAINTS, _KEY_USAGE)
    )


def _is_ca(constraints: bytes | None) -> bool:
    if constraints is None:
        return False
    fields = der.children(der.whole(constraints, der.SEQUENCE), der.SEQUENCE)
    # The chain's length is fixed, so that a path length, if one follows, has nothing to add.
    return bool(fields) and der.boolean(fields[0])


def _usages(usage: bytes | None) -> int:
    if usage is None:
        return _ALL_USAGES
    content = der.whole(usage, der.BIT_STRING).content
    if len(content) < 2:
        raise der.DerError("a key usage without a bit")
    return content[1]
