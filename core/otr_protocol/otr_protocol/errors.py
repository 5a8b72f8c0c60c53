"""Refusals: every way the protocol says no, as a type with a permanent reason.

A refusal carries a `reason` that clients may match on for ever; its message is for people and is
never parsed. Anything that escapes a rule and is not a `Refusal` is our bug and reads as one.
The kinds follow STYLE: malformed, rejected, unknown, conflict; services add what only a running
process can say (exhausted, unavailable, unauthenticated, denied).
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):
    """Base of every typed refusal.

    `reason` is an UPPER_SNAKE constant of the class; `field` names the offending input, if one is.
    """

    reason: ClassVar[str] = "REFUSED"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class MalformedError(Refusal):
    """The bytes or values cannot be what they claim to be, whoever sent them and whenever."""

    reason = "MALFORMED"


class RejectedError(Refusal):
    """Well formed, but a check failed: a signature, a proof, a rule, a state."""

    reason = "REJECTED"


class UnknownError(Refusal):
    """Names something that is not here."""

    reason = "UNKNOWN"


class ConflictError(Refusal):
    """Contradicts something already accepted under the same key."""

    reason = "CONFLICT"


class ExhaustedError(Refusal):
    """A bounded resource is full; `retry_after_ms` says when asking again may help."""

    reason = "EXHAUSTED"

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message, field=field)
        self.retry_after_ms = retry_after_ms


class UnavailableError(Refusal):
    """Something this process needs does not answer now."""

    reason = "UNAVAILABLE"


class UnauthenticatedError(Refusal):
    """The caller has not shown who it is."""

    reason = "UNAUTHENTICATED"


class DeniedError(Refusal):
    """The caller is known and may not do this."""

    reason = "DENIED"
