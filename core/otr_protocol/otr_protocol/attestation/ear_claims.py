"""What an attestation token says: a verdict in EAR's structure with NVIDIA's claim names.

The frame is draft-ietf-rats-ear-04 (JSON): profile, verifier, overall tier, one submodule per
attester with tier and AR4SI trustworthiness vector. Inside a device's submodule the claims are
those of NVIDIA's attestation service, version 3.0, names and values unchanged (`device_claims`), so
that policies written for it can be applied here. Under `otr` stands what PROTOCOL section 1 binds.

Submodules are called CPU-0, GPU-0, GPU-1, ... and SWITCH-0, ... in the order of the evidence
bundle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otr_protocol.attestation.compact_jws import base64url_encode
from otr_protocol.attestation.nvidia.device_claims import device_claims
from otr_protocol.attestation.verdict import Finding, Status, worst
from otr_protocol.errors import RejectedError

if TYPE_CHECKING:  # a token's reader needs none of what made the verdict
    from otr_protocol.attestation.appraise import Verdict
    from otr_protocol.attestation.evidence import EvidenceBundle

EAR_PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
PRIVATE_CLAIMS: Final = "otr"
MAX_LIFETIME_SECONDS: Final = 3600
MAX_ISSUER_BYTES: Final = 256
VERIFIER: Final = {"build": "otr-protocol 0.1.0", "developer": "otr"}
NVIDIA_CLAIMS_VERSION: Final = "3.0"

# AR4SI section 2.3.4: values of the trustworthiness vector.
_AFFIRMED: Final = 2
_UNRECOGNISED_EXECUTABLE: Final = 33
_CONFIGURATION_UNKNOWN: Final = 36


class VerdictNotTrustedError(RejectedError):
    """No token is made for a verdict that is neither affirming nor warning, or has run out."""

    reason = "VERDICT_NOT_TRUSTED"


def claims(verdict: Verdict, bundle: EvidenceBundle, issuer: str, now_s: int) -> dict[str, Any]:
    """The claims of a token about `verdict`, issued at `now_s`; `ear.sign` makes the token.

    The token expires with what the verdict rests on. Raises VerdictNotTrustedError unless the
    verdict is trusted and still holds, and for a bundle that is not the one appraised.
    """
    if not verdict.status.trusted or bundle.digest != verdict.evidence_digest:
        raise VerdictNotTrustedError(f"the appraisal ended {verdict.status.name}")
    cpu = verdict.cpu
    if cpu is None or not verdict.bound:
        raise VerdictNotTrustedError("the verdict is about parts, not about one machine")
    expires_at = min(verdict.not_after, now_s + MAX_LIFETIME_SECONDS)
    if not verdict.appraised_at <= now_s <= expires_at:
        raise VerdictNotTrustedError("the verdict does not hold at this time")
    if not 1 <= len(issuer.encode()) <= MAX_ISSUER_BYTES:
        raise VerdictNotTrustedError("the issuer has no usable name", field="issuer")
    platform = [finding for finding in verdict.findings if finding.component in _WHOLE]
    policy_ids = [f"urn:otr:policy:{verdict.policy_digest.hex()}"]
    parts = {"CPU-0": (cpu.findings, dict(cpu.evidence_claims))}
    for device in (*verdict.gpus, *verdict.switches):
        parts[device.component.upper()] = (device.findings, device_claims(device))
    submods = {
        name: _appraisal([*findings, *platform], policy_ids, simulated=verdict.simulated) | about
        for name, (findings, about) in parts.items()
    }
    return {
        "eat_profile": EAR_PROFILE,
        "iss": issuer,
        "iat": now_s,
        "nbf": now_s,
        "exp": expires_at,
        "jti": verdict.digest.hex(),
        "eat_nonce": base64url_encode(bundle.challenge),
        "ear_verifier_id": dict(VERIFIER),
        "ear_status": verdict.status.tier,
        "submods": submods,
        "x-nvidia-ver": NVIDIA_CLAIMS_VERSION,
        "x-nvidia-overall-att-result": bool(verdict.gpus),
        PRIVATE_CLAIMS: {
            "operator_id": bundle.operator_id.hex(),
            "session_key": bundle.session_key.hex(),
            "tls_spki_sha256": bundle.tls_spki_sha256.hex(),
            "model_id": bundle.model_id.hex(),
            "challenge": bundle.challenge.hex(),
            "anchor": bundle.anchor.hex(),
            "evidence_digest": verdict.evidence_digest.hex(),
            "collateral_digest": verdict.collateral_digest.hex(),
            "policy_digest": verdict.policy_digest.hex(),
            "simulated": verdict.simulated,
        },
    }


_WHOLE: Final = frozenset({"platform", "collateral"})


def _appraisal(
    findings: list[Finding], policy_ids: list[str], *, simulated: bool
) -> dict[str, Any]:
    status = worst(*(finding.status for finding in findings))
    vector = {
        "instance-identity": _AFFIRMED,
        "configuration": _AFFIRMED,
        "executables": _AFFIRMED,
    }
    # A development TEE passes every check and is no hardware: of that, no claim is made.
    if not simulated:
        vector["hardware"] = _AFFIRMED
    for finding in findings:
        if finding.status is not Status.WARNING:
            continue
        if finding.reason == "MEASUREMENT_UNCOVERED":
            vector["executables"] = _UNRECOGNISED_EXECUTABLE
        else:
            vector["configuration"] = _CONFIGURATION_UNKNOWN
    return {
        "ear_status": status.tier,
        "ear_trustworthiness_vector": vector,
        "ear_appraisal_policy_ids": policy_ids,
    }
