"""A policy as its signer hands it out: COSE_Sign1 over a sequence number and the document.

    ["otr-signed-policy-v1", sequence, policy]

The policy keeps its own digest, whoever signs it and how often. Of the policies under pinned keys
the one with the highest sequence is active; sequence 0 is for policies that are to be kept and
never to become active, such as those of an audit. An older policy comes back by being signed again
under a higher number, so that a replayed signature brings nothing back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from otr_protocol import cose, dcbor
from otr_protocol.attestation import policy as policies
from otr_protocol.attestation.policy import MAX_POLICY_BYTES, Policy
from otr_protocol.attestation.policy_expression import compile_expression
from otr_protocol.errors import RejectedError
from otr_protocol.fields import MAX_INT64, as_bytes, as_integer, check_range

DOMAIN: Final = "otr-signed-policy-v1"
MAX_SIGNED_POLICY_BYTES: Final = MAX_POLICY_BYTES + 512


class PolicySignerUnknownError(RejectedError):
    """The policy is signed by nobody whose policies are taken here."""

    reason = "POLICY_SIGNER_UNKNOWN"


class PolicyAuditOnlyError(RejectedError):
    """A policy that asks nobody about revocation is for audits and cannot be active."""

    reason = "POLICY_AUDIT_ONLY"


@dataclass(frozen=True, slots=True)
class SignedPolicy:
    """A policy whose signature by a pinned key was verified; `signed` are the bytes that were."""

    policy: Policy
    sequence: int
    signed: bytes


def require_activatable(policy: Policy) -> None:
    """Refuse a policy that cannot be the active one.

    Raises PolicyAuditOnlyError, or PolicyExpressionError for a condition that would fail always.
    """
    if policy.revocation.audit_only:
        raise PolicyAuditOnlyError(f"revocation is {policy.revocation.value!r}", field="policy")
    if policy.expression:
        compile_expression(policy.expression)


def sign_policy(
    policy: Policy, sequence: int, sign: Callable[[bytes], bytes], public_key: bytes
) -> bytes:
    """Sign a policy under a sequence number (0 to 2^63 - 1) with an Ed25519 key.

    Raises FieldError, PolicyAuditOnlyError or PolicyExpressionError.
    """
    payload = dcbor.encode((DOMAIN, sequence, policy.encode()))
    _check(policy, sequence)
    return cose.sign1(payload, sign, public_key)


def verify_policy(data: bytes, signers: Mapping[bytes, bytes]) -> SignedPolicy:
    """Verify a signed policy under one of `signers`, raw public keys by their key identifier.

    Raises CoseMalformedError, PolicySignerUnknownError, SignatureRejectedError,
    PolicyMalformedError, PolicyAuditOnlyError, PolicyExpressionError, or one of the refusals of
    `dcbor` and `fields`.
    """
    signer = signers.get(cose.parse1(data, max_bytes=MAX_SIGNED_POLICY_BYTES).key_id)
    if signer is None:
        raise PolicySignerUnknownError("the policy's signer is not pinned", field="policy")
    payload = cose.verify1(data, signer, max_bytes=MAX_SIGNED_POLICY_BYTES)
    number, document = dcbor.open_record(
        payload, DOMAIN, int, bytes, max_bytes=MAX_SIGNED_POLICY_BYTES, max_depth=1, max_items=4
    )
    sequence = as_integer(number, "sequence")
    policy = policies.decode(as_bytes(document, "policy"))
    _check(policy, sequence)
    return SignedPolicy(policy=policy, sequence=sequence, signed=data)


def _check(policy: Policy, sequence: int) -> None:
    check_range(sequence, 0, MAX_INT64, "sequence")
    if sequence:
        require_activatable(policy)
