"""What the arbiter's rules need of a store, and what they exchange with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from otr_protocol.finality import Standing
from otr_protocol.tlog.tree import Frontier


@dataclass(frozen=True, slots=True)
class Row:
    """A standing with the statement's bytes, money (micro-units) and its newest event.

    `attempts` says how often its token was asked for in vain.
    """

    standing: Standing
    statement: bytes
    exposure: int
    fee: int
    event_index: int
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Deferred:
    """A statement that is not judged before `until_ms`, after so many attempts."""

    payload_hash: bytes
    until_ms: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Received:
    """A statement as it came from the log, for the first time."""

    standing: Standing
    statement: bytes
    exposure: int
    fee: int
    delegation_digest: bytes


class Store(Protocol):
    """Durable standings, delegations, events and the log cursor; every write is one transaction."""

    async def apply(
        self,
        delegations: Sequence[tuple[bytes, bytes]],
        statements: Sequence[Received],
        cursor: Frontier,
    ) -> None:
        """Store (digest, record) delegations, new statements and the cursor after them."""
        ...

    async def move(self, standings: Sequence[Standing]) -> None:
        """Store changed standings, one event each."""
        ...

    async def delegation(self, digest: bytes) -> bytes | None:
        """The logged delegation of this digest."""
        ...

    async def defer(self, deferred: Sequence[Deferred]) -> None:
        """Put statements off."""
        ...

    async def judgeable(self, now_ms: int, limit: int) -> list[Row]:
        """RECEIVED rows whose delegation is in the log and that are not put off, by log index."""
        ...

    async def due(self, now_ms: int, limit: int) -> list[Row]:
        """PROVISIONAL rows whose window has ended, by log index."""
        ...

    async def find(self, *, payload_hash: bytes = b"", leaf_index: int = -1) -> Row | None:
        """One row by payload hash or by index."""
        ...

    async def events(self, from_event: int, limit: int) -> list[Row]:
        """Changes from `from_event` on, each as it stood then."""
        ...
