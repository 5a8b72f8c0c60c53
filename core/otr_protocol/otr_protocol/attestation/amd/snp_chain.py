"""AMD's key hierarchies: VCEK <- ASK <- ARK, and VLEK <- ASVK <- ARK (AMD 57230).

ARK, ASK and ASVK are RSA-4096, the key that signs reports is P-384. Its certificate states, in
extensions under 1.3.6.1.4.1.3704.1, for which product and firmware versions (TCB) the key was
derived. A VCEK's also names the chip; a VLEK's names the cloud provider to whom AMD gave the key,
and says nothing about the chip. A report must agree with all of it.

    SEV-VCEK <- SEV-Milan       <- ARK-Milan       key flags of the report: 0
    SEV-VLEK <- SEV-VLEK-Milan  <- ARK-Milan       key flags of the report: 1
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation.amd import der
from otr_protocol.attestation.amd.amd_certificate import AmdCertificate, parse, require_issued
from otr_protocol.attestation.amd.snp_product import (
    CHIP_ID_BYTES,
    ProductLine,
    product_line,
)
from otr_protocol.attestation.amd.snp_report import SigningKey, SnpReport, TcbVersion
from otr_protocol.attestation.certificates import (
    CertificateExpiredError,
    CertificateMalformedError,
    ChainRejectedError,
    RootUntrustedError,
    Validity,
)
from otr_protocol.digest import H
from otr_protocol.errors import RejectedError, UnknownError

_AMD: Final = "1.3.6.1.4.1.3704.1."
_PRODUCT_NAME: Final = der.object_identifier(_AMD + "2")
_BOOT_LOADER: Final = der.object_identifier(_AMD + "3.1")
_TEE: Final = der.object_identifier(_AMD + "3.2")
_SNP: Final = der.object_identifier(_AMD + "3.3")
_MICROCODE: Final = der.object_identifier(_AMD + "3.8")
_FMC: Final = der.object_identifier(_AMD + "3.9")
_CHIP_ID: Final = der.object_identifier(_AMD + "4")
_PROVIDER: Final = der.object_identifier(_AMD + "5")


class SnpKeyMissingError(UnknownError):
    """The collateral lacks the vendor certificates of the chip's product line."""

    reason = "SNP_VENDOR_KEYS_MISSING"


class SnpKeyKindError(RejectedError):
    """The report says that another kind of key signed it than its certificate is for."""

    reason = "SNP_SIGNING_KEY_MISMATCH"


class SnpProductMismatchError(RejectedError):
    """The report is from another processor than its key's certificate is for."""

    reason = "SNP_PRODUCT_MISMATCH"


class SnpChipMismatchError(RejectedError):
    """The report names another chip than the certificate of its key, or hides which one it is."""

    reason = "SNP_CHIP_MISMATCH"


class SnpTcbMismatchError(RejectedError):
    """The report claims other firmware versions than its key was derived for."""

    reason = "SNP_TCB_MISMATCH"


class VlekExpiredError(RejectedError):
    """Outside the validity period of the provider's key, which AMD renews every year."""

    reason = "SNP_VLEK_EXPIRED"


@dataclass(frozen=True, slots=True)
class SnpChain:
    """A verified VCEK or VLEK with its vendor certificates.

    `chip_id` is as a report spells it (64 bytes), empty for a VLEK; `provider` is the name of the
    cloud provider, empty for a VCEK.
    """

    kind: SigningKey
    key: AmdCertificate
    intermediate: AmdCertificate
    ark: AmdCertificate
    product: ProductLine
    tcb: TcbVersion
    chip_id: bytes
    provider: str
    validity: Validity

    def require_report(self, report: SnpReport) -> None:
        """Refuse a report that this key did not sign for this product, chip and firmware.

        What the report says is compared before the signature is verified: a report beside another
        chip's certificate is then refused for what is wrong with it. Raises SnpKeyKindError,
        SnpProductMismatchError, SnpChipMismatchError, SnpTcbMismatchError, SnpReportMalformedError
        or SnpReportSignatureError.
        """
        if report.signing_key is not self.kind:
            raise SnpKeyKindError(
                f"the report is signed by a {report.signing_key.name}, the certificate is that of "
                f"a {self.kind.name}"
            )
        if report.cpuid is not None and not self.product.includes(*report.cpuid[:2]):
            raise SnpProductMismatchError(f"the report is not from a {self.product.name}")
        if self.kind is SigningKey.VCEK and report.chip_id != self.chip_id:
            # Only a VLEK's report may leave the chip's id out: there it means nothing.
            what = "names another chip" if any(report.chip_id) else "does not name the chip"
            raise SnpChipMismatchError(f"the report {what} than its certificate")
        reported, *_ = (
            self.product.tcb(data)
            for data in (
                report.reported_tcb,
                report.current_tcb,
                report.committed_tcb,
                report.launch_tcb,
            )
        )
        if reported != self.tcb:
            raise SnpTcbMismatchError("the report claims another TCB than its key is for")
        assert isinstance(self.key.key, ec.EllipticCurvePublicKey)
        report.require_signature(self.key.key)

    def require_period(self, now_s: int) -> None:
        """Refuse with VlekExpiredError or CertificateExpiredError outside the chain's validity."""
        if self.kind is SigningKey.VLEK:
            try:
                self.key.validity.require(now_s, "the provider's key")
            except CertificateExpiredError as error:
                raise VlekExpiredError(error.message) from error
        self.validity.require(now_s, "the chip's chain")


def verify(
    key_der: bytes, intermediate_der: bytes, ark_der: bytes, pinned_arks: frozenset[bytes]
) -> SnpChain:
    """Verify VCEK <- ASK <- ARK or VLEK <- ASVK <- ARK, the ARK's SHA-256 among `pinned_arks`.

    Validity periods are returned, not judged. Raises CertificateMalformedError,
    ChainRejectedError, RootUntrustedError or SnpProductUnsupportedError.
    """
    if H(ark_der) not in pinned_arks:
        raise RootUntrustedError("the root of the chip's chain is not pinned")
    return _verify(key_der, intermediate_der, ark_der)


@lru_cache(maxsize=512)
def _verify(key_der: bytes, intermediate_der: bytes, ark_der: bytes) -> SnpChain:
    # Cached by bytes, for a chip attests many times under one certificate; refusals are not cached.
    key, intermediate, ark = parse(key_der), parse(intermediate_der), parse(ark_der)
    # The root is trusted for being pinned; what it signs about itself proves nothing.
    require_issued(intermediate, ark)
    require_issued(key, intermediate)
    product = product_line(_text(key, _PRODUCT_NAME))
    # One root per product line, told apart by name only: a Genoa chip must not pass as Milan.
    if ark.common_name != f"ARK-{product.name}":
        raise ChainRejectedError(f"the chain of {product.name!r} ends at {ark.common_name!r}")
    kind = _KINDS.get(intermediate.common_name.removesuffix(product.name))
    if kind is None:
        raise ChainRejectedError(f"{intermediate.common_name!r} certifies no {product.name!r}")
    if not isinstance(key.key, ec.EllipticCurvePublicKey):
        raise ChainRejectedError("the key that signs reports is a P-384 key")
    return SnpChain(
        kind=kind,
        key=key,
        intermediate=intermediate,
        ark=ark,
        product=product,
        tcb=TcbVersion(
            boot_loader=_integer(key, _BOOT_LOADER),
            tee=_integer(key, _TEE),
            snp=_integer(key, _SNP),
            microcode=_integer(key, _MICROCODE),
            fmc=_integer(key, _FMC) if product.has_fmc else 0,
        ),
        chip_id=_chip_id(key, kind, product),
        provider=_provider(key, kind),
        validity=key.validity.intersect(intermediate.validity).intersect(ark.validity),
    )


_KINDS: Final = {"SEV-": SigningKey.VCEK, "SEV-VLEK-": SigningKey.VLEK}


def _chip_id(certificate: AmdCertificate, kind: SigningKey, product: ProductLine) -> bytes:
    chip_id = certificate.extensions.get(_CHIP_ID, b"")
    if len(chip_id) != (product.chip_id_bytes if kind is SigningKey.VCEK else 0):
        raise ChainRejectedError("a VCEK's certificate names one chip, a VLEK's names none")
    # A report has room for 64 bytes; what a product does not need of them is zero.
    return chip_id.ljust(CHIP_ID_BYTES, b"\0") if chip_id else b""


def _provider(certificate: AmdCertificate, kind: SigningKey) -> str:
    if (_PROVIDER in certificate.extensions) != (kind is SigningKey.VLEK):
        raise ChainRejectedError("a VLEK's certificate, and no other, names a cloud provider")
    return _text(certificate, _PROVIDER) if kind is SigningKey.VLEK else ""


def _text(certificate: AmdCertificate, oid: bytes) -> str:
    try:
        value = der.whole(certificate.extensions.get(oid, b""), der.IA5_STRING)
        return der.text(value)
    except ValueError as error:
        raise CertificateMalformedError("an extension of AMD's is not text") from error


def _integer(certificate: AmdCertificate, oid: bytes) -> int:
    try:
        value = der.integer(der.whole(certificate.extensions.get(oid, b""), der.INTEGER))
    except ValueError as error:
        raise CertificateMalformedError("an extension of AMD's is not a number") from error
    if not 0 <= value <= 255:
        raise CertificateMalformedError("an extension of AMD's is not a byte")
    return value
