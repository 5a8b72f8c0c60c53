"""Freshness challenges: 32 random bytes, used once, soon, by whom they were issued to.

They live in memory only. A restart forgets them, and the attester asks again; what must never
happen is that one is accepted twice, and forgetting cannot cause that.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from otr_protocol.errors import ExhaustedError, RejectedError
from otr_server.shares import Shares, share_of

CHALLENGE_BYTES = 32


class ChallengeRejectedError(RejectedError):
    """Not issued here, used already, expired, or issued for another audience or key."""

    reason = "CHALLENGE_REJECTED"


class TooManyChallengesError(ExhaustedError):
    """More challenges are open than this service remembers."""

    reason = "TOO_MANY_CHALLENGES"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a challenge was issued for; 32 bytes each but the audience."""

    audience: str
    operator_id: bytes
    session_key: bytes
    tls_spki_sha256: bytes
    model_id: bytes


class Challenges:
    """Issues and consumes challenges; the clock is passed in as milliseconds."""

    def __init__(self, *, lifetime_ms: int, capacity: int) -> None:
        self._lifetime_ms = lifetime_ms
        # One attester cannot keep the others from attesting: it holds a part of the places.
        self._places = Shares(
            capacity,
            share_of(capacity),
            TooManyChallengesError,
            "open challenges",
            retry_ms=lifetime_ms,
        )
        self._open: OrderedDict[bytes, tuple[int, str, Bound]] = OrderedDict()

    @property
    def open_count(self) -> int:
        """How many challenges are remembered."""
        return len(self._open)

    def issue(self, bound: Bound, now_ms: int, caller: str) -> tuple[bytes, int]:
        """Return a fresh challenge for `caller` (an identity) and the time it expires at."""
        self._forget_expired(now_ms)
        self._places.take(caller)
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        expires_ms = now_ms + self._lifetime_ms
        self._open[challenge] = (expires_ms, caller, bound)
        return challenge, expires_ms

    def consume(self, challenge: bytes, bound: Bound, now_ms: int) -> None:
        """Accept `challenge` once, or raise `ChallengeRejectedError`; wrong use burns it too."""
        self._forget_expired(now_ms)
        found = self._open.pop(challenge, None)
        if found is None:
            raise ChallengeRejectedError(
                "the challenge was not issued here, was used already or has expired",
                field="challenge",
            )
        self._places.give_back(found[1])
        if found[2] != bound:
            raise ChallengeRejectedError(
                "the challenge was issued for another audience or key", field="key_binding"
            )

    def _forget_expired(self, now_ms: int) -> None:
        # Equal lifetimes make the order of issue the order of expiry.
        while self._open:
            challenge, (expires_ms, caller, _) = next(iter(self._open.items()))
            if expires_ms > now_ms:
                return
            del self._open[challenge]
            self._places.give_back(caller)
