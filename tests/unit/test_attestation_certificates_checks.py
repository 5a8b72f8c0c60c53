"""Every check on certificates and chains alone: wrong in one thing, and refused for that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from otr_devtee.issuing import Identity, issue, name
from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import (
    Certificate,
    CertificateMalformedError,
    ChainRejectedError,
)

START = datetime(2027, 1, 1, tzinfo=UTC)
END = START + timedelta(days=30)
SOME_OID = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
P384 = ec.generate_private_key(ec.SECP384R1())
NO_PURPOSE: dict[str, bool] = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@lru_cache(maxsize=1)
def root() -> Identity:
    return issue("root", None, not_before=START, not_after=END, ca=True)


def signed(
    issuer: Identity | None = None,
    *,
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey = P384,
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
    ca: bool | None = None,
    usage: str | None = None,
    extension: bytes | None = None,
    critical: bool = False,
) -> bytes:
    """A certificate by `issuer` (default: the root) with exactly these extensions.

    `ca` None leaves basic constraints out, `usage` None key usage; else it is the one purpose.
    """
    issuer = issuer or root()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("subject"))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if usage is not None:
        purposes = x509.KeyUsage(**(NO_PURPOSE | {usage: True}))
        builder = builder.add_extension(purposes, critical=True)
    if extension is not None:
        unknown = x509.UnrecognizedExtension(SOME_OID, extension)
        builder = builder.add_extension(unknown, critical=critical)
    return builder.sign(issuer.key, digest or hashes.SHA384()).public_bytes(Encoding.DER)


def refused_to_read(der: bytes, message: str) -> None:
    with pytest.raises(CertificateMalformedError, match=message) as refused:
        certificates.parse(der)
    assert refused.value.reason == "CERTIFICATE_MALFORMED"


def refused_as_a_chain(check: Callable[[], object], message: str) -> None:
    with pytest.raises(ChainRejectedError, match=message) as refused:
        check()
    assert refused.value.reason == "CERTIFICATE_CHAIN"


def test_a_certificate_of_this_shape_is_read() -> None:
    assert certificates.parse(signed(extension=b"\x05\0")).serial == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extension": bytes(certificates.MAX_CERTIFICATE_BYTES)}, "too large"),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "not P-384"),
        ({"key": ed25519.Ed25519PrivateKey.generate()}, "not P-384"),
        ({"digest": hashes.SHA256()}, "not signed with ECDSA and SHA-384"),
        ({"extension": b"\x05\0", "critical": True}, "is not understood"),
    ],
)
def test_a_certificate_of_another_shape_is_refused(
    changes: dict[str, object], message: str
) -> None:
    refused_to_read(signed(**changes), message)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda der: der + b"\0", "more than one encoding"),
        (lambda der: der[:-1], "that can be read"),
    ],
)
def test_a_lax_parser_does_not_give_a_certificate_two_encodings(
    monkeypatch: pytest.MonkeyPatch, changed: Callable[[bytes], bytes], message: str
) -> None:
    """Today's parser refuses both itself; the digest of a certificate must not depend on that."""
    genuine = signed()
    parsed = x509.load_der_x509_certificate(genuine)
    monkeypatch.setattr(x509, "load_der_x509_certificate", lambda data: parsed)
    refused_to_read(changed(genuine), message)


@pytest.mark.parametrize(
    ("ca", "usage"),
    [
        (None, "key_cert_sign"),
        (False, "key_cert_sign"),
        (True, None),
        (True, "crl_sign"),
    ],
)
def test_what_is_no_authority_issues_nothing(ca: bool | None, usage: str | None) -> None:
    issuer = certificates.parse(signed(ca=ca, usage=usage))
    child = certificates.parse(below(issuer))
    refused_as_a_chain(
        lambda: certificates.require_issued(child, issuer), "may not sign certificates"
    )


def test_an_authority_issues() -> None:
    issuer = certificates.parse(signed(ca=True, usage="key_cert_sign"))
    certificates.require_issued(certificates.parse(below(issuer)), issuer)


def below(issuer: Certificate) -> bytes:
    """What the holder of P384 signs under the name of `issuer`."""
    return signed(Identity(issuer.parsed, P384), usage="digital_signature")


@pytest.mark.parametrize(
    ("ca", "usage"),
    [(True, "digital_signature"), (None, None), (False, "key_agreement")],
)
def test_a_leaf_is_a_signing_certificate(ca: bool | None, usage: str | None) -> None:
    leaf = certificates.parse(signed(ca=ca, usage=usage))
    chain = [leaf, certificates.parse(root().der)]
    refused_as_a_chain(
        lambda: certificates.require_chain(chain, root().der), "not a signing certificate"
    )


@pytest.mark.parametrize("count", [0, 1])
def test_a_chain_has_a_leaf_and_a_root(count: int) -> None:
    alone = certificates.parse(signed(usage="digital_signature"))
    refused_as_a_chain(
        lambda: certificates.require_chain([alone][:count], alone.der), "a leaf and a root"
    )


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_root_limits_the_chain_below_it(allowed: int) -> None:
    top = issue("top", None, not_before=START, not_after=END, ca=True, path_length=allowed)
    middle = issue("middle", top, not_before=START, not_after=END, ca=True)
    leaf = issue("leaf", middle, not_before=START, not_after=END, ca=False)
    chain = [certificates.parse(one.der) for one in (leaf, middle, top)]
    if allowed:
        certificates.require_chain(chain, top.der)
    else:
        refused_as_a_chain(lambda: certificates.require_chain(chain, top.der), "is too long")
