"""Real NVIDIA evidence gets the verdict that the vectors' manifest states (MANIFEST.md, nvidia)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from otr_protocol.attestation import certificates, ocsp
from otr_protocol.attestation.certificates import ChainRejectedError, RootUntrustedError
from otr_protocol.attestation.nvidia import device_chain, rim, spdm_report
from otr_protocol.attestation.nvidia.device_appraisal import DeviceAppraisal, appraise_device
from otr_protocol.attestation.nvidia.device_claims import gpu_claims
from otr_protocol.attestation.nvidia.gpu_appraisal import GPU_RULES
from otr_protocol.attestation.nvidia.spdm_report import ReportMalformedError, ReportSignatureError
from otr_protocol.attestation.nvidia.xml_signature import XmlSignatureError
from otr_protocol.attestation.policy import MAX_COLLATERAL_AGE_SECONDS, Policy, RevocationMode
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.attestation.verdict import Finding, Status, worst
from otr_protocol.errors import Refusal
from support import attestation_vectors as real

# OCSP windows of device and manifests lie two months apart, so no instant has all of them current:
# the last good response counts, as a machine without a network would run it.
OFFLINE = Policy(
    revocation=RevocationMode.LAST_GOOD,
    max_collateral_age_s=MAX_COLLATERAL_AGE_SECONDS,
    min_driver_version="535",
)
INSIDE = real.at("2026-02-01")
AS_ISSUED = dataclasses.replace(Policy(), revocation=RevocationMode.AS_ISSUED)
UNASKED = dataclasses.replace(Policy(), revocation=RevocationMode.NONE)


def appraise(gpu: real.GpuSet, policy: Policy = OFFLINE, now_s: int = INSIDE) -> DeviceAppraisal:
    return appraise_device(
        gpu.evidence,
        GPU_RULES,
        nonce=gpu.nonce,
        collateral=gpu.collateral(),
        policy=policy,
        roots=[VENDOR],
        now_s=now_s,
        component="gpu-0",
    )


def status(findings: Iterable[Finding]) -> Status:
    return worst(*(finding.status for finding in findings))


def reasons(findings: Iterable[Finding]) -> set[str]:
    return {finding.reason for finding in findings}


def test_the_pinned_roots_are_the_published_ones(vectors: Path) -> None:
    roots = vectors / "nvidia" / "roots"
    assert real.certificates(real.read(roots / "device_root.pem")) == (VENDOR.device_root,)
    assert real.certificates(real.read(roots / "rim_root.pem")) == (VENDOR.rim_root,)


@pytest.mark.parametrize("day", ["2025-10-26", "2026-02-01", "2026-02-22T23:17:58"])
def test_the_complete_h100_set_is_genuine_in_its_window(vectors: Path, day: str) -> None:
    appraisal = appraise(real.h100_550(vectors), now_s=real.at(day))
    assert reasons(appraisal.findings) == {"REVOCATION_NOT_CURRENT"}
    assert status(appraisal.findings) is Status.WARNING
    assert appraisal.chain is not None
    assert appraisal.chain.hwmodel == "GH100 A01 GSP BROM"
    assert appraisal.not_after == real.at("2026-02-22T23:17:58")


def test_every_golden_measurement_of_the_h100_set_is_compared(vectors: Path) -> None:
    appraisal = appraise(real.h100_550(vectors))
    active = [
        golden.index
        for part in appraisal.manifests.values()
        for golden in part.rim.measurements
        if golden.active
    ]
    assert len(active) == len(set(active)) == 33


@pytest.mark.parametrize(("day", "expired"), [("2026-02-23", 1), ("2026-11-22", 2)])
def test_the_h100_set_is_refused_when_its_manifests_have_expired(
    vectors: Path, day: str, expired: int
) -> None:
    findings = appraise(real.h100_550(vectors), now_s=real.at(day)).findings
    assert [f.reason for f in findings].count("CERTIFICATE_EXPIRED") == expired
    assert status(findings) is Status.CONTRAINDICATED


def test_under_the_default_policy_old_responses_leave_the_verdict_open(vectors: Path) -> None:
    findings = appraise(real.h100_550(vectors), policy=Policy()).findings
    assert reasons(findings) == {"OCSP_STALE"}
    assert status(findings) is Status.INDETERMINATE


@pytest.mark.parametrize("day", ["2025-08-21T12:00", "2025-10-24T12:00"])
def test_no_instant_has_all_responses_current(vectors: Path, day: str) -> None:
    """Those of the device and those of the manifests were collected two months apart."""
    findings = appraise(real.h100_550(vectors), policy=Policy(), now_s=real.at(day)).findings
    assert reasons(findings) == {"OCSP_STALE"}
    assert status(findings) is Status.INDETERMINATE


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2024-05-31T00:00:00", Status.CONTRAINDICATED),
        ("2024-06-01T02:08:28", Status.CONTRAINDICATED),
        ("2024-06-01T02:08:29", Status.WARNING),
        # Where every response of the device is current, the warning stays.
        ("2025-08-21T12:00:00", Status.WARNING),
        ("2026-02-01T00:00:00", Status.WARNING),
        ("2026-02-22T23:17:58", Status.WARNING),
        ("2026-02-22T23:17:59", Status.CONTRAINDICATED),
        ("2026-11-22T00:00:00", Status.CONTRAINDICATED),
    ],
)
def test_as_issued_the_verdict_flips_with_the_manifests_chains_and_never_affirms(
    vectors: Path, moment: str, expected: Status
) -> None:
    findings = appraise(real.h100_550(vectors), AS_ISSUED, real.at(moment)).findings
    assert status(findings) is expected
    assert {(f.component, f.reason) for f in findings if f.reason != "CERTIFICATE_EXPIRED"} == {
        ("gpu-0", "REVOCATION_NOT_CURRENT"),
        ("gpu-0/driver-rim", "REVOCATION_NOT_CURRENT"),
        ("gpu-0/vbios-rim", "REVOCATION_NOT_CURRENT"),
    }
    # The chains of the manifests, and nothing else, are outside their period.
    expired = {f.component for f in findings if f.reason == "CERTIFICATE_EXPIRED"}
    assert expired <= {"gpu-0/driver-rim", "gpu-0/vbios-rim"}
    assert bool(expired) is (expected is Status.CONTRAINDICATED)


def test_as_issued_a_missing_response_still_leaves_the_verdict_open(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    for missing in range(len(gpu.ocsp_responses)):
        kept = gpu.ocsp_responses[:missing] + gpu.ocsp_responses[missing + 1 :]
        findings = appraise(dataclasses.replace(gpu, ocsp_responses=kept), AS_ISSUED).findings
        assert reasons(findings) == {"REVOCATION_NOT_CURRENT", "REVOCATION_UNKNOWN"}
        assert status(findings) is Status.INDETERMINATE


def test_where_nobody_is_asked_every_chain_carries_a_warning(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    for responses in ((), gpu.ocsp_responses):
        findings = appraise(dataclasses.replace(gpu, ocsp_responses=responses), UNASKED).findings
        assert [(f.component, f.reason, f.status) for f in findings] == [
            (component, "REVOCATION_NOT_CHECKED", Status.WARNING)
            for component in ("gpu-0", "gpu-0/driver-rim", "gpu-0/vbios-rim")
        ]


def test_device_responses_are_current_for_their_own_day_only(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    chain = device_chain.verify(gpu.evidence.certificates, VENDOR.device_root).certificates
    responses = [ocsp.parse(der) for der in gpu.ocsp_responses]
    for position in (1, 2, 3):
        standing = ocsp.find(responses, chain[position], chain[position + 1])
        assert standing.status is ocsp.CertificateStatus.GOOD
        standing.require_current(real.at("2025-08-21T07:00"), 24 * 3600)
        for moment in ("2025-08-21T06:00", "2025-08-22T06:47:08"):
            with pytest.raises(ocsp.OcspStaleError):
                standing.require_current(real.at(moment), 24 * 3600)


def test_manifest_responses_are_current_for_their_own_day_only(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    responses = [ocsp.parse(der) for der in gpu.ocsp_responses]
    for document in gpu.rims.values():
        chain = rim.verify(document, VENDOR.rim_root).chain
        for position in (0, 1, 2):
            standing = ocsp.find(responses, chain[position], chain[position + 1])
            standing.require_current(real.at("2025-10-25T11:32:20"), 24 * 3600)
            with pytest.raises(ocsp.OcspStaleError):
                standing.require_current(real.at("2025-10-25T11:32:22"), 24 * 3600)


@pytest.mark.parametrize("policy", [OFFLINE, AS_ISSUED], ids=["last good", "as issued"])
def test_our_claims_are_those_of_the_vendors_own_service(vectors: Path, policy: Policy) -> None:
    golden = json.loads(
        (vectors / "nvidia" / "h100-550.90.07" / "nras_v3_claims_golden.json").read_text()
    )["GPU-0"]
    # Frame of a token of its own; our submodules share the frame of the whole token.
    expected = {name: golden[name] for name in golden.keys() - {"iss", "iat", "exp", "nbf", "jti"}}
    claims = gpu_claims(appraise(real.h100_550(vectors), policy))
    warning = claims.pop("x-nvidia-attestation-warning")
    assert (warning, expected.pop("x-nvidia-attestation-warning")) == (
        "REVOCATION_NOT_CURRENT",
        None,
    )
    assert claims == expected


def test_a_report_without_firmware_identity_is_taken_from_old_drivers_only(vectors: Path) -> None:
    directory = vectors / "nvidia" / "h100-535.86.09"
    gpu = real.gpu_set(
        directory,
        {
            "NV_GPU_VBIOS_1010_0200_882_96005E0001": "vbios_rim_PROD.swidtag",
            "NV_GPU_DRIVER_GH100_535.86.09": "driver_rim_tampered.xml",
        },
    )
    findings = appraise(gpu, now_s=real.at("2025-06-01")).findings
    assert "GPU_FWID_MISMATCH" not in reasons(findings)
    assert {f.reason for f in findings if f.component == "gpu-0/driver-rim"} == {"RIM_SIGNATURE"}
    assert status(findings) is Status.CONTRAINDICATED
    assert "GPU_DRIVER_TOO_OLD" in reasons(appraise(gpu, policy=Policy()).findings)


@pytest.mark.parametrize(
    ("vbios", "mismatches"), [("vbios_rim_PROD.swidtag", []), ("vbios_rim_mismatch.xml", [9])]
)
def test_vbios_measurements_of_the_535_set(
    vectors: Path, vbios: str, mismatches: list[int]
) -> None:
    directory = vectors / "nvidia" / "h100-535.86.09"
    report = spdm_report.parse(real.read(directory / "report.hex"))
    manifest = rim.verify((directory / vbios).read_bytes(), VENDOR.rim_root)
    different = [
        golden.index
        for golden in manifest.measurements
        if golden.active and report.measurements[golden.index] not in golden.alternatives
    ]
    assert different == mismatches
    assert len([golden for golden in manifest.measurements if golden.active]) == 12


@pytest.mark.parametrize(
    "name",
    [
        "h100-535.86.09/driver_rim_tampered.xml",
        "h100-570.124.03-expired/driver_rim.xml",
        "negative/rim_incorrect_signature.xml",
    ],
)
def test_edited_manifests_are_refused(vectors: Path, name: str) -> None:
    with pytest.raises(XmlSignatureError):
        rim.verify((vectors / "nvidia" / name).read_bytes(), VENDOR.rim_root)


@pytest.mark.parametrize(
    ("name", "version", "not_after"),
    [
        ("negative/driver_rim_550.144.03_genuine.xml", "550.144.03", "2026-12-30T16:56:50"),
        (
            "h100-570.124.03-expired/vbios_rim_PROD.swidtag",
            "96.00.5E.00.04",
            "2025-09-05T08:39:09",
        ),
        ("ls10/bios_rim.xml", "96.10.55.00.01", "2027-11-02T23:59:59"),
    ],
)
def test_genuine_manifests_verify_whatever_their_date(
    vectors: Path, name: str, version: str, not_after: str
) -> None:
    manifest = rim.verify((vectors / "nvidia" / name).read_bytes(), VENDOR.rim_root)
    assert (manifest.version, manifest.validity.not_after) == (version, real.at(not_after))


def test_a_genuine_manifest_of_another_driver_does_not_fit(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    other = (vectors / "nvidia/negative/driver_rim_550.144.03_genuine.xml").read_bytes()
    swapped = dataclasses.replace(gpu, rims=gpu.rims | {"NV_GPU_DRIVER_GH100_550.90.07": other})
    findings = appraise(swapped).findings
    assert ("RIM_VERSION_MISMATCH", "gpu-0/driver-rim") in {
        (f.reason, f.component) for f in findings
    }


def test_without_its_manifest_a_driver_is_unknown_and_not_bad(vectors: Path) -> None:
    gpu = real.h100_550(vectors)
    findings = appraise(dataclasses.replace(gpu, rims={})).findings
    unknown = [f for f in findings if f.reason == "UNKNOWN_REFERENCE"]
    assert [f.component for f in unknown] == ["gpu-0/driver-rim", "gpu-0/vbios-rim"]
    assert status(findings) is Status.INDETERMINATE


def test_an_invalid_report_signature_is_refused(vectors: Path) -> None:
    report = spdm_report.parse(
        real.read(vectors / "nvidia" / "negative" / "report_invalid_signature.hex")
    )
    for directory in ("h100-550.90.07", "h100-535.86.09", "h100-570.124.03-expired"):
        chain = real.certificates((vectors / "nvidia" / directory / "chain.pem").read_bytes())
        with pytest.raises(ReportSignatureError):
            report.require_signature(certificates.parse(chain[0]).key)


def test_one_trailing_byte_is_refused_and_without_it_the_report_is_genuine(vectors: Path) -> None:
    negative = vectors / "nvidia" / "negative"
    report = real.read(negative / "report_trailing_byte.hex")
    with pytest.raises(ReportMalformedError):
        spdm_report.parse(report)
    chain = device_chain.verify(
        real.certificates((negative / "report_trailing_byte_chain.pem").read_bytes()),
        VENDOR.device_root,
    )
    parsed = spdm_report.parse(report[:-1])
    parsed.require_signature(chain.attestation_key.key)
    assert parsed.opaque.driver_version == "580.95.05"


@pytest.mark.parametrize("name", ["chain_case2.pem", "chain_case4.pem"])
def test_incomplete_chains_are_refused(vectors: Path, name: str) -> None:
    data = (vectors / "nvidia" / "negative" / name).read_bytes()
    with pytest.raises((ChainRejectedError, RootUntrustedError)):
        device_chain.verify(real.certificates(data), VENDOR.device_root)


@pytest.mark.parametrize("directory", ["h100-570.124.03-expired"])
def test_the_570_report_is_genuine_though_its_manifest_is_not(
    vectors: Path, directory: str
) -> None:
    gpu = real.gpu_set(
        vectors / "nvidia" / directory,
        {
            "NV_GPU_DRIVER_GH100_570.124.03": "driver_rim.xml",
            "NV_GPU_VBIOS_1010_0205_862_96005E0004": "vbios_rim_PROD.swidtag",
        },
    )
    for day in ("2024-12-01", "2025-01-01T12:00", "2025-06-01", "2026-11-22"):
        appraisal = appraise(gpu, now_s=real.at(day))
        assert appraisal.report is not None
        refused = {f.component for f in appraisal.findings if f.reason == "RIM_SIGNATURE"}
        assert refused == {"gpu-0/driver-rim"}
        assert status(appraisal.findings) is Status.CONTRAINDICATED


def test_the_570_86_report_is_genuine(vectors: Path) -> None:
    (gpu,) = real.evidence_list(vectors / "nvidia" / "h100-570.86.10-cert-hold" / "evidence.json")
    chain = device_chain.verify(gpu.certificates, VENDOR.device_root)
    report = spdm_report.parse(gpu.report)
    report.require_signature(chain.attestation_key.key)
    assert report.opaque.fwid == chain.fwid
    assert report.opaque.driver_version == "570.86.10"


def test_no_flipped_bit_of_a_real_report_is_accepted(vectors: Path) -> None:
    """Every fifth byte, one bit each; all of them are flipped in the slow test below."""
    refused = [refusal(vectors, offset, offset // 5 % 8) for offset in range(0, 4117, 5)]
    assert set(refused) <= FLIPPED
    assert len(refused) == 824


@pytest.mark.slow
def test_none_of_all_flipped_bits_of_a_real_report_is_accepted(vectors: Path) -> None:
    """4,117 bytes, its signature's 96 among them, times 8: 32,936 reports, and no crash."""
    refused = [refusal(vectors, offset, bit) for offset in range(4117) for bit in range(8)]
    assert set(refused) == FLIPPED
    assert len(refused) == 32_936


FLIPPED = {"GPU_REPORT_MALFORMED", "GPU_REPORT_SIGNATURE", "OPAQUE_DATA_MALFORMED"}


def refusal(vectors: Path, offset: int, bit: int) -> str:
    """Why the report is refused once a bit is flipped; fails if it is not."""
    evidence = real.h100_550(vectors).evidence
    assert len(evidence.report) == 4117
    changed = bytearray(evidence.report)
    changed[offset] ^= 1 << bit
    with pytest.raises(Refusal) as caught:
        spdm_report.parse(bytes(changed)).require_signature(
            certificates.parse(evidence.certificates[0]).key
        )
    return caught.value.reason
