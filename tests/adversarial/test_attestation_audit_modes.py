"""Modes of revocation that are for audits: they warn, they open no door, and no token follows."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509
from cryptography.x509 import ocsp as builder

from otr_devtee.ocsp_issuing import respond
from otr_protocol.attestation import ocsp
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.ear_claims import VerdictNotTrustedError, claims
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.verdict import Status
from support import devtee_world as world

AUDIT = [RevocationMode.AS_ISSUED, RevocationMode.NONE]
PARTS = ("gpu-0", "gpu-0/driver-rim", "gpu-0/vbios-rim")


def policy(mode: RevocationMode) -> Policy:
    return dataclasses.replace(world.pki().policy(), revocation=mode, require_snp_crl=False)


def about_brom(
    status: builder.OCSPCertStatus, reason: x509.ReasonFlags | None = None, *, forged: bool = False
) -> bytes:
    pki = world.pki()
    return respond(
        pki.gpus[0].brom.certificate,
        pki.device_ica.certificate,
        pki.responders["rim-ca" if forged else "device-ica"],
        world.NOW - 60,
        status=status,
        reason=reason,
    )


def judge(mode: RevocationMode, *responses: bytes, now_s: int = world.NOW) -> Verdict:
    """With only `responses` about the GPU's boot ROM, and the honest ones about all others."""
    honest = world.collateral()
    serial = world.pki().gpus[0].brom.certificate.serial_number
    others = [der for der in honest.ocsp_responses if ocsp.parse(der).serial != serial]
    known = dataclasses.replace(honest, ocsp_responses=tuple(sorted({*others, *responses})))
    evidence = world.with_gpus(world.gpu_evidence())
    return world.judge(evidence, collateral_bundle=known, policy=policy(mode), now_s=now_s)


GOOD, REVOKED, UNKNOWN = (
    builder.OCSPCertStatus.GOOD,
    builder.OCSPCertStatus.REVOKED,
    builder.OCSPCertStatus.UNKNOWN,
)


@pytest.mark.parametrize("mode", AUDIT)
def test_an_audit_warns_even_where_every_response_is_current(mode: RevocationMode) -> None:
    verdict = judge(mode, about_brom(GOOD))
    reason = {
        RevocationMode.AS_ISSUED: "REVOCATION_NOT_CURRENT",
        RevocationMode.NONE: "REVOCATION_NOT_CHECKED",
    }[mode]
    assert world.reasons(verdict) == {(part, reason) for part in PARTS}
    assert verdict.status is Status.WARNING


@pytest.mark.parametrize("mode", AUDIT)
def test_no_token_follows_from_an_audit(mode: RevocationMode) -> None:
    bundle = world.bundle()
    verdict = world.judge(bundle, policy=policy(mode))
    assert verdict.status.trusted
    assert not verdict.bound
    with pytest.raises(VerdictNotTrustedError):
        claims(verdict, bundle, world.ISSUER, world.NOW)


@pytest.mark.parametrize("mode", list(RevocationMode))
@pytest.mark.parametrize(
    ("reason", "found"),
    [
        (x509.ReasonFlags.key_compromise, "CERTIFICATE_REVOKED"),
        (x509.ReasonFlags.certificate_hold, "CERTIFICATE_ON_HOLD"),
    ],
)
def test_a_genuine_revocation_counts_under_every_mode(
    mode: RevocationMode, reason: x509.ReasonFlags, found: str
) -> None:
    verdict = judge(mode, about_brom(REVOKED, reason))
    assert ("gpu-0", found) in world.reasons(verdict)
    assert verdict.status is Status.CONTRAINDICATED


@pytest.mark.parametrize("mode", list(RevocationMode))
def test_a_forged_response_is_an_attack_under_every_mode(mode: RevocationMode) -> None:
    verdict = judge(mode, about_brom(GOOD, forged=True))
    assert ("gpu-0", "OCSP_REJECTED") in world.reasons(verdict)
    assert verdict.status is Status.CONTRAINDICATED


def test_as_issued_a_responder_that_does_not_know_leaves_the_verdict_open() -> None:
    for responses in ((), (about_brom(UNKNOWN),)):
        verdict = judge(RevocationMode.AS_ISSUED, *responses)
        assert ("gpu-0", "REVOCATION_UNKNOWN") in world.reasons(verdict)
        assert verdict.status is Status.INDETERMINATE


def test_as_issued_a_response_must_have_been_made_by_a_responder_valid_at_that_time() -> None:
    pki = world.pki()
    early = respond(
        pki.gpus[0].brom.certificate,
        pki.device_ica.certificate,
        pki.responders["device-ica"],
        world.NOW - 30 * 24 * 3600,
    )
    verdict = judge(RevocationMode.AS_ISSUED, early)
    assert ("gpu-0", "OCSP_STALE") in world.reasons(verdict)
    assert verdict.status is Status.INDETERMINATE


@pytest.mark.parametrize("shift", [-1800, 200 * 24 * 3600])
def test_as_issued_the_time_of_the_appraisal_does_not_matter_to_responses(shift: int) -> None:
    verdict = judge(RevocationMode.AS_ISSUED, about_brom(GOOD), now_s=world.NOW + shift)
    assert {reason for _, reason in world.reasons(verdict)} == {"REVOCATION_NOT_CURRENT"}
    assert verdict.not_after == world.NOW + shift + policy(RevocationMode.NONE).max_token_lifetime_s
