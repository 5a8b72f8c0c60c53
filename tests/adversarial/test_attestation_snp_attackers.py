"""Hosts and forgers against SEV-SNP reports: every attack is refused, by its own reason."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from otr_devtee import reports
from otr_devtee.snp_issuing import issue_authority, revocation_list
from otr_protocol.attestation.amd import amd_certificate, snp_crl, snp_report
from otr_protocol.attestation.amd.snp_product import GENOA, MILAN, TURIN, ProductLine
from otr_protocol.attestation.amd.snp_report import SIGNED_BYTES, SigningKey, TcbVersion
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.evidence import CpuEvidence
from otr_protocol.attestation.verdict import Status
from otr_protocol.errors import Refusal
from support import devtee_world, snp_vectors
from support import snp_world as world
from support.snp_world import NOW, appraise, machine, reasons

VCEK, VLEK = SigningKey.VCEK, SigningKey.VLEK
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
R, S = slice(0x2A0, 0x2D0), slice(0x2E8, 0x318)
DAY = 24 * 3600


def changed(report: bytes, offset: int, value: bytes) -> bytes:
    """A report whose bytes were changed after it was signed."""
    return report[:offset] + value + report[offset + len(value) :]


# ---------------------------------------------------------------------------------- honest


@pytest.mark.parametrize("line", world.LINES, ids=lambda line: line.name)
@pytest.mark.parametrize("kind", list(SigningKey))
@pytest.mark.parametrize("version", snp_report.VERSIONS)
def test_honest_machines_of_every_line_are_affirmed(
    line: ProductLine, kind: SigningKey, version: int
) -> None:
    of = machine(line, kind)
    appraisal = appraise(of, of.report(version=version))
    assert appraisal.findings == ()
    assert appraisal.evidence_claims["hwmodel"] == line.name
    assert appraisal.evidence_claims["otr-snp-signing-key"] == kind.name.lower()
    tcb = appraisal.evidence_claims["otr-snp-reported-tcb"]
    assert tcb.get("fmc") == (2 if line is TURIN else None)


def test_vendor_keys_of_all_lines_at_hand_do_not_confuse_the_search() -> None:
    machines = [machine(line, kind) for line in world.LINES for kind in SigningKey]
    issuers = [(of.intermediate.der, of.ark.der) for of in machines]
    for of in machines:
        assert appraise(of, issuers=issuers, pinned=world.roots()).findings == ()


def test_mitigations_and_keys_of_the_guests_owner_are_told() -> None:
    fields = {
        0x048: (1).to_bytes(4, "little"),
        0x0E0: b"\x0a" * 48,
        0x110: b"\x0b" * 48,
        0x1F8: (5).to_bytes(8, "little"),
        0x200: (7).to_bytes(8, "little"),
    }
    of = machine(TURIN)
    claims = appraise(of, of.report(version=5, fields=fields)).evidence_claims
    assert claims["otr-snp-id-key"] == "0a" * 48
    assert claims["otr-snp-author-key"] == "0b" * 48
    assert claims["otr-snp-mitigations"] == [f"{5:016x}", f"{7:016x}"]


# ---------------------------------------------------------------------------------- the host


@pytest.mark.parametrize("kind", list(SigningKey))
def test_the_host_debugs_the_guest(kind: SigningKey) -> None:
    of = machine(kind=kind)
    appraisal = appraise(of, of.report(policy=reports.SNP_POLICY | 1 << 19))
    assert reasons(appraisal) == ["CPU_DEBUG_ENABLED"]


def test_the_host_asks_for_the_report_himself() -> None:
    """A report that the host may have asked for bears the highest privilege level there is."""
    of = machine()
    appraisal = appraise(of, of.report(vmpl=0xFFFF_FFFF), max_vmpl=3)
    assert reasons(appraisal) == ["CPU_VMPL_REFUSED"]


@pytest.mark.parametrize("line", world.LINES, ids=lambda line: line.name)
@pytest.mark.parametrize("component", ["boot_loader", "tee", "snp", "microcode", "fmc"])
def test_the_host_runs_outdated_firmware(line: ProductLine, component: str) -> None:
    of = machine(line)
    higher = dataclasses.replace(of.tcb, **{component: getattr(of.tcb, component) + 1})
    assert reasons(appraise(of, min_snp_tcb=of.tcb)) == []
    assert reasons(appraise(of, min_snp_tcb=higher)) == ["CPU_TCB_TOO_OLD"]


@pytest.mark.parametrize("line", world.LINES, ids=lambda line: line.name)
@pytest.mark.parametrize("component", ["boot_loader", "tee", "snp", "microcode"])
def test_the_host_claims_newer_firmware_than_his_key_is_for(
    line: ProductLine, component: str
) -> None:
    of = machine(line)
    higher = dataclasses.replace(of.tcb, **{component: getattr(of.tcb, component) + 1})
    assert reasons(appraise(of, of.report(tcb=higher))) == ["SNP_TCB_MISMATCH"]


def test_the_host_claims_a_newer_first_stage_than_his_key_is_for() -> None:
    of = machine(TURIN)
    higher = dataclasses.replace(of.tcb, fmc=of.tcb.fmc + 1)
    assert reasons(appraise(of, of.report(tcb=higher))) == ["SNP_TCB_MISMATCH"]


def test_the_host_hides_which_chip_it_is() -> None:
    """Only under a provider's key does the chip's id mean nothing."""
    of = machine()
    assert reasons(appraise(of, of.report(chip_id=bytes(64)))) == ["SNP_CHIP_MISMATCH"]
    rented = machine(kind=VLEK)
    assert reasons(appraise(rented, rented.report(chip_id=bytes(64)))) == []
    assert reasons(appraise(rented, rented.report(chip_id=of.chip_id))) == []


@pytest.mark.parametrize("line", world.LINES, ids=lambda line: line.name)
def test_the_host_shows_the_key_of_another_chip(line: ProductLine) -> None:
    of, other = machine(line), machine(line, number=1)
    appraisal = appraise(of, certificate=other.certificate)
    assert reasons(appraisal) == ["SNP_CHIP_MISMATCH"]
    assert appraisal.roots is None
    assert not appraisal.evidence_claims


def test_the_host_signs_for_another_chip() -> None:
    of, other = machine(), machine(number=1)
    assert reasons(appraise(of, of.report(key=other.key))) == ["SNP_REPORT_SIGNATURE"]
    assert reasons(appraise(of, other.report())) == ["SNP_CHIP_MISMATCH"]


def test_the_host_fills_the_unused_part_of_a_short_chip_id() -> None:
    of = machine(TURIN)
    longer = of.chip_id[:8] + b"\x01" + of.chip_id[9:]
    assert reasons(appraise(of, of.report(chip_id=longer))) == ["SNP_CHIP_MISMATCH"]


# ---------------------------------------------------------------------------------- keys


def test_a_providers_key_is_refused_by_default() -> None:
    assert reasons(appraise(machine(kind=VLEK), accept_vlek=False)) == ["CPU_VLEK_REFUSED"]


@pytest.mark.parametrize("kind", list(SigningKey))
def test_a_key_of_one_kind_is_presented_as_the_other(kind: SigningKey) -> None:
    of = machine(kind=kind)
    other = VLEK if kind is VCEK else VCEK
    appraisal = appraise(of, of.report(signing_key=other), accept_vlek=True)
    assert reasons(appraisal) == ["SNP_SIGNING_KEY_MISMATCH"]


def test_a_chips_report_is_shown_with_a_providers_certificate() -> None:
    of, rented = machine(), machine(kind=VLEK)
    appraisal = appraise(
        of,
        certificate=rented.certificate,
        issuers=[(rented.intermediate.der, rented.ark.der)],
        accept_vlek=True,
    )
    assert reasons(appraisal) == ["SNP_SIGNING_KEY_MISMATCH"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [(7, "SNP_REPORT_UNSIGNED"), *((n, "SNP_SIGNING_KEY_UNSUPPORTED") for n in range(2, 7))],
)
def test_a_report_signed_by_nobody_or_by_an_unknown_key(number: int, reason: str) -> None:
    of = machine()
    assert reasons(appraise(of, of.report(signing_key=number))) == [reason]


@pytest.mark.parametrize(
    ("kind", "delay_s", "wanted"),
    [
        (VLEK, 365 * DAY - 3600, []),
        (VLEK, 365 * DAY - 3600 + 1, ["SNP_VLEK_EXPIRED"]),
        (VLEK, -3601, ["SNP_VLEK_EXPIRED"]),
        (VCEK, 3650 * DAY - 3600, []),
        (VCEK, 3650 * DAY - 3600 + 1, ["CERTIFICATE_EXPIRED"]),
    ],
)
def test_an_expired_key_signs_on(kind: SigningKey, delay_s: int, wanted: list[str]) -> None:
    assert reasons(appraise(machine(kind=kind), now_s=NOW + delay_s)) == wanted


def test_a_certificate_names_both_a_chip_and_a_provider_or_neither() -> None:
    chip, rented = machine(), machine(kind=VLEK)
    # Each kind's certificate, issued by the authority of the other kind.
    as_chip = dataclasses.replace(rented, intermediate=chip.intermediate).certified()
    as_rented = dataclasses.replace(chip, intermediate=rented.intermediate).certified()
    for of in (as_chip, as_rented):
        assert reasons(appraise(of, accept_vlek=True)) == ["CERTIFICATE_CHAIN"]


# ---------------------------------------------------------------------------------- products


@pytest.mark.parametrize("line", world.LINES, ids=lambda line: line.name)
def test_a_chip_of_one_line_reports_under_another_lines_chain(line: ProductLine) -> None:
    of = machine(line)
    for other in world.LINES:
        processor = {0x188: bytes((other.family, other.models[-1][1], 2))}
        wanted = [] if other is line else ["SNP_PRODUCT_MISMATCH"]
        assert reasons(appraise(of, of.report(fields=processor))) == wanted


@pytest.mark.parametrize(
    ("family", "model"), [(0x19, 0x20), (0x19, 0x9F), (0x1A, 0x20), (0x17, 0x01), (0, 0)]
)
def test_a_processor_of_no_line_reports(family: int, model: int) -> None:
    for line in world.LINES:
        of = machine(line)
        report = of.report(fields={0x188: bytes((family, model, 0))})
        assert reasons(appraise(of, report)) == ["SNP_PRODUCT_MISMATCH"]


def test_a_certificate_of_one_line_is_issued_by_another_lines_authority() -> None:
    """The names of authority and root must be those of the product, whoever signed for it."""
    of = machine(MILAN).certified(product="Genoa-B1")
    assert reasons(appraise(of)) == ["CERTIFICATE_CHAIN"]
    renamed, _ = world.authorities(MILAN, VCEK, name="SEV-Genoa")
    under_milan = dataclasses.replace(of, intermediate=renamed).certified(product="Genoa-B1")
    assert reasons(appraise(under_milan)) == ["CERTIFICATE_CHAIN"]
    nobody, _ = world.authorities(MILAN, VCEK, name="SEV-MILAN")
    assert reasons(appraise(dataclasses.replace(of, intermediate=nobody).certified())) == [
        "CERTIFICATE_CHAIN"
    ]


def test_an_unknown_product_leaves_the_verdict_open() -> None:
    of = machine().certified(product="Milan-X")
    (finding,) = appraise(of).findings
    assert (finding.reason, finding.status) == ("SNP_PRODUCT_UNSUPPORTED", Status.INDETERMINATE)


# ---------------------------------------------------------------------------------- authorities


def test_an_authority_of_the_attackers_own_has_the_right_names() -> None:
    forger = machine()
    appraisal = appraise(forger, pinned=world.roots(machine(GENOA)))
    assert reasons(appraisal) == ["ROOT_UNTRUSTED"]


def test_an_authority_that_the_root_did_not_sign() -> None:
    of = machine()
    period = {"not_before": world._START, "not_after": world._END}
    unsigned = issue_authority("SEV-Milan", None, serial=65537, key=of.intermediate.key, **period)
    renamed = dataclasses.replace(of, intermediate=unsigned)
    assert reasons(appraise(renamed)) == ["CERTIFICATE_CHAIN"]
    self_issued = dataclasses.replace(of.ark, key=of.intermediate.key)
    forged = issue_authority(
        "SEV-Milan", self_issued, serial=65537, key=of.intermediate.key, **period
    )
    assert reasons(appraise(dataclasses.replace(of, intermediate=forged))) == ["CERTIFICATE_CHAIN"]


def test_a_chip_plays_the_authority() -> None:
    """A certificate that may not issue others, in the place of the one that may."""
    of = machine()
    chip_as_issuer = [(of.certificate, of.ark.der)]
    assert reasons(appraise(of, issuers=chip_as_issuer)) == ["SNP_VENDOR_KEYS_MISSING"]
    root_as_key = appraise(of, certificate=of.ark.der, issuers=[(of.ark.der, of.ark.der)])
    assert reasons(root_as_key) == ["CERTIFICATE_MALFORMED"]
    assert reasons(appraise(of, issuers=[])) == ["SNP_VENDOR_KEYS_MISSING"]


# ---------------------------------------------------------------------------------- bytes


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

    What must be unique is therefore the identity, which covers the signed bytes alone.
    """
    of = machine()
    report = of.report()
    twin_s = P384_ORDER - int.from_bytes(report[S], "little")
    twin = changed(report, S.start, twin_s.to_bytes(48, "little"))
    assert twin != report
    assert appraise(of, report) == appraise(of, twin)
    first, second = snp_report.parse(report), snp_report.parse(twin)
    assert first.signature != second.signature
    assert first.identity == second.identity
    assert of.report(report_data=bytes(64))[:SIGNED_BYTES] != report[:SIGNED_BYTES]
    assert snp_report.parse(of.report(vmpl=1)).identity != first.identity


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


# ---------------------------------------------------------------------------------- lists


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


# ---------------------------------------------------------------------------------- sweeps


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
    assert genuine.identity == snp_report.parse(evidence.report).identity


def judge_real(evidence: CpuEvidence, bundle: CollateralBundle) -> Any:
    report_data = b"attest-test-fixture-2026".ljust(64, b"\0")
    return snp_vectors.judge(evidence, report_data=report_data, collateral_bundle=bundle)


def test_no_bit_of_a_real_report_can_be_flipped_a_sample(vectors: Path) -> None:
    flips_are_refused(vectors, step=31)


@pytest.mark.slow
def test_no_bit_of_a_real_report_can_be_flipped(vectors: Path) -> None:
    """All 9,472 of them."""
    flips_are_refused(vectors, step=1)


MUTATIONS = 2000


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
    sound |= {"authority": of.intermediate.der, "list": listed(of)}
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
    with pytest.raises(amd_certificate.CertificateMalformedError):
        amd_certificate.parse(bytes(8 * 1024 + 1))
    with pytest.raises(snp_crl.CrlMalformedError):
        snp_crl.parse(bytes(256 * 1024 + 1))


def test_the_development_machine_is_a_milan_as_before() -> None:
    report = snp_report.parse(devtee_world.bundle(0).cpu.report)
    assert (report.version, report.cpuid) == (3, (0x19, 0x01, 0x01))
    assert report.signing_key is VCEK
    assert isinstance(devtee_world.pki().vcek_key, ec.EllipticCurvePrivateKey)
    assert devtee_world.pki().reference_values.tcb == TcbVersion(4, 0, 23, 213)
