"""Hosts and forgers against SEV-SNP reports: every attack is refused, by its own reason."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otr_devtee import reports
from otr_devtee.snp_issuing import issue_authority
from otr_protocol.attestation.amd import snp_chain, snp_report
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.amd.snp_product import GENOA, MILAN, TURIN, ProductLine
from otr_protocol.attestation.amd.snp_report import SigningKey, TcbVersion
from otr_protocol.attestation.certificates import RootUntrustedError
from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.verdict import Status
from support import devtee_world
from support import snp_world as world
from support.snp_world import NOW, appraise, machine, reasons

VCEK, VLEK = SigningKey.VCEK, SigningKey.VLEK
DAY = 24 * 3600


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


def test_a_vendor_key_that_expires_first_ends_the_chain() -> None:
    of, soon = machine(), world.START + timedelta(days=30)
    authority, _ = world.authorities(MILAN, VCEK, not_after=soon)
    root = issue_authority(
        "ARK-Milan", None, serial=65536, key=of.ark.key, not_before=world.START, not_after=soon
    )
    for ending in (
        dataclasses.replace(of, intermediate=authority),
        dataclasses.replace(of, ark=root),
    ):
        assert appraise(ending).not_after == int(soon.timestamp())
        late = appraise(ending, now_s=int(soon.timestamp()) + 1)
        assert reasons(late) == ["CERTIFICATE_EXPIRED"]


def test_a_certificate_names_both_a_chip_and_a_provider_or_neither() -> None:
    chip, rented = machine(), machine(kind=VLEK)
    # Each kind's certificate, issued by the authority of the other kind.
    as_chip = dataclasses.replace(rented, intermediate=chip.intermediate).certified()
    as_rented = dataclasses.replace(chip, intermediate=rented.intermediate).certified()
    for of in (as_chip, as_rented):
        assert reasons(appraise(of, accept_vlek=True)) == ["CERTIFICATE_CHAIN"]


@pytest.mark.parametrize(
    ("line", "kind", "extensions", "reason"),
    [
        (MILAN, VCEK, {"5": b"\x16\x01x"}, "CERTIFICATE_CHAIN"),
        (MILAN, VLEK, {"4": bytes(64)}, "CERTIFICATE_CHAIN"),
        (MILAN, VCEK, {"4": b"\x01" * 8}, "CERTIFICATE_CHAIN"),
        (TURIN, VCEK, {"4": b"\x01" * 64}, "CERTIFICATE_CHAIN"),
        (TURIN, VCEK, {"3.9": b""}, "CERTIFICATE_MALFORMED"),
        (MILAN, VCEK, {"3.3": b"\x02\x02\x01\x00"}, "CERTIFICATE_MALFORMED"),
        (MILAN, VCEK, {"3.3": b"\x02\x01\xff"}, "CERTIFICATE_MALFORMED"),
        (MILAN, VCEK, {"3.8": b"\x02\x01\x00\x00"}, "CERTIFICATE_MALFORMED"),
        (MILAN, VCEK, {"2": b"\x0c\x05Milan"}, "CERTIFICATE_MALFORMED"),
        (MILAN, VLEK, {"5": b""}, "CERTIFICATE_MALFORMED"),
    ],
)
def test_what_a_certificate_says_has_one_form(
    line: ProductLine, kind: SigningKey, extensions: dict[str, bytes], reason: str
) -> None:
    assert reasons(appraise(machine(line, kind).certified(extensions=extensions))) == [reason]


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
    renamed, _ = world.authorities(MILAN, VCEK, common_name="SEV-Genoa")
    under_milan = dataclasses.replace(of, intermediate=renamed).certified(product="Genoa-B1")
    assert reasons(appraise(under_milan)) == ["CERTIFICATE_CHAIN"]
    nobody, _ = world.authorities(MILAN, VCEK, common_name="SEV-MILAN")
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
    with pytest.raises(RootUntrustedError):
        snp_chain.verify(
            forger.certificate,
            forger.intermediate.der,
            forger.ark.der,
            world.roots(machine(GENOA)).snp_arks,
        )


def test_an_authority_that_the_root_did_not_sign() -> None:
    of = machine()
    period = {"not_before": world.START, "not_after": world.END}
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


def test_a_chips_key_is_of_the_vendors_own_kind() -> None:
    of = machine()
    authority_as_chip = dataclasses.replace(of, key=of.intermediate.key).certified()
    assert reasons(appraise(of, certificate=authority_as_chip.certificate)) == ["CERTIFICATE_CHAIN"]


@pytest.mark.parametrize(
    "changes", [{"event_log": b"x"}, {"certificates": ()}, {"certificates": (b"x", b"y")}]
)
def test_something_comes_beside_the_report_that_does_not_belong(changes: dict[str, Any]) -> None:
    of = machine()
    evidence = CpuEvidence(SEV_SNP, of.report(), (of.certificate,))
    appraisal = appraise_snp(
        dataclasses.replace(evidence, **changes),
        report_data=world.REPORT_DATA,
        collateral=collect(rims={}, snp_issuers=[(of.intermediate.der, of.ark.der)]),
        policy=Policy(cpu_measurements=(world.IMAGE,)),
        roots=[world.roots(of)],
        now_s=NOW,
    )
    assert reasons(appraisal) == ["CPU_EVIDENCE_MALFORMED"]


def test_the_development_machine_is_a_milan_as_before() -> None:
    report = snp_report.parse(devtee_world.bundle(0).cpu.report)
    assert (report.version, report.cpuid) == (3, (0x19, 0x01, 0x01))
    assert report.signing_key is VCEK
    assert isinstance(devtee_world.pki().vcek_key, ec.EllipticCurvePrivateKey)
    assert devtee_world.pki().reference_values.tcb == TcbVersion(4, 0, 23, 213)
