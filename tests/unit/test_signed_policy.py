"""A signed policy: who signed it, under which number, and that it may be active."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr_protocol import cose, dcbor
from otr_protocol.attestation import signed_policy
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.policy_expression import PolicyExpressionError
from otr_protocol.attestation.signed_policy import (
    MAX_SIGNED_POLICY_BYTES,
    PolicyAuditOnlyError,
    PolicySignerUnknownError,
    sign_policy,
    verify_policy,
)
from otr_protocol.ed25519 import SignatureRejectedError
from otr_protocol.errors import Refusal
from otr_protocol.fields import MAX_INT64, FieldError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
SIGNERS = {cose.key_id(PUBLIC): PUBLIC}
POLICY = Policy(required_gpus=2, expression="size(devices) == 2")


def sign(policy: Policy = POLICY, sequence: int = 7) -> bytes:
    return sign_policy(policy, sequence, KEY.sign, PUBLIC)


@pytest.mark.parametrize("sequence", [0, 1, MAX_INT64])
def test_what_was_signed_is_what_is_verified(sequence: int) -> None:
    data = sign(sequence=sequence)
    verified = verify_policy(data, SIGNERS)
    assert (verified.policy, verified.sequence, verified.signed) == (POLICY, sequence, data)
    assert verified.policy.digest == POLICY.digest


def test_signers_that_are_not_pinned_are_refused() -> None:
    with pytest.raises(PolicySignerUnknownError):
        verify_policy(sign(), {})
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    # Even if its name is taken for a pinned one's.
    with pytest.raises(Refusal):
        verify_policy(sign(), {cose.key_id(PUBLIC): other})


def test_every_changed_byte_is_refused() -> None:
    data = sign()
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(Refusal):
            verify_policy(bytes(changed), SIGNERS)
    with pytest.raises(SignatureRejectedError):
        verify_policy(data[:-1] + bytes([data[-1] ^ 1]), SIGNERS)


@pytest.mark.parametrize("mode", [RevocationMode.AS_ISSUED, RevocationMode.NONE])
def test_a_policy_for_audits_can_be_kept_and_never_be_active(mode: RevocationMode) -> None:
    audit = replace(POLICY, revocation=mode)
    assert verify_policy(sign(audit, 0), SIGNERS).policy == audit
    with pytest.raises(PolicyAuditOnlyError):
        sign(audit, 1)
    payload = dcbor.encode((signed_policy.DOMAIN, 1, audit.encode()))
    with pytest.raises(PolicyAuditOnlyError):
        verify_policy(cose.sign1(payload, KEY.sign, PUBLIC), SIGNERS)


def test_a_condition_that_would_always_fail_cannot_be_active() -> None:
    broken = replace(POLICY, expression="devices.map(d, d) == []")
    with pytest.raises(PolicyExpressionError):
        sign(broken, 1)
    assert verify_policy(sign(broken, 0), SIGNERS).policy == broken


@pytest.mark.parametrize("sequence", [-1, MAX_INT64 + 1])
def test_a_sequence_number_fits_the_contract(sequence: int) -> None:
    with pytest.raises(FieldError):
        sign(sequence=sequence)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        POLICY.encode(),
        dcbor.encode(("otr-signed-policy-v2", 1, POLICY.encode())),
        dcbor.encode((signed_policy.DOMAIN, POLICY.encode(), 1)),
        dcbor.encode((signed_policy.DOMAIN, 1, POLICY.encode(), 0)),
        dcbor.encode((signed_policy.DOMAIN, 1, b"no policy")),
    ],
)
def test_other_payloads_are_refused_whoever_signed_them(payload: bytes) -> None:
    with pytest.raises(Refusal):
        verify_policy(cose.sign1(payload, KEY.sign, PUBLIC), SIGNERS)


def test_the_size_is_bounded_before_anything_is_read() -> None:
    with pytest.raises(cose.CoseMalformedError):
        verify_policy(bytes(MAX_SIGNED_POLICY_BYTES + 1), SIGNERS)


def test_the_largest_policy_can_be_signed() -> None:
    digests = tuple(sorted(bytes([a, b]) * 24 for a in range(16) for b in range(16)))
    largest = Policy(
        cpu_measurements=digests,
        tdx_rtmrs=tuple((index, digests) for index in range(4)),
        expression="true || " * 120 + "true",
    )
    assert len(sign(largest)) <= MAX_SIGNED_POLICY_BYTES
    assert verify_policy(sign(largest), SIGNERS).policy == largest
