"""Changed bytes of SEV-SNP reports, certificates and lists: refused, and nothing else happens."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from otr_devtee.snp_issuing import revocation_list
from otr_protocol.attestation.amd import amd_certificate, snp_crl, snp_report
from otr_protocol.attestation.amd.snp_product import ProductLine
from otr_protocol.attestation.amd.snp_report import SIGNED_BYTES, SigningKey
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.evidence import CpuEvidence
from otr_protocol.attestation.verdict import Status
from otr_protocol.errors import Refusal
from support import snp_vectors
from support import snp_world as world
from support.snp_world import NOW, appraise, machine, reasons

VCEK, VLEK = SigningKey.VCEK, SigningKey.VLEK
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
R, S = slice(0x2A0, 0x2D0), slice(0x2E8, 0x318)
MUTATIONS = 2000


def changed(report: bytes, offset: int, value: bytes) -> bytes:
    """A report whose bytes were changed after it was signed."""
    return report[:offset] + value + report[offset + len(value) :]


RESERVED = {
    "key flags": 0x049,
    "after the flags": 0x04C,
    "policy": 0x00C,
    "after the stepping": 0x18B,
    "before the chip id": 0x19F,
    "current version": 0x1EB,
    "committed version": 0x1EF,
    "before the signature": 0x29F,
    "after the mitigations": 0x208,
}


@pytest.mark.parametrize("where", sorted(RESERVED))
@pytest.mark.parametrize("version", snp_report.VERSIONS)
def test_reserved_bytes_carry_something(version: int, where: str) -> None:
    of = machine()
    report = of.report(version=version, fields={RESERVED[where]: b"\x80"})
    assert reasons(appraise(of, report)) == ["SNP_REPORT_MALFORMED"]


@pytest.mark.parametrize("field", [0x038, 0x180, 0x1E0, 0x1F0])
@pytest.mark.parametrize("line", world.LINES, ids=lambda line: line.name)
def test_spare_bytes_of_a_tcb_version_carry_something(line: ProductLine, field: int) -> None:
    of = machine(line)
    report = of.report(fields={field + 4: b"\x01"})
    assert reasons(appraise(of, report)) == ["SNP_REPORT_MALFORMED"]


@pytest.mark.parametrize(
    ("version", "offset"), [(2, 0x188), (2, 0x18A), (2, 0x1F8), (3, 0x1F8), (3, 0x200)]
)
def test_an_old_report_has_fields_of_a_newer_version(version: int, offset: int) -> None:
    of = machine()
    report = of.report(version=version, fields={offset: b"\x01"})
    assert reasons(appraise(of, report)) == ["SNP_REPORT_MALFORMED"]


@pytest.mark.parametrize("version", [0, 1, 4, 6, 0x0300_0000])
def test_a_report_of_an_unknown_version(version: int) -> None:
    of = machine()
    assert reasons(appraise(of, of.report(version=version))) == ["SNP_REPORT_MALFORMED"]


@pytest.mark.parametrize(
    "fields",
    [{0x034: b"\x02"}, {0x034: b"\x00"}, {0x008: (1 << 16).to_bytes(8, "little")}],
    ids=["another algorithm", "no algorithm", "policy without its fixed bit"],
)
def test_a_report_of_another_form(fields: dict[int, bytes]) -> None:
    of = machine()
    assert reasons(appraise(of, of.report(fields=fields))) == ["SNP_REPORT_MALFORMED"]


def test_a_platform_fact_without_a_name_is_a_warning() -> None:
    of = machine()
    for bit in (6, 8, 63):
        report = of.report(fields={0x040: (1 << bit).to_bytes(8, "little")})
        (finding,) = appraise(of, report).findings
        assert (finding.reason, finding.status) == ("SNP_PLATFORM_INFO_UNKNOWN", Status.WARNING)
        assert int.from_bytes(finding.runtime, "big") == 1 << bit


@pytest.mark.parametrize("length", [0, 1, 672, 1183, 1185, 4096])
def test_a_report_of_another_length(length: int) -> None:
    of = machine()
    report = of.report().ljust(length, b"\0")[:length] or b"\0"
    assert reasons(appraise(of, report)) == ["SNP_REPORT_MALFORMED"]


def test_the_padding_of_the_signature_carries_something() -> None:
    of = machine()
    report = of.report()
    for offset in (*range(R.stop, S.start), *range(S.stop, len(report), 7), len(report) - 1):
        forged = changed(report, offset, b"\x01")
        assert reasons(appraise(of, forged)) == ["SNP_REPORT_MALFORMED"]


def test_the_twin_of_a_signature_is_the_same_report() -> None:
    """(r, n - s) verifies as (r, s) does, and genuine firmware emits either: no policy can tell.

    What must be unique is therefore the evidence id, which covers the signed bytes alone.
    """
    of = machine()
    report = of.report()
    twin_s = P384_ORDER - int.from_bytes(report[S], "little")
    twin = changed(report, S.start, twin_s.to_bytes(48, "little"))
    assert twin != report
    assert appraise(of, report) == appraise(of, twin)
    first, second = snp_report.parse(report), snp_report.parse(twin)
    assert first.signature != second.signature
    assert first.evidence_id == second.evidence_id
    assert of.report(report_data=bytes(64))[:SIGNED_BYTES] != report[:SIGNED_BYTES]
    assert snp_report.parse(of.report(vmpl=1)).evidence_id != first.evidence_id


def test_numbers_outside_the_group_are_no_signature() -> None:
    of = machine()
    report = of.report()
    for part in (R, S):
        for number in (0, P384_ORDER, 2**384 - 1):
            forged = changed(report, part.start, number.to_bytes(48, "little"))
            assert reasons(appraise(of, forged)) == ["SNP_REPORT_SIGNATURE"]
    # The same number modulo the order needs one byte more than there is room for.
    longer = int.from_bytes(report[S], "little") + P384_ORDER
    forged = changed(report, S.start, longer.to_bytes(49, "little"))
    assert appraise(of, forged).roots is None


def test_a_certificate_has_one_encoding() -> None:
    of = machine()
    der = of.certificate
    assert der[:2] == b"\x30\x82"
    longer = b"\x30\x83\x00" + der[2:]
    for forged in (der + b"\0", longer, b"\x30\x80" + der[4:] + b"\0\0", der[:-1]):
        assert reasons(appraise(of, certificate=forged)) == ["CERTIFICATE_MALFORMED"]


def flips_are_refused(vectors: Path, step: int) -> None:
    evidence = snp_vectors.evidence(vectors, "milan_dstack_2026")
    genuine = snp_report.parse(evidence.report)
    bundle = snp_vectors.collateral(vectors)
    for bit in range(0, len(evidence.report) * 8, step):
        offset = bit // 8
        flipped = changed(evidence.report, offset, bytes((evidence.report[offset] ^ 1 << bit % 8,)))
        appraisal = judge_real(dataclasses.replace(evidence, report=flipped), bundle)
        assert appraisal.roots is None, bit
        (finding,) = appraisal.findings
        assert finding.status in (Status.CONTRAINDICATED, Status.INDETERMINATE), bit
        if R.start <= offset < R.stop or S.start <= offset < S.stop:
            assert finding.reason == "SNP_REPORT_SIGNATURE"
    assert judge_real(evidence, bundle).findings == ()
    assert genuine.evidence_id == snp_report.parse(evidence.report).evidence_id


def judge_real(evidence: CpuEvidence, bundle: CollateralBundle) -> Any:
    report_data = b"attest-test-fixture-2026".ljust(64, b"\0")
    return snp_vectors.judge(evidence, report_data=report_data, collateral_bundle=bundle)


def test_no_bit_of_a_real_report_can_be_flipped_a_sample(vectors: Path) -> None:
    flips_are_refused(vectors, step=31)


@pytest.mark.slow
def test_no_bit_of_a_real_report_can_be_flipped(vectors: Path) -> None:
    """All 9,472 of them."""
    flips_are_refused(vectors, step=1)


def mutated(data: bytes, choose: random.Random) -> bytes:
    """One to three edits of the kinds that parsers trip over."""
    result = bytearray(data)
    for _ in range(choose.randint(1, 3)):
        at, length = choose.randrange(len(result)), choose.randint(1, 24)
        edit = choose.randrange(5)
        if edit == 0:
            result[at] ^= 1 << choose.randrange(8)
        elif edit == 1:
            result[at] = choose.randrange(256)
        elif edit == 2:
            del result[at : at + length]
        elif edit == 3:
            result[at:at] = result[at : at + length]
        else:
            result[at : at + length] = choose.randbytes(length)
        if not result:
            return bytes(1)
    return bytes(result)


@pytest.mark.parametrize("what", ["report", "certificate", "authority", "list"])
def test_mutated_documents_are_refused_and_nothing_else_happens(what: str) -> None:
    """Appraisal ends in findings; whatever it accepts is what was there before."""
    of = machine()
    sound = {"report": of.report(), "certificate": of.certificate}
    sound |= {"authority": of.intermediate.der, "list": revocation_list(of.ark, NOW - 60)}
    choose = random.Random(what)
    for _ in range(MUTATIONS):
        documents = sound | {what: mutated(sound[what], choose)}
        appraisal = appraise(
            of,
            documents["report"],
            certificate=documents["certificate"],
            issuers=[(documents["authority"], of.ark.der)],
            crls=[documents["list"]],
            require_snp_crl=True,
        )
        assert (appraisal.findings == ()) is (documents == sound)


@pytest.mark.parametrize("parse", [amd_certificate.parse, snp_crl.parse, snp_report.parse])
def test_readers_raise_nothing_but_refusals(parse: Any) -> None:
    choose = random.Random(1)
    for _ in range(MUTATIONS):
        data = choose.randbytes(choose.randrange(80))
        head = b"\x30" + bytes((len(data),)) + data
        for document in (data, head, data.ljust(1184, b"\0")):
            with pytest.raises(Refusal):
                parse(document)


def test_oversized_documents_are_refused_before_they_are_read() -> None:
    with pytest.raises(amd_certificate.CertificateMalformedError, match="too large"):
        amd_certificate.parse(bytes(8 * 1024 + 1))
    with pytest.raises(snp_crl.CrlMalformedError, match="too large"):
        snp_crl.parse(bytes(256 * 1024 + 1))
