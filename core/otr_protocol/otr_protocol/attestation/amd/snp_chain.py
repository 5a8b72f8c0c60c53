"""AMD's key hierarchy: VCEK <- ASK <- ARK (AMD 57230, VCEK certificate and KDS interface).

ARK and ASK are RSA-4096 with PSS and SHA-384, the chip's VCEK is P-384. The VCEK certificate
states, in extensions under 1.3.6.1.4.1.3704.1, which product and chip it belongs to and for which
firmware versions (TCB) the key was derived; a report's chip id and reported TCB must be those.

AMD gives every VCEK the serial number 0, which RFC 5280 forbids and X.509 libraries have begun to
refuse. So these certificates are taken apart with an ASN.1 reader that has no opinion on serials;
signatures are verified as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from otr_protocol.attestation.amd.snp_report import SnpReport, TcbVersion
from otr_protocol.attestation.certificates import (
    MAX_CERTIFICATE_BYTES,
    CertificateMalformedError,
    ChainRejectedError,
    RootUntrustedError,
    Validity,
)
from otr_protocol.digest import H
from otr_protocol.errors import RejectedError, UnknownError

RSA_BITS: Final = 4096
SALT_BYTES: Final = 48
CHIP_ID_BYTES: Final = 64

_AMD: Final = "1.3.6.1.4.1.3704.1."
_PRODUCT_NAME: Final = _AMD + "2"
_BOOT_LOADER: Final = _AMD + "3.1"
_TEE: Final = _AMD + "3.2"
_SNP: Final = _AMD + "3.3"
_MICROCODE: Final = _AMD + "3.8"
_CHIP_ID: Final = _AMD + "4"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_KEY_USAGE: Final = "2.5.29.15"

# Products whose TCB layout `TcbVersion` describes. Turin orders its bytes differently.
PRODUCTS: Final = ("Milan", "Genoa")


class SnpProductUnsupportedError(UnknownError):
    """The chip belongs to a product line that this version cannot appraise."""

    reason = "SNP_PRODUCT_UNSUPPORTED"


class SnpKeyMissingError(UnknownError):
    """The collateral lacks the vendor certificates of the chip's product line."""

    reason = "SNP_VENDOR_KEYS_MISSING"


class SnpChipMismatchError(RejectedError):
    """The report names another chip than the certificate of the key that signed it."""

    reason = "SNP_CHIP_MISMATCH"


class SnpTcbMismatchError(RejectedError):
    """The report claims other firmware versions than its key was derived for."""

    reason = "SNP_TCB_MISMATCH"


@dataclass(frozen=True, slots=True)
class AmdCertificate:
    """A parsed certificate; `extensions` maps dotted object identifiers to their value bytes."""

    der: bytes
    serial: int
    subject: bytes
    issuer: bytes
    common_name: str
    tbs: bytes
    signature: bytes
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    extensions: Mapping[str, bytes]
    validity: Validity


@dataclass(frozen=True, slots=True)
class SnpChain:
    """A verified VCEK with its vendor certificates."""

    vcek: AmdCertificate
    ask: AmdCertificate
    ark: AmdCertificate
    product: str
    tcb: TcbVersion
    chip_id: bytes
    validity: Validity

    def require_report(self, report: SnpReport) -> None:
        """Refuse a report that this chip's key did not sign for this chip and firmware.

        Raises SnpReportSignatureError, SnpChipMismatchError or SnpTcbMismatchError.
        """
        key = self.vcek.key
        assert isinstance(key, ec.EllipticCurvePublicKey)
        report.require_signature(key)
        if report.chip_id != self.chip_id:
            raise SnpChipMismatchError("the report is from another chip than its certificate")
        if report.reported_tcb != self.tcb:
            raise SnpTcbMismatchError("the report claims another TCB than its key is for")


@lru_cache(maxsize=256)
def parse(der: bytes) -> AmdCertificate:
    """Read one DER certificate of at most 8 KiB; CertificateMalformedError otherwise."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateMalformedError(f"a certificate of {len(der)} bytes is too large")
    try:
        return _parse(der)
    except (ValueError, TypeError, KeyError, OverflowError, UnsupportedAlgorithm) as error:
        raise CertificateMalformedError("not a certificate that can be read") from error


def _parse(der: bytes) -> AmdCertificate:
    certificate: Any = asn1_x509.Certificate.load(der, strict=True)
    tbs = certificate["tbs_certificate"]
    algorithm = certificate["signature_algorithm"]
    if tbs["signature"].dump() != algorithm.dump():
        raise CertificateMalformedError("a certificate names two signature algorithms")
    require_pss(algorithm)
    key = serialization.load_der_public_key(tbs["subject_public_key_info"].dump())
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size != RSA_BITS:
            raise CertificateMalformedError(f"an RSA key does not have {RSA_BITS} bits")
    elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise CertificateMalformedError("a certificate's key is neither RSA nor P-384")
    extensions: dict[str, bytes] = {}
    for extension in tbs["extensions"]:
        oid = extension["extn_id"].dotted
        if oid in extensions:
            raise CertificateMalformedError(f"extension {oid} occurs twice")
        if extension["critical"].native and oid not in (_BASIC_CONSTRAINTS, _KEY_USAGE):
            raise CertificateMalformedError(f"critical extension {oid} is not understood")
        extensions[oid] = extension["extn_value"].contents
    name = tbs["subject"].native.get("common_name")
    return AmdCertificate(
        der=der,
        serial=tbs["serial_number"].native,
        subject=tbs["subject"].dump(),
        issuer=tbs["issuer"].dump(),
        common_name=name if isinstance(name, str) else "",
        tbs=tbs.dump(),
        signature=certificate["signature_value"].native,
        key=key,
        extensions=extensions,
        validity=Validity(
            int(certificate.not_valid_before.timestamp()),
            int(certificate.not_valid_after.timestamp()),
        ),
    )


def require_pss(algorithm: Any) -> None:
    """Refuse an asn1crypto algorithm identifier that is not RSA-PSS with SHA-384 throughout."""
    if algorithm.signature_algo == "rsassa_pss":
        parameters = algorithm["parameters"].native
        if (
            parameters["hash_algorithm"]["algorithm"] == "sha384"
            and parameters["mask_gen_algorithm"]["algorithm"] == "mgf1"
            and parameters["mask_gen_algorithm"]["parameters"]["algorithm"] == "sha384"
            and parameters["salt_length"] == SALT_BYTES
        ):
            return
    raise CertificateMalformedError("the signature is not RSA-PSS with SHA-384")


def verify(
    vcek_der: bytes, ask_der: bytes, ark_der: bytes, pinned_arks: frozenset[bytes]
) -> SnpChain:
    """Verify VCEK <- ASK <- ARK, where the ARK's SHA-256 must be among `pinned_arks`.

    Validity periods are returned, not judged. Raises CertificateMalformedError,
    ChainRejectedError, RootUntrustedError or SnpProductUnsupportedError.
    """
    if H(ark_der) not in pinned_arks:
        raise RootUntrustedError("the root of the chip's chain is not pinned")
    vcek, ask, ark = parse(vcek_der), parse(ask_der), parse(ark_der)
    require_issued(ark, ark)
    require_issued(ask, ark)
    require_issued(vcek, ask)
    product = _text(vcek, _PRODUCT_NAME).split("-", 1)[0]
    if product not in PRODUCTS:
        raise SnpProductUnsupportedError(f"{product!r} is not a product appraised here")
    # One root per product line, told apart by name only: a Genoa chip must not pass as Milan.
    if ark.common_name != f"ARK-{product}" or ask.common_name != f"SEV-{product}":
        raise ChainRejectedError(f"the chain of {product!r} ends at {ark.common_name!r}")
    if not isinstance(vcek.key, ec.EllipticCurvePublicKey):
        raise ChainRejectedError("a chip's key is a P-384 key")
    chip_id = vcek.extensions.get(_CHIP_ID, b"")
    if len(chip_id) != CHIP_ID_BYTES:
        raise ChainRejectedError("the certificate names no chip")
    return SnpChain(
        vcek=vcek,
        ask=ask,
        ark=ark,
        product=product,
        tcb=TcbVersion(
            boot_loader=_integer(vcek, _BOOT_LOADER),
            tee=_integer(vcek, _TEE),
            snp=_integer(vcek, _SNP),
            microcode=_integer(vcek, _MICROCODE),
        ),
        chip_id=chip_id,
        validity=vcek.validity.intersect(ask.validity).intersect(ark.validity),
    )


def require_issued(child: AmdCertificate, issuer: AmdCertificate) -> None:
    """Refuse with ChainRejectedError unless `issuer` is a CA that signed `child`."""
    if child.issuer != issuer.subject:
        raise ChainRejectedError(f"{child.common_name!r} names another issuer")
    if not _is_ca(issuer):
        raise ChainRejectedError(f"{issuer.common_name!r} may not sign certificates")
    _check_signature(child.der, issuer.der)


@lru_cache(maxsize=256)
def _check_signature(child_der: bytes, issuer_der: bytes) -> None:
    child, issuer = parse(child_der), parse(issuer_der)
    if not isinstance(issuer.key, rsa.RSAPublicKey):
        raise ChainRejectedError(f"{issuer.common_name!r} has no RSA key")
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=SALT_BYTES)
    try:
        issuer.key.verify(child.signature, child.tbs, scheme, hashes.SHA384())
    except InvalidSignature as error:
        raise ChainRejectedError(
            f"the signature of {child.common_name!r} does not verify"
        ) from error


def _is_ca(certificate: AmdCertificate) -> bool:
    value = certificate.extensions.get(_BASIC_CONSTRAINTS)
    if value is None:
        return False
    try:
        constraints: Any = asn1_x509.BasicConstraints.load(value, strict=True)
        return bool(constraints["ca"].native)
    except (ValueError, TypeError) as error:
        raise CertificateMalformedError("basic constraints cannot be read") from error


def _text(certificate: AmdCertificate, oid: str) -> str:
    try:
        text: Any = core.IA5String.load(certificate.extensions.get(oid, b""), strict=True).native
    except (ValueError, TypeError) as error:
        raise CertificateMalformedError(f"extension {oid} is not text") from error
    if not isinstance(text, str):
        raise CertificateMalformedError(f"extension {oid} is not text")
    return text


def _integer(certificate: AmdCertificate, oid: str) -> int:
    try:
        value: Any = core.Integer.load(certificate.extensions.get(oid, b""), strict=True).native
    except (ValueError, TypeError) as error:
        raise CertificateMalformedError(f"extension {oid} is not a number") from error
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise CertificateMalformedError(f"extension {oid} is not a byte")
    return value
