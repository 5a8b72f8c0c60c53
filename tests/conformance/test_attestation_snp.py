"""Real AMD evidence gets the verdict that the vectors' manifest states (MANIFEST.md, amd)."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from otr_protocol.attestation.amd import amd_certificate, snp_chain, snp_report
from otr_protocol.attestation.amd.snp_chain import SnpChain, SnpChipMismatchError
from otr_protocol.attestation.amd.snp_product import (
    GENOA,
    MILAN,
    TURIN,
    SnpProductUnsupportedError,
    product_line,
)
from otr_protocol.attestation.amd.snp_report import SigningKey, TcbVersion
from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.digest import H
from support import attestation_vectors as real
from support import snp_vectors as snp

LENIENT = {"accept_vlek": True, "max_vmpl": 1}


def reasons(appraisal: CpuAppraisal) -> list[str]:
    return [finding.reason for finding in appraisal.findings]


def chain(vectors: Path, name: str) -> SnpChain:
    return snp_chain.verify(
        snp.evidence(vectors, name).certificates[0],
        *snp.issuers(vectors, SigningKey.VCEK),
        VENDOR.snp_arks,
    )


def test_the_pinned_roots_are_the_published_ones(vectors: Path) -> None:
    _, ark = snp.issuers(vectors, SigningKey.VCEK)
    assert H(ark) in VENDOR.snp_arks
    assert H(snp.turin_issuers(vectors)[1]) in VENDOR.snp_arks


@pytest.mark.parametrize(
    ("name", "day", "version", "not_after"),
    [
        ("milan_v2", "2026-11-22", 2, "2030-04-03T19:23:43"),
        ("milan_dstack_2026", "2026-11-22", 3, "2033-06-17T01:05:04"),
    ],
)
def test_genuine_reports_are_affirmed(
    vectors: Path, name: str, day: str, version: int, not_after: str
) -> None:
    appraisal = snp.appraise(vectors, name, day)
    assert appraisal.findings == ()
    assert appraisal.evidence_claims["otr-snp-report-version"] == version
    assert appraisal.evidence_claims["measres"] == "success"
    assert appraisal.evidence_claims["otr-snp-signing-key"] == "vcek"
    assert appraisal.not_after == real.at(not_after)
    assert appraisal.roots is VENDOR


def test_the_2026_report_carries_the_data_it_was_asked_for(vectors: Path) -> None:
    report = snp_report.parse(snp.evidence(vectors, "milan_dstack_2026").report)
    assert report.report_data == b"attest-test-fixture-2026".ljust(64, b"\0")


def test_a_report_of_version_3_names_its_processor(vectors: Path) -> None:
    assert snp_report.parse(snp.evidence(vectors, "milan_v2").report).cpuid is None
    for name in ("milan_dstack_2026", "milan_vlek_v3"):
        assert snp_report.parse(snp.evidence(vectors, name).report).cpuid == (0x19, 0x01, 0x01)


def test_platform_facts_are_told_as_the_report_has_them(vectors: Path) -> None:
    claims = snp.appraise(vectors, "milan_dstack_2026", "2026-11-22").evidence_claims
    assert claims["otr-snp-platform"] == {
        "smt": True,
        "tsme": False,
        "ecc": True,
        "rapl-disabled": False,
        "ciphertext-hiding": False,
        "alias-check-complete": True,
        "tio": False,
    }
    assert "otr-snp-author-key" not in claims
    assert claims["otr-snp-reported-tcb"] == {
        "boot-loader": 4,
        "tee": 0,
        "snp": 23,
        "microcode": 213,
    }


def test_a_debuggable_guest_is_refused_though_its_report_is_genuine(vectors: Path) -> None:
    appraisal = snp.appraise(vectors, "milan_debug", "2026-11-22")
    assert appraisal.roots is VENDOR
    assert reasons(appraisal) == ["CPU_DEBUG_ENABLED"]


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        ("2023-04-03T19:23:42", ["CERTIFICATE_EXPIRED"]),
        ("2023-04-03T19:23:43", []),
        ("2030-04-03T19:23:43", []),
        ("2030-04-03T19:23:44", ["CERTIFICATE_EXPIRED"]),
    ],
)
def test_a_chip_key_counts_only_in_its_period(vectors: Path, at: str, wanted: list[str]) -> None:
    assert reasons(snp.appraise(vectors, "milan_v2", at)) == wanted


@pytest.mark.parametrize(
    ("minimum", "wanted"),
    [
        (TcbVersion(boot_loader=3, tee=0, snp=8, microcode=115), []),
        (TcbVersion(boot_loader=3, tee=0, snp=9, microcode=115), ["CPU_TCB_TOO_OLD"]),
        (TcbVersion(boot_loader=3, tee=0, snp=8, microcode=116), ["CPU_TCB_TOO_OLD"]),
        (TcbVersion(boot_loader=4, tee=0, snp=8, microcode=115), ["CPU_TCB_TOO_OLD"]),
        (TcbVersion(boot_loader=3, tee=1, snp=8, microcode=115), ["CPU_TCB_TOO_OLD"]),
        (TcbVersion(boot_loader=3, tee=0, snp=8, microcode=115, fmc=1), ["CPU_TCB_TOO_OLD"]),
    ],
)
def test_an_older_firmware_than_the_minimum_is_refused(
    vectors: Path, minimum: TcbVersion, wanted: list[str]
) -> None:
    assert reasons(snp.appraise(vectors, "milan_v2", "2026-11-22", min_snp_tcb=minimum)) == wanted


@pytest.mark.parametrize(
    ("report", "vcek"), [("milan_v2", "milan_debug"), ("milan_debug", "milan_v2")]
)
def test_a_report_under_another_chips_certificate_is_refused(
    vectors: Path, report: str, vcek: str
) -> None:
    parsed = snp_report.parse(snp.evidence(vectors, report).report)
    with pytest.raises(SnpChipMismatchError):
        chain(vectors, vcek).require_report(parsed)


def test_a_providers_key_is_accepted_where_the_policy_accepts_it(vectors: Path) -> None:
    appraisal = snp.appraise(vectors, "milan_vlek_v3", "2025-06-01", **LENIENT)
    assert appraisal.findings == ()
    assert appraisal.roots is VENDOR
    assert appraisal.not_after == real.at("2025-12-10T22:14:21")
    assert appraisal.evidence_claims["otr-snp-signing-key"] == "vlek"
    assert appraisal.evidence_claims["otr-snp-provider"] == "CN=cc-us-east-2.amazonaws.com"


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ({}, ["CPU_VLEK_REFUSED", "CPU_VMPL_REFUSED"]),
        ({"max_vmpl": 1}, ["CPU_VLEK_REFUSED"]),
        ({"accept_vlek": True}, ["CPU_VMPL_REFUSED"]),
    ],
)
def test_a_providers_key_and_another_privilege_level_are_refused_by_default(
    vectors: Path, policy: dict[str, object], wanted: list[str]
) -> None:
    assert reasons(snp.appraise(vectors, "milan_vlek_v3", "2025-06-01", **policy)) == wanted


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        ("2024-12-10T22:14:20", ["SNP_VLEK_EXPIRED"]),
        ("2024-12-10T22:14:21", []),
        ("2025-12-10T22:14:21", []),
        ("2025-12-10T22:14:22", ["SNP_VLEK_EXPIRED"]),
        ("2026-11-22", ["SNP_VLEK_EXPIRED"]),
    ],
)
def test_a_providers_key_counts_for_its_year(vectors: Path, at: str, wanted: list[str]) -> None:
    assert reasons(snp.appraise(vectors, "milan_vlek_v3", at, **LENIENT)) == wanted


def test_a_providers_key_does_not_chain_to_the_key_of_chips(vectors: Path) -> None:
    vlek = snp.evidence(vectors, "milan_vlek_v3").certificates[0]
    with pytest.raises(ChainRejectedError):
        snp_chain.verify(vlek, *snp.issuers(vectors, SigningKey.VCEK), VENDOR.snp_arks)


def test_a_turin_chip_has_a_short_name_and_a_first_stage_of_its_own(vectors: Path) -> None:
    vcek = (vectors / "amd/turin/vcek.der").read_bytes()
    turin = snp_chain.verify(vcek, *snp.turin_issuers(vectors), VENDOR.snp_arks)
    assert turin.product is TURIN
    assert turin.kind is SigningKey.VCEK
    assert turin.chip_id == bytes.fromhex("1e550a8ee5cf9f4d") + bytes(56)
    assert turin.tcb == TcbVersion(boot_loader=0, tee=0, snp=0, microcode=9, fmc=0)
    assert turin.validity.not_after == real.at("2031-11-06T21:14:00")


def test_a_tcb_version_is_read_as_its_product_lays_it_out() -> None:
    data = bytes.fromhex("0102030000000009")
    assert TURIN.tcb(data) == TcbVersion(fmc=1, boot_loader=2, tee=3, snp=0, microcode=9)
    for line in (MILAN, GENOA):
        with pytest.raises(snp_report.SnpReportMalformedError):
            line.tcb(data)
        tcb = TcbVersion(boot_loader=1, tee=2, snp=3, microcode=4)
        assert line.tcb(bytes.fromhex("0102000000000304")) == tcb
        assert line.tcb(line.tcb_bytes(tcb)) == tcb
    with pytest.raises(snp_report.SnpReportMalformedError):
        TURIN.tcb(bytes.fromhex("0102000000000304"))


@pytest.mark.parametrize(
    ("name", "line"),
    [("Milan", MILAN), ("Milan-B0", MILAN), ("Genoa-B1", GENOA), ("Siena-B0", GENOA)],
)
def test_a_product_name_may_say_the_stepping(name: str, line: object) -> None:
    assert product_line(name) is line


@pytest.mark.parametrize("name", ["", "Milan-", "Milan-B0-B1", "milan", "Milan\n", "Rome-B0"])
def test_other_product_names_are_not_guessed(name: str) -> None:
    with pytest.raises(SnpProductUnsupportedError):
        product_line(name)


def test_serial_number_zero_is_read_without_a_warning(vectors: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in snp.SETS:
            certificate = snp.evidence(vectors, name).certificates[0]
            assert amd_certificate.parse(certificate).serial == 0
