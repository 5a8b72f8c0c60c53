"""Attackers on the composite evidence, each by name; none of them gets a token.

After every attack the same invariant holds: the verdict is not trusted, and says why.
"""

from __future__ import annotations

import dataclasses

import pytest

from otr_devtee import reports
from otr_devtee.snp_issuing import revocation_list
from otr_protocol import binding
from otr_protocol.attestation import evidence
from otr_protocol.attestation.amd.snp_report import TcbVersion
from otr_protocol.attestation.appraise import appraise
from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.ear_claims import VerdictNotTrustedError, claims
from otr_protocol.attestation.evidence import EvidenceBindingError, EvidenceMalformedError
from otr_protocol.attestation.nvidia.opaque import OpaqueType
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import VENDOR, TrustRootSet
from otr_protocol.attestation.verdict import Status
from otr_protocol.binding import GpuEvidence
from support import devtee_world as world

OTHER = bytes([9]) * 32
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


def test_the_honest_machine_is_affirmed() -> None:
    verdict = world.judge(world.bundle())
    assert verdict.status is Status.AFFIRMING
    assert verdict.findings == ()
    assert verdict.simulated


@pytest.mark.parametrize("field", sorted(world.BOUND))
def test_the_relabeller_claims_old_evidence_for_something_else(field: str) -> None:
    """Evidence collected for one challenge, key or model, presented as being for another."""
    relabelled = dataclasses.replace(world.bundle(), **{field: OTHER})
    verdict = world.judge(relabelled)
    assert world.refused_for(verdict, "cpu", "CPU_REPORT_DATA_MISMATCH")
    assert world.refused_for(verdict, "gpu-0", "GPU_NONCE_MISMATCH")


@pytest.mark.parametrize("field", sorted(world.BOUND))
def test_the_replayer_presents_genuine_evidence_again(field: str) -> None:
    """Self-consistent evidence for another challenge: only the asker can tell, and does."""
    bundle = world.bundle()
    bundle.require_binding(**world.BOUND)
    with pytest.raises(EvidenceBindingError) as caught:
        bundle.require_binding(**(world.BOUND | {field: OTHER}))
    assert caught.value.field == field


def test_the_mixer_puts_another_machines_gpu_beside_his_cpu() -> None:
    """A relayed GPU answers the right nonce; the CPU report has committed to another."""
    relayed = world.gpu_evidence(1)
    mixed = dataclasses.replace(world.bundle(), devices=(relayed,))
    verdict = world.judge(mixed)
    assert world.reasons(verdict) == {("cpu", "CPU_REPORT_DATA_MISMATCH")}


def test_the_mixer_puts_another_machines_cpu_beside_his_gpu() -> None:
    bundle = world.bundle()
    verdict = world.judge(dataclasses.replace(bundle, cpu=world.bundle().cpu))
    assert world.reasons(verdict) == {("cpu", "CPU_REPORT_DATA_MISMATCH")}


def test_the_stripper_hides_a_gpu_that_the_cpu_committed_to() -> None:
    bundle = world.bundle(2)
    verdict = world.judge(dataclasses.replace(bundle, devices=bundle.devices[:1]))
    assert world.refused_for(verdict, "cpu", "CPU_REPORT_DATA_MISMATCH")


def test_the_pauper_has_no_gpu_at_all() -> None:
    assert world.refused_for(world.judge(world.bundle(0)), "platform", "GPU_MISSING")


def test_the_multiplier_shows_one_report_eight_times() -> None:
    bundle = world.bundle()
    with pytest.raises(EvidenceMalformedError):
        dataclasses.replace(bundle, devices=bundle.devices * 8)


def test_the_multiplier_asks_one_gpu_twice() -> None:
    """Two fresh reports of one GPU differ in bytes; the boot ROM's certificate gives it away."""
    (first,) = world.bundle().devices
    second = world.gpu_evidence(0)
    assert first.report != second.report
    verdict = world.judge(world.with_gpus(first, second))
    assert world.reasons(verdict) == {("platform", "GPU_DUPLICATE")}


def test_the_multiplier_gives_one_report_its_second_signature() -> None:
    """ECDSA admits n - s beside s: other bytes, the same report, and still one device."""
    (first,) = world.bundle().devices
    s = P384_ORDER - int.from_bytes(first.report[-48:], "big")
    second = GpuEvidence(first.report[:-48] + s.to_bytes(48, "big"), first.certificates)
    assert first.report != second.report
    verdict = world.judge(world.with_gpus(first, second))
    assert world.reasons(verdict) == {("platform", "GPU_DUPLICATE")}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy": reports.SNP_POLICY | 1 << 19}, "CPU_DEBUG_ENABLED"),
        ({"policy": reports.SNP_POLICY | 1 << 18}, "CPU_MIGRATION_AGENT"),
        ({"vmpl": 1}, "CPU_VMPL_REFUSED"),
        ({"measurement": bytes(48)}, "CPU_IMAGE_REFUSED"),
        ({"chip_id": bytes(64)}, "SNP_CHIP_MISMATCH"),
        ({"tcb": TcbVersion(4, 0, 24, 213)}, "SNP_TCB_MISMATCH"),
    ],
)
def test_the_host_starts_the_guest_his_own_way(changes: dict[str, object], reason: str) -> None:
    """Debugging, migration, another privilege level, image, chip or firmware: all well signed."""
    verdict = world.judge(world.with_gpus(world.gpu_evidence(), **changes))
    assert world.reasons(verdict) == {("cpu", reason)}
    assert verdict.status is Status.CONTRAINDICATED


def test_debugging_cannot_be_allowed_by_any_policy() -> None:
    """The policy has no field for it; the most lenient one there is changes nothing."""
    lenient = dataclasses.replace(
        world.pki().policy(),
        max_vmpl=3,
        min_driver_version="",
        require_snp_crl=False,
        accept_rim_hold=True,
        required_gpus=0,
    )
    debugged = world.with_gpus(world.gpu_evidence(), policy=reports.SNP_POLICY | 1 << 19)
    verdict = world.judge(debugged, policy=lenient)
    assert world.refused_for(verdict, "cpu", "CPU_DEBUG_ENABLED")


def test_the_forger_signs_the_cpu_report_himself() -> None:
    own = world.token_key()
    verdict = world.judge(world.with_gpus(world.gpu_evidence(), key=own))
    assert world.refused_for(verdict, "cpu", "SNP_REPORT_SIGNATURE")


@pytest.mark.parametrize(
    ("opaque", "reason"),
    [
        ({OpaqueType.FWID: bytes(48)}, "GPU_FWID_MISMATCH"),
        ({OpaqueType.FWID: bytes(47)}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.FEATURE_FLAG: b"\x02\x00"}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.FEATURE_FLAG: b"\x03\x00"}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.NVDEC0_STATUS: b"\xaa"}, "MEASUREMENT_MISMATCH"),
        ({OpaqueType.NVDEC0_STATUS: b"\x00"}, "OPAQUE_DATA_MALFORMED"),
        ({OpaqueType.DRIVER_VERSION: b"550.90.06\0"}, "GPU_DRIVER_TOO_OLD"),
        ({OpaqueType.DRIVER_VERSION: b"x\0"}, "OPAQUE_DATA_MALFORMED"),
    ],
)
def test_the_gpu_reports_a_state_that_is_not_allowed(opaque: dict[int, bytes], reason: str) -> None:
    verdict = world.judge(world.with_gpus(world.gpu_evidence(opaque=opaque)))
    assert world.refused_for(verdict, "gpu-0", reason)


def test_the_driver_is_measured_and_not_believed() -> None:
    """One wrong measurement is enough, and the finding names index, golden and runtime value."""
    wrong = bytes([0xAB]) * 48
    verdict = world.judge(world.with_gpus(world.gpu_evidence(measurements={21: wrong})))
    (finding,) = verdict.findings
    assert (finding.reason, finding.index, finding.runtime) == ("MEASUREMENT_MISMATCH", 21, wrong)
    assert finding.golden == world.pki().reference_values.golden(21)[0]
    assert verdict.status is Status.CONTRAINDICATED


def test_a_measurement_nobody_vouches_for_is_reported() -> None:
    verdict = world.judge(world.with_gpus(world.gpu_evidence(measurements={50: b"\1" * 48})))
    assert [(f.reason, f.index, f.status) for f in verdict.findings] == [
        ("MEASUREMENT_UNCOVERED", 50, Status.WARNING)
    ]
    assert verdict.status is Status.WARNING


def test_a_field_of_unknown_meaning_is_reported() -> None:
    verdict = world.judge(world.with_gpus(world.gpu_evidence(opaque={200: b"\1"})))
    assert world.reasons(verdict) == {("gpu-0", "OPAQUE_FIELD_UNKNOWN")}
    assert verdict.status is Status.WARNING


def test_the_gpu_that_answers_another_nonce() -> None:
    verdict = world.judge(world.with_gpus(world.gpu_evidence(nonce=OTHER)))
    assert world.reasons(verdict) == {("gpu-0", "GPU_NONCE_MISMATCH")}


def test_the_swapper_uses_another_gpus_chain() -> None:
    report = world.gpu_evidence(0).report
    swapped = GpuEvidence(report=report, certificates=world.pki().device_chain(1))
    verdict = world.judge(world.with_gpus(swapped))
    assert world.refused_for(verdict, "gpu-0", "GPU_REPORT_SIGNATURE")


@pytest.mark.parametrize("change", ["short", "long", "reordered", "own root"])
def test_the_chain_maker_bends_the_chain(change: str) -> None:
    honest = world.gpu_evidence()
    chain = honest.certificates
    bent = {
        "short": chain[1:],
        "long": (chain[0], *chain),
        "reordered": (chain[0], chain[2], chain[1], *chain[3:]),
        "own root": (*chain[:4], world.pki().rim_root.der),
    }[change]
    verdict = world.judge(world.with_gpus(GpuEvidence(honest.report, bent)))
    assert not verdict.status.trusted
    assert {component for component, _ in world.reasons(verdict)} == {"gpu-0", "platform"} or {
        component for component, _ in world.reasons(verdict)
    } == {"gpu-0"}


def test_the_simulator_meets_the_default_policy() -> None:
    """Everything else is allowed; that it is simulated is found, not declared."""
    policy = dataclasses.replace(world.pki().policy(), accept_simulated=False)
    verdict = world.judge(world.bundle(), policy=policy)
    assert world.reasons(verdict) == {("platform", "SIMULATED_EVIDENCE")}
    assert verdict.status is Status.CONTRAINDICATED
    assert Policy().accept_simulated is False


def test_the_simulator_names_his_roots_after_the_vendor() -> None:
    renamed = dataclasses.replace(world.pki().trust_roots(), name=VENDOR.name)
    policy = dataclasses.replace(world.pki().policy(), accept_simulated=False)
    verdict = appraise(world.bundle(), world.collateral(), policy, [VENDOR, renamed], world.NOW)
    assert verdict.simulated
    assert world.refused_for(verdict, "platform", "SIMULATED_EVIDENCE")


def test_under_the_vendors_roots_alone_a_simulation_is_nothing() -> None:
    verdict = appraise(
        world.bundle(), world.collateral(), world.pki().policy(), [VENDOR], world.NOW
    )
    assert world.reasons(verdict) == {("cpu", "ROOT_UNTRUSTED"), ("gpu-0", "ROOT_UNTRUSTED")}


def test_cpu_and_gpu_of_different_worlds_do_not_add_up() -> None:
    mine = world.pki().trust_roots()
    cpu_only = TrustRootSet("cpu", VENDOR.device_root, VENDOR.rim_root, mine.snp_arks)
    gpu_only = TrustRootSet("gpu", mine.device_root, mine.rim_root, frozenset())
    verdict = appraise(
        world.bundle(),
        world.collateral(),
        world.pki().policy(),
        [cpu_only, gpu_only],
        world.NOW,
    )
    assert world.reasons(verdict) == {("platform", "TRUST_ROOTS_MIXED")}


def test_the_ancient_evidence_uses_a_revoked_vendor_key() -> None:
    pki = world.pki()
    revoking = revocation_list(pki.ark, world.NOW - 60, revoked=(65537,))
    collateral = dataclasses.replace(
        world.collateral(), crls=tuple(sorted((*world.collateral().crls, revoking)))
    )
    verdict = world.judge(world.bundle(), collateral_bundle=collateral)
    assert world.reasons(verdict) == {("cpu", "SNP_KEY_REVOKED")}


def test_a_missing_old_or_foreign_revocation_list_does_not_help() -> None:
    pki = world.pki()
    old = revocation_list(pki.ark, world.NOW - 2 * 24 * 3600)
    foreign = bytearray(world.collateral().crls[0])
    foreign[-1] ^= 1
    for crls, reason, status in (
        ((), "SNP_CRL_MISSING", Status.INDETERMINATE),
        ((old,), "SNP_CRL_STALE", Status.INDETERMINATE),
        ((bytes(foreign),), "SNP_CRL_REJECTED", Status.CONTRAINDICATED),
        ((b"\x30\x00",), "SNP_CRL_MALFORMED", Status.CONTRAINDICATED),
    ):
        collateral = dataclasses.replace(world.collateral(), crls=crls)
        verdict = world.judge(world.bundle(), collateral_bundle=collateral)
        assert world.reasons(verdict) == {("cpu", reason)}
        assert verdict.status is status


def test_the_withholder_keeps_reference_values_and_vendor_keys_back() -> None:
    """What is missing leaves the verdict open; open is not trusted."""
    verdict = world.judge(world.bundle(), collateral_bundle=collect(rims={}))
    assert world.reasons(verdict) == {
        ("cpu", "SNP_VENDOR_KEYS_MISSING"),
        ("gpu-0", "REVOCATION_UNKNOWN"),
        ("gpu-0/driver-rim", "UNKNOWN_REFERENCE"),
        ("gpu-0/vbios-rim", "UNKNOWN_REFERENCE"),
    }
    assert verdict.status is Status.INDETERMINATE


def test_a_policy_without_images_affirms_nothing() -> None:
    policy = dataclasses.replace(world.pki().policy(), cpu_measurements=())
    verdict = world.judge(world.bundle(), policy=policy)
    assert world.reasons(verdict) == {("cpu", "CPU_IMAGE_UNKNOWN")}
    assert verdict.status is Status.INDETERMINATE


def test_no_token_is_made_for_a_verdict_that_is_not_trusted() -> None:
    bundle = world.bundle(0)
    with pytest.raises(VerdictNotTrustedError):
        claims(world.judge(bundle), bundle, world.ISSUER, world.NOW)


def test_no_token_is_made_for_evidence_that_was_not_appraised() -> None:
    verdict = world.judge(world.bundle())
    with pytest.raises(VerdictNotTrustedError):
        claims(verdict, world.bundle(), world.ISSUER, world.NOW)


@pytest.mark.parametrize("delay", [-1, 3601])
def test_no_token_is_made_when_the_verdict_does_not_hold(delay: int) -> None:
    bundle = world.bundle()
    with pytest.raises(VerdictNotTrustedError):
        claims(world.judge(bundle), bundle, world.ISSUER, world.NOW + delay)


def test_evidence_of_another_kind_of_cpu_is_named_and_not_guessed() -> None:
    bundle = world.bundle()
    other = dataclasses.replace(bundle, cpu=dataclasses.replace(bundle.cpu, kind="arm-cca"))
    verdict = world.judge(other)
    assert world.reasons(verdict) == {("cpu", "CPU_KIND_UNSUPPORTED")}
    assert verdict.status is Status.INDETERMINATE


def test_a_report_data_of_the_anchor_alone_does_not_bind_the_gpu() -> None:
    """The CPU report must commit to the GPU evidence, not only to the anchor."""
    anchor = binding.anchor(**world.BOUND)
    unbound = binding.report_data(anchor, binding.gpu_digest(()))
    verdict = world.judge(world.with_gpus(world.gpu_evidence(), report_data=unbound))
    assert world.reasons(verdict) == {("cpu", "CPU_REPORT_DATA_MISMATCH")}


def test_certificates_may_not_be_smuggled_beside_the_chips_own() -> None:
    bundle = world.bundle()
    crowded = dataclasses.replace(bundle.cpu, certificates=(world.pki().vcek, world.pki().ask.der))
    verdict = world.judge(dataclasses.replace(bundle, cpu=crowded))
    assert world.refused_for(verdict, "cpu", "CPU_EVIDENCE_MALFORMED")
    assert evidence.decode(bundle.encode()) == bundle
