"""Attackers on revocation: forged, borrowed, stale and missing OCSP responses (facts 1.7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builder
from cryptography.x509.oid import ExtendedKeyUsageOID

from otr_devtee.issuing import Identity, issue, issue_responder
from otr_devtee.ocsp_issuing import respond
from otr_protocol.attestation import certificates, ocsp
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.ocsp import OcspMalformedError, OcspRejectedError
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.verdict import Status
from support import devtee_world as world

GOOD, REVOKED, UNKNOWN = (
    builder.OCSPCertStatus.GOOD,
    builder.OCSPCertStatus.REVOKED,
    builder.OCSPCertStatus.UNKNOWN,
)
HOLD = x509.ReasonFlags.certificate_hold
COMPROMISE = x509.ReasonFlags.key_compromise
DAY = 24 * 3600


def brom() -> Identity:
    return world.pki().gpus[0].brom


def about_brom(
    responder: Identity | None = None,
    now_s: int = world.NOW - 60,
    status: builder.OCSPCertStatus = GOOD,
    reason: x509.ReasonFlags | None = None,
) -> bytes:
    """A response about GPU 0's boot ROM, by the authorised responder unless another is given."""
    pki = world.pki()
    return respond(
        brom().certificate,
        pki.device_ica.certificate,
        responder or pki.responders["device-ica"],
        now_s,
        status=status,
        reason=reason,
    )


def with_responses(*responses: bytes) -> CollateralBundle:
    """The honest collateral, but about GPU 0's boot ROM only these responses."""
    honest = world.collateral()
    serial = brom().certificate.serial_number
    kept = [der for der in honest.ocsp_responses if ocsp.parse(der).serial != serial]
    return dataclasses.replace(honest, ocsp_responses=tuple(sorted({*kept, *responses})))


def judge(*responses: bytes, policy: Policy | None = None, now_s: int = world.NOW) -> Verdict:
    return world.judge(
        world.with_gpus(world.gpu_evidence()),
        collateral_bundle=with_responses(*responses),
        policy=policy,
        now_s=now_s,
    )


def window(now_s: int) -> tuple[datetime, datetime]:
    start = datetime.fromtimestamp(now_s - 3600, UTC)
    return start, start + timedelta(days=30)


def own_responder(
    issuer: Identity, *, usage: list[x509.ObjectIdentifier], ca: bool = False
) -> Identity:
    start, end = window(world.NOW)
    extensions = [x509.ExtendedKeyUsage(usage)] if usage else []
    return issue("attacker", issuer, not_before=start, not_after=end, ca=ca, extensions=extensions)


OCSP_SIGNING = [ExtendedKeyUsageOID.OCSP_SIGNING]


def the_attestation_key() -> Identity:
    """The key that an attacker on the machine controls, with its genuine certificate."""
    return world.pki().gpus[0].leaf


def responder_of_the_subject() -> Identity:
    """Authorised by the very certificate that is in question."""
    return own_responder(brom(), usage=OCSP_SIGNING)


def responder_without_purpose() -> Identity:
    """Issued by the right authority, for something else."""
    return own_responder(world.pki().device_ica, usage=[])


def responder_for_servers() -> Identity:
    return own_responder(world.pki().device_ica, usage=[ExtendedKeyUsageOID.SERVER_AUTH])


def responder_of_another_authority() -> Identity:
    return own_responder(world.pki().rim_ca, usage=OCSP_SIGNING)


def responder_that_is_an_authority() -> Identity:
    return own_responder(world.pki().device_ica, usage=OCSP_SIGNING, ca=True)


def self_made_responder() -> Identity:
    start, end = window(world.NOW)
    root = issue("own root", None, not_before=start, not_after=end, ca=True)
    return issue_responder(root, not_before=start, not_after=end)


def namesake_of_the_authority() -> Identity:
    """Issued by a key of the attacker under the authority's own name."""
    start, end = window(world.NOW)
    fake = issue(
        "SIMULATED GH100 Provisioner ICA 1", None, not_before=start, not_after=end, ca=True
    )
    return issue_responder(fake, not_before=start, not_after=end)


@pytest.mark.parametrize(
    "attacker",
    [
        the_attestation_key,
        responder_of_the_subject,
        responder_without_purpose,
        responder_for_servers,
        responder_of_another_authority,
        responder_that_is_an_authority,
        self_made_responder,
        namesake_of_the_authority,
    ],
    ids=lambda attacker: attacker.__name__,
)
def test_nobody_but_the_issuer_or_its_delegate_is_heard(attacker: Callable[[], Identity]) -> None:
    verdict = judge(about_brom(attacker()))
    assert world.reasons(verdict) == {("gpu-0", "OCSP_REJECTED")}
    assert verdict.status is Status.CONTRAINDICATED


def test_the_issuer_itself_may_answer() -> None:
    assert world.trusted(judge(about_brom(world.pki().device_ica)))


def test_a_forged_response_does_not_hide_behind_a_genuine_one() -> None:
    verdict = judge(about_brom(), about_brom(self_made_responder()))
    assert world.refused_for(verdict, "gpu-0", "OCSP_REJECTED")


def test_the_borrower_presents_a_good_response_about_another_gpu() -> None:
    pki = world.pki()
    other = respond(
        pki.gpus[1].brom.certificate,
        pki.device_ica.certificate,
        pki.responders["device-ica"],
        world.NOW - 60,
    )
    assert world.refused_for(judge(other), "gpu-0", "REVOCATION_UNKNOWN")


def test_the_borrower_presents_the_same_serial_of_another_issuer() -> None:
    """Serial numbers are unique per issuer only; name and key hash tell issuers apart."""
    pki = world.pki()
    start, end = window(world.NOW)
    other = issue("another authority", None, not_before=start, not_after=end, ca=True)
    response = respond(
        brom().certificate,
        other.certificate,
        issue_responder(other, not_before=start, not_after=end),
        world.NOW - 60,
    )
    assert ocsp.parse(response).serial == brom().certificate.serial_number
    assert world.refused_for(judge(response), "gpu-0", "REVOCATION_UNKNOWN")
    with pytest.raises(OcspRejectedError):
        ocsp.verify(
            ocsp.parse(response),
            certificates.parse(brom().der),
            certificates.parse(pki.device_ica.der),
        )


@pytest.mark.parametrize("made", [world.NOW - DAY, world.NOW - 30 * DAY, world.NOW + 600])
def test_the_hoarder_keeps_a_good_response_past_or_before_its_time(made: int) -> None:
    verdict = judge(about_brom(now_s=made))
    assert world.reasons(verdict) == {("gpu-0", "OCSP_STALE")}
    assert verdict.status is Status.INDETERMINATE


def test_a_fast_clock_of_two_minutes_is_forgiven() -> None:
    assert world.trusted(judge(about_brom(now_s=world.NOW + 120)))
    assert not world.trusted(judge(about_brom(now_s=world.NOW + 121)))


def test_a_response_for_years_is_no_response() -> None:
    """A window longer than the vendor ever gives would keep a stolen key alive."""
    pki = world.pki()
    now = datetime.fromtimestamp(world.NOW - 60, UTC)
    response = (
        builder.OCSPResponseBuilder()
        .add_response(
            cert=brom().certificate,
            issuer=pki.device_ica.certificate,
            algorithm=hashes.SHA384(),
            cert_status=GOOD,
            this_update=now,
            next_update=now + timedelta(days=365),
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(builder.OCSPResponderEncoding.HASH, pki.responders["device-ica"].certificate)
        .certificates([pki.responders["device-ica"].certificate])
        .sign(pki.responders["device-ica"].key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(OcspMalformedError):
        ocsp.parse(response)
    verdict = judge(response)
    assert ("gpu-0", "REVOCATION_UNKNOWN") in world.reasons(verdict)
    assert ("collateral", "OCSP_MALFORMED") in world.reasons(verdict)
    assert not verdict.status.trusted


def test_a_response_of_a_responder_whose_own_certificate_had_expired() -> None:
    start = datetime.fromtimestamp(world.NOW - 30 * DAY, UTC)
    expired = issue_responder(
        world.pki().device_ica, not_before=start, not_after=start + timedelta(days=1)
    )
    assert world.refused_for(judge(about_brom(expired)), "gpu-0", "OCSP_STALE")


def test_a_revoked_device_stays_revoked_however_new_the_other_word() -> None:
    revoked = about_brom(now_s=world.NOW - 30 * DAY, status=REVOKED, reason=COMPROMISE)
    for responses in ((revoked,), (revoked, about_brom())):
        verdict = judge(*responses)
        assert world.reasons(verdict) == {("gpu-0", "CERTIFICATE_REVOKED")}
        assert verdict.status is Status.CONTRAINDICATED


def test_a_device_on_hold_is_refused_even_where_manifests_on_hold_are_not() -> None:
    """One switch for both would let a revoked device in by way of a pre-release driver."""
    policy = dataclasses.replace(world.pki().policy(), accept_rim_hold=True)
    verdict = judge(about_brom(status=REVOKED, reason=HOLD), policy=policy)
    assert world.reasons(verdict) == {("gpu-0", "CERTIFICATE_ON_HOLD")}
    assert verdict.status is Status.CONTRAINDICATED


@pytest.mark.parametrize(("tolerated", "status"), [(False, 3), (True, 2)])
def test_a_manifest_signer_on_hold_counts_only_by_policy(tolerated: bool, status: int) -> None:
    pki = world.pki()
    on_hold = respond(
        pki.rim_signer.certificate,
        pki.rim_l3.certificate,
        pki.responders["rim-l3"],
        world.NOW - 60,
        status=REVOKED,
        reason=HOLD,
    )
    serial = pki.rim_signer.certificate.serial_number
    honest = world.collateral()
    kept = [der for der in honest.ocsp_responses if ocsp.parse(der).serial != serial]
    collateral = dataclasses.replace(honest, ocsp_responses=tuple(sorted([*kept, on_hold])))
    policy = dataclasses.replace(pki.policy(), accept_rim_hold=tolerated)
    verdict = world.judge(world.bundle(), collateral_bundle=collateral, policy=policy)
    assert world.reasons(verdict) == {
        ("gpu-0/driver-rim", "CERTIFICATE_ON_HOLD"),
        ("gpu-0/vbios-rim", "CERTIFICATE_ON_HOLD"),
    }
    assert verdict.status == status


def test_a_responder_that_does_not_know_leaves_the_verdict_open() -> None:
    verdict = judge(about_brom(status=UNKNOWN))
    assert world.reasons(verdict) == {("gpu-0", "REVOCATION_UNKNOWN")}
    assert verdict.status is Status.INDETERMINATE


def test_offline_mode_takes_the_last_good_word_with_a_warning_and_no_longer() -> None:
    policy = dataclasses.replace(
        world.pki().policy(),
        revocation=RevocationMode.LAST_GOOD,
        max_collateral_age_s=7 * DAY,
    )
    made = world.NOW - 5 * DAY
    verdict = judge(about_brom(now_s=made), policy=policy)
    # The PKI is younger than that; the responder's certificate was not valid yet.
    assert world.refused_for(verdict, "gpu-0", "OCSP_STALE")
    later = world.NOW + 5 * DAY
    renewed = world.pki().collateral(later)
    old = about_brom(now_s=world.NOW)
    serial = brom().certificate.serial_number
    kept = [der for der in renewed.ocsp_responses if ocsp.parse(der).serial != serial]
    collateral = dataclasses.replace(renewed, ocsp_responses=tuple(sorted([*kept, old])))
    bundle = world.with_gpus(world.gpu_evidence())
    verdict = world.judge(bundle, collateral_bundle=collateral, policy=policy, now_s=later)
    assert world.reasons(verdict) == {("gpu-0", "REVOCATION_NOT_CURRENT")}
    assert verdict.status is Status.WARNING
    assert verdict.not_after == later + policy.max_token_lifetime_s
    strict = dataclasses.replace(policy, max_collateral_age_s=4 * DAY)
    assert not world.judge(
        bundle, collateral_bundle=collateral, policy=strict, now_s=later
    ).status.trusted


def test_a_verdict_ends_with_the_first_response_that_does() -> None:
    verdict = world.judge(world.bundle(), now_s=world.NOW - 60 + DAY - 10)
    assert verdict.status is Status.AFFIRMING
    assert verdict.not_after == world.NOW - 60 + DAY - 1
