"""Real NVSwitches, and the real group of eight H100 and four LS10 over protected PCIe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from otr_protocol.attestation import certificates
from otr_protocol.attestation.appraise import Verdict, appraise_parts
from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.nvidia import device_chain, links, spdm_report
from otr_protocol.attestation.nvidia.device_appraisal import appraise_device
from otr_protocol.attestation.nvidia.device_claims import switch_claims
from otr_protocol.attestation.nvidia.gpu_appraisal import GPU_RULES, cc_modes
from otr_protocol.attestation.nvidia.machine_appraisal import (
    MachineAppraisal,
    appraise_machine,
    needed_manifests,
)
from otr_protocol.attestation.nvidia.rim import RimKind
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.attestation.verdict import Finding, Status
from otr_protocol.binding import GpuEvidence
from support import attestation_vectors as real

TODAY = real.at("2026-11-22")
BIOS_RIM = "NV_SWITCH_BIOS_5612_0002_890_9610550001"
# No responses were collected with the switches' evidence.
AUDIT = Policy(revocation=RevocationMode.NONE, required_gpus=0)


def ls10(vectors: Path) -> real.GpuSet:
    return real.gpu_set(vectors / "nvidia" / "ls10", {BIOS_RIM: "bios_rim.xml"})


def judge_ls10(vectors: Path, policy: Policy = AUDIT, now_s: int = TODAY) -> Verdict:
    switch = ls10(vectors)
    return appraise_parts(
        None,
        [switch.evidence],
        gpu_nonce=switch.nonce,
        report_data=None,
        collateral=switch.collateral(),
        policy=policy,
        trust_roots=[VENDOR],
        now_s=now_s,
    )


def group(vectors: Path) -> tuple[list[GpuEvidence], list[GpuEvidence]]:
    directory = vectors / "nvidia" / "ppcie-590.12"
    gpus = real.evidence_list(directory / "gpu_evidence_8.json")
    switches = real.evidence_list(directory / "switch_evidence_4.json")
    assert (len(gpus), len(switches)) == (8, 4)
    return gpus, switches


def judge_group(devices: list[GpuEvidence], policy: Policy = AUDIT) -> MachineAppraisal:
    return appraise_machine(
        devices,
        nonce=devices[0].report[4:36],
        collateral=collect(rims={}),
        policy=policy,
        roots=[VENDOR],
        now_s=TODAY,
    )


def reasons(findings: tuple[Finding, ...]) -> set[tuple[str, str]]:
    return {(finding.component, finding.reason) for finding in findings}


def test_the_ls10_set_passes_today_as_a_warning_where_nobody_asks_about_revocation(
    vectors: Path,
) -> None:
    verdict = judge_ls10(vectors)
    assert reasons(verdict.findings) == {
        ("switch-0", "REVOCATION_NOT_CHECKED"),
        ("switch-0/switch-bios-rim", "REVOCATION_NOT_CHECKED"),
    }
    assert verdict.status is Status.WARNING
    assert (len(verdict.gpus), len(verdict.switches)) == (0, 1)


def test_all_31_measurements_of_the_ls10_set_are_compared(vectors: Path) -> None:
    (switch,) = judge_ls10(vectors).switches
    assert switch.report is not None
    golden = [g for g in switch.manifests[RimKind.SWITCH_BIOS].rim.measurements if g.active]
    assert [g.index for g in golden] == list(range(31))
    assert len(switch.report.measurements) == 31
    for measurement in golden:
        assert switch.report.measurements[measurement.index] in measurement.alternatives


def test_by_default_nothing_is_said_of_a_switch_without_responses(vectors: Path) -> None:
    verdict = judge_ls10(vectors, policy=Policy(required_gpus=0))
    assert {finding.reason for finding in verdict.findings} == {"REVOCATION_UNKNOWN"}
    assert verdict.status is Status.INDETERMINATE


@pytest.mark.parametrize(
    ("moment", "status"),
    [
        ("2026-05-20T22:02:50", Status.CONTRAINDICATED),
        ("2026-05-20T22:02:51", Status.WARNING),
        ("2027-11-02T23:59:59", Status.WARNING),
        ("2027-11-03T00:00:00", Status.CONTRAINDICATED),
    ],
)
def test_the_ls10_set_is_good_within_its_manifests_chain(
    vectors: Path, moment: str, status: Status
) -> None:
    assert judge_ls10(vectors, now_s=real.at(moment)).status is status


def test_the_ls10_claims_have_the_vendors_names(vectors: Path) -> None:
    (switch,) = judge_ls10(vectors).switches
    claims = switch_claims(switch)
    assert claims["hwmodel"] == "LS_10 A01 FSP BROM"
    assert claims["x-nvidia-switch-bios-version"] == "96.10.55.00.01"
    assert claims["ueid"] == "694931143880983876767046803400974855445978836716"
    chain = claims["x-nvidia-switch-bios-rim-cert-chain"]
    assert chain["x-nvidia-cert-expiration-date"] == "2027-11-02T23:59:59Z"


def test_a_switch_older_than_the_policy_allows_is_refused(vectors: Path) -> None:
    for minimum, refused in (("96.10.55.00.01", False), ("96.10.55.00.02", True)):
        policy = dataclasses.replace(AUDIT, min_switch_bios_version=minimum)
        verdict = judge_ls10(vectors, policy=policy)
        assert (("switch-0", "SWITCH_BIOS_TOO_OLD") in reasons(verdict.findings)) is refused
        assert verdict.status.trusted is not refused


def test_a_switch_whose_manifest_is_missing_is_unknown(vectors: Path) -> None:
    switch = ls10(vectors)
    assert [need.name for need in needed_manifests(switch.evidence)] == [BIOS_RIM]
    machine = judge_group([switch.evidence])
    assert ("switch-0/switch-bios-rim", "UNKNOWN_REFERENCE") in reasons(
        machine.switches[0].findings
    )


def test_switches_are_no_gpus(vectors: Path) -> None:
    """Neither do they count as GPUs, nor are they appraised by a GPU's rules."""
    verdict = judge_ls10(vectors, policy=dataclasses.replace(AUDIT, required_gpus=1))
    assert ("platform", "GPU_MISSING") in reasons(verdict.findings)
    switch = ls10(vectors)
    appraisal = appraise_device(
        switch.evidence,
        GPU_RULES,
        nonce=switch.nonce,
        collateral=switch.collateral(),
        policy=AUDIT,
        roots=[VENDOR],
        now_s=TODAY,
        component="gpu-0",
    )
    assert reasons(appraisal.findings) == {("gpu-0", "GPU_ARCHITECTURE_UNSUPPORTED")}


def test_devices_of_the_group_name_exactly_each_other(vectors: Path) -> None:
    gpus, switches = group(vectors)
    chains = {
        evidence: device_chain.verify(evidence.certificates, VENDOR.device_root)
        for evidence in (*gpus, *switches)
    }
    gpu_pdis = {chains[gpu].pdi for gpu in gpus}
    switch_pdis = {chains[switch].pdi for switch in switches}
    assert (len(gpu_pdis), len(switch_pdis)) == (8, 4)
    for gpu in gpus:
        report = spdm_report.parse(gpu.report)
        report.require_signature(chains[gpu].attestation_key.key)
        assert cc_modes(report.opaque) == {"protected-pcie"}
        assert links.switches_of_gpu(report.opaque) == switch_pdis
    for switch in switches:
        report = spdm_report.parse(switch.report)
        report.require_signature(chains[switch].attestation_key.key)
        assert links.gpus_of_switch(report.opaque) == gpu_pdis
        assert links.pdi_of_switch(report.opaque) == chains[switch].pdi
        assert links.locked(report.opaque)


def test_the_complete_group_is_sound_and_lacks_only_its_manifests(vectors: Path) -> None:
    gpus, switches = group(vectors)
    policy = dataclasses.replace(AUDIT, required_gpus=8, required_switches=4)
    mixed = [device for pair in zip(gpus[:4], switches, strict=True) for device in pair]
    for order in ([*gpus, *switches], [*switches, *gpus], [*mixed, *gpus[4:]]):
        machine = judge_group(order, policy)
        assert machine.findings == ()
        assert [d.component for d in machine.gpus] == [f"gpu-{n}" for n in range(8)]
        assert [d.component for d in machine.switches] == [f"switch-{n}" for n in range(4)]
        for device in (*machine.gpus, *machine.switches):
            assert {finding.reason for finding in device.findings} == {
                "REVOCATION_NOT_CHECKED",
                "UNKNOWN_REFERENCE",
            }


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_switch_is_named(vectors: Path, missing: int) -> None:
    gpus, switches = group(vectors)
    machine = judge_group([*gpus, *(s for n, s in enumerate(switches) if n != missing)])
    pdi = certificates.parse(switches[missing].certificates[1]).serial % 2**64
    assert reasons(machine.findings) == {
        ("platform", "PPCIE_GROUP_SIZE"),
        ("platform", "PPCIE_SWITCH_MISSING"),
    }
    (named,) = (f.runtime for f in machine.findings if f.reason == "PPCIE_SWITCH_MISSING")
    assert named == pdi.to_bytes(8, "big")


@pytest.mark.parametrize("missing", [0, 7])
def test_a_missing_gpu_is_named(vectors: Path, missing: int) -> None:
    gpus, switches = group(vectors)
    machine = judge_group([*(g for n, g in enumerate(gpus) if n != missing), *switches])
    pdi = certificates.parse(gpus[missing].certificates[1]).serial % 2**64
    assert reasons(machine.findings) == {
        ("platform", "PPCIE_GROUP_SIZE"),
        ("platform", "PPCIE_GPU_MISSING"),
    }
    (named,) = (f.runtime for f in machine.findings if f.reason == "PPCIE_GPU_MISSING")
    assert named == pdi.to_bytes(8, "big")


def test_a_protected_gpu_alone_is_no_group(vectors: Path) -> None:
    gpus, _ = group(vectors)
    machine = judge_group([gpus[0]])
    assert [f.reason for f in machine.findings] == [
        "PPCIE_GROUP_SIZE",
        *["PPCIE_SWITCH_MISSING"] * 4,
    ]
    assert {f.status for f in machine.findings} == {Status.CONTRAINDICATED}


def test_another_machines_switch_does_not_belong_to_the_group(vectors: Path) -> None:
    gpus, switches = group(vectors)
    foreign = ls10(vectors).evidence
    machine = judge_group([*gpus, *switches[:3], foreign])
    found = reasons(machine.findings)
    assert {("platform", "PPCIE_SWITCH_MISSING"), ("switch-3", "PPCIE_SWITCH_UNLISTED")} <= found
    # That switch names the GPUs of its own machine, and does not name ours.
    assert ("platform", "PPCIE_GPU_MISSING") in found
    assert {(f"gpu-{n}", "PPCIE_GPU_UNLISTED") for n in range(8)} <= found


def test_an_unprotected_gpu_does_not_belong_to_the_group(vectors: Path) -> None:
    gpus, switches = group(vectors)
    machine = judge_group([*gpus[:7], real.h100_550(vectors).evidence, *switches])
    found = reasons(machine.findings)
    assert ("gpu-7", "PPCIE_GPU_UNPROTECTED") in found
    assert ("gpu-7", "PPCIE_GPU_UNLISTED") in found
    assert ("platform", "PPCIE_GPU_MISSING") in found


def test_switches_beside_gpus_that_are_not_protected_lend_them_nothing(vectors: Path) -> None:
    machine = judge_group([real.h100_550(vectors).evidence, *group(vectors)[1]])
    assert ("gpu-0", "PPCIE_GPU_UNPROTECTED") in reasons(machine.findings)


def test_one_gpu_does_not_stand_for_two_of_the_group(vectors: Path) -> None:
    gpus, switches = group(vectors)
    found = reasons(judge_group([*gpus[:7], gpus[0], *switches]).findings)
    assert ("platform", "GPU_DUPLICATE") in found
    assert ("platform", "PPCIE_GPU_MISSING") in found
    found = reasons(judge_group([*gpus, *switches[:3], switches[0]]).findings)
    assert ("platform", "SWITCH_DUPLICATE") in found
    assert ("platform", "PPCIE_SWITCH_MISSING") in found


def test_a_policy_may_want_more_devices_than_there_are(vectors: Path) -> None:
    policy = dataclasses.replace(AUDIT, required_gpus=2, required_switches=1)
    machine = judge_group([real.h100_550(vectors).evidence], policy)
    assert reasons(machine.findings) == {
        ("platform", "GPU_MISSING"),
        ("platform", "SWITCH_MISSING"),
    }


@pytest.mark.parametrize(
    ("modes", "reason"),
    [
        (("protected-pcie",), None),
        (("multi", "single"), "GPU_CC_MODE_REFUSED"),
        ((), "GPU_CC_MODE_REFUSED"),
    ],
)
def test_a_protected_gpu_needs_a_policy_that_allows_its_mode(
    vectors: Path, modes: tuple[str, ...], reason: str | None
) -> None:
    gpus, switches = group(vectors)
    machine = judge_group([*gpus, *switches], dataclasses.replace(AUDIT, allowed_cc_modes=modes))
    found = {f.reason for f in machine.gpus[0].findings if f.reason.startswith("GPU_CC")}
    assert found == ({reason} if reason else set())


@pytest.mark.parametrize(
    ("modes", "reason"),
    [
        (("multi", "single"), None),
        (("single",), "GPU_CC_MODE_UNKNOWN"),
        (("protected-pcie",), "GPU_CC_MODE_REFUSED"),
    ],
)
def test_old_drivers_do_not_say_whether_one_or_several_gpus_are_passed_through(
    vectors: Path, modes: tuple[str, ...], reason: str | None
) -> None:
    old = real.h100_550(vectors).evidence
    machine = judge_group([old], dataclasses.replace(AUDIT, allowed_cc_modes=modes))
    found = {f.reason for f in machine.gpus[0].findings if f.reason.startswith("GPU_CC")}
    assert found == ({reason} if reason else set())
