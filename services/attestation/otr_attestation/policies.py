"""Which policies there are, and which one is active (spec/attestation.md).

The policy that the settings name is active for as long as they name it. Without one it is the
signed policy with the highest sequence number, among those whose signer is still pinned: a signer
that is removed takes its policies with it. Every policy that was signed can be asked for by digest,
because verdicts of the past were reached under it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from otr_attestation.ports import PolicyStore
from otr_protocol import cose
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.signed_policy import (
    SignedPolicy,
    require_activatable,
    verify_policy,
)
from otr_protocol.errors import Refusal, RejectedError, UnavailableError, UnknownError

_REMEMBERED: Final = 64

log = structlog.get_logger(__name__)


class PolicyUnknownError(UnknownError):
    """No policy with this digest is known here."""

    reason = "POLICY_UNKNOWN"


class NoActivePolicyError(UnavailableError):
    """Nobody has said yet under which policy evidence is appraised."""

    reason = "NO_ACTIVE_POLICY"


class PolicyStoreAbsentError(RejectedError):
    """This service's policy is named by its settings; it takes none from signers."""

    reason = "POLICY_STORE_ABSENT"


@dataclass(frozen=True, slots=True)
class Known:
    """A policy with what is known about it; `signed` is empty for the settings' policy."""

    policy: Policy
    signed: bytes = b""
    sequence: int = 0


class Policies:
    """The policies of one process. `on_change` is called when another policy becomes active."""

    def __init__(
        self,
        *,
        pinned: Policy | None,
        store: PolicyStore | None,
        signers: Iterable[bytes] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`signers` are raw Ed25519 public keys. Raises PolicyAuditOnlyError for `pinned`."""
        if pinned is not None:
            require_activatable(pinned)
        self._pinned = None if pinned is None else Known(pinned)
        self._store = store
        self._signers: Mapping[bytes, bytes] = {cose.key_id(key): key for key in signers}
        self._on_change = on_change
        self._newest: Known | None = None
        self._read: OrderedDict[bytes, Known] = OrderedDict()
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Find the active policy among those that are stored."""
        self._newest = await asyncio.to_thread(self._find_newest)

    @property
    def active(self) -> Known | None:
        """The active policy, None if there is none yet."""
        return self._pinned or self._newest

    async def get(self, digest: bytes) -> Known:
        """The policy with this digest, the active one for no bytes.

        Raises PolicyUnknownError or NoActivePolicyError.
        """
        active = self.active
        if not digest:
            if active is None:
                raise NoActivePolicyError("no policy is active")
            return active
        if active is not None and active.policy.digest == digest:
            return active
        known = self._read.get(digest)
        if known is None:
            known = await asyncio.to_thread(self._load, digest)
        if known is None:
            raise PolicyUnknownError("no such policy is known", field="policy_digest")
        self._read[digest] = known
        self._read.move_to_end(digest)
        if len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)
        return known

    async def put(self, data: bytes) -> Known:
        """Keep a signed policy; durable on return.

        Raises PolicyStoreAbsentError, PolicySequenceTakenError, StoreFullError or the refusals of
        `verify_policy`.
        """
        if self._store is None:
            raise PolicyStoreAbsentError("the settings name the policy")
        signed = await asyncio.to_thread(verify_policy, data, self._signers)
        async with self._changing:
            await asyncio.to_thread(self._store.put, signed)
            self._read.pop(signed.policy.digest, None)
            before = self.active
            self._newest = await asyncio.to_thread(self._find_newest)
        log.info("policy_stored", digest=signed.policy.digest.hex(), sequence=signed.sequence)
        if self.active != before:
            self._on_change()
        return _known(signed)

    def _load(self, digest: bytes) -> Known | None:
        data = None if self._store is None else self._store.get(digest)
        return None if data is None else _known(verify_policy(data, self._signers))

    def _find_newest(self) -> Known | None:
        for data in [] if self._store is None else self._store.by_sequence():
            try:
                return _known(verify_policy(data, self._signers))
            except Refusal as refusal:
                log.warning("policy_passed_over", reason=refusal.reason, error=refusal.message)
        return None


def _known(signed: SignedPolicy) -> Known:
    return Known(signed.policy, signed.signed, signed.sequence)
