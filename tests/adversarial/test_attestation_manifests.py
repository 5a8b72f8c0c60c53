"""Attackers on reference manifests: the signature profile leaves no choices (facts 1.3, 1.7)."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otr_devtee import rim_issuing
from otr_devtee.issuing import Identity, issue
from otr_devtee.reference_values import DRIVER_INDICES
from otr_protocol.attestation.certificates import ChainRejectedError, RootUntrustedError
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.nvidia import rim
from otr_protocol.attestation.nvidia.rim import RimMalformedError
from otr_protocol.attestation.nvidia.xml_signature import (
    XmlMalformedError,
    XmlSignatureError,
    XmlSignatureProfileError,
)
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.errors import Refusal
from support import attestation_vectors as real
from support import devtee_world as world

END = b"</SoftwareIdentity>"


def genuine() -> bytes:
    return world.pki().driver_rim


def verify(document: bytes) -> rim.Rim:
    return rim.verify(document, world.pki().rim_root.der)


def issuers() -> tuple[bytes, ...]:
    pki = world.pki()
    return (pki.rim_l3.der, pki.rim_ca.der, pki.rim_root.der)


def attacker(*, name: str = "attacker") -> Identity:
    """A key of the attacker, with a certificate that nobody trusted issued."""
    start = datetime.fromtimestamp(world.NOW - 3600, UTC)
    return issue(name, None, not_before=start, not_after=start + timedelta(days=30), ca=False)


def golden_of_attacker(index: int) -> tuple[bytes, ...]:
    return (bytes([index]) * 48,)


def content(document: bytes) -> str:
    """A manifest up to its signature."""
    return document[: document.index(b"<ds:Signature ")].decode()


def collateral_with(driver: bytes) -> CollateralBundle:
    pki, honest = world.pki(), world.collateral()
    return collect(
        rims={
            pki.reference_values.driver_rim_id: driver,
            pki.reference_values.vbios_rim_id: pki.vbios_rim,
        },
        ocsp_responses=honest.ocsp_responses,
        snp_issuers=honest.snp_issuers,
        crls=honest.crls,
    )


def test_the_genuine_manifest_verifies() -> None:
    manifest = verify(genuine())
    assert [g.index for g in manifest.measurements if g.active] == list(DRIVER_INDICES)


def test_the_key_substituter_shows_the_genuine_chain_over_his_own_signature() -> None:
    """Signed by the attacker, KeyInfo names the vendor: key and chain must be one thing."""
    pki = world.pki()
    posing = Identity(pki.rim_signer.certificate, attacker().key)
    forged = rim_issuing.signed_manifest(
        "550.90.07", DRIVER_INDICES, golden_of_attacker, posing, issuers()
    )
    with pytest.raises(XmlSignatureError):
        verify(forged)


def test_the_key_substituter_shows_his_own_certificate_first() -> None:
    """The key that verifies is chain[0]'s, and chain[0] is then not issued by the vendor."""
    pki = world.pki()
    own = attacker()
    for rest in (issuers(), (pki.rim_signer.der, *issuers()), ()):
        forged = rim_issuing.signed_manifest(
            "550.90.07", DRIVER_INDICES, golden_of_attacker, own, rest
        )
        with pytest.raises((ChainRejectedError, RootUntrustedError)):
            verify(forged)


def test_the_impostor_issues_himself_a_certificate_under_the_vendors_name() -> None:
    own = attacker(name="SIMULATED Reference Value L3 GH100 001")
    start = datetime.fromtimestamp(world.NOW - 3600, UTC)
    signer = issue("signer", own, not_before=start, not_after=start + timedelta(days=30), ca=False)
    forged = rim_issuing.signed_manifest(
        "550.90.07", DRIVER_INDICES, golden_of_attacker, signer, issuers()
    )
    with pytest.raises(ChainRejectedError):
        verify(forged)


def test_the_attestation_key_signs_no_manifests() -> None:
    """A key that the vendor certified for devices, with its genuine device chain."""
    pki = world.pki()
    chain = pki.device_chain(0)
    forged = rim_issuing.signed_manifest(
        "550.90.07", DRIVER_INDICES, golden_of_attacker, pki.gpus[0].leaf, chain[1:4]
    )
    with pytest.raises(RootUntrustedError):
        verify(forged)


@pytest.mark.parametrize(
    "text",
    [
        b'<!DOCTYPE SoftwareIdentity [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE SoftwareIdentity SYSTEM "http://attacker.example/x.dtd">',
        b'<?xml version="1.0"?>',
        b'<?xml-stylesheet href="x"?>',
        b"<!-- comment -->",
        b"\xef\xbb\xbf",
        b" ",
    ],
)
def test_nothing_may_stand_before_the_root_element(text: bytes) -> None:
    with pytest.raises(XmlMalformedError):
        verify(text + genuine())


@pytest.mark.parametrize(
    "text",
    [b"<!-- x -->", b"<?x y?>", b"<![CDATA[x]]>", b"&#65;", b"&amp;", b"&x;", b"\0"],
)
def test_what_a_parser_would_expand_or_skip_is_refused_before_it_parses(text: bytes) -> None:
    inside = genuine().replace(b"<ns0:Payload", text + b"<ns0:Payload", 1)
    with pytest.raises(XmlMalformedError):
        verify(inside)


def test_another_encoding_than_utf8_is_refused() -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(XmlMalformedError):
            verify(genuine().decode().encode(encoding))
    with pytest.raises(XmlMalformedError):
        verify(genuine().replace(b"SIMULATED", b"SIMULATE\xe9", 1))


def test_xml_attributes_that_two_canonical_forms_treat_differently_are_refused() -> None:
    with pytest.raises(XmlMalformedError):
        verify(genuine().replace(b"<ns0:Payload", b'<ns0:Payload xml:base="x"', 1))


def test_a_manifest_without_a_canonical_form_is_refused() -> None:
    with pytest.raises(XmlMalformedError):
        verify(genuine().replace(b"https://trustedcomputinggroup.org/", b"relative/", 1))


def swap(pattern: str, replacement: str) -> Callable[[bytes], bytes]:
    def change(document: bytes) -> bytes:
        changed = re.sub(pattern.encode(), replacement.encode(), document, count=1, flags=re.DOTALL)
        assert changed != document
        return changed

    return change


@pytest.mark.parametrize(
    "change",
    [
        swap(r'URI=""', 'URI="#payload"'),
        swap(r'URI=""', 'URI="" Id="x"'),
        swap(r'URI=""', 'URI="file:///etc/passwd"'),
        swap(r"xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"),
        swap(r"2001/04/xmldsig-more#ecdsa-sha384", "2000/09/xmldsig#hmac-sha1"),
        swap(r"xmldsig-more#sha384", "xmldsig-more#sha224"),
        swap(r"2006/12/xml-c14n11", "2001/10/xml-exc-c14n#"),
        swap(r"xmldsig#enveloped-signature", "xmldsig#base64"),
        swap(r"<ds:Transform ", '<ds:Transform Algorithm="urn:x"/><ds:Transform '),
        swap(r"<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyName>x</ds:KeyName>"),
        swap(r"<ds:X509Data>", "<ds:KeyValue/><ds:X509Data>"),
        swap(r"<ds:X509Data>", "<ds:X509Data><ds:X509SubjectName>x</ds:X509SubjectName>"),
        swap(r"<ds:SignedInfo>", "<ds:SignedInfo>text"),
        swap(r"</ds:KeyInfo>", "</ds:KeyInfo><ds:Object/>"),
        swap(r"<ds:Signature ", '<ds:Signature Id="s" '),
        swap(r"</ds:Signature>", "</ds:Signature>\n"),
        swap(r"<ns0:Entity(.*)(<ds:Signature .*</ds:Signature>)", r"\2<ns0:Entity\1"),
        swap(r"</ns0:Payload>(.*)(<ds:Signature .*</ds:Signature>)", r"\2</ns0:Payload>\1"),
        swap(r"<ds:Signature .*</ds:Signature>", ""),
        swap(r"<ds:SignedInfo>.*</ds:SignedInfo>", "<ds:SignedInfo/>"),
        swap(r"(<ds:Reference .*</ds:Reference>)", r"\1\1"),
        swap(r"<ds:Transforms>.*</ds:Transforms>", "<ds:Transforms/>"),
        swap(r"<ds:KeyInfo>.*</ds:KeyInfo>", ""),
        swap(r"(<ds:X509Data>.*</ds:X509Data>)", r"\1\1"),
        swap(r"(<ds:Signature .*</ds:Signature>)", r"\1\1"),
        swap(r"<ds:X509Data>.*</ds:X509Data>", "<ds:X509Data></ds:X509Data>"),
        swap(r"<ds:SignatureValue>", "<ds:SignatureValue>AA"),
        swap(r"<ds:SignatureValue>.", "<ds:SignatureValue>*"),
    ],
)
def test_the_signature_has_one_shape(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(XmlSignatureProfileError):
        verify(change(genuine()))


def test_the_wrapper_moves_the_signed_content_aside() -> None:
    """The signature still verifies over what it covered; the reader must see that and no more."""
    document = genuine()
    signature = document[document.index(b"<ds:Signature ") : document.index(END)]
    evil = content(
        rim_issuing.signed_manifest(
            "550.90.07", DRIVER_INDICES, golden_of_attacker, attacker(), issuers()
        )
    )
    original = document.decode()
    wrapped = [
        evil.encode() + original.encode() + signature + END,
        evil.encode() + b"<Object>" + original.encode() + b"</Object>" + signature + END,
        b"<Object>" + document + b"</Object>",
        b"<Object>" + document + signature + b"</Object>",
    ]
    for attempt in wrapped:
        with pytest.raises(Refusal):
            verify(attempt)


def test_the_editor_changes_one_golden_value() -> None:
    document = genuine()
    value = world.pki().reference_values.golden(21)[0].hex().encode()
    assert document.count(value) == 1
    with pytest.raises(XmlSignatureError):
        verify(document.replace(value, b"0" * 96))


def resign(edit: Callable[[str], str]) -> bytes:
    """Another content, signed by the genuine signer: only the reader can refuse it."""
    return rim_issuing.sign(edit(content(genuine())), world.pki().rim_signer, issuers())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('index="5" active', 'index="4" active'),
        ('index="5" active', 'index="05" active'),
        ('index="5" active', 'index="-5" active'),
        ('index="5" active', 'index="255" active'),
        ('active="True"', 'active="true"'),
        ('alternatives="1" ns2:Hash0', 'alternatives="0" ns2:Hash0'),
        ('alternatives="1" ns2:Hash0', 'alternatives="2" ns2:Hash0'),
        ('alternatives="1" ns2:Hash0', 'alternatives="1" ns2:Hash1'),
        ('alternatives="1" ns2:Hash0', 'alternatives="1" Hash0'),
        ('ns2:Hash0="0000', 'ns2:Hash0="000G'),
        ('ns2:Hash0="0000', 'ns2:Hash0="000'),
        ('type="Measurement"', 'type="Other"'),
        ("<ns0:Payload>", "<ns0:Payload><ns0:Directory/>"),
        ("<ns0:Payload>", "<ns0:Meta/><ns0:Payload>"),
        ("<ns0:Entity", "<ns0:Resource/><ns0:Entity"),
        ("ns1:FirmwareManufacturerId", "ns1:Other"),
        ("ns0:Payload", "Payload xmlns=''"),
        ('size="48"', 'size="32"'),
        ('colloquialVersion="550.90.07"', 'colloquialVersion=""'),
        ("<ns0:Payload>", "text<ns0:Payload>"),
        ("<ns0:Payload>", "<ns0:Payload>text"),
        ("<ns0:Payload>", '<ns0:Payload directory="x">'),
        ('corpus="false"', 'corpus="true"'),
        ('corpus="false"', ""),
        ('patch="false"', 'patch="no"'),
        ('supplemental="false"', 'supplemental="true"'),
        ('tagVersion="0"', 'tagVersion="one"'),
        ('tagVersion="0"', 'tagVersion="0" media="x"'),
        ("tagId=", "id="),
        ('role="softwareCreator tagCreator"', ""),
        ('role="softwareCreator tagCreator"', 'role=""'),
        ('role="softwareCreator tagCreator"', 'role="x" unknown="x"'),
        ('product="GH100"', 'model="GH100"'),
        ('type="Measurement"', 'type="Measurement" version="1"'),
    ],
)
def test_a_well_signed_manifest_is_still_read_strictly(old: str, new: str) -> None:
    def edit(text: str) -> str:
        if new == "Payload xmlns=''":
            return text.replace("<ns0:Payload>", "<Payload xmlns=''>").replace(
                "</ns0:Payload>", "</Payload>"
            )
        assert old in text
        return text.replace(old, new, 1)

    with pytest.raises(RimMalformedError):
        verify(resign(edit))


def test_a_resource_outside_the_payload_means_nothing() -> None:
    def edit(text: str) -> str:
        return text.replace(
            "<ns0:Entity", '<ns0:Resource type="Measurement" index="1"/><ns0:Entity', 1
        )

    with pytest.raises(RimMalformedError):
        verify(resign(edit))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('colloquialVersion="550.90.07"', 'colloquialVersion="550.90.08"'),
        ('product="GH100"', 'product="GB100"'),
        ('FirmwareManufacturerId="5703"', 'FirmwareManufacturerId="5704"'),
    ],
)
def test_a_genuine_manifest_of_something_else_does_not_fit(old: str, new: str) -> None:
    """The name it is filed under is not believed: what the signer signed is."""
    other = resign(lambda text: text.replace(old, new, 1))
    verdict = world.judge(world.bundle(), collateral_bundle=collateral_with(other))
    assert world.reasons(verdict) == {("gpu-0/driver-rim", "RIM_VERSION_MISMATCH")}


def test_driver_and_vbios_manifest_exchanged_for_each_other_do_not_fit() -> None:
    pki, honest = world.pki(), world.collateral()
    values = pki.reference_values
    exchanged = {values.driver_rim_id: pki.vbios_rim, values.vbios_rim_id: pki.driver_rim}
    known = dataclasses.replace(honest, rims=tuple(sorted(exchanged.items())))
    verdict = world.judge(world.bundle(), collateral_bundle=known)
    assert world.reasons(verdict) == {
        ("gpu-0/driver-rim", "RIM_VERSION_MISMATCH"),
        ("gpu-0/vbios-rim", "RIM_VERSION_MISMATCH"),
    }


def test_the_vbios_manifest_is_no_driver_manifest() -> None:
    collateral = collateral_with(world.pki().vbios_rim)
    verdict = world.judge(world.bundle(), collateral_bundle=collateral)
    assert world.refused_for(verdict, "gpu-0/driver-rim", "RIM_VERSION_MISMATCH")


def test_the_vendors_manifest_does_not_vouch_for_a_development_gpu(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    vendors = gpu.rims["NV_GPU_DRIVER_GH100_550.90.07"]
    assert rim.verify(vendors, VENDOR.rim_root).version == "550.90.07"
    verdict = world.judge(world.bundle(), collateral_bundle=collateral_with(vendors))
    assert world.refused_for(verdict, "gpu-0/driver-rim", "ROOT_UNTRUSTED")


def test_a_development_manifest_does_not_vouch_for_a_real_gpu() -> None:
    with pytest.raises(RootUntrustedError):
        rim.verify(genuine(), VENDOR.rim_root)


def test_certificates_in_a_manifest_are_canonical_base64() -> None:
    document = genuine()
    start = document.index(b"<ds:X509Certificate>") + len(b"<ds:X509Certificate>")
    stop = document.index(b"\n</ds:X509Certificate>", start)
    der = base64.b64decode(document[start:stop])
    assert der == world.pki().rim_signer.der
    for spelled in (document[start:stop] + b"====", document[start:stop].rstrip(b"=") + b"A"):
        with pytest.raises(Refusal):
            verify(document[:start] + spelled + document[stop:])


def test_an_expired_manifest_is_genuine_and_refused() -> None:
    verdict = world.judge(
        world.bundle(),
        now_s=world.NOW + 4000 * 24 * 3600,
        policy=dataclasses.replace(world.pki().policy(), require_snp_crl=False),
    )
    expired = {c for c, reason in world.reasons(verdict) if reason == "CERTIFICATE_EXPIRED"}
    assert {"gpu-0/driver-rim", "gpu-0/vbios-rim", "cpu"} <= expired


@pytest.mark.parametrize(
    ("pattern", "instead", "said"),
    [
        (r"(<ns0:Entity[^>]*)/>", r"\1><ns0:Meta/></ns0:Entity>", "hold nothing"),
        (r"(<ns0:Resource[^>]*)/>", r"\1><ns0:Meta/></ns0:Resource>", "not a measurement"),
        (r"<ns0:Payload>.*</ns0:Payload>", "<ns0:Payload></ns0:Payload>", "no measurements"),
        (r'xmlns="[^"]*"', 'xmlns="urn:other"', "not a software identity tag"),
    ],
)
def test_a_well_signed_manifest_of_another_structure_is_refused(
    pattern: str, instead: str, said: str
) -> None:
    def edit(text: str) -> str:
        changed, count = re.subn(pattern, instead, text, count=1, flags=re.DOTALL)
        assert count == 1
        return changed

    with pytest.raises(RimMalformedError, match=said):
        verify(resign(edit))


def test_a_manifests_chain_is_counted_before_it_is_followed() -> None:
    document = rim_issuing.sign(content(genuine()), world.pki().rim_signer, issuers()[1:])
    with pytest.raises(ChainRejectedError, match="has 4 certificates"):
        verify(document)


def test_a_signature_with_a_byte_in_its_middle_is_none() -> None:
    text = genuine().decode()
    value = re.search(r"<ds:SignatureValue>([^<]*)<", text)
    assert value is not None
    raw = base64.b64decode(value.group(1))
    longer = base64.b64encode(raw[:48] + b"\0" + raw[48:]).decode()
    with pytest.raises(XmlSignatureProfileError, match="96 bytes"):
        verify(text.replace(value.group(1), longer).encode())


def test_a_manifest_larger_than_any_is_refused_before_it_is_parsed() -> None:
    def pad(text: str) -> str:
        return text.replace("<ns0:Payload>", "<ns0:Payload>" + "\n" * (256 << 10))

    with pytest.raises(XmlMalformedError, match="too large"):
        verify(resign(pad))
