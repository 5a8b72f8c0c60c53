"""Blackwell GPUs as the vendor makes them: another firmware identity, another driver manifest."""

from __future__ import annotations

import dataclasses

import pytest

from otr_devtee import devices
from otr_devtee.devices import BLACKWELL, HOPPER, Fields
from otr_devtee.reference_values import REFERENCE_VALUES
from otr_protocol.attestation import certificates
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.nvidia import fwid, products
from otr_protocol.attestation.nvidia.machine_appraisal import needed_manifests
from otr_protocol.attestation.nvidia.opaque import OpaqueType
from otr_protocol.attestation.nvidia.products import Architecture, ArchitectureUnsupportedError
from otr_protocol.attestation.verdict import Status
from support import devtee_world as world
from support import protected_group as machine

DRIVER_RIM = f"NV_GPU_CC_DRIVER_GB100_{REFERENCE_VALUES.driver_version}"


def judge(fields: Fields | None = None, collateral: CollateralBundle | None = None) -> Verdict:
    policy = dataclasses.replace(
        world.pki().policy(),
        allowed_hwmodels=(BLACKWELL.hwmodel,),
        allowed_cc_modes=("multi",),
        required_gpus=2,
    )
    first, second = machine.blackwells()
    evidence = (
        machine.evidence(first, fields or devices.blackwell_fields()),
        machine.evidence(second, devices.blackwell_fields()),
    )
    return world.judge(
        world.with_gpus(*evidence),
        collateral_bundle=collateral or machine.blackwell_collateral(),
        policy=policy,
    )


def reasons(verdict: Verdict) -> set[str]:
    return {finding.reason for finding in verdict.findings}


def test_blackwell_gpus_are_affirmed_without_switches() -> None:
    verdict = judge()
    assert verdict.findings == ()
    assert verdict.status is Status.AFFIRMING


def test_without_its_manifest_a_blackwell_driver_is_unknown_and_not_bad() -> None:
    complete = machine.blackwell_collateral()
    rims = {name: document for name, document in complete.rims if name != DRIVER_RIM}
    verdict = judge(collateral=dataclasses.replace(complete, rims=tuple(rims.items())))
    assert {c for c, reason in world.reasons(verdict) if reason == "UNKNOWN_REFERENCE"} == {
        "gpu-0/driver-rim",
        "gpu-1/driver-rim",
    }
    assert verdict.status is Status.INDETERMINATE


def test_the_hoppers_driver_manifest_does_not_fit_under_the_blackwells_name() -> None:
    """Under the Hopper-style name the vendor serves a well-signed manifest of the GH100."""
    complete = machine.blackwell_collateral()
    hoppers = world.pki().driver_rim
    verdict = judge(
        collateral=collect(
            rims=dict(complete.rims) | {DRIVER_RIM: hoppers},
            ocsp_responses=complete.ocsp_responses,
            snp_issuers=complete.snp_issuers,
            crls=complete.crls,
        )
    )
    assert reasons(verdict) == {"RIM_VERSION_MISMATCH"}
    assert verdict.status is Status.CONTRAINDICATED


@pytest.mark.parametrize(
    ("chip", "name"),
    [
        (b"GB100\0", DRIVER_RIM),
        (b"GB202", DRIVER_RIM.replace("GB100", "GB202")),
        (None, DRIVER_RIM),
    ],
)
def test_the_driver_manifest_is_named_after_the_chip_in_the_report(
    chip: bytes | None, name: str
) -> None:
    """Reports with vendor data of version 0 state no chip; then it is the chain's."""
    fields = dict(devices.blackwell_fields())
    del fields[OpaqueType.CHIP_INFO]
    if chip is not None:
        fields[OpaqueType.CHIP_INFO] = chip
    evidence = machine.evidence(machine.blackwells()[0], list(fields.items()))
    assert needed_manifests(evidence)[0].name == name


def test_a_report_that_names_another_chip_than_its_chain_has_no_fitting_manifest() -> None:
    fields = dict(devices.blackwell_fields()) | {OpaqueType.CHIP_INFO: b"GB202\0"}
    complete = machine.blackwell_collateral()
    other = machine.manifest(REFERENCE_VALUES.driver_version, (7, *range(21, 41)), "GB202")
    collateral = collect(
        rims=dict(complete.rims) | {DRIVER_RIM.replace("GB100", "GB202"): other},
        ocsp_responses=complete.ocsp_responses,
        snp_issuers=complete.snp_issuers,
        crls=complete.crls,
    )
    assert reasons(judge(list(fields.items()), collateral)) == {"RIM_VERSION_MISMATCH"}


@pytest.mark.parametrize("stated", [bytes(48), None])
def test_a_blackwell_report_states_the_first_firmware_identity(stated: bytes | None) -> None:
    """The second is all zeros on a GB100: a rule of the last 48 bytes would want that one."""
    fields = dict(devices.blackwell_fields())
    del fields[OpaqueType.FWID]
    if stated is not None:
        fields[OpaqueType.FWID] = stated
    assert reasons(judge(list(fields.items()))) == {"GPU_FWID_MISMATCH"}


def test_no_blackwell_driver_is_too_old_to_state_a_firmware_identity() -> None:
    fields = dict(devices.blackwell_fields()) | {OpaqueType.DRIVER_VERSION: b"535.86.09\0"}
    del fields[OpaqueType.FWID]
    assert "GPU_FWID_MISMATCH" in reasons(judge(list(fields.items())))


GOOD = bytes(range(48))


def test_of_several_firmware_identities_the_first_counts() -> None:
    for others in ((), (bytes(48),), (bytes(48), GOOD)):
        assert fwid.first_of_tcb_info(devices.tcb_info([GOOD, *others])) == GOOD
    assert fwid.first_of_tcb_info(devices.tcb_info([bytes(48), GOOD])) == bytes(48)


GENUINE = devices.tcb_info([GOOD, bytes(48)])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GENUINE[:-1],
        GENUINE + b"\0",
        GENUINE + GENUINE,
        b"\x31" + GENUINE[1:],
        devices.tcb_info([]),
        GENUINE.replace(b"\xa6", b"\xa5"),
        GENUINE.replace(b"\xa6", b"\x86"),
        GENUINE.replace(b"\x83\x01\x01", b"\x84\x01\x01"),
        GENUINE.replace(b"\x83\x01\x01", b"\x43\x01\x01"),
        GENUINE.replace(b"\x83\x01\x01", b"\xc3\x01\x01"),
        GENUINE.replace(b"\x83\x01\x01", b"\x9f\x01\x01"),
        GENUINE.replace(b"\x30\x81", b"\x30\x80", 1),
        GENUINE.replace(b"\x06\x09\x60\x86\x48", b"\x06\x09\x60\x86\x49"),
        GENUINE.replace(b"\x04\x30" + GOOD[:2], b"\x03\x30" + GOOD[:2]),
        GENUINE.replace(b"\x30\x3d", b"\x31\x3d", 1),
        bytes((0x30, 0x82)) + len(GENUINE[3:]).to_bytes(2, "big") + GENUINE[3:],
        bytes((0x30, 0x83, 0)) + len(GENUINE[3:]).to_bytes(2, "big") + GENUINE[3:],
        b"\x30" * 5000,
    ],
)
def test_a_firmware_identity_has_one_reading(value: bytes) -> None:
    assert value != GENUINE
    with pytest.raises(ChainRejectedError):
        fwid.first_of_tcb_info(value)


def test_a_flipped_bit_of_the_first_firmware_identity_is_another_identity() -> None:
    start = GENUINE.index(GOOD)
    for offset in range(start, start + 48):
        changed = bytearray(GENUINE)
        changed[offset] ^= 1
        assert fwid.first_of_tcb_info(bytes(changed)) == bytes(changed[start : start + 48]) != GOOD


def test_each_architecture_has_its_own_form_of_firmware_identity() -> None:
    hopper, blackwell = machine.make(HOPPER), machine.make(BLACKWELL)
    for device, wrong in ((hopper, Architecture.BLACKWELL), (blackwell, Architecture.HOPPER)):
        leaf, brom = (certificates.parse(i.der) for i in (device.leaf, device.brom))
        with pytest.raises(ChainRejectedError):
            fwid.of_leaf(leaf, brom, wrong)


def test_a_leaf_without_firmware_identity_has_none() -> None:
    brom = certificates.parse(machine.blackwells()[0].brom.der)
    assert fwid.of_leaf(brom, brom, Architecture.BLACKWELL) is None


@pytest.mark.parametrize(
    ("hwmodel", "chip"),
    [
        ("GH100 A01 GSP BROM", "GH100"),
        ("GB100 A01 GSP BROM", "GB100"),
        ("GB202 A01 GSP BROM", "GB202"),
        ("LS_10 A01 FSP BROM", "LS10"),
        ("GH100 A01 GSP BROM SIMULATED", "GH100"),
    ],
)
def test_known_devices_are_known_by_their_hardware_model(hwmodel: str, chip: str) -> None:
    assert products.of_hwmodel(hwmodel).chip == chip


@pytest.mark.parametrize(
    "hwmodel",
    [
        "",
        "GH100",
        "GH100 A01 FSP BROM",
        "LS_10 A01 GSP BROM",
        "LS10 A01 FSP BROM",
        "GA100 A01 GSP BROM",
        "GH100 A01 GSP BROM ",
        "GH100 A01 GSP FMC LF",
        "GH100  A01 GSP BROM",
        "NVIDIA GH100 A01 GSP BROM",
    ],
)
def test_no_other_hardware_model_is_guessed(hwmodel: str) -> None:
    with pytest.raises(ArchitectureUnsupportedError):
        products.of_hwmodel(hwmodel)
