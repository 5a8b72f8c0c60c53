"""Verify and Replay: what the verifier does with a request, whichever way it came in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from otr_attestation.appraiser import Appraised, Appraiser
from otr_attestation.challenges import Bound, Challenges
from otr_attestation.metrics import VerifierMetrics
from otr_attestation.policies import Policies
from otr_attestation.ports import Blobs, CollateralSource
from otr_protocol.attestation import collateral as collaterals
from otr_protocol.attestation import evidence as evidence_bundles
from otr_protocol.attestation import policy as policy_documents
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.evidence import EvidenceMalformedError
from otr_protocol.attestation.policy import Policy
from otr_protocol.digest import H
from otr_protocol.errors import Refusal, UnknownError

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class ReplayInputUnknownError(UnknownError):
    """What the verdict rests on is not in the blob store; `field` says which part."""

    reason = "REPLAY_INPUT_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer to one challenge."""

    challenge: bytes
    bound: Bound
    evidence: bytes
    policy_digest: bytes


class Verifying:
    """Appraises on worker threads, at most `max_appraisals` at once."""

    def __init__(
        self,
        appraiser: Appraiser,
        challenges: Challenges,
        policies: Policies,
        collateral: CollateralSource,
        blobs: Blobs,
        metrics: VerifierMetrics,
        *,
        max_evidence_bytes: int,
        max_appraisals: int,
        now_ms: Callable[[], int],
    ) -> None:
        self.appraiser = appraiser
        self.challenges = challenges
        self._policies = policies
        self._collateral = collateral
        self._blobs = blobs
        self._metrics = metrics
        self._max_evidence_bytes = max_evidence_bytes
        self._turn = asyncio.Semaphore(max_appraisals)
        self._now_ms = now_ms

    async def verify(self, attempt: Attempt) -> Appraised:
        """Use up the challenge, appraise, and record what a token rests on before it is out.

        Raises EvidenceMalformedError and the other refusals of `evidence.decode`,
        PolicyUnknownError, ChallengeRejectedError, EvidenceBindingError, LogUnavailableError.
        """
        if len(attempt.evidence) > self._max_evidence_bytes:
            raise EvidenceMalformedError(
                f"at most {self._max_evidence_bytes} bytes of evidence", field="evidence"
            )
        known = await self._policies.get(attempt.policy_digest)
        # Used up whatever follows: a challenge answers one attempt.
        self.challenges.consume(attempt.challenge, attempt.bound, self._now_ms())
        bundle = await self._work(evidence_bundles.decode, attempt.evidence)
        bundle.require_binding(
            challenge=attempt.challenge,
            operator_id=attempt.bound.operator_id,
            session_key=attempt.bound.session_key,
            tls_spki_sha256=attempt.bound.tls_spki_sha256,
            model_id=attempt.bound.model_id,
        )
        now_s = self._now_ms() // 1000
        collateral = await self._collateral.gather(bundle, known.policy, now_s)
        started = time.perf_counter()
        appraised = await self._work(
            self.appraiser.appraise, bundle, collateral, known.policy, now_s
        )
        self._metrics.appraised(appraised.verdict.status, time.perf_counter() - started)
        if appraised.token:
            blobs = (
                attempt.evidence,
                collateral.encode(),
                known.policy.encode(),
                appraised.token,
            )
            await self._blobs.put_blobs([(H(blob), blob) for blob in blobs])
        else:
            log.warning(
                "no_token",
                status=appraised.verdict.status.name,
                findings=[f"{each.component} {each.reason}" for each in appraised.verdict.findings],
            )
        return appraised

    async def replay(
        self, evidence_digest: bytes, collateral_digest: bytes, policy_digest: bytes, at_s: int
    ) -> Verdict:
        """The verdict on stored inputs at `at_s`; no token, and nothing is stored.

        Raises ReplayInputUnknownError, UnavailableError of the log, or the refusals of the three
        decoders for what is stored under those digests.
        """
        limit = evidence_bundles.MAX_EVIDENCE_BYTES
        evidence = await self._stored(evidence_digest, "evidence_digest", limit)
        limit = collaterals.MAX_COLLATERAL_BYTES
        collateral = await self._stored(collateral_digest, "collateral_digest", limit)
        policy = await self._policy(policy_digest)
        verdict = await self._work(self._judge, evidence, collateral, policy, at_s)
        self._metrics.replayed(verdict.status)
        return verdict

    def _judge(self, evidence: bytes, collateral: bytes, policy: Policy, at_s: int) -> Verdict:
        return self.appraiser.judge(
            evidence_bundles.decode(evidence), collaterals.decode(collateral), policy, at_s
        )

    async def _work(self, function: Callable[..., Result], *arguments: Any) -> Result:
        async with self._turn:
            return await asyncio.to_thread(function, *arguments)

    async def _policy(self, digest: bytes) -> Policy:
        try:
            return (await self._policies.get(digest)).policy
        except Refusal:
            # Content-addressed: whoever signed it, and whether he still may, changes no verdict.
            limit = policy_documents.MAX_POLICY_BYTES
            return policy_documents.decode(await self._stored(digest, "policy_digest", limit))

    async def _stored(self, digest: bytes, field: str, max_bytes: int) -> bytes:
        data = await self._blobs.get(digest, max_bytes=max_bytes)
        if data is None:
            raise ReplayInputUnknownError("the log does not have it", field=field)
        return data
