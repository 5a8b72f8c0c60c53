"""AMD's documents and CPU evidence wrong in one thing each: what every check of them is for."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from otr_devtee.issuing import name
from otr_protocol.attestation.amd import amd_certificate, der, snp_chain
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.appraise import Verdict, appraise_parts
from otr_protocol.attestation.certificates import CertificateMalformedError, ChainRejectedError
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.cpu_appraisal import check_report_data
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.verdict import Status
from support import snp_world as world

KEY_USAGE = x509.ObjectIdentifier("2.5.29.15")
UNNAMED_FACT = {0x040: (1 << 63).to_bytes(8, "little")}


@lru_cache(maxsize=2)
def evidence(*, unnamed_fact: bool = False) -> CpuEvidence:
    """A machine's report, made once: what follows is about appraising it."""
    of = world.machine()
    report = of.report(fields=UNNAMED_FACT if unnamed_fact else {})
    return CpuEvidence(SEV_SNP, report, (of.certificate,))


@lru_cache(maxsize=1)
def issuers() -> CollateralBundle:
    of = world.machine()
    return collect(rims={}, snp_issuers=[(of.intermediate.der, of.ark.der)])


def found(of: CpuEvidence, image: bytes = world.IMAGE) -> list[tuple[str, Status]]:
    appraisal = appraise_snp(
        of,
        report_data=world.REPORT_DATA,
        collateral=issuers(),
        policy=Policy(cpu_measurements=(image,)),
        roots=[world.roots(world.machine())],
        now_s=world.NOW,
    )
    return [(finding.reason, finding.status) for finding in appraisal.findings]


def test_an_ordinary_guest_is_found_nothing_wrong_with() -> None:
    assert found(evidence()) == []


def test_a_platform_fact_without_a_name_is_reported() -> None:
    unnamed = evidence(unnamed_fact=True)
    assert found(unnamed) == [("SNP_PLATFORM_INFO_UNKNOWN", Status.WARNING)]


def test_an_image_that_the_policy_does_not_name_is_refused() -> None:
    assert found(evidence(), image=bytes(48)) == [("CPU_IMAGE_REFUSED", Status.CONTRAINDICATED)]


def test_a_report_that_nobody_can_compare_is_reported() -> None:
    (finding,) = check_report_data(b"\x01" * 64, None)
    assert (finding.reason, finding.status, finding.runtime) == (
        "CPU_REPORT_DATA_UNCHECKED",
        Status.WARNING,
        b"\x01" * 64,
    )


def parts(cpu: CpuEvidence | None, expression: str = "") -> Verdict:
    return appraise_parts(
        cpu,
        (),
        gpu_nonce=bytes(32),
        report_data=world.REPORT_DATA,
        collateral=issuers(),
        policy=Policy(
            accept_simulated=True,
            required_gpus=0,
            cpu_measurements=(world.IMAGE,),
            expression=expression,
        ),
        trust_roots=[world.roots(world.machine())],
        now_s=world.NOW,
    )


def test_of_nothing_no_verdict_is_trusted() -> None:
    verdict = parts(None)
    assert [finding.reason for finding in verdict.findings] == ["EVIDENCE_MISSING"]
    assert verdict.status is Status.CONTRAINDICATED


def test_what_the_condition_says_is_among_the_findings() -> None:
    assert parts(evidence(), expression="simulated").findings == ()
    verdict = parts(evidence(), expression="!simulated")
    assert [finding.reason for finding in verdict.findings] == ["POLICY_EXPRESSION_REFUSED"]
    assert verdict.status is Status.CONTRAINDICATED


def test_a_chips_key_verifies_no_signature_of_the_vendors_kind() -> None:
    chip = amd_certificate.parse(world.machine().certificate)
    with pytest.raises(ChainRejectedError, match="has no RSA key") as refused:
        chip.require_signature(bytes(512), b"")
    assert refused.value.reason == "CERTIFICATE_CHAIN"


def using(usage: str) -> bytes:
    """An authority's certificate with this as the encoded key usage."""
    of = world.machine()
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    extension = x509.UnrecognizedExtension(KEY_USAGE, bytes.fromhex(usage))
    return (
        x509.CertificateBuilder()
        .subject_name(name("SEV-Milan"))
        .issuer_name(of.ark.certificate.subject)
        .public_key(of.intermediate.key.public_key())
        .serial_number(65537)
        .not_valid_before(world.START)
        .not_valid_after(world.END)
        .add_extension(extension, critical=True)
        .sign(of.ark.key, hashes.SHA384(), rsa_padding=pss)
        .public_bytes(Encoding.DER)
    )


@pytest.mark.parametrize("bits", ["0300", "030100"])
def test_a_key_usage_without_a_bit_is_not_read(bits: str) -> None:
    assert amd_certificate.parse(using("03020106")).usages == 6
    with pytest.raises(CertificateMalformedError) as refused:
        amd_certificate.parse(using(bits))
    assert refused.value.reason == "CERTIFICATE_MALFORMED"


def test_an_authority_of_no_kind_certifies_no_key() -> None:
    """Its certificate names neither chip nor provider, as a key of no kind would."""
    of = world.machine()
    nobody, _ = world.authorities(of.line, of.kind, common_name="SEV-NOBODY-Milan")
    under = dataclasses.replace(of, intermediate=nobody).certified(extensions={"4": b""})
    with pytest.raises(ChainRejectedError, match="certifies no") as refused:
        snp_chain.verify(under.certificate, nobody.der, of.ark.der, world.roots(of).snp_arks)
    assert refused.value.reason == "CERTIFICATE_CHAIN"


@pytest.mark.parametrize("tag", [der.OCTET_STRING, der.INTEGER, 0x1E])
def test_text_is_a_string_of_the_vendors_three_kinds(tag: int) -> None:
    for kind in (der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING):
        assert der.text(der.whole(bytes((kind, 1)) + b"a", kind)) == "a"
    with pytest.raises(der.DerError, match="not a string"):
        der.text(der.whole(bytes((tag, 1)) + b"a", tag))


def test_a_length_of_four_bytes_is_not_read_even_where_so_much_follows() -> None:
    content = bytes(1 << 24)
    with pytest.raises(der.DerError, match="too long"):
        der.whole(b"\x04\x84\x01\x00\x00\x00" + content, der.OCTET_STRING)
