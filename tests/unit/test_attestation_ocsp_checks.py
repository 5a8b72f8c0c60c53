"""Every check on OCSP responses alone: wrong in one thing, and refused for that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builder
from cryptography.x509.oid import ExtendedKeyUsageOID

from otr_devtee.issuing import Identity, issue, issue_responder, name
from otr_protocol.attestation import certificates, ocsp
from otr_protocol.attestation.ocsp import (
    CertificateStatus,
    OcspMalformedError,
    OcspRejectedError,
)

START = datetime(2027, 1, 1, tzinfo=UTC)
END = START + timedelta(days=30)


@lru_cache(maxsize=1)
def authority() -> Identity:
    return issue("authority", None, not_before=START, not_after=END, ca=True)


@lru_cache(maxsize=1)
def delegate() -> Identity:
    return issue_responder(authority(), not_before=START, not_after=END)


@lru_cache(maxsize=2)
def subject(common_name: str = "subject") -> Identity:
    return issue(common_name, authority(), not_before=START, not_after=END, ca=False)


def response(
    *,
    responder: Identity | None = None,
    named_with: hashes.HashAlgorithm | None = None,
    digest: hashes.HashAlgorithm | None = None,
    window: timedelta | None = timedelta(hours=24),
    embedded: int = 1,
    nonce: bytes | None = None,
    critical: bool = False,
) -> bytes:
    """The subject is GOOD, by the delegate, of the vendor's shape unless told otherwise."""
    responder = responder or delegate()
    made = (
        builder.OCSPResponseBuilder()
        .add_response(
            cert=subject().certificate,
            issuer=authority().certificate,
            algorithm=named_with or hashes.SHA384(),
            cert_status=builder.OCSPCertStatus.GOOD,
            this_update=START,
            next_update=START + window if window is not None else None,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(builder.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate] * embedded)
    )
    if nonce is not None:
        made = made.add_extension(x509.OCSPNonce(nonce), critical=critical)
    signed = made.sign(responder.key, digest or hashes.SHA384())
    return signed.public_bytes(Encoding.DER)


def judged(der: bytes, about: Identity | None = None) -> ocsp.Standing:
    certificate = certificates.parse((about or subject()).der)
    return ocsp.verify(ocsp.parse(der), certificate, certificates.parse(authority().der))


def refused(der: bytes, message: str, about: Identity | None = None) -> None:
    with pytest.raises(OcspRejectedError, match=message) as refusal:
        judged(der, about)
    assert refusal.value.reason == "OCSP_REJECTED"


def test_a_response_of_this_shape_is_believed() -> None:
    assert judged(response(nonce=bytes(16))).status is CertificateStatus.GOOD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nonce": bytes(ocsp.MAX_RESPONSE_BYTES)}, "too large"),
        ({"digest": hashes.SHA256()}, "not signed with ECDSA and SHA-384"),
        ({"embedded": 2}, "of the shape"),
        ({"nonce": bytes(16), "critical": True}, "of the shape"),
        ({"window": None}, "of the shape"),
        ({"window": timedelta(seconds=ocsp.MAX_WINDOW_SECONDS + 1)}, "empty or too long"),
        ({"named_with": hashes.SHA512()}, "named with sha512"),
        ({"named_with": hashes.SHA224()}, "named with sha224"),
    ],
)
def test_a_response_of_another_shape_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OcspMalformedError, match=message) as refusal:
        ocsp.parse(response(**changes))  # type: ignore[arg-type]
    assert refusal.value.reason == "OCSP_MALFORMED"


def test_a_lax_parser_does_not_give_a_response_two_encodings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Today's parser refuses a trailing byte itself; a digest must not depend on that."""
    parsed = builder.load_der_ocsp_response(response())
    monkeypatch.setattr(builder, "load_der_ocsp_response", lambda data: parsed)
    with pytest.raises(OcspMalformedError, match="more than one encoding"):
        ocsp.parse(response() + b"\0")


def test_a_genuine_response_about_another_certificate_says_nothing() -> None:
    refused(response(), "about another certificate", subject("somebody else"))


def test_a_response_is_signed_by_the_responder_that_it_holds() -> None:
    genuine = response()
    signature = ocsp.parse(genuine).signature
    other = signature[:-1] + bytes((signature[-1] ^ 1,))
    refused(genuine.replace(signature, other), "does not verify")


@pytest.mark.parametrize("may_sign", [True, False])
def test_a_responders_key_is_for_signatures(may_sign: bool) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    usage = x509.KeyUsage(
        digital_signature=may_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=True,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("responder"))
        .issuer_name(authority().certificate.subject)
        .public_key(key.public_key())
        .serial_number(9)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
        .sign(authority().key, hashes.SHA384())
    )
    der = response(responder=Identity(certificate, key))
    if may_sign:
        assert judged(der).status is CertificateStatus.GOOD
    else:
        refused(der, "not for signatures")
