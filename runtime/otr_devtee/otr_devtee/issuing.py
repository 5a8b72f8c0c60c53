"""Issuing P-384 certificates of the shapes that NVIDIA's hierarchies have (RFC 5280)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANIZATION: Final = "OTR development TEE (SIMULATED)"
# The value that RFC 5280 reserves for "no well-defined expiration", as NVIDIA's devices carry.
NO_EXPIRY: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate's DER."""
        return self.certificate.public_bytes(Encoding.DER)


def name(common_name: str) -> x509.Name:
    """A subject that says in every place that it is simulated."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def issue(
    common_name: str,
    issuer: Identity | None,
    *,
    not_before: datetime,
    not_after: datetime,
    ca: bool,
    path_length: int | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
    serial: int | None = None,
) -> Identity:
    """A new certificate, with a random serial number unless told; self-signed without issuer."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    issuer_name = issuer.certificate.subject if issuer is not None else name(common_name)
    issuer_key = issuer.key if issuer is not None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if ca:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=path_length), critical=True
        )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Identity(builder.sign(issuer_key, hashes.SHA384()), key)


def issue_responder(issuer: Identity, *, not_before: datetime, not_after: datetime) -> Identity:
    """A delegated OCSP responder of `issuer`."""
    (attribute,) = issuer.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return issue(
        f"OCSP responder of {attribute.value!s}"[:64],
        issuer,
        not_before=not_before,
        not_after=not_after,
        ca=False,
        extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), x509.OCSPNoCheck()],
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
