"""AMD's hierarchy as AMD issues it: ARK and ASK with RSA-4096, a VCEK with serial number 0."""

from __future__ import annotations

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
from otr_protocol.attestation.amd.snp_chain import SALT_BYTES
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
) -> RsaIdentity:
    """An ARK (without issuer) or ASK. Making the key takes about a second."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
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
) -> bytes:
    """The DER of a chip's certificate.

    Put together from ASN.1, because certificate builders refuse the serial number 0 that AMD uses.
    """
    issuer = asn1_x509.Name.load(ask.certificate.subject.public_bytes())
    subject = asn1_x509.Name.load(name("SEV-VCEK (SIMULATED)").public_bytes())
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    values: dict[str, Any] = {
        "1": core.Integer(0),
        "2": core.IA5String("Milan-B0"),
        "3.1": core.Integer(tcb.boot_loader),
        "3.2": core.Integer(tcb.tee),
        **{f"3.{spare}": core.Integer(0) for spare in range(4, 8)},
        "3.3": core.Integer(tcb.snp),
        "3.8": core.Integer(tcb.microcode),
    }
    extensions = [
        {"extn_id": _AMD + suffix, "extn_value": core.ParsableOctetString(value.dump())}
        for suffix, value in values.items()
    ]
    # The chip id is the one value that AMD puts in without a DER type of its own.
    extensions.append({"extn_id": _AMD + "4", "extn_value": core.ParsableOctetString(chip_id)})
    tbs = asn1_x509.TbsCertificate(
        {
            "version": "v3",
            "serial_number": 0,
            "signature": _pss_algorithm(),
            "issuer": issuer,
            "validity": {
                "not_before": asn1_x509.Time({"utc_time": not_before}),
                "not_after": asn1_x509.Time({"utc_time": not_after}),
            },
            "subject": subject,
            "subject_public_key_info": keys.PublicKeyInfo.load(spki),
            "extensions": extensions,
        }
    )
    certificate = asn1_x509.Certificate(
        {
            "tbs_certificate": tbs,
            "signature_algorithm": _pss_algorithm(),
            "signature_value": ask.key.sign(tbs.dump(), _PSS, hashes.SHA384()),
        }
    )
    der: bytes = certificate.dump()
    return der


def revocation_list(ark: RsaIdentity, now_s: int, *, revoked: tuple[int, ...] = ()) -> bytes:
    """The DER of a list signed by the ARK, current for 24 hours; empty unless a test says so."""
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
