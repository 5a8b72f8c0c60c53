"""The outcome of an appraisal, in EAR's words (draft-ietf-rats-ear-04, AR4SI tiers).

*Verify* is mathematics, *appraise* is policy; a verdict is the result of both, with every reason it
rests on. Reason codes are permanent: clients match on them, messages are for people.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import Refusal, UnknownError

NO_INDEX: Final = -1
MAX_SHOWN_BYTES: Final = 64


class Status(enum.IntEnum):
    """The four tiers; the numbers are those of the gRPC contract's enum."""

    AFFIRMING = 1
    """Every check ran and the policy is satisfied."""
    WARNING = 2
    """Genuine, with findings that the policy tolerates."""
    CONTRAINDICATED = 3
    """A check failed, or the policy refuses."""
    INDETERMINATE = 4
    """A reference value or collateral is missing, so nothing can be said."""

    @property
    def tier(self) -> str:
        """The EAR spelling; indeterminate is EAR's "none": no claim is made."""
        return _TIERS[self]

    @property
    def trusted(self) -> bool:
        """Whether a token may be issued for it."""
        return self in (Status.AFFIRMING, Status.WARNING)


_TIERS: Final = {
    Status.AFFIRMING: "affirming",
    Status.WARNING: "warning",
    Status.CONTRAINDICATED: "contraindicated",
    Status.INDETERMINATE: "none",
}

# A failed check outweighs a missing one: evidence that is wrong stays wrong with better collateral.
_SEVERITY: Final = (
    Status.AFFIRMING,
    Status.WARNING,
    Status.INDETERMINATE,
    Status.CONTRAINDICATED,
)


def worst(*statuses: Status) -> Status:
    """The least trustworthy of them; AFFIRMING of none."""
    return max(statuses, key=_SEVERITY.index, default=Status.AFFIRMING)


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation: what, about which component, and how much it weighs.

    `component` is "cpu", "gpu-0", "gpu-0/driver-rim" and the like. `index` is a measurement index
    counted from 0 as reference manifests do, or -1. `golden` and `runtime` are the two values that
    differ, at most 64 bytes each, empty where there is none.
    """

    reason: str
    component: str
    status: Status
    message: str
    index: int = NO_INDEX
    golden: bytes = b""
    runtime: bytes = b""


def finding_of(refusal: Refusal, component: str, *, status: Status | None = None) -> Finding:
    """A refusal as a finding: what is unknown leaves the verdict open, anything else fails."""
    if status is None:
        unknown = isinstance(refusal, UnknownError)
        status = Status.INDETERMINATE if unknown else Status.CONTRAINDICATED
    return Finding(
        reason=refusal.reason, component=component, status=status, message=refusal.message
    )
