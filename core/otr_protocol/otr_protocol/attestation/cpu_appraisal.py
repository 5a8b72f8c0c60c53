"""What every CPU TEE must show: the binding, the image, and the form of the result.

The launch measurement is what stands for the software: the measured image hashes the model's
weights when it loads them and puts `model_id` into the anchor, so a GPU that measures only its own
firmware gains a model through this report. How a report is verified is each vendor's own module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.attestation.verdict import Finding, Status, finding_of
from otr_protocol.errors import MalformedError, Refusal, RejectedError, UnknownError

COMPONENT: Final = "cpu"


class CpuKindUnsupportedError(UnknownError):
    """The CPU evidence is of a kind that this version cannot appraise."""

    reason = "CPU_KIND_UNSUPPORTED"


class CpuEvidenceError(MalformedError):
    """The evidence does not come with what its kind comes with."""

    reason = "CPU_EVIDENCE_MALFORMED"


class ReportDataError(RejectedError):
    """The report commits to another challenge, key, model or GPU than the bundle says."""

    reason = "CPU_REPORT_DATA_MISMATCH"


class DebugGuestError(RejectedError):
    """The host may read the guest's memory."""

    reason = "CPU_DEBUG_ENABLED"


class CpuImageUnknownError(UnknownError):
    """The policy names no CPU image, so the measurement cannot be judged."""

    reason = "CPU_IMAGE_UNKNOWN"


@dataclass(frozen=True, slots=True)
class CpuAppraisal:
    """What was established about the CPU TEE.

    `roots` is None and `evidence_claims` empty unless chain and signature verified; the claims are
    what a token says about the part, by their EAT names. `not_after` is the earliest expiry of what
    the appraisal rests on (seconds since 1970 UTC).
    """

    findings: tuple[Finding, ...]
    roots: TrustRootSet | None = None
    evidence_claims: Mapping[str, Any] = field(default_factory=dict)
    not_after: int = 0
    component: str = COMPONENT


def refused(refusal: Refusal) -> CpuAppraisal:
    """The appraisal of evidence about which nothing else can be said."""
    return CpuAppraisal((finding_of(refusal, COMPONENT),))


def findings_of(refusals: Iterable[Refusal]) -> list[Finding]:
    """Refusals as findings about the CPU."""
    return [finding_of(refusal, COMPONENT) for refusal in refusals]


def check_report_data(found: bytes, wanted: bytes | None) -> list[Finding]:
    """The 64 bytes that bind a report; `wanted` is None where nobody knows what they should be."""
    if wanted is None:
        return [
            Finding(
                reason="CPU_REPORT_DATA_UNCHECKED",
                component=COMPONENT,
                status=Status.WARNING,
                message="nothing was said of what the report should be bound to",
                runtime=found,
            )
        ]
    if found != wanted:
        return findings_of([ReportDataError("the report is bound to something else")])
    return []


def check_image(measurement: bytes, policy: Policy) -> list[Finding]:
    """The launch measurement (48 bytes) must be that of an image that the policy names."""
    if not policy.cpu_measurements:
        return findings_of([CpuImageUnknownError("the policy names no CPU image")])
    if measurement in policy.cpu_measurements:
        return []
    return [
        Finding(
            reason="CPU_IMAGE_REFUSED",
            component=COMPONENT,
            status=Status.CONTRAINDICATED,
            message="the launch measurement is not that of an allowed image",
            golden=policy.cpu_measurements[0],
            runtime=measurement,
        )
    ]
