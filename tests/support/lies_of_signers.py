"""Lies about who signs, for whom, when and with which model."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.digest import H
from support.answers import (
    END_MS,
    TOKEN_ISSUED,
    TOKEN_SECONDS,
    Key,
    sign_token,
)
from support.lie import (
    Lie,
    another_issuer,
    part,
    private_claim,
    signed_by_a_key_no_evidence_names,
    signed_with,
    token_of,
)
from support.log_of import OTHER_KEY

SIGNER_LIES = [
    Lie(
        "a statement that is no statement",
        "statement_signature",
        "COSE_MALFORMED",
        part(statement=b"statement"),
    ),
    Lie(
        "another session's delegation",
        "delegation",
        "DELEGATION_MISMATCH",
        lambda world: world.answer(delegation=world.delegation(session_key=Key("x").public)),
    ),
    Lie(
        "a delegation exchanged after signing",
        "delegation",
        "DELEGATION_DIGEST_MISMATCH",
        lambda world: replace(world.answer(), delegation=world.delegation(not_after=END_MS)),
    ),
    Lie(
        "an operator who did not delegate",
        "delegation",
        "DELEGATION_MISMATCH",
        signed_with(operator_id=bytes([7]) * 32),
    ),
    Lie(
        "an expired delegation",
        "delegation",
        "DELEGATION_EXPIRED",
        lambda world: world.answer(delegation=world.delegation(not_after=END_MS - 1)),
    ),
    Lie(
        "an operator that is not pinned",
        "delegation",
        "OPERATOR_NOT_PINNED",
        lambda world: world.answer(),
        lambda _: {"operators": (bytes(32),)},
    ),
    Lie(
        "a log that is not pinned",
        "delegation",
        "LOG_NOT_PINNED",
        lambda world: world.answer(with_receipt=False),
        lambda _: {"logs": (OTHER_KEY.verifier,)},
    ),
    Lie(
        "another token than the statement names",
        "attestation_token",
        "TOKEN_DIGEST_MISMATCH",
        lambda world: replace(world.answer(), token=sign_token(world.token_claims() | {"x": 1})),
    ),
    Lie(
        "an issuer that is not pinned",
        "attestation_token",
        "TOKEN_KEY_UNKNOWN",
        lambda world: world.answer(),
        lambda _: {"issuers": ()},
    ),
    Lie(
        "a key pinned for another issuer",
        "attestation_token",
        "ISSUER_MISMATCH",
        lambda world: world.answer(),
        another_issuer,
    ),
    Lie(
        "a token signed by a key that nobody pinned",
        "attestation_token",
        "TOKEN_KEY_UNKNOWN",
        lambda world: world.answer(
            token=sign_token(world.token_claims(), ec.generate_private_key(ec.SECP384R1()))
        ),
    ),
    Lie(
        "a token that is no token",
        "attestation_token",
        "TOKEN_MALFORMED",
        lambda world: world.answer(token=b"no.token"),
    ),
    Lie(
        "an appraisal that refused",
        "attestation_token",
        "TOKEN_NOT_TRUSTED",
        token_of(ear_status="contraindicated"),
    ),
    Lie(
        "an appraisal with warnings",
        "attestation_status",
        "APPRAISAL_STATUS",
        token_of(ear_status="warning"),
    ),
    Lie(
        "simulated evidence",
        "attestation_status",
        "EVIDENCE_SIMULATED",
        private_claim(simulated=True),
    ),
    Lie(
        "an appraisal under a lax policy",
        "attestation_status",
        "POLICY_NOT_PINNED",
        private_claim(policy_digest=H(b"lax")),
    ),
    Lie(
        "a session key that no evidence names",
        "attestation_binding",
        "ATTESTATION_BINDING",
        signed_by_a_key_no_evidence_names,
    ),
    Lie(
        "evidence about another model",
        "attestation_binding",
        "ATTESTATION_BINDING",
        private_claim(model_id=H(b"another model")),
    ),
    Lie(
        "another operator's evidence",
        "attestation_binding",
        "ATTESTATION_BINDING",
        private_claim(operator_id=H(b"another operator")),
    ),
    Lie(
        "evidence exchanged in the file",
        "attestation_binding",
        "EVIDENCE_DIGEST_MISMATCH",
        part(evidence_digest=H(b"other evidence")),
    ),
    Lie(
        "an answer begun before its token",
        "times",
        "TOKEN_TIME",
        signed_with(start_ms=TOKEN_ISSUED * 1000 - 1),
    ),
    Lie(
        "an answer that outlived its token",
        "times",
        "TOKEN_TIME",
        signed_with(end_ms=(TOKEN_ISSUED + TOKEN_SECONDS) * 1000 + 1),
    ),
    Lie(
        "an answer from the future",
        "times",
        "STATEMENT_IN_FUTURE",
        lambda world: world.answer(),
        now_ms=END_MS - 120_001,
    ),
    Lie(
        "a model that nobody trusted vouches for",
        "model",
        "MODEL_NOT_PINNED",
        lambda world: world.answer(model_record=world.model_record(Key("stranger"))),
    ),
    Lie(
        "a model without a record",
        "model",
        "MODEL_NOT_PINNED",
        lambda world: world.answer(model_record=b""),
    ),
    Lie(
        "a record about another model",
        "model",
        "MODEL_RECORD_MISMATCH",
        lambda world: world.answer(model_record=world.model_record(model_id=H(b"other"))),
    ),
]
