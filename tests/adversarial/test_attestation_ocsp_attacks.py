"""The eleven attacks on OCSP, in one table: what is shown, and why nobody believes it.

Peers have accepted the first six. Everything else about the machine is in order, so that the one
reason in the table is the only one there is; the details of each rule are tested beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as builder
from cryptography.x509.oid import ExtendedKeyUsageOID

from otr_devtee.issuing import Identity, issue, issue_responder
from otr_devtee.ocsp_issuing import respond
from otr_protocol.attestation import ocsp
from otr_protocol.attestation.verdict import Status
from support import devtee_world as world

DAY = 24 * 3600
ISSUED = world.NOW - 60
START = datetime.fromtimestamp(world.NOW - 3600, UTC)
GOOD, REVOKED = builder.OCSPCertStatus.GOOD, builder.OCSPCertStatus.REVOKED
NOBODY = ("REVOCATION_UNKNOWN", Status.INDETERMINATE)
FORGED = ("OCSP_REJECTED", Status.CONTRAINDICATED)
OLD = ("OCSP_STALE", Status.INDETERMINATE)


def subject() -> Identity:
    """The certificate in question: the boot ROM's of the machine's one GPU."""
    return world.pki().gpus[0].brom


def authority() -> Identity:
    return world.pki().device_ica


def delegate() -> Identity:
    return world.pki().responders["device-ica"]


def good(responder: Identity, issued: int = ISSUED, about: Identity | None = None) -> bytes:
    about = about or subject()
    return respond(about.certificate, authority().certificate, responder, issued)


def responder_of(issuer: Identity, usage: list[x509.ObjectIdentifier]) -> Identity:
    extensions = [x509.ExtendedKeyUsage(usage)] if usage else []
    end = START + timedelta(days=30)
    return issue("r", issuer, not_before=START, not_after=end, ca=False, extensions=extensions)


def signed_by_the_attestation_key() -> list[bytes]:
    return [good(world.pki().gpus[0].leaf)]


def responder_issued_by_the_subject() -> list[bytes]:
    return [good(responder_of(subject(), [ExtendedKeyUsageOID.OCSP_SIGNING]))]


def responder_without_the_extended_usage() -> list[bytes]:
    return [good(responder_of(authority(), []))]


def stale() -> list[bytes]:
    return [good(delegate(), world.NOW - DAY - 1)]


def from_the_future() -> list[bytes]:
    return [good(delegate(), world.NOW + ocsp.MAX_SKEW_SECONDS + 1)]


def about_another_serial() -> list[bytes]:
    return [good(delegate(), about=world.pki().gpus[1].brom)]


def with_another_issuers_hashes() -> list[bytes]:
    """The right serial under the right responder's signature, of an authority of the same name."""
    (name,) = authority().certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    end = START + timedelta(days=30)
    namesake = issue(str(name.value), None, not_before=START, not_after=end, ca=True)
    certificate = subject().certificate
    response = respond(certificate, namesake.certificate, delegate(), ISSUED)
    parsed = ocsp.parse(response)
    assert parsed.serial == certificate.serial_number
    assert parsed.issuer_name_hash == ocsp.parse(good(delegate())).issuer_name_hash
    return [response]


def by_a_responder_that_had_expired() -> list[bytes]:
    end = datetime.fromtimestamp(ISSUED - 1, UTC)
    before = START - timedelta(days=1)
    return [good(issue_responder(authority(), not_before=before, not_after=end))]


def naming_another_responder_than_the_signer() -> list[bytes]:
    """Both are authorised; the response says one and is signed by the other."""
    other = issue_responder(authority(), not_before=START, not_after=START + timedelta(days=30))
    mine = asn1_ocsp.OCSPResponse.load(good(other))
    theirs = asn1_ocsp.OCSPResponse.load(good(delegate()))
    content = mine["response_bytes"]["response"].parsed
    named = theirs["response_bytes"]["response"].parsed["tbs_response_data"]["responder_id"]
    content["tbs_response_data"]["responder_id"] = named.copy()
    signed = content["tbs_response_data"].dump(force=True)
    content["signature"] = other.key.sign(signed, ec.ECDSA(hashes.SHA384()))
    mine["response_bytes"]["response"] = content
    changed = bytes(mine.dump(force=True))
    assert ocsp.parse(changed).responder_key_hash == ocsp.parse(good(delegate())).responder_key_hash
    return [changed]


def revoked_hidden_by_a_newer_good() -> list[bytes]:
    revoked = respond(
        subject().certificate,
        authority().certificate,
        delegate(),
        world.NOW - 2 * DAY,
        status=REVOKED,
        reason=x509.ReasonFlags.key_compromise,
    )
    return [revoked, good(delegate())]


def device_on_hold_where_manifests_may_be() -> list[bytes]:
    return [
        respond(
            subject().certificate,
            authority().certificate,
            delegate(),
            ISSUED,
            status=REVOKED,
            reason=x509.ReasonFlags.certificate_hold,
        )
    ]


ATTACKS: dict[Callable[[], list[bytes]], tuple[str, Status]] = {
    signed_by_the_attestation_key: FORGED,
    responder_issued_by_the_subject: FORGED,
    responder_without_the_extended_usage: FORGED,
    stale: OLD,
    from_the_future: OLD,
    about_another_serial: NOBODY,
    with_another_issuers_hashes: NOBODY,
    by_a_responder_that_had_expired: OLD,
    naming_another_responder_than_the_signer: FORGED,
    revoked_hidden_by_a_newer_good: ("CERTIFICATE_REVOKED", Status.CONTRAINDICATED),
    device_on_hold_where_manifests_may_be: ("CERTIFICATE_ON_HOLD", Status.CONTRAINDICATED),
}


def test_the_table_holds_eleven_attacks_and_their_target_is_affirmed_without_them() -> None:
    assert len(ATTACKS) == 11
    assert not findings([good(delegate())])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_none_of_the_attacks_on_ocsp_is_believed(attack: Callable[[], list[bytes]]) -> None:
    reason, status = ATTACKS[attack]
    assert findings(attack()) == {("gpu-0", reason, status)}


def findings(responses: list[bytes]) -> set[tuple[str, str, Status]]:
    """What a verdict finds whose only responses about the subject are these."""
    honest = world.collateral()
    serial = subject().certificate.serial_number
    others = [der for der in honest.ocsp_responses if ocsp.parse(der).serial != serial]
    collateral = dataclasses.replace(honest, ocsp_responses=tuple(sorted({*others, *responses})))
    # The most that a policy can waive: holds on manifests.
    policy = dataclasses.replace(world.pki().policy(), accept_rim_hold=True)
    evidence = world.with_gpus(world.gpu_evidence())
    verdict = world.judge(evidence, collateral_bundle=collateral, policy=policy)
    assert verdict.status.trusted is not bool(verdict.findings)
    return {(f.component, f.reason, f.status) for f in verdict.findings}
