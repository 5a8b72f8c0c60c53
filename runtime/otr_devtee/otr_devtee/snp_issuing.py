"""AMD's hierarchies as AMD issues them: ARK, ASK and ASVK with RSA-4096, keys with serial 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from asn1crypto import algos, core, keys
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr_devtee.issuing import name
from otr_protocol.attestation.amd.amd_certificate import SALT_BYTES
from otr_protocol.attestation.amd.snp_product import MILAN, ProductLine
from otr_protocol.attestation.amd.snp_report import TcbVersion

RSA_BITS: Final = 4096
CRL_WINDOW: Final = timedelta(hours=24)
_AMD: Final = "1.3.6.1.4.1.3704.1."
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=SALT_BYTES)


@dataclass(frozen=True, slots=True)
class RsaIdentity:
    """An RSA certificate authority."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        """The certificate's DER."""
        return self.certificate.public_bytes(Encoding.DER)


def issue_authority(
    common_name: str,
    issuer: RsaIdentity | None,
    *,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    key: rsa.RSAPrivateKey | None = None,
) -> RsaIdentity:
    """An ARK (without issuer), ASK or ASVK. Making a key takes about a second."""
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    subject = name(common_name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.BasicConstraints(ca=True, path_length=0 if issuer is not None else None),
            critical=True,
        )
    )
    signing_key = issuer.key if issuer is not None else key
    return RsaIdentity(builder.sign(signing_key, hashes.SHA384(), rsa_padding=_PSS), key)


def issue_vcek(
    ask: RsaIdentity,
    key: ec.EllipticCurvePublicKey,
    *,
    tcb: TcbVersion,
    chip_id: bytes,
    not_before: datetime,
    not_after: datetime,
    line: ProductLine = MILAN,
    product: str = "",
    extensions: Mapping[str, bytes] | None = None,
) -> bytes:
    """The DER of a chip's certificate; `chip_id` has 64 bytes, of which Turin uses 8.

    `product` is the name it is certified under, by default that of the line with a stepping.
    `extensions` are values by the last part of AMD's identifier, beside or instead of the usual.
    """
    return _issue(
        ask,
        key,
        "SEV-VCEK (SIMULATED)",
        {
            **_endorsed(product or f"{line.name}-B0", line, tcb),
            # The chip id is the one value that AMD puts in without a DER type of its own.
            "4": chip_id[: line.chip_id_bytes],
            **(extensions or {}),
        },
        not_before=not_before,
        not_after=not_after,
    )


def issue_vlek(
    asvk: RsaIdentity,
    key: ec.EllipticCurvePublicKey,
    *,
    tcb: TcbVersion,
    provider: str,
    not_before: datetime,
    not_after: datetime,
    line: ProductLine = MILAN,
    product: str = "",
    extensions: Mapping[str, bytes] | None = None,
) -> bytes:
    """The DER of the certificate of a cloud provider's key; the rest as in `issue_vcek`."""
    return _issue(
        asvk,
        key,
        "SEV-VLEK (SIMULATED)",
        {
            **_endorsed(product or line.name, line, tcb),
            "5": core.IA5String(provider).dump(),
            **(extensions or {}),
        },
        not_before=not_before,
        not_after=not_after,
    )


def _endorsed(product: str, line: ProductLine, tcb: TcbVersion) -> dict[str, bytes]:
    """What the certificates of both kinds of key say, by the last part of the identifier."""
    numbers = {
        "1": 0,
        "3.1": tcb.boot_loader,
        "3.2": tcb.tee,
        **{f"3.{spare}": 0 for spare in range(4, 8)},
        "3.3": tcb.snp,
        "3.8": tcb.microcode,
    }
    if line.has_fmc:
        numbers["3.9"] = tcb.fmc
    values = {suffix: core.Integer(number).dump() for suffix, number in numbers.items()}
    return {**values, "2": core.IA5String(product).dump()}


def _issue(
    issuer: RsaIdentity,
    key: ec.EllipticCurvePublicKey,
    common_name: str,
    values: dict[str, bytes],
    *,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """A certificate with AMD's extensions, in the order of their identifiers.

    Put together from ASN.1, because certificate builders refuse the serial number 0 that AMD uses.
    """
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tbs = asn1_x509.TbsCertificate(
        {
            "version": "v3",
            "serial_number": 0,
            "signature": _pss_algorithm(),
            "issuer": asn1_x509.Name.load(issuer.certificate.subject.public_bytes()),
            "validity": {
                "not_before": asn1_x509.Time({"utc_time": not_before}),
                "not_after": asn1_x509.Time({"utc_time": not_after}),
            },
            "subject": asn1_x509.Name.load(name(common_name).public_bytes()),
            "subject_public_key_info": keys.PublicKeyInfo.load(spki),
            "extensions": [
                {"extn_id": _AMD + suffix, "extn_value": core.ParsableOctetString(value)}
                for suffix, value in sorted(values.items())
            ],
        }
    )
    certificate = asn1_x509.Certificate(
        {
            "tbs_certificate": tbs,
            "signature_algorithm": _pss_algorithm(),
            "signature_value": issuer.key.sign(tbs.dump(), _PSS, hashes.SHA384()),
        }
    )
    der: bytes = certificate.dump()
    return der


def revocation_list(
    ark: RsaIdentity,
    now_s: int,
    *,
    revoked: tuple[int, ...] = (),
    on_hold: tuple[int, ...] = (),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """The DER of a list signed by the ARK, current for 24 hours; empty unless a test says so.

    `extensions` are the list's own, each with whether it is critical.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ark.certificate.subject)
        .last_update(now)
        .next_update(now + CRL_WINDOW)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    for serial in on_hold:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        reason = x509.CRLReason(x509.ReasonFlags.certificate_hold)
        builder = builder.add_revoked_certificate(entry.add_extension(reason, False).build())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    crl = builder.sign(ark.key, hashes.SHA384(), rsa_padding=_PSS)
    return crl.public_bytes(Encoding.DER)


def _pss_algorithm() -> Any:
    sha384 = algos.DigestAlgorithm({"algorithm": "sha384"})
    return algos.SignedDigestAlgorithm(
        {
            "algorithm": "rsassa_pss",
            "parameters": algos.RSASSAPSSParams(
                {
                    "hash_algorithm": sha384,
                    "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": sha384},
                    "salt_length": SALT_BYTES,
                }
            ),
        }
    )
