"""The attestation service over gRPC."""

from __future__ import annotations

import grpc

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_inference.ports import KeyBinding
from otr_protocol.errors import RejectedError, UnavailableError

CALL_SECONDS = 20.0


class VerifierUnavailableError(UnavailableError):
    """The attestation service did not answer."""

    reason = "VERIFIER_UNAVAILABLE"


class NotAffirmedError(RejectedError):
    """The verifier refused this machine's evidence."""

    reason = "NOT_AFFIRMED"


class GrpcVerifier:
    """`ports.Verifier` over one channel."""

    def __init__(self, channel: grpc.aio.Channel, audience: str) -> None:
        self._stub = rpc.AttestationServiceStub(channel)
        self._audience = audience

    async def challenge(self, binding: KeyBinding) -> bytes:
        """A fresh challenge for these keys."""
        request = pb.IssueChallengeRequest(audience=self._audience, key_binding=_binding(binding))
        try:
            return (await self._stub.IssueChallenge(request, timeout=CALL_SECONDS)).challenge
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error

    async def verify(self, challenge: bytes, binding: KeyBinding, evidence: bytes) -> bytes:
        """The token, or `NotAffirmedError` naming the findings."""
        request = pb.VerifyRequest(
            challenge=challenge,
            audience=self._audience,
            key_binding=_binding(binding),
            evidence=evidence,
        )
        try:
            answer = await self._stub.Verify(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error
        if not answer.attestation_token:
            found = "; ".join(f"{f.component} {f.reason}" for f in answer.verdict.findings)
            status = pb.Status.Name(answer.verdict.status).removeprefix("STATUS_")
            raise NotAffirmedError(f"the verifier says {status}: {found}")
        return answer.attestation_token

    async def jwks(self) -> str:
        """The verifier's key set."""
        try:
            return (await self._stub.GetJwks(pb.GetJwksRequest(), timeout=CALL_SECONDS)).jwks
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error


def _binding(binding: KeyBinding) -> pb.KeyBinding:
    return pb.KeyBinding(
        operator_id=binding.operator_id,
        session_key=binding.session_key,
        tls_spki_sha256=binding.tls_spki_sha256,
        model_id=binding.model_id,
    )


def _unavailable(error: grpc.aio.AioRpcError) -> VerifierUnavailableError:
    return VerifierUnavailableError(
        f"the attestation service answers {error.code().name}: {error.details()}"
    )
