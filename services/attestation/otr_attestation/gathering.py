"""The collateral of one appraisal, piece by piece, from a collateral service.

What the service said is used for `fresh_seconds` without asking again. When it does not answer,
what it said before is used until its next update and not a second longer; so an outage changes no
verdict before that moment, and every verdict after it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from otr_attestation.collateral_items import assemble, check
from otr_attestation.ports import CollateralClient, Stored
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind
from otr_protocol.attestation.collateral_needs import needs
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.errors import Refusal

REASK_SECONDS: Final = 2.0
_REMEMBERED: Final = 8192
_ASKED_AT_ONCE: Final = 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Said:
    item: Stored
    asked_s: int


class Gathering:
    """`ports.CollateralSource` over a `CollateralClient`; remembers what was said."""

    def __init__(
        self,
        client: CollateralClient,
        trust_roots: Sequence[TrustRootSet],
        *,
        fresh_seconds: int,
        reask_seconds: float = REASK_SECONDS,
    ) -> None:
        self._client = client
        self._roots = tuple(trust_roots)
        self._fresh_seconds = fresh_seconds
        self._reask_seconds = reask_seconds
        self._said: OrderedDict[CollateralKey, _Said] = OrderedDict()
        self._turn = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def gather(
        self, evidence: EvidenceBundle, policy: Policy, now_s: int
    ) -> CollateralBundle:
        """What is at hand for `evidence` at `now_s`; what is missing is simply not in it."""
        wanted = await asyncio.to_thread(needs, evidence, policy, self._roots)
        found = await self._all(wanted, policy, now_s)
        manifests = {
            key.name: content for key, content in found.items() if key.kind is CollateralKind.RIM
        }
        if manifests:
            # Manifests name their signers, whose revocation must be asked for as well.
            more = await asyncio.to_thread(needs, evidence, policy, self._roots, manifests)
            found |= await self._all(set(more) - set(wanted), policy, now_s)
        return assemble(found)

    async def _all(
        self, keys: Iterable[CollateralKey], policy: Policy, now_s: int
    ) -> dict[CollateralKey, bytes]:
        ordered = tuple(keys)
        items = await asyncio.gather(*(self._one(key, policy, now_s) for key in ordered))
        return {
            key: item.content for key, item in zip(ordered, items, strict=True) if item is not None
        }

    async def _one(self, key: CollateralKey, policy: Policy, now_s: int) -> Stored | None:
        said = self._said.get(key)
        if said is not None and said.item.usable(now_s):
            if 0 <= now_s - said.asked_s < self._fresh_seconds:
                return said.item
        try:
            # Nobody waits long for a newer answer while the last one still counts.
            patience = self._reask_seconds if said is not None and said.item.usable(now_s) else None
            async with self._turn, asyncio.timeout(patience):
                answer = await self._client.get(key)
            if said is not None and answer.content == said.item.content:
                item = said.item
            else:
                # By its own word and not the service's: how long it counts is in the content.
                item = await asyncio.to_thread(check, key, answer.content)
        except (Refusal, TimeoutError) as error:
            if said is None:
                log.warning("collateral_missing", key=key.text, error=str(error))
                return None
            item = said.item
        self._remember(key, _Said(item, now_s))
        if item.usable(now_s) or _counts_expired(key, policy):
            return item
        return None

    def _remember(self, key: CollateralKey, said: _Said) -> None:
        self._said[key] = said
        self._said.move_to_end(key)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)


def _counts_expired(key: CollateralKey, policy: Policy) -> bool:
    """Whether a policy also takes the last answer past its time; how old is for the appraisal."""
    return policy.revocation is RevocationMode.LAST_GOOD and key.kind is CollateralKind.OCSP
