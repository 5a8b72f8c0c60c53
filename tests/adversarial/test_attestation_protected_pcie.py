"""Attackers on a protected-PCIe group: every device is genuine, but they are not one machine.

The group is complete and affirmed to begin with; each attacker changes one thing about it.
"""

from __future__ import annotations

import dataclasses
import json

import pytest

from otr_devtee import devices
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.compact_jws import base64url_decode
from otr_protocol.attestation.ear import sign
from otr_protocol.attestation.ear_claims import claims
from otr_protocol.attestation.evidence import EvidenceMalformedError
from otr_protocol.attestation.nvidia.opaque import OpaqueType
from otr_protocol.attestation.policy import CC_MODES, Policy
from otr_protocol.attestation.verdict import Status
from otr_protocol.binding import GpuEvidence
from support import devtee_world as world
from support import protected_group as machine


def policy() -> Policy:
    return dataclasses.replace(
        world.pki().policy(),
        required_gpus=8,
        required_switches=4,
        allowed_cc_modes=("protected-pcie",),
        min_switch_bios_version=devices.SWITCH_BIOS_VERSION,
    )


def judge(*evidence: GpuEvidence) -> Verdict:
    return world.judge(
        world.with_gpus(*evidence), collateral_bundle=machine.collateral(), policy=policy()
    )


def reasons(verdict: Verdict) -> set[str]:
    return {finding.reason for finding in verdict.findings}


def test_the_complete_group_is_affirmed_down_to_every_device() -> None:
    verdict = judge(*machine.group())
    assert verdict.findings == ()
    assert verdict.status is Status.AFFIRMING
    assert (len(verdict.gpus), len(verdict.switches)) == (8, 4)


def test_a_token_holds_what_is_said_about_every_device_of_the_group() -> None:
    bundle = world.with_gpus(*machine.group())
    verdict = world.judge(bundle, collateral_bundle=machine.collateral(), policy=policy())
    token = sign(claims(verdict, bundle, world.ISSUER, world.NOW), world.token_key())
    submodules = json.loads(base64url_decode(token.split(b".")[1]))["submods"]
    assert set(submodules) == {
        "CPU-0",
        *(f"GPU-{number}" for number in range(8)),
        *(f"SWITCH-{number}" for number in range(4)),
    }


@pytest.mark.parametrize("missing", range(8, 12))
def test_the_remover_leaves_a_switch_out(missing: int) -> None:
    evidence = machine.group()
    verdict = judge(*evidence[:missing], *evidence[missing + 1 :])
    assert reasons(verdict) == {"SWITCH_MISSING", "PPCIE_GROUP_SIZE", "PPCIE_SWITCH_MISSING"}
    (named,) = (f.runtime for f in verdict.findings if f.reason == "PPCIE_SWITCH_MISSING")
    assert named == machine.switches()[missing - 8].pdi
    assert verdict.status is Status.CONTRAINDICATED


def test_the_remover_leaves_a_gpu_out() -> None:
    verdict = judge(*machine.group()[1:])
    assert reasons(verdict) == {"GPU_MISSING", "PPCIE_GROUP_SIZE", "PPCIE_GPU_MISSING"}
    (named,) = (f.runtime for f in verdict.findings if f.reason == "PPCIE_GPU_MISSING")
    assert named == machine.gpus()[0].pdi


def test_the_exchanger_puts_a_switch_of_another_machine_in() -> None:
    """It names our GPUs, as a switch with rewritten tables might; ours do not name it."""
    foreign = machine.switch_evidence(machine.make(devices.NVSWITCH))
    verdict = judge(*machine.group()[:-1], foreign)
    assert reasons(verdict) >= {"PPCIE_SWITCH_MISSING", "PPCIE_SWITCH_UNLISTED"}
    assert "PPCIE_GPU_UNLISTED" not in reasons(verdict)


def test_the_exchanger_puts_a_gpu_of_another_machine_in() -> None:
    foreign = machine.gpu_evidence(machine.make(devices.HOPPER))
    verdict = judge(*machine.group()[1:], foreign)
    assert reasons(verdict) >= {"PPCIE_GPU_MISSING", "PPCIE_GPU_UNLISTED"}


def test_the_extender_adds_a_ninth_gpu_of_his_own() -> None:
    """No bundle holds thirteen devices; in the place of a switch it is seen to be too many."""
    foreign = machine.gpu_evidence(machine.make(devices.HOPPER))
    with pytest.raises(EvidenceMalformedError):
        judge(*machine.group(), foreign)
    verdict = judge(*machine.group()[:-1], foreign)
    assert reasons(verdict) >= {"PPCIE_GROUP_SIZE", "PPCIE_GPU_UNLISTED"}


def test_the_rewirer_links_one_gpu_to_a_switch_that_nobody_shows() -> None:
    hidden = machine.make(devices.NVSWITCH).pdi
    names = [*(switch.pdi for switch in machine.switches()), hidden]
    rewired = machine.evidence(machine.gpus()[0], devices.protected_fields(names))
    verdict = judge(rewired, *machine.group()[1:])
    assert reasons(verdict) == {"PPCIE_SWITCH_MISSING"}
    (finding,) = verdict.findings
    assert finding.runtime == hidden


def test_the_rewirer_leaves_one_gpu_unlinked_to_one_switch() -> None:
    names = [switch.pdi for switch in machine.switches()[:3]]
    rewired = machine.evidence(machine.gpus()[0], devices.protected_fields(names))
    verdict = judge(rewired, *machine.group()[1:])
    assert reasons(verdict) == {"PPCIE_SWITCH_UNLISTED"}
    (finding,) = verdict.findings
    assert finding.runtime == machine.switches()[3].pdi


def test_a_gpu_that_names_no_switch_is_linked_to_none() -> None:
    fields = dict(devices.protected_fields([switch.pdi for switch in machine.switches()]))
    del fields[OpaqueType.SWITCH_PDI]
    silent = machine.evidence(machine.gpus()[0], list(fields.items()))
    assert reasons(judge(silent, *machine.group()[1:])) == {"PPCIE_SWITCH_UNLISTED"}


@pytest.mark.parametrize("mode", [b"\0\0", b"\x01\0"])
def test_the_downgrader_takes_one_gpu_out_of_protected_mode(mode: bytes) -> None:
    fields = dict(devices.protected_fields([switch.pdi for switch in machine.switches()]))
    fields |= {OpaqueType.PROTECTED_PCIE_STATUS: b"\x55", OpaqueType.FEATURE_FLAG: mode}
    plain = machine.evidence(machine.gpus()[0], list(fields.items()))
    everything = dataclasses.replace(policy(), allowed_cc_modes=CC_MODES)
    verdict = world.judge(
        world.with_gpus(plain, *machine.group()[1:]),
        collateral_bundle=machine.collateral(),
        policy=everything,
    )
    assert reasons(verdict) == {"PPCIE_GPU_UNPROTECTED"}
    assert reasons(judge(plain, *machine.group()[1:])) == {
        "PPCIE_GPU_UNPROTECTED",
        "GPU_CC_MODE_REFUSED",
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({OpaqueType.LOCK_SWITCH_STATUS: bytes(2)}, "PPCIE_SWITCH_UNLOCKED"),
        ({OpaqueType.LOCK_SWITCH_STATUS: b"\x01"}, "PPCIE_SWITCH_UNLOCKED"),
        ({OpaqueType.SWITCH_PDI: bytes(8)}, "SWITCH_PDI_MISMATCH"),
        ({OpaqueType.SWITCH_PDI: bytes(144)}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.SWITCH_GPU_PDIS: bytes(64)}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.SWITCH_GPU_PDIS: bytes(128)}, "PPCIE_GPU_UNLISTED"),
        ({OpaqueType.VBIOS_VERSION: b"96.10.55.00.00"}, "SWITCH_BIOS_TOO_OLD"),
        ({OpaqueType.VBIOS_VERSION: b"96.10.55.00"}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.VBIOS_VERSION: b"96.10.55.00.02"}, "UNKNOWN_REFERENCE"),
        ({OpaqueType.FWID: bytes(48)}, "SWITCH_FWID_MISMATCH"),
        ({OpaqueType.DRIVER_VERSION: b"550.90.07\0"}, None),
        ({200: b"\1"}, "OPAQUE_FIELD_UNKNOWN"),
    ],
)
def test_a_switch_reports_a_state_that_is_not_allowed(
    changes: dict[int, bytes], reason: str | None
) -> None:
    first, *others = machine.switches()
    verdict = judge(
        *machine.group()[:8],
        machine.switch_evidence(first, changes),
        *(machine.switch_evidence(switch) for switch in others),
    )
    assert (reason in reasons(verdict)) is (reason is not None)
    assert (verdict.status is Status.AFFIRMING) is (reason is None)


def test_a_link_or_place_without_a_device_names_nobody() -> None:
    """Zeros stand for links that are off; they are no device that could be missing."""
    gpu, switch = machine.gpus()[0], machine.switches()[0]
    fields = dict(devices.protected_fields([s.pdi for s in machine.switches()]))
    fields[OpaqueType.SWITCH_PDI] = fields[OpaqueType.SWITCH_PDI][:-8] + bytes(8)
    gpus = machine.group()[1:8]
    switches = machine.group()[8:]
    assert judge(machine.evidence(gpu, list(fields.items())), *gpus, *switches).findings == ()
    listed = b"".join(g.pdi for g in machine.gpus()[:7]) + bytes(8)
    half = machine.switch_evidence(switch, {OpaqueType.SWITCH_GPU_PDIS: listed.ljust(128, b"\xff")})
    verdict = judge(*machine.group()[:8], half, *machine.group()[9:])
    assert reasons(verdict) == {"PPCIE_GPU_UNLISTED"}


def test_a_gpus_list_of_another_length_is_malformed() -> None:
    fields = dict(devices.protected_fields([switch.pdi for switch in machine.switches()]))
    fields[OpaqueType.SWITCH_PDI] = fields[OpaqueType.SWITCH_PDI][:-8]
    short = machine.evidence(machine.gpus()[0], list(fields.items()))
    assert "OPAQUE_DATA_MALFORMED" in reasons(judge(short, *machine.group()[1:]))


def test_the_multiplier_asks_one_switch_twice() -> None:
    first = machine.switches()[0]
    verdict = judge(*machine.group()[:-1], machine.switch_evidence(first))
    assert "SWITCH_DUPLICATE" in reasons(verdict)


def test_a_switch_does_not_pass_for_a_gpu_nor_a_gpu_for_a_switch() -> None:
    """The same PKI certifies both; which one a key belongs to is in its chain."""
    gpu, switch = machine.gpus()[0], machine.switches()[0]
    chain = (switch.leaf.der, switch.brom.der, *machine.issuers())
    posing = GpuEvidence(machine.gpu_evidence(gpu).report, chain)
    assert ("switch-0", "GPU_REPORT_SIGNATURE") in world.reasons(judge(posing))
    mixed = GpuEvidence(
        machine.switch_evidence(switch).report, (switch.leaf.der, gpu.brom.der, *machine.issuers())
    )
    assert ("gpu-0", "CERTIFICATE_CHAIN") in world.reasons(judge(mixed))
