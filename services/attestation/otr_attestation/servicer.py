"""AttestationService: challenge, then evidence, then a token that is on record before it is out.

VerifyStream, Replay, CollateralService and PolicyService answer UNIMPLEMENTED, from the generated
base classes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation.appraiser import Appraised, Appraiser
from otr_attestation.challenges import Bound, Challenges
from otr_log.peer import LogPeer
from otr_protocol.attestation import evidence as evidence_bundles
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, UnknownError
from otr_server.status import Context

MAX_AUDIENCE_BYTES = 256
APPRAISAL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

log = structlog.get_logger(__name__)


class BindingMalformedError(MalformedError):
    """The audience or the key binding has a length that none has."""

    reason = "BINDING_MALFORMED"


class PolicyUnknownError(UnknownError):
    """The request names a policy that is not the active one."""

    reason = "POLICY_UNKNOWN"


class AttestationServicer(rpc.AttestationServiceServicer):
    """Appraises on worker threads; the event loop only moves bytes."""

    def __init__(
        self,
        appraiser: Appraiser,
        challenges: Challenges,
        peer: LogPeer,
        registry: CollectorRegistry,
        *,
        issuer: str,
        max_evidence_bytes: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._appraiser = appraiser
        self._challenges = challenges
        self._peer = peer
        self._issuer = issuer
        self._max_evidence_bytes = max_evidence_bytes
        self._now_ms = now_ms
        self._verdicts = Counter(
            "otr_attestation_verdicts", "Verdicts, by status.", ("status",), registry=registry
        )
        self._seconds = Histogram(
            "otr_attestation_appraisal_seconds",
            "Seconds of one appraisal.",
            buckets=APPRAISAL_SECONDS,
            registry=registry,
        )

    async def IssueChallenge(
        self, request: pb.IssueChallengeRequest, context: Context
    ) -> pb.IssueChallengeResponse:
        bound = _bound(request.audience, request.key_binding)
        challenge, expires_ms = self._challenges.issue(bound, self._now_ms())
        return pb.IssueChallengeResponse(challenge=challenge, expires_ms=expires_ms)

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        if len(request.evidence) > self._max_evidence_bytes:
            raise evidence_bundles.EvidenceMalformedError(
                f"at most {self._max_evidence_bytes} bytes of evidence", field="evidence"
            )
        if request.policy_digest not in (b"", self._appraiser.policy_digest):
            raise PolicyUnknownError("this policy is not the active one", field="policy_digest")
        bound = _bound(request.audience, request.key_binding)
        # Used up whatever follows: a challenge answers one attempt.
        self._challenges.consume(request.challenge, bound, self._now_ms())
        bundle = evidence_bundles.decode(request.evidence)
        bundle.require_binding(
            challenge=request.challenge,
            operator_id=bound.operator_id,
            session_key=bound.session_key,
            tls_spki_sha256=bound.tls_spki_sha256,
            model_id=bound.model_id,
        )
        started = time.perf_counter()
        appraised = await asyncio.to_thread(
            self._appraiser.appraise, bundle, self._now_ms() // 1000
        )
        self._seconds.observe(time.perf_counter() - started)
        self._verdicts.labels(appraised.verdict.status.name).inc()
        if appraised.token:
            await self._record(request.evidence, appraised)
        else:
            log.warning(
                "not_affirmed",
                status=appraised.verdict.status.name,
                findings=[f"{each.component} {each.reason}" for each in appraised.verdict.findings],
            )
        return pb.VerifyResponse(
            verdict=_verdict(appraised.verdict), attestation_token=appraised.token
        )

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        return pb.GetJwksResponse(jwks=self._appraiser.jwks, issuer=self._issuer)

    async def _record(self, evidence: bytes, appraised: Appraised) -> None:
        """Evidence and collateral are in the log's store before the token leaves (AT rules)."""
        blobs = (evidence, appraised.collateral, appraised.token)
        await self._peer.put_blobs([(H(blob), blob) for blob in blobs])


def _bound(audience: str, binding: pb.KeyBinding) -> Bound:
    if not 1 <= len(audience.encode()) <= MAX_AUDIENCE_BYTES:
        raise BindingMalformedError(f"1 to {MAX_AUDIENCE_BYTES} bytes", field="audience")
    for name in ("operator_id", "session_key", "tls_spki_sha256", "model_id"):
        if len(getattr(binding, name)) != 32:
            raise BindingMalformedError("32 bytes", field=f"key_binding.{name}")
    return Bound(
        audience,
        binding.operator_id,
        binding.session_key,
        binding.tls_spki_sha256,
        binding.model_id,
    )


def _verdict(verdict: Verdict) -> pb.Verdict:
    return pb.Verdict(
        status=pb.Status.ValueType(int(verdict.status)),
        findings=[
            pb.Finding(
                reason=finding.reason,
                component=finding.component,
                index=finding.index,
                golden=finding.golden,
                runtime=finding.runtime,
                message=finding.message,
            )
            for finding in verdict.findings
        ],
        evidence_digest=verdict.evidence_digest,
        collateral_digest=verdict.collateral_digest,
        policy_digest=verdict.policy_digest,
        verdict_digest=verdict.digest,
        not_after_ms=verdict.not_after * 1000,
        simulated=verdict.simulated,
        appraised_ms=verdict.appraised_at * 1000,
    )
