"""Protected PCIe: do these GPUs and switches form exactly one protected group?

On Hopper, GPUs that talk over NVSwitches are confidential only as a whole: all eight GPUs and all
four switches in protected mode, owned by one guest. Each report is signed by its own device, and
what ties them together are the lists in which they name each other (`links`). So:

  - all GPUs of the machine are in protected-PCIe mode, or none is and there are no switches;
  - the group has eight GPUs and four switches, and the switches are locked;
  - every GPU names exactly the switches that are here, every switch exactly the GPUs that are here.

A device that is named and absent is reported by its PDI; a device that is here and that one of the
others does not name is reported by its component: it may be another machine's.

Where no GPU is in that mode there is no group, and a policy that wants one says so by
`required_switches` or `allowed_cc_modes`. Blackwell protects NVLink itself and needs no switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.attestation.nvidia import links
from otr_protocol.attestation.nvidia.device_appraisal import DeviceAppraisal
from otr_protocol.attestation.nvidia.opaque import OpaqueData
from otr_protocol.attestation.verdict import Finding, Status, finding_of
from otr_protocol.errors import Refusal

GROUP_GPUS: Final = 8
GROUP_SWITCHES: Final = 4
PLATFORM: Final = "platform"


@dataclass(frozen=True, slots=True)
class _Member:
    """One device of the group: what it is called, who it is, and whom it names."""

    component: str
    pdi: bytes
    names: frozenset[bytes]


def check(gpus: Sequence[DeviceAppraisal], switches: Sequence[DeviceAppraisal]) -> list[Finding]:
    """What keeps the verified devices among `gpus` and `switches` from being one sound group.

    Devices whose chain or signature did not verify are nobody; their own findings say why.
    """
    findings: list[Finding] = []
    protected: list[str] = []
    unprotected: list[str] = []
    gpu_members: list[_Member] = []
    for device, opaque in _verified(gpus):
        try:
            (protected if opaque.protected_pcie else unprotected).append(device.component)
            gpu_members.append(_member(device, links.switches_of_gpu(opaque)))
        except Refusal as refusal:
            findings.append(finding_of(refusal, device.component))
    if not protected and not (unprotected and switches):
        return findings
    switch_members: list[_Member] = []
    for device, opaque in _verified(switches):
        if not links.locked(opaque):
            findings.append(
                _finding("PPCIE_SWITCH_UNLOCKED", device.component, "the switch is not locked")
            )
        try:
            switch_members.append(_member(device, links.gpus_of_switch(opaque)))
        except Refusal as refusal:
            findings.append(finding_of(refusal, device.component))
    findings += [
        _finding("PPCIE_GPU_UNPROTECTED", component, "a GPU of the group is not protected")
        for component in unprotected
    ]
    if (len(gpus), len(switches)) != (GROUP_GPUS, GROUP_SWITCHES):
        findings.append(
            _finding(
                "PPCIE_GROUP_SIZE",
                PLATFORM,
                f"a group has {GROUP_GPUS} GPUs and {GROUP_SWITCHES} switches, "
                f"not {len(gpus)} and {len(switches)}",
            )
        )
    findings += _compare("SWITCH", present=switch_members, naming=gpu_members)
    findings += _compare("GPU", present=gpu_members, naming=switch_members)
    return findings


def _verified(devices: Sequence[DeviceAppraisal]) -> list[tuple[DeviceAppraisal, OpaqueData]]:
    return [(device, device.report.opaque) for device in devices if device.report is not None]


def _member(device: DeviceAppraisal, names: frozenset[bytes]) -> _Member:
    assert device.chain is not None  # there is a report, so chain and signature verified
    return _Member(device.component, device.chain.pdi, names)


def _compare(what: str, *, present: Sequence[_Member], naming: Sequence[_Member]) -> list[Finding]:
    """`present` against what the devices of the other kind name, which must be exactly these."""
    here = {member.pdi for member in present}
    named = frozenset().union(*(member.names for member in naming))
    findings = [
        _finding(
            f"PPCIE_{what}_MISSING",
            PLATFORM,
            f"{_components(naming, pdi)} names {pdi.hex()}, which is not here",
            pdi,
        )
        for pdi in sorted(named - here)
    ]
    for member in present:
        silent = [other.component for other in naming if member.pdi not in other.names]
        if silent:
            findings.append(
                _finding(
                    f"PPCIE_{what}_UNLISTED",
                    member.component,
                    f"{', '.join(silent)} does not name {member.pdi.hex()}",
                    member.pdi,
                )
            )
    return findings


def _components(naming: Sequence[_Member], pdi: bytes) -> str:
    return ", ".join(member.component for member in naming if pdi in member.names)


def _finding(reason: str, component: str, message: str, pdi: bytes = b"") -> Finding:
    return Finding(
        reason=reason,
        component=component,
        status=Status.CONTRAINDICATED,
        message=message,
        runtime=pdi,
    )
