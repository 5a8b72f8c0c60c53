"""Revocation of AMD's signing keys: withheld, outdated, partial and forged lists do not help."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from otr_devtee.snp_issuing import RsaIdentity, revocation_list
from otr_protocol.attestation.amd.snp_product import GENOA, TURIN
from otr_protocol.attestation.amd.snp_report import SigningKey
from otr_protocol.attestation.verdict import Status
from support import snp_world as world
from support.snp_world import NOW, appraise, machine, reasons

VCEK, VLEK = SigningKey.VCEK, SigningKey.VLEK
DAY = 24 * 3600


def listed(of: world.Machine, at: int = NOW - 60, **entries: Any) -> bytes:
    return revocation_list(of.ark, at, **entries)


@pytest.mark.parametrize(("kind", "serial"), [(VCEK, 65537), (VLEK, 65793), (VCEK, 65536)])
def test_a_revoked_and_a_suspended_vendor_key_are_told_apart(kind: SigningKey, serial: int) -> None:
    of = machine(kind=kind)
    revoked, held = listed(of, revoked=(serial,)), listed(of, on_hold=(serial,))
    assert reasons(appraise(of, crls=[revoked])) == ["SNP_KEY_REVOKED"]
    assert reasons(appraise(of, crls=[held])) == ["SNP_KEY_ON_HOLD"]
    assert reasons(appraise(of, crls=[held, revoked])) == ["SNP_KEY_REVOKED"]


def test_revocation_is_not_undone_by_a_newer_or_lost_with_an_older_list() -> None:
    of = machine()
    old = listed(of, NOW - 30 * DAY, revoked=(65537,))
    assert reasons(appraise(of, crls=[old, listed(of)])) == ["SNP_KEY_REVOKED"]
    assert reasons(appraise(of, crls=[old])) == ["SNP_KEY_REVOKED"]
    assert reasons(appraise(of, crls=[listed(of, on_hold=(1, 65538), revoked=(2, 3))])) == []


@pytest.mark.parametrize(
    ("now_s", "wanted"),
    [
        (NOW + DAY - 1, []),
        (NOW + DAY, ["SNP_CRL_STALE"]),
        (NOW - 120, []),
        (NOW - 121, ["SNP_CRL_STALE"]),
    ],
)
def test_a_list_counts_to_the_second(now_s: int, wanted: list[str]) -> None:
    of = machine()
    crls = [listed(of, NOW)]
    appraisal = appraise(of, crls=crls, now_s=now_s, require_snp_crl=True)
    assert reasons(appraisal) == wanted
    assert all(finding.status is Status.INDETERMINATE for finding in appraisal.findings)
    if not wanted:
        assert appraisal.not_after == NOW + DAY - 1
    assert reasons(appraise(of, crls=crls, now_s=now_s)) == []


def test_a_list_is_missed_only_where_it_is_required() -> None:
    of = machine()
    assert reasons(appraise(of)) == []
    (finding,) = appraise(of, require_snp_crl=True).findings
    assert (finding.reason, finding.status) == ("SNP_CRL_MISSING", Status.INDETERMINATE)
    others = [listed(machine(GENOA)), listed(machine(TURIN))]
    assert reasons(appraise(of, crls=others, require_snp_crl=True)) == ["SNP_CRL_MISSING"]


def test_a_list_that_the_root_did_not_sign() -> None:
    of = machine()
    forger = dataclasses.replace(of.ark, key=of.intermediate.key)
    forged = revocation_list(forger, NOW - 60)
    assert reasons(appraise(of, crls=[forged])) == ["SNP_CRL_REJECTED"]
    assert reasons(appraise(of, crls=[forged, listed(of)])) == ["SNP_CRL_REJECTED"]


def test_a_list_of_changes_or_of_a_part_does_not_pass_for_the_whole() -> None:
    of = machine()
    partial = x509.IssuingDistributionPoint(None, None, False, True, None, False, False)
    for extension in (x509.DeltaCRLIndicator(1), partial):
        crl = listed(of, extensions=[(extension, True)])
        assert reasons(appraise(of, crls=[crl])) == ["SNP_CRL_MALFORMED"]
    numbered = listed(of, extensions=[(x509.CRLNumber(7), False)])
    assert reasons(appraise(of, crls=[numbered], require_snp_crl=True)) == []


def test_a_root_that_may_only_issue_signs_a_list() -> None:
    of = machine()
    usages = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    root = (
        x509.CertificateBuilder()
        .subject_name(of.ark.certificate.subject)
        .issuer_name(of.ark.certificate.subject)
        .public_key(of.ark.key.public_key())
        .serial_number(65536)
        .not_valid_before(world.START)
        .not_valid_after(world.END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, **usages), critical=True)
        .sign(
            of.ark.key,
            hashes.SHA384(),
            rsa_padding=padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48),
        )
    )
    issuing = dataclasses.replace(of, ark=RsaIdentity(root, of.ark.key))
    assert reasons(appraise(issuing)) == []
    assert reasons(appraise(issuing, crls=[listed(issuing)])) == ["SNP_CRL_REJECTED"]
