"""Attackers on measurements: what no manifest vouches for, vouched for twice, or left out.

Index 35 covers the first video decoder. It is not compared exactly where the signed report says
that this decoder is disabled; a rule that never fires, or always does, is caught here both ways.
"""

from __future__ import annotations

import pytest

from otr_devtee import reports, rim_issuing
from otr_devtee.reference_values import (
    BLOCKS,
    DRIVER_INDICES,
    NVDEC0_INDEX,
    REFERENCE_VALUES,
    VBIOS_INDICES,
)
from otr_protocol import binding
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.nvidia.opaque import OpaqueType
from otr_protocol.attestation.verdict import Status
from otr_protocol.binding import GpuEvidence
from support import devtee_world as world

ENABLED, DISABLED = b"\xaa", b"\x55"
OTHER = b"\x0f" * 48


def issuers() -> tuple[bytes, ...]:
    pki = world.pki()
    return (pki.rim_l3.der, pki.rim_ca.der, pki.rim_root.der)


def collateral_with(driver: bytes) -> CollateralBundle:
    pki, honest = world.pki(), world.collateral()
    return collect(
        rims={
            pki.reference_values.driver_rim_id: driver,
            pki.reference_values.vbios_rim_id: pki.vbios_rim,
        },
        ocsp_responses=honest.ocsp_responses,
        snp_issuers=honest.snp_issuers,
        crls=honest.crls,
    )


def manifest(active: tuple[int, ...]) -> bytes:
    pki = world.pki()
    return rim_issuing.signed_manifest(
        "550.90.07", active, pki.reference_values.golden, pki.rim_signer, issuers()
    )


def test_two_manifests_that_claim_one_index_are_refused() -> None:
    """Whichever were asked first would decide."""
    overlapping = collateral_with(manifest((1, *DRIVER_INDICES)))
    verdict = world.judge(world.bundle(), collateral_bundle=overlapping)
    assert [(f.reason, f.index) for f in verdict.findings] == [("MEASUREMENT_INDEX_CONFLICT", 1)]
    assert not verdict.status.trusted


def test_a_manifest_that_vouches_for_nothing_affirms_nothing() -> None:
    verdict = world.judge(world.bundle(), collateral_bundle=collateral_with(manifest(())))
    assert world.refused_for(verdict, "gpu-0", "RIM_WITHOUT_MEASUREMENTS")


def test_a_short_report_lacks_what_the_manifest_expects() -> None:
    pki = world.pki()
    values = pki.reference_values
    short = reports.gpu_report(
        binding.gpu_nonce(binding.anchor(**world.BOUND)),
        bytes(32),
        [values.runtime(index) for index in range(BLOCKS)][:40],
        reports.opaque_fields(values),
        reports.raw_signer(pki.gpus[0].leaf.key),
    )
    verdict = world.judge(world.with_gpus(GpuEvidence(short, pki.device_chain(0))))
    assert [(f.reason, f.index) for f in verdict.findings] == [("MEASUREMENT_MISSING", 40)]


def judge(decoder: bytes, measurements: dict[int, bytes]) -> Verdict:
    gpu = world.gpu_evidence(measurements=measurements, opaque={OpaqueType.NVDEC0_STATUS: decoder})
    return world.judge(world.with_gpus(gpu))


def golden(index: int) -> bytes:
    return REFERENCE_VALUES.golden(index)[0]


@pytest.mark.parametrize("runtime", [OTHER, bytes(48), golden(NVDEC0_INDEX)])
def test_a_disabled_decoder_may_measure_anything(runtime: bytes) -> None:
    assert world.trusted(judge(DISABLED, {NVDEC0_INDEX: runtime}))


@pytest.mark.parametrize("runtime", [OTHER, bytes(48)])
def test_an_enabled_decoder_must_measure_what_was_released(runtime: bytes) -> None:
    verdict = judge(ENABLED, {NVDEC0_INDEX: runtime})
    assert [(f.reason, f.index, f.runtime) for f in verdict.findings] == [
        ("MEASUREMENT_MISMATCH", NVDEC0_INDEX, runtime)
    ]


def test_an_enabled_decoder_that_measures_what_was_released_is_affirmed() -> None:
    assert world.trusted(judge(ENABLED, {NVDEC0_INDEX: golden(NVDEC0_INDEX)}))


@pytest.mark.parametrize("index", [i for i in (*VBIOS_INDICES, *DRIVER_INDICES) if i != 35])
def test_every_other_index_is_compared_whatever_the_decoder(index: int) -> None:
    for decoder in (ENABLED, DISABLED):
        verdict = judge(decoder, {NVDEC0_INDEX: golden(NVDEC0_INDEX), index: OTHER})
        assert [(f.reason, f.index) for f in verdict.findings] == [("MEASUREMENT_MISMATCH", index)]


def test_two_manifests_may_not_claim_even_the_index_that_is_not_compared() -> None:
    pki = world.pki()
    both = collect(
        rims={
            pki.reference_values.driver_rim_id: pki.driver_rim,
            pki.reference_values.vbios_rim_id: rim_issuing.signed_manifest(
                pki.reference_values.vbios_version,
                (*VBIOS_INDICES, NVDEC0_INDEX),
                pki.reference_values.golden,
                pki.rim_signer,
                issuers(),
            ),
        },
        ocsp_responses=world.collateral().ocsp_responses,
        snp_issuers=world.collateral().snp_issuers,
        crls=world.collateral().crls,
    )
    verdict = world.judge(world.bundle(), collateral_bundle=both)
    assert [(f.reason, f.index) for f in verdict.findings] == [
        ("MEASUREMENT_INDEX_CONFLICT", NVDEC0_INDEX)
    ]


def test_a_report_that_is_silent_about_its_decoder_is_not_taken_at_its_best() -> None:
    pki = world.pki()
    fields = dict(reports.opaque_fields(pki.reference_values))
    del fields[OpaqueType.NVDEC0_STATUS]
    silent = reports.gpu_report(
        binding.gpu_nonce(binding.anchor(**world.BOUND)),
        bytes(32),
        [pki.reference_values.runtime(index) for index in range(BLOCKS)],
        list(fields.items()),
        reports.raw_signer(pki.gpus[0].leaf.key),
    )
    verdict = world.judge(world.with_gpus(GpuEvidence(silent, pki.device_chain(0))))
    assert world.reasons(verdict) == {("gpu-0", "OPAQUE_DATA_MALFORMED")}
    assert verdict.status is Status.CONTRAINDICATED
