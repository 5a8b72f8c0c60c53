"""All NVIDIA devices of one machine: each by its own rules, then against each other.

Evidence does not say which kind of device it is from; its certificates do. GPUs and switches are
numbered each for themselves in the order of the bundle: gpu-0, gpu-1, ... and switch-0, ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.nvidia import device_chain, products, spdm_report, topology
from otr_protocol.attestation.nvidia.device_appraisal import (
    DeviceAppraisal,
    DeviceRules,
    ManifestNeed,
    appraise_device,
)
from otr_protocol.attestation.nvidia.gpu_appraisal import GPU_RULES
from otr_protocol.attestation.nvidia.products import DeviceKind, Product
from otr_protocol.attestation.nvidia.switch_appraisal import SWITCH_RULES
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.attestation.verdict import Finding, Status
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import Refusal

_RULES: Final[dict[DeviceKind, DeviceRules]] = {
    DeviceKind.GPU: GPU_RULES,
    DeviceKind.SWITCH: SWITCH_RULES,
}


@dataclass(frozen=True, slots=True)
class MachineAppraisal:
    """What was established about a machine's devices; `findings` are those on the whole."""

    gpus: tuple[DeviceAppraisal, ...]
    switches: tuple[DeviceAppraisal, ...]
    findings: tuple[Finding, ...]


def kind_of(evidence: GpuEvidence) -> DeviceKind:
    """The kind that evidence presents itself as; a GPU where its certificates do not say.

    Decides by which rules it is appraised and how it is called. Nothing is believed by that: the
    rules of either kind refuse a verified chain of the other.
    """
    try:
        return _presented(evidence).kind
    except Refusal:
        return DeviceKind.GPU


def needed_manifests(evidence: GpuEvidence) -> tuple[ManifestNeed, ...]:
    """Which manifests the appraisal of a device will ask for, for whoever has to fetch them.

    Nothing is verified. Raises a Refusal for evidence that cannot be read.
    """
    product, opaque = _presented(evidence), spdm_report.parse(evidence.report).opaque
    return tuple(need(product, opaque) for need in _RULES[product.kind].manifests.values())


def _presented(evidence: GpuEvidence) -> Product:
    """The product in the certificate where it stands if the chain is sound."""
    if len(evidence.certificates) != device_chain.CHAIN_LENGTH:
        raise ChainRejectedError("a device chain has five certificates")
    return products.of_hwmodel(certificates.parse(evidence.certificates[1]).common_name)


def appraise_machine(
    devices: Sequence[GpuEvidence],
    *,
    nonce: bytes,
    collateral: CollateralBundle,
    policy: Policy,
    roots: Sequence[TrustRootSet],
    now_s: int,
) -> MachineAppraisal:
    """Verify and appraise all devices at `now_s` under one SPDM nonce (32 bytes)."""
    appraised: dict[DeviceKind, list[DeviceAppraisal]] = {kind: [] for kind in DeviceKind}
    for evidence in devices:
        kind = kind_of(evidence)
        of_kind = appraised[kind]
        of_kind.append(
            appraise_device(
                evidence,
                _RULES[kind],
                nonce=nonce,
                collateral=collateral,
                policy=policy,
                roots=roots,
                now_s=now_s,
                component=f"{kind.value}-{len(of_kind)}",
            )
        )
    gpus, switches = appraised[DeviceKind.GPU], appraised[DeviceKind.SWITCH]
    findings = [
        *_check_count("GPU", gpus, policy.required_gpus),
        *_check_count("SWITCH", switches, policy.required_switches),
        *_check_distinct("GPU", gpus),
        *_check_distinct("SWITCH", switches),
        *topology.check(gpus, switches),
    ]
    return MachineAppraisal(gpus=tuple(gpus), switches=tuple(switches), findings=tuple(findings))


def _check_count(what: str, devices: Sequence[DeviceAppraisal], required: int) -> list[Finding]:
    if len(devices) >= required:
        return []
    return [_finding(f"{what}_MISSING", f"{required} are required, not {len(devices)}")]


def _check_distinct(what: str, devices: Sequence[DeviceAppraisal]) -> list[Finding]:
    # By the boot ROM's certificate, one per device: fresh reports of one device differ in bytes.
    chains = [device.chain for device in devices if device.chain is not None]
    identities = Counter(chain.device_identity for chain in chains)
    keys = Counter(chain.attestation_key.der for chain in chains)
    if all(count == 1 for count in (*identities.values(), *keys.values())):
        return []
    return [_finding(f"{what}_DUPLICATE", "one device is presented as several")]


def _finding(reason: str, message: str) -> Finding:
    return Finding(
        reason=reason,
        component=topology.PLATFORM,
        status=Status.CONTRAINDICATED,
        message=message,
    )
