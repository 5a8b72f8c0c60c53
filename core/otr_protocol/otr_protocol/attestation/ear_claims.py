"""What an attestation token says: a verdict in EAR's structure with NVIDIA's claim names.

The frame is draft-ietf-rats-ear-04 (JSON): profile, verifier, overall tier, one submodule per
attester with tier and AR4SI trustworthiness vector. Inside a GPU's submodule the claims are those
of NVIDIA's attestation service, version 3.0, names and values unchanged, so that policies written
for it can be applied here. Under `otr` stands what PROTOCOL section 1 binds.

Submodules are called CPU-0 and GPU-0, GPU-1, ... in the order of the evidence bundle.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from otr_protocol.attestation.compact_jws import base64url_encode
from otr_protocol.attestation.verdict import Finding, Status, worst
from otr_protocol.errors import RejectedError

if TYPE_CHECKING:  # a token's reader needs none of what made the verdict
    from otr_protocol.attestation.appraise import Verdict
    from otr_protocol.attestation.certificates import Validity
    from otr_protocol.attestation.evidence import EvidenceBundle
    from otr_protocol.attestation.nvidia.gpu_appraisal import GpuAppraisal
    from otr_protocol.attestation.revocation import ChainStanding

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
    for number, gpu in enumerate(verdict.gpus):
        parts[f"GPU-{number}"] = (gpu.findings, gpu_claims(gpu))
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


def gpu_claims(gpu: GpuAppraisal) -> dict[str, Any]:
    """NVIDIA's v3.0 claims about one trusted GPU, names and values as its own service gives them.

    Everything that would be false made the verdict untrusted, and then there is no token.
    """
    report, chain, device = gpu.report, gpu.chain, gpu.device_standing
    driver, vbios = gpu.driver, gpu.vbios
    assert report is not None
    assert chain is not None
    assert device is not None
    assert driver is not None
    assert vbios is not None
    warnings = sorted({f.reason for f in gpu.findings if f.status is Status.WARNING})
    found: dict[str, Any] = {
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "hwmodel": chain.hwmodel,
        "ueid": chain.ueid,
        "oemid": driver.rim.manufacturer_id,
        "eat_nonce": report.requester_nonce.hex(),
        "x-nvidia-gpu-driver-version": report.opaque.driver_version,
        "x-nvidia-gpu-vbios-version": report.opaque.vbios_version,
        "x-nvidia-attestation-warning": ", ".join(warnings) or None,
        "x-nvidia-gpu-arch-check": True,
        "x-nvidia-gpu-attestation-report-parsed": True,
        "x-nvidia-gpu-attestation-report-nonce-match": True,
        "x-nvidia-gpu-attestation-report-signature-verified": True,
        "x-nvidia-gpu-attestation-report-cert-chain-fwid-match": report.opaque.fwid == chain.fwid,
        "x-nvidia-gpu-attestation-report-cert-chain": _chain_claims(chain.validity, device),
        "x-nvidia-gpu-vbios-index-no-conflict": True,
    }
    for kind, part in (("driver", driver), ("vbios", vbios)):
        prefix = f"x-nvidia-gpu-{kind}-rim-"
        for check in (
            "fetched",
            "schema-validated",
            "signature-verified",
            "version-match",
            "measurements-available",
        ):
            found[prefix + check] = True
        found[prefix + "cert-chain"] = _chain_claims(part.rim.validity, part.standing)
    return found


def _chain_claims(validity: Validity, standing: ChainStanding) -> dict[str, Any]:
    expires = datetime.fromtimestamp(validity.not_after, UTC)
    status = standing.ocsp_status
    return {
        "x-nvidia-cert-status": "revoked" if standing.on_hold else "valid",
        "x-nvidia-cert-ocsp-status": status.value if status is not None else "unknown",
        "x-nvidia-cert-expiration-date": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "x-nvidia-cert-revocation-reason": "certificate_hold" if standing.on_hold else None,
    }
