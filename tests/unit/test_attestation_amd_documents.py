"""AMD's certificates have one encoding, one algorithm, and issuers that may issue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from otr_devtee.issuing import name
from otr_devtee.snp_issuing import revocation_list
from otr_protocol.attestation.amd import amd_certificate, der, snp_crl
from otr_protocol.attestation.amd.amd_certificate import AmdCertificate, require_issued
from otr_protocol.attestation.certificates import CertificateMalformedError, ChainRejectedError
from support import snp_world as world

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
CA = (x509.BasicConstraints(ca=True, path_length=0), True)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.3704.9"), b"\x05\x00")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One value with a minimal length."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 + size)) + length.to_bytes(size, "big") + content


def resized(document: bytes) -> bytes:
    """A signed document whose outer length fits again after something inside was replaced."""
    return tlv(der.SEQUENCE, document[4:])


def usage(**bits: bool) -> tuple[x509.KeyUsage, bool]:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**(dict.fromkeys(every, False) | bits)), True


def certificate(
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (CA,),
    *,
    key: Any = None,
    scheme: padding.PSS = PSS,
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A certificate of the name of Milan's authority, signed by a root of Milan."""
    ark = world.machine().ark
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("SEV-Milan"))
        .issuer_name(ark.certificate.subject)
        .public_key((key or world.machine().intermediate.key).public_key())
        .serial_number(65537)
        .not_valid_before(world.START)
        .not_valid_after(world.END)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signed = builder.sign(ark.key, digest or hashes.SHA384(), rsa_padding=scheme)
    return signed.public_bytes(Encoding.DER)


def child() -> AmdCertificate:
    return amd_certificate.parse(world.machine().certificate)


@pytest.mark.parametrize("extensions", [(CA,), (CA, usage(key_cert_sign=True))])
def test_an_authority_may_issue(extensions: Sequence[tuple[x509.ExtensionType, bool]]) -> None:
    authority = amd_certificate.parse(certificate(extensions))
    require_issued(child(), authority)
    require_issued(authority, amd_certificate.parse(world.machine().ark.der))


@pytest.mark.parametrize(
    "extensions",
    [
        ((UNKNOWN, False),),
        ((x509.BasicConstraints(ca=False, path_length=None), True),),
        (CA, usage(digital_signature=True, crl_sign=True)),
        (usage(key_cert_sign=True),),
    ],
    ids=["nothing", "not an authority", "may sign lists only", "a usage without being one"],
)
def test_who_may_not_issue_does_not(
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> None:
    with pytest.raises(ChainRejectedError):
        require_issued(child(), amd_certificate.parse(certificate(extensions)))


def test_the_name_of_the_issuer_counts_and_not_its_key_alone() -> None:
    """All lines share one key here, so that only the name tells their authorities apart."""
    for line in (world.GENOA, world.TURIN):
        with pytest.raises(ChainRejectedError):
            require_issued(child(), amd_certificate.parse(world.machine(line).intermediate.der))


def test_a_certificate_has_a_largest_size() -> None:
    def padded(size: int) -> bytes:
        filling = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(size))
        return certificate((CA, (filling, False)))

    assert amd_certificate.parse(padded(6000)).is_ca
    with pytest.raises(CertificateMalformedError):
        amd_certificate.parse(padded(8000))


def test_a_root_that_may_not_sign_lists_signs_none() -> None:
    of = world.machine()
    for extensions in ((CA, usage(key_cert_sign=True)), (usage(crl_sign=True),)):
        assert not amd_certificate.parse(certificate(extensions)).may_sign_lists
    assert amd_certificate.parse(certificate((CA, usage(crl_sign=True)))).may_sign_lists
    assert amd_certificate.parse(of.ark.der).may_sign_lists


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-256", "RSA-2048"],
)
def test_keys_of_another_size_are_not_read(key: Any) -> None:
    with pytest.raises(CertificateMalformedError):
        amd_certificate.parse(certificate(key=key))


def test_other_signature_algorithms_are_not_read() -> None:
    short = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=32)
    other = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=48)
    weak = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    for forged in (
        certificate(scheme=short),
        certificate(scheme=other),
        certificate(scheme=weak, digest=hashes.SHA256()),
        certificate(scheme=padding.PKCS1v15()),  # type: ignore[arg-type]
    ):
        with pytest.raises(CertificateMalformedError):
            amd_certificate.parse(forged)


def test_both_spellings_of_the_algorithm_are_read_but_not_mixed() -> None:
    """The signed part must name the spelling that stands at the signature."""
    plain, spelled = amd_certificate.PSS_ALGORITHMS
    data = certificate()
    assert data.count(plain) == 2
    at = data.rindex(plain)
    with pytest.raises(CertificateMalformedError):
        amd_certificate.parse(resized(data[:at] + spelled + data[at + len(plain) :]))
    crl = revocation_list(world.machine().ark, world.NOW)
    at = crl.rindex(plain)
    with pytest.raises(snp_crl.CrlMalformedError):
        snp_crl.parse(resized(crl[:at] + spelled + crl[at + len(plain) :]))


def test_a_critical_extension_that_is_not_understood_refuses_the_certificate() -> None:
    assert amd_certificate.parse(certificate((CA, (UNKNOWN, False)))).is_ca
    with pytest.raises(CertificateMalformedError):
        amd_certificate.parse(certificate((CA, (UNKNOWN, True))))


def test_an_extension_occurs_once_and_says_only_that_it_is_critical() -> None:
    oid, value = tlv(der.OBJECT_IDENTIFIER, b"\x2a\x03"), tlv(der.OCTET_STRING, b"x")
    one = tlv(der.SEQUENCE, oid, value)

    def flagged(said: bytes) -> bytes:
        return tlv(der.SEQUENCE, oid, tlv(der.BOOLEAN, said), value)

    def read(*items: bytes) -> dict[bytes, bytes]:
        element = der.whole(tlv(der.SEQUENCE, *items), der.SEQUENCE)
        return amd_certificate.extensions(element, understood=(b"\x2a\x03",))

    assert read(one) == read(flagged(b"\xff")) == {b"\x2a\x03": b"x"}
    for refused in ((one, one), (flagged(b"\x00"),), (flagged(b"\x01"),), (flagged(b""),)):
        with pytest.raises(der.DerError):
            read(*refused)


@pytest.mark.parametrize("other", ["a003020101", "a003020103"])
def test_a_certificate_of_another_version_is_not_read(other: str) -> None:
    data = certificate()
    version = bytes.fromhex("a003020102")
    assert data.count(version) == 1
    with pytest.raises(CertificateMalformedError):
        amd_certificate.parse(data.replace(version, bytes.fromhex(other)))


def test_a_signature_is_as_long_as_the_key() -> None:
    algorithm = amd_certificate.PSS_ALGORITHMS[0]
    data = certificate()
    signed = data[4 : data.rindex(algorithm) + len(algorithm)]

    def signed_with(bits: bytes) -> bytes:
        return tlv(der.SEQUENCE, signed, tlv(der.BIT_STRING, bits))

    amd_certificate.parse(signed_with(bytes(513)))
    for bits in (bytes(512), bytes(514), b"\x01" + bytes(512), b""):
        with pytest.raises(CertificateMalformedError):
            amd_certificate.parse(signed_with(bits))


def entry(serial: int, *reason: int) -> bytes:
    """One entry of a revocation list, with a reason where one is given."""
    number = tlv(der.INTEGER, serial.to_bytes(3, "big"))
    when = tlv(der.UTC_TIME, b"260101000000Z")
    if not reason:
        return tlv(der.SEQUENCE, number, when)
    value = tlv(der.OCTET_STRING, tlv(der.ENUMERATED, bytes(reason)))
    code = tlv(der.SEQUENCE, tlv(der.OBJECT_IDENTIFIER, bytes.fromhex("551d15")), value)
    return tlv(der.SEQUENCE, number, when, tlv(der.SEQUENCE, code))


def revoking(*entries: bytes, version: int = 1) -> bytes:
    """A list that nobody signed: reading comes before."""
    signed = tlv(
        der.SEQUENCE,
        tlv(der.INTEGER, bytes((version,))),
        amd_certificate.PSS_ALGORITHMS[0],
        tlv(der.SEQUENCE),
        tlv(der.UTC_TIME, b"260101000000Z"),
        tlv(der.GENERALIZED_TIME, b"20500101000000Z"),
        tlv(der.SEQUENCE, *entries),
    )
    signature = tlv(der.BIT_STRING, bytes(513))
    return tlv(der.SEQUENCE, signed, amd_certificate.PSS_ALGORITHMS[0], signature)


def test_a_list_tells_revoked_from_held() -> None:
    first = 0x010000
    reasons = (0, 1, 6, 9, 10)
    read = snp_crl.parse(
        revoking(entry(first), *(entry(first + 1 + r, r) for r in reasons))
    ).revoked
    assert read.pop(first + 7) is snp_crl.Revocation.HOLD
    assert set(read.values()) == {snp_crl.Revocation.REVOKED}
    assert len(read) == len(reasons)


@pytest.mark.parametrize(
    "document",
    [
        revoking(entry(0x010000, 8)),
        revoking(entry(0x010000, 11)),
        revoking(entry(0x010000), entry(0x010000)),
        revoking(version=0),
        revoking(tlv(der.SEQUENCE)),
        revoking(*(entry(0x010000 + n) for n in range(snp_crl.MAX_REVOKED + 1))),
    ],
    ids=["of a delta", "no such reason", "twice", "version", "an empty entry", "too long"],
)
def test_lists_of_another_form_are_not_read(document: bytes) -> None:
    with pytest.raises(snp_crl.CrlMalformedError):
        snp_crl.parse(document)


def test_a_list_may_be_long() -> None:
    document = revoking(*(entry(0x010000 + n) for n in range(snp_crl.MAX_REVOKED)))
    assert len(snp_crl.parse(document).revoked) == snp_crl.MAX_REVOKED


@pytest.mark.parametrize(
    "data",
    [
        "3000" + "00",
        "30",
        "3001",
        "308000" + "00",
        "3081" + "01" + "00",
        "308200" + "01" + "00",
        "30820000",
        "30840000000100",
        "3f0100",
        "0200",
    ],
    ids=[
        "something follows",
        "no length",
        "cut short",
        "indefinite",
        "long form of a short length",
        "leading zero",
        "long form of nothing",
        "four bytes of length",
        "a tag of several bytes",
        "another tag",
    ],
)
def test_a_value_has_one_encoding(data: str) -> None:
    with pytest.raises(der.DerError):
        der.whole(bytes.fromhex(data), der.SEQUENCE)


def test_truth_has_one_spelling_and_tags_have_one_byte() -> None:
    assert der.boolean(der.whole(bytes.fromhex("0101ff"), der.BOOLEAN))
    assert not der.boolean(der.whole(bytes.fromhex("010100"), der.BOOLEAN))
    for other in ("010101", "0100", "0102ffff"):
        with pytest.raises(der.DerError):
            der.boolean(der.whole(bytes.fromhex(other), der.BOOLEAN))
    with pytest.raises(der.DerError):
        der.children(der.whole(bytes.fromhex("30031f0100"), der.SEQUENCE), der.SEQUENCE)


@pytest.mark.parametrize(
    ("content", "number"), [("00", 0), ("7f", 127), ("0080", 128), ("80", -128), ("ff7f", -129)]
)
def test_numbers_are_signed_and_minimal(content: str, number: int) -> None:
    assert der.integer(der.whole(tlv(der.INTEGER, bytes.fromhex(content)), der.INTEGER)) == number


@pytest.mark.parametrize("content", ["", "0001", "007f", "ff80", "ffff", "01" * 33])
def test_other_spellings_of_a_number_are_not_read(content: str) -> None:
    with pytest.raises(der.DerError):
        der.integer(der.whole(tlv(der.INTEGER, bytes.fromhex(content)), der.INTEGER))


@pytest.mark.parametrize(
    ("tag", "content", "moment"),
    [
        (der.UTC_TIME, b"700101000000Z", 0),
        (der.UTC_TIME, b"491231235959Z", 2_524_607_999),
        (der.UTC_TIME, b"500101000000Z", -631_152_000),
        (der.GENERALIZED_TIME, b"20500101000000Z", 2_524_608_000),
    ],
)
def test_two_digits_of_a_year_reach_to_2049(tag: int, content: bytes, moment: int) -> None:
    assert der.seconds(der.whole(tlv(tag, content), tag)) == moment


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (der.UTC_TIME, b"7001010000Z"),
        (der.UTC_TIME, b"700101000000+0000"),
        (der.UTC_TIME, b"701301000000Z"),
        (der.UTC_TIME, b"700230000000Z"),
        (der.UTC_TIME, "70010100000\u0660Z".encode()),
        (der.GENERALIZED_TIME, b"20500101000000.5Z"),
        (der.INTEGER, b"700101000000Z"),
    ],
)
def test_other_spellings_of_a_time_are_not_read(tag: int, content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        der.seconds(der.whole(tlv(tag, content), tag))


def test_identifiers_are_encoded_as_they_stand_in_certificates() -> None:
    assert der.object_identifier("1.3.6.1.4.1.3704.1.3.8").hex() == "2b060104019c78010308"
    assert der.object_identifier("2.5.29.19").hex() == "551d13"
