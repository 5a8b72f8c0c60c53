"""AttestationService: challenge, then evidence, then a token that is on record before it is out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation import wire
from otr_attestation.streaming import Streaming
from otr_attestation.verifying import Verifying
from otr_protocol.errors import DeniedError
from otr_server.identity import peer
from otr_server.limits import bounded_int, exact_bytes
from otr_server.status import Context

MAX_TIME_MS: Final = 253_402_300_799_000  # the last second of the year 9999
TIME_TRAVELLERS: Final = frozenset({"auditor"})


class AppraisalTimeDeniedError(DeniedError):
    """Only an auditor may say at which time a verdict is to be recomputed."""

    reason = "APPRAISAL_TIME_DENIED"


class AttestationServicer(rpc.AttestationServiceServicer):
    """Moves bytes; `Verifying` decides."""

    def __init__(
        self, verifying: Verifying, streaming: Streaming, *, now_ms: Callable[[], int]
    ) -> None:
        self._verifying = verifying
        self._streaming = streaming
        self._now_ms = now_ms

    async def IssueChallenge(
        self, request: pb.IssueChallengeRequest, context: Context
    ) -> pb.IssueChallengeResponse:
        bound = wire.bound(request.audience, request.key_binding)
        challenge, expires_ms = self._verifying.challenges.issue(
            bound, self._now_ms(), peer(context).uri
        )
        return pb.IssueChallengeResponse(challenge=challenge, expires_ms=expires_ms)

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        return wire.verify_response(await self._verifying.verify(wire.attempt(request)))

    def VerifyStream(
        self, request_iterator: AsyncIterator[pb.VerifyStreamRequest], context: Context
    ) -> AsyncIterator[pb.VerifyStreamResponse]:
        # Not a generator around a generator: closing the stream must reach the inner one at once.
        return self._streaming.answers(request_iterator)

    async def Replay(self, request: pb.ReplayRequest, context: Context) -> pb.ReplayResponse:
        for name in ("evidence_digest", "collateral_digest", "policy_digest"):
            exact_bytes(getattr(request, name), name, 32)
        at_ms = bounded_int(request.appraisal_ms, "appraisal_ms", minimum=0, maximum=MAX_TIME_MS)
        if at_ms and peer(context).role not in TIME_TRAVELLERS:
            raise AppraisalTimeDeniedError("only an auditor may name a time", field="appraisal_ms")
        verdict = await self._verifying.replay(
            request.evidence_digest,
            request.collateral_digest,
            request.policy_digest,
            (at_ms or self._now_ms()) // 1000,
        )
        return pb.ReplayResponse(verdict=wire.verdict(verdict))

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        appraiser = self._verifying.appraiser
        return pb.GetJwksResponse(jwks=appraiser.jwks, issuer=appraiser.issuer)
