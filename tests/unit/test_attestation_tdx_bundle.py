"""A TD beside a GPU: one bundle, one verdict, one token, bound as the protocol says."""

from __future__ import annotations

import dataclasses

import pytest

from otr_protocol import binding
from otr_protocol.attestation import collateral, evidence
from otr_protocol.attestation.appraise import Verdict, appraise
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.ear_claims import claims
from otr_protocol.attestation.evidence import INTEL_TDX, CpuEvidence, EvidenceBundle
from otr_protocol.attestation.verdict import Status
from otr_protocol.binding import GpuEvidence
from support import devtee_world as devtee
from support import event_logs as logs
from support import intel_world as world

POLICY = dataclasses.replace(
    devtee.pki().policy(),
    cpu_measurements=(world.MRTD,),
    tdx_traits=world.POLICY.tdx_traits,
    tdx_rtmrs=((1, (logs.registers()[1],)),),
)
ROOTS = dataclasses.replace(devtee.pki().trust_roots(), intel_root=world.intel().root.der)


def known(*intel: bytes) -> CollateralBundle:
    return dataclasses.replace(devtee.collateral(), intel=intel)


FULL = known(world.standard().encode())


def bundle(devices: tuple[GpuEvidence, ...], report_data: bytes | None = None) -> EvidenceBundle:
    """Evidence of a TD whose quote commits to the anchor and the devices, unless told otherwise."""
    if report_data is None:
        anchor = binding.anchor(**devtee.BOUND)
        report_data = binding.report_data(anchor, binding.gpu_digest(devices))
    body = world.td_report(rtmrs=logs.registers(), report_data=report_data)
    return EvidenceBundle(
        **devtee.BOUND,
        cpu=CpuEvidence(INTEL_TDX, world.quote(body=body) + bytes(70), (), logs.log()),
        devices=devices,
    )


def judge(
    parts: EvidenceBundle, knowledge: CollateralBundle = FULL, now_s: int = devtee.NOW
) -> Verdict:
    return appraise(
        evidence.decode(parts.encode()),
        collateral.decode(knowledge.encode()),
        POLICY,
        [ROOTS],
        now_s,
    )


def test_a_td_with_its_gpu_is_affirmed_and_gets_a_token() -> None:
    parts = bundle((devtee.gpu_evidence(),))
    verdict = judge(parts)
    assert verdict.findings == ()
    assert verdict.status is Status.AFFIRMING
    assert verdict.bound
    said = claims(verdict, parts, devtee.ISSUER, devtee.NOW)["submods"]["CPU-0"]
    assert said["otr-tdx-mrtd"] == world.MRTD.hex()
    assert said["otr-tdx-rtmrs"] == [register.hex() for register in logs.registers()]
    assert said["otr-intel-tcb-status"] == "UpToDate"
    assert said["dbgstat"] == "disabled"
    assert said["hwmodel"] == world.FMSPC.hex().upper()


def test_a_td_under_intels_root_beside_a_gpu_under_another_is_refused() -> None:
    apart = [
        dataclasses.replace(ROOTS, name="gpu", intel_root=b""),
        dataclasses.replace(ROOTS, name="cpu", device_root=b"", rim_root=b""),
    ]
    verdict = appraise(bundle((devtee.gpu_evidence(),)), FULL, POLICY, apart, devtee.NOW)
    assert devtee.refused_for(verdict, "platform", "TRUST_ROOTS_MIXED")


def test_a_quote_that_commits_to_another_gpu_is_refused() -> None:
    anchor = binding.anchor(**devtee.BOUND)
    other = binding.report_data(anchor, binding.gpu_digest(()))
    verdict = judge(bundle((devtee.gpu_evidence(),), report_data=other))
    assert devtee.refused_for(verdict, "cpu", "CPU_REPORT_DATA_MISMATCH")


@pytest.mark.parametrize(("offset", "trusted"), [(-1, True), (0, False)])
def test_an_outage_of_collateral_keeps_the_verdict_until_the_next_update(
    offset: int, trusted: bool
) -> None:
    """The TD's collateral ends first here, some hours before the GPU's responses do."""
    end = devtee.NOW + 3 * 3600
    documents = {"nextUpdate": world.moment(end).strftime("%Y-%m-%dT%H:%M:%SZ")}
    short = known(world.collateral(tcb_info=documents).encode())
    parts = bundle((devtee.gpu_evidence(),))
    verdict = judge(parts, short, now_s=end + offset)
    if trusted:
        assert verdict.status is Status.AFFIRMING
        assert verdict.not_after == end - 1
    else:
        assert verdict.status is Status.INDETERMINATE
        assert devtee.reasons(verdict) == {("cpu", "INTEL_COLLATERAL_NOT_CURRENT")}


def test_without_collateral_the_verdict_stays_open() -> None:
    verdict = judge(bundle((devtee.gpu_evidence(),)), known())
    assert verdict.status is Status.INDETERMINATE
    assert devtee.reasons(verdict) == {("cpu", "INTEL_COLLATERAL_MISSING")}


def test_equal_arguments_give_one_verdict_whatever_is_remembered() -> None:
    parts = bundle((devtee.gpu_evidence(),))
    first = judge(parts)
    assert judge(bundle((devtee.gpu_evidence(),))).status is Status.AFFIRMING
    assert judge(parts).digest == first.digest
