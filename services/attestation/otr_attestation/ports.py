"""What the rules of this service need of the outside, as its adapters provide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.collateral_keys import CollateralKey
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.signed_policy import SignedPolicy
from otr_protocol.errors import ExhaustedError, UnavailableError, UnknownError


class CollateralUnknownError(UnknownError):
    """Nobody has this piece of collateral: neither the store nor any source."""

    reason = "COLLATERAL_UNKNOWN"


class CollateralUnavailableError(UnavailableError):
    """Whoever may have this piece of collateral does not answer now."""

    reason = "COLLATERAL_UNAVAILABLE"


class StoreFullError(ExhaustedError):
    """The store has reached the size that its settings allow."""

    reason = "STORE_FULL"


@dataclass(frozen=True, slots=True)
class Stored:
    """One piece of collateral.

    `next_update_s` is the first second at which it no longer counts (seconds since 1970 UTC), None
    if it does not say.
    """

    key: str
    digest: bytes
    content: bytes
    next_update_s: int | None

    def usable(self, now_s: int) -> bool:
        """Whether it may be used at `now_s`: until its next update and not a second longer."""
        return self.next_update_s is None or now_s < self.next_update_s


class CollateralClient(Protocol):
    """Where single pieces of collateral are asked for."""

    async def get(self, key: CollateralKey) -> Stored:
        """Raises CollateralUnknownError or CollateralUnavailableError."""
        ...


class CollateralSource(Protocol):
    """Where a verifier gets all that one appraisal may need."""

    async def gather(
        self, evidence: EvidenceBundle, policy: Policy, now_s: int
    ) -> CollateralBundle:
        """What is at hand for `evidence` at `now_s`; what is missing is simply not in it."""
        ...


class Origin(Protocol):
    """Where the collateral service itself gets what it does not have: a directory, the vendors."""

    @property
    def name(self) -> str:
        """For metrics and logs."""
        ...

    async def fetch(self, key: CollateralKey) -> bytes | None:
        """The content as its origin has it, None if it has none.

        Raises CollateralUnavailableError.
        """
        ...


class CollateralStore(Protocol):
    """Durable, content-addressed; thread-safe, and called from threads."""

    def by_key(self, key: str) -> Stored | None:
        """The newest content under a key, current or not."""
        ...

    def by_digest(self, digest: bytes) -> Stored | None:
        """One content by its SHA-256."""
        ...

    def put(self, item: Stored, now_s: int) -> bool:
        """Keep `item` as the newest under its key, durable on return; False if it is already.

        Raises StoreFullError.
        """
        ...

    def due(self, before_s: int, limit: int) -> list[Stored]:
        """The newest of every key whose next update comes before, soonest first."""
        ...

    def forget(self, before_s: int) -> int:
        """Drop what had to be renewed before `before_s`; how many pieces that were."""
        ...


class PolicyStore(Protocol):
    """Durable signed policies; thread-safe, and called from threads."""

    def put(self, signed: SignedPolicy) -> None:
        """Keep a policy under its highest sequence number, durable on return.

        Raises PolicySequenceTakenError or StoreFullError.
        """
        ...

    def get(self, digest: bytes) -> bytes | None:
        """The signed policy with this policy digest."""
        ...

    def by_sequence(self) -> list[bytes]:
        """All signed policies that may be active, the highest sequence first."""
        ...


class Blobs(Protocol):
    """The log's blob store."""

    async def put_blobs(self, blobs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store (digest, bytes) pairs; durable on return. Raises UnavailableError."""
        ...

    async def get(self, digest: bytes, *, max_bytes: int) -> bytes | None:
        """One blob, checked against its digest; None if the log does not have it.

        Raises UnavailableError.
        """
        ...
