"""Real AMD evidence gets the verdict that the vectors' manifest states (MANIFEST.md, amd)."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from otr_protocol.attestation.amd import snp_chain, snp_report
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.amd.snp_chain import SnpProductUnsupportedError
from otr_protocol.attestation.amd.snp_report import (
    SnpReportSignatureError,
    SnpSigningKeyError,
    TcbVersion,
)
from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.digest import H
from support import attestation_vectors as real

SETS = {
    "milan_v2": ("report.hex", "vcek.der"),
    "milan_debug": ("report.bin", "vcek.der"),
    "milan_dstack_2026": ("report.bin", "vcek.pem"),
}


def issuers(vectors: Path) -> tuple[bytes, bytes]:
    ask, ark = real.certificates((vectors / "amd/milan_v2/ask_ark.pem").read_bytes())
    return ask, ark


def evidence(vectors: Path, name: str) -> CpuEvidence:
    report, vcek = (vectors / "amd" / name / file for file in SETS[name])
    return CpuEvidence(SEV_SNP, real.read(report), real.certificates(vcek.read_bytes()))


def appraise(vectors: Path, name: str, day: str, **policy: object) -> CpuAppraisal:
    cpu = evidence(vectors, name)
    report = snp_report.parse(cpu.report)
    return appraise_snp(
        cpu,
        report_data=report.report_data,
        collateral=collect(rims={}, snp_issuers=[issuers(vectors)]),
        policy=Policy(cpu_measurements=(report.measurement,), **policy),  # type: ignore[arg-type]
        roots=[VENDOR],
        now_s=real.at(day),
    )


def test_the_pinned_roots_are_the_published_ones(vectors: Path) -> None:
    _, ark = issuers(vectors)
    assert H(ark) in VENDOR.snp_arks
    assert H(real.certificates((vectors / "amd/turin/ask_ark.pem").read_bytes())[1]) in (
        VENDOR.snp_arks
    )


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
    appraisal = appraise(vectors, name, day)
    assert appraisal.findings == ()
    assert snp_report.parse(evidence(vectors, name).report).version == version
    assert appraisal.evidence_claims["measres"] == "success"
    assert appraisal.not_after == real.at(not_after)
    assert appraisal.roots is VENDOR


def test_the_2026_report_carries_the_data_it_was_asked_for(vectors: Path) -> None:
    report = snp_report.parse(evidence(vectors, "milan_dstack_2026").report)
    assert report.report_data == b"attest-test-fixture-2026".ljust(64, b"\0")


def test_a_debuggable_guest_is_refused_though_its_report_is_genuine(vectors: Path) -> None:
    appraisal = appraise(vectors, "milan_debug", "2026-11-22")
    assert appraisal.roots is VENDOR
    assert [finding.reason for finding in appraisal.findings] == ["CPU_DEBUG_ENABLED"]


@pytest.mark.parametrize(("day", "count"), [("2023-04-03", 1), ("2030-04-04", 1)])
def test_a_chip_key_counts_only_in_its_period(vectors: Path, day: str, count: int) -> None:
    reasons = [finding.reason for finding in appraise(vectors, "milan_v2", day).findings]
    assert reasons == ["CERTIFICATE_EXPIRED"] * count


def test_an_older_firmware_than_the_minimum_is_refused(vectors: Path) -> None:
    minimum = TcbVersion(boot_loader=3, tee=0, snp=9, microcode=115)
    appraisal = appraise(vectors, "milan_v2", "2026-11-22", min_snp_tcb=minimum)
    assert [finding.reason for finding in appraisal.findings] == ["CPU_TCB_TOO_OLD"]


@pytest.mark.parametrize(
    ("report", "vcek"), [("milan_v2", "milan_debug"), ("milan_debug", "milan_v2")]
)
def test_a_report_under_another_chips_certificate_is_refused(
    vectors: Path, report: str, vcek: str
) -> None:
    ask, ark = issuers(vectors)
    chain = snp_chain.verify(evidence(vectors, vcek).certificates[0], ask, ark, VENDOR.snp_arks)
    with pytest.raises(SnpReportSignatureError):
        chain.require_report(snp_report.parse(evidence(vectors, report).report))


def test_a_report_signed_by_a_vlek_is_out_of_scope_and_says_so(vectors: Path) -> None:
    with pytest.raises(SnpSigningKeyError):
        snp_report.parse((vectors / "amd/milan_vlek_v3/report.bin").read_bytes())
    ask, ark = issuers(vectors)
    vlek = (vectors / "amd/milan_vlek_v3/vlek.der").read_bytes()
    with pytest.raises(ChainRejectedError):
        snp_chain.verify(vlek, ask, ark, VENDOR.snp_arks)


def test_a_turin_chip_is_read_and_declared_unsupported(vectors: Path) -> None:
    ask, ark = real.certificates((vectors / "amd/turin/ask_ark.pem").read_bytes())
    vcek = (vectors / "amd/turin/vcek.der").read_bytes()
    with pytest.raises(SnpProductUnsupportedError):
        snp_chain.verify(vcek, ask, ark, frozenset({H(ark)}))


def test_serial_number_zero_is_read_without_a_warning(vectors: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in SETS:
            assert snp_chain.parse(evidence(vectors, name).certificates[0]).serial == 0


def test_the_signed_part_and_the_signature_leave_no_byte_free(vectors: Path) -> None:
    ask, ark = issuers(vectors)
    cpu = evidence(vectors, "milan_v2")
    chain = snp_chain.verify(cpu.certificates[0], ask, ark, VENDOR.snp_arks)
    for offset in range(0, len(cpu.report), 13):
        changed = bytearray(cpu.report)
        changed[offset] ^= 0x10
        with pytest.raises((snp_report.SnpReportMalformedError, SnpReportSignatureError)):
            chain.require_report(snp_report.parse(bytes(changed)))
