"""PolicyService: signed, content-addressed policies in and out."""

from __future__ import annotations

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation.policies import Known, Policies
from otr_protocol.attestation.signed_policy import MAX_SIGNED_POLICY_BYTES
from otr_server.limits import bounded_bytes, optional_bytes
from otr_server.status import Context


class PolicyServicer(rpc.PolicyServiceServicer):
    """Moves bytes; `Policies` decides."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def PutPolicy(
        self, request: pb.PutPolicyRequest, context: Context
    ) -> pb.PutPolicyResponse:
        bounded_bytes(request.policy, "policy", minimum=1, maximum=MAX_SIGNED_POLICY_BYTES)
        known = await self._policies.put(request.policy)
        return pb.PutPolicyResponse(
            policy_digest=known.policy.digest, active=self._is_active(known)
        )

    async def GetPolicy(
        self, request: pb.GetPolicyRequest, context: Context
    ) -> pb.GetPolicyResponse:
        digest = optional_bytes(request.policy_digest, "policy_digest", 32)
        known = await self._policies.get(digest or b"")
        return pb.GetPolicyResponse(
            policy=known.policy.encode(),
            policy_digest=known.policy.digest,
            signed_policy=known.signed,
            sequence=known.sequence,
            active=self._is_active(known),
        )

    def _is_active(self, known: Known) -> bool:
        active = self._policies.active
        return active is not None and active.policy.digest == known.policy.digest
