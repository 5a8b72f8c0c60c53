"""Is any certificate of this chain revoked? The policy's answer from the responses at hand.

One rule for device and manifest chains, with one difference that is a parameter and not a global:
a *hold* may be tolerated for a manifest's signer, which NVIDIA uses before a driver's release, and
never for a device. What the policy's `RevocationMode` changes is written in `_judge_standing` and
nowhere else; under none of them does a genuine REVOKED lose its force.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from otr_protocol.attestation import ocsp
from otr_protocol.attestation.certificates import Certificate
from otr_protocol.attestation.ocsp import (
    CertificateStatus,
    OcspResponse,
    OcspStaleError,
    RevocationUnknownError,
    Standing,
)
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.verdict import Finding, Status, finding_of
from otr_protocol.errors import Refusal

NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class ResponseIndex:
    """Parsed responses by serial number, and how many could not be read."""

    by_serial: Mapping[int, tuple[OcspResponse, ...]]
    malformed: int


@dataclass(frozen=True, slots=True)
class ChainStanding:
    """What is known about the revocation of a chain.

    `ocsp_status` is the worst answer, None where one is missing; `expires_at` the last second at
    which all of it counts (seconds since 1970 UTC).
    """

    findings: tuple[Finding, ...]
    ocsp_status: CertificateStatus | None
    on_hold: bool
    expires_at: int


@lru_cache(maxsize=16)
def index(responses: tuple[bytes, ...]) -> ResponseIndex:
    """Parse responses (DER) once. One that cannot be read is counted, and helps nobody."""
    by_serial: dict[int, tuple[OcspResponse, ...]] = {}
    malformed = 0
    for der in responses:
        try:
            response = ocsp.parse(der)
        except Refusal:
            malformed += 1
            continue
        by_serial[response.serial] = (*by_serial.get(response.serial, ()), response)
    return ResponseIndex(by_serial=by_serial, malformed=malformed)


def judge(
    chain: Sequence[Certificate],
    checked: Sequence[int],
    responses: ResponseIndex,
    *,
    policy: Policy,
    now_s: int,
    component: str,
    hold_tolerated: bool,
) -> ChainStanding:
    """Judge the certificates of `chain` (leaf first) at the positions `checked`.

    Never raises for what responses say: everything becomes a finding. `hold_tolerated` turns a
    certificate on hold from a failure into a warning.
    """
    mode = policy.revocation
    findings: list[Finding] = []
    statuses: list[CertificateStatus | None] = []
    on_hold = False
    expires_at = NEVER
    if mode is RevocationMode.NONE:
        findings.append(_not_checked(component))
    for position in checked:
        certificate, issuer = chain[position], chain[position + 1]
        try:
            standing = ocsp.find(
                responses.by_serial.get(certificate.serial, ()), certificate, issuer
            )
        except Refusal as refusal:
            statuses.append(None)
            # Nobody is asked, so nothing is missing; a forged response is still an attack.
            if mode is not RevocationMode.NONE or not isinstance(refusal, RevocationUnknownError):
                findings.append(finding_of(refusal, component))
            continue
        statuses.append(standing.status)
        on_hold = on_hold or (standing.status is CertificateStatus.REVOKED and standing.on_hold)
        finding = _judge_standing(
            standing, certificate, policy, now_s, component, hold_tolerated=hold_tolerated
        )
        if finding is not None:
            findings.append(finding)
        expires_at = min(expires_at, _expiry(standing, policy, now_s))
    return ChainStanding(
        findings=tuple(findings),
        ocsp_status=_worst_status(statuses),
        on_hold=on_hold,
        expires_at=expires_at,
    )


def _judge_standing(
    standing: Standing,
    certificate: Certificate,
    policy: Policy,
    now_s: int,
    component: str,
    *,
    hold_tolerated: bool,
) -> Finding | None:
    mode = policy.revocation
    if standing.status is CertificateStatus.REVOKED:
        # No look at the clock: what was revoked stays so, however old the word of it.
        tolerated = standing.on_hold and hold_tolerated
        return Finding(
            reason="CERTIFICATE_ON_HOLD" if standing.on_hold else "CERTIFICATE_REVOKED",
            component=component,
            status=Status.WARNING if tolerated else Status.CONTRAINDICATED,
            message=f"on hold or revoked: {certificate.common_name!r}",
        )
    if mode is RevocationMode.NONE:
        return None
    if standing.status is CertificateStatus.UNKNOWN:
        return Finding(
            reason="REVOCATION_UNKNOWN",
            component=component,
            status=Status.INDETERMINATE,
            message=f"the responder does not know {certificate.common_name!r}",
        )
    try:
        if mode is RevocationMode.AS_ISSUED:
            # Its own time, not ours: was it properly made when it was made? It says nothing of now.
            standing.require_recent(standing.this_update, policy.max_collateral_age_s)
        else:
            standing.require_current(now_s, policy.max_collateral_age_s)
            return None
    except OcspStaleError as stale:
        missing = finding_of(stale, component, status=Status.INDETERMINATE)
        if mode is not RevocationMode.LAST_GOOD:
            return missing
        try:
            standing.require_recent(now_s, policy.max_collateral_age_s)
        except OcspStaleError:
            return missing
    return Finding(
        reason="REVOCATION_NOT_CURRENT",
        component=component,
        status=Status.WARNING,
        message=f"{certificate.common_name!r} was good at {standing.this_update}, no news since",
    )


def _not_checked(component: str) -> Finding:
    return Finding(
        reason="REVOCATION_NOT_CHECKED",
        component=component,
        status=Status.WARNING,
        message="whether a certificate of this chain is revoked was not asked",
    )


def _expiry(standing: Standing, policy: Policy, now_s: int) -> int:
    if policy.revocation.audit_only:
        return NEVER  # what is not judged against the clock does not run out
    recent_until = standing.this_update + policy.max_collateral_age_s
    if policy.revocation is RevocationMode.LAST_GOOD and now_s > standing.expires_at:
        return recent_until
    return min(standing.expires_at, recent_until)


def _worst_status(statuses: Sequence[CertificateStatus | None]) -> CertificateStatus | None:
    for status in (CertificateStatus.REVOKED, None, CertificateStatus.UNKNOWN):
        if status in statuses:
            return status
    return CertificateStatus.GOOD
