"""Between messages and values; every limit of the contract that is one of length."""

from __future__ import annotations

import grpc

from otr.attestation.v1 import attestation_pb2 as pb
from otr_attestation.appraiser import Appraised
from otr_attestation.challenges import Bound
from otr_attestation.ports import Stored
from otr_attestation.verifying import Attempt
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.collateral_keys import CollateralKind
from otr_protocol.errors import MalformedError, Refusal
from otr_server.limits import one_of
from otr_server.status import INTERNAL_REASON, code_of, retry_after_ms_of

MAX_AUDIENCE_BYTES = 256

KINDS = {
    pb.COLLATERAL_KIND_RIM: CollateralKind.RIM,
    pb.COLLATERAL_KIND_OCSP: CollateralKind.OCSP,
    pb.COLLATERAL_KIND_SNP_ISSUERS: CollateralKind.SNP_ISSUERS,
    pb.COLLATERAL_KIND_SNP_CRL: CollateralKind.SNP_CRL,
    pb.COLLATERAL_KIND_SNP_VCEK: CollateralKind.SNP_VCEK,
    pb.COLLATERAL_KIND_TDX: CollateralKind.TDX,
    pb.COLLATERAL_KIND_SGX: CollateralKind.SGX,
}


class BindingMalformedError(MalformedError):
    """The audience or the key binding has a length that none has."""

    reason = "BINDING_MALFORMED"


def bound(audience: str, binding: pb.KeyBinding) -> Bound:
    """What a challenge is issued for; raises BindingMalformedError."""
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


def attempt(request: pb.VerifyRequest) -> Attempt:
    """One attempt; raises BindingMalformedError."""
    return Attempt(
        request.challenge,
        bound(request.audience, request.key_binding),
        request.evidence,
        request.policy_digest,
    )


def verify_response(appraised: Appraised) -> pb.VerifyResponse:
    """The answer to one attempt."""
    return pb.VerifyResponse(verdict=verdict(appraised.verdict), attestation_token=appraised.token)


def verdict(of: Verdict) -> pb.Verdict:
    """A verdict as the contract has it."""
    return pb.Verdict(
        status=pb.Status.ValueType(int(of.status)),
        findings=[
            pb.Finding(
                reason=finding.reason,
                component=finding.component,
                index=finding.index,
                golden=finding.golden,
                runtime=finding.runtime,
                message=finding.message,
            )
            for finding in of.findings
        ],
        evidence_digest=of.evidence_digest,
        collateral_digest=of.collateral_digest,
        policy_digest=of.policy_digest,
        verdict_digest=of.digest,
        not_after_ms=of.not_after * 1000,
        simulated=of.simulated,
        appraised_ms=of.appraised_at * 1000,
    )


def stream_error(refusal: Refusal) -> pb.StreamError:
    """The refusal of one request of a stream."""
    code: int = code_of(refusal).value[0]
    return pb.StreamError(
        reason=refusal.reason,
        field=refusal.field or "",
        message=refusal.message[:512],
        retry_after_ms=retry_after_ms_of(refusal) or 0,
        code=code,
    )


def stream_incident(incident: str) -> pb.StreamError:
    """A bug of ours, met by one request of a stream; the log has its traceback."""
    return pb.StreamError(
        reason=INTERNAL_REASON,
        message=f"internal error, incident {incident}",
        code=grpc.StatusCode.INTERNAL.value[0],
    )


def kind(value: int) -> CollateralKind:
    """The kind of a piece; raises ChoiceError."""
    return KINDS[pb.CollateralKind.ValueType(one_of(value, "kind", tuple(KINDS)))]


def milliseconds(next_update_s: int | None) -> int:
    """A next update in milliseconds, 0 where there is none."""
    return 0 if next_update_s is None else next_update_s * 1000


def collateral_response(item: Stored) -> pb.GetCollateralResponse:
    """One piece of collateral."""
    return pb.GetCollateralResponse(
        content=item.content,
        next_update_ms=milliseconds(item.next_update_s),
        digest=item.digest,
    )
