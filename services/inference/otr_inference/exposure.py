"""How much one session may sign for: reserved before anything is computed, given back if unsigned.

A statement's exposure is what a wrong answer may cost the operator (spec/statement.md), and a
session key signs their running sum. Whoever asks chooses the declared value, so the operator bounds
it per request, per client and per session; otherwise one free request could make the sum so large
that nothing can be signed after it. Requests that declare no value need no room and are never
refused here.

A session key lives only in this process, so what it has signed for need not be read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from otr_inference.settings import Limits
from otr_protocol.errors import ExhaustedError


class ExposureExhaustedError(ExhaustedError):
    """This session signs for no more, or for no more to this client; the next one will."""

    reason = "EXPOSURE_EXHAUSTED"


@dataclass(eq=False, slots=True)
class _Session:
    """What is reserved or signed for under one session key, in micro-units."""

    key: bytes
    total: int = 0
    by_client: dict[str, int] = field(default_factory=dict)

    def add(self, client: str, amount: int) -> None:
        self.total += amount
        self.by_client[client] = self.by_client.get(client, 0) + amount


@dataclass(eq=False, slots=True)
class Reservation:
    """Room for one answer's exposure; it stays taken unless it is given back."""

    session: _Session
    client: str
    amount: int

    def give_back(self) -> None:
        """Nothing was signed. Without effect the second time."""
        self.session.add(self.client, -self.amount)
        self.amount = 0


class ExposureBudget:
    """Reserves exposure under the session in use."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._session = _Session(b"")

    def reserve(
        self, session_key: bytes, client: str, amount: int, *, retry_after_ms: int
    ) -> Reservation:
        """Room for `amount` micro-units under `session_key`; the newest key has the whole room.

        `retry_after_ms` is when the next session begins. Raises ExposureExhaustedError.
        """
        if session_key != self._session.key:
            self._session = _Session(session_key)
        session, limits = self._session, self._limits
        if amount:
            left = limits.max_session_exposure - session.total
            own = limits.max_client_exposure - session.by_client.get(client, 0)
            if amount > min(left, own):
                raise ExposureExhaustedError(
                    f"this session takes {max(0, min(left, own))} micro-units more",
                    field="declared_value",
                    retry_after_ms=retry_after_ms,
                )
            session.add(client, amount)
        return Reservation(session, client, amount)
