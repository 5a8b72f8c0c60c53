"""Whether a channel ends at the attested key, rule by rule (otr_protocol.attested_peer)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attested_peer import require_attested_peer
from otr_protocol.digest import H
from otr_protocol.errors import Refusal
from otr_protocol.signer import MAX_CLOCK_SKEW_MS
from support.answers import (
    NOW_MS,
    OPERATOR,
    PUBLISHER,
    TOKEN_ISSUED,
    TOKEN_SECONDS,
    World,
    sign_token,
)

WORLD = World()
SPKI = H(b"test spki")
BEGIN_MS = TOKEN_ISSUED * 1000
END_MS = (TOKEN_ISSUED + TOKEN_SECONDS) * 1000


def reason(**changes: Any) -> str:
    """The reason for which the peer is refused, "" if it is not."""
    honest: dict[str, Any] = {
        "token": sign_token(WORLD.token_claims()),
        "delegation": WORLD.delegation(),
        "tls_spki_sha256": SPKI,
        "roots": WORLD.roots(),
        "now_ms": NOW_MS,
    }
    try:
        result = require_attested_peer(**(honest | changes))
    except Refusal as refusal:
        return refusal.reason
    assert result.tls_spki_sha256 == SPKI
    return ""


def test_a_peer_with_the_attested_key_is_accepted() -> None:
    assert reason() == ""


def test_a_peer_with_another_key_is_not() -> None:
    assert reason(tls_spki_sha256=H(b"another spki")) == "TLS_KEY_NOT_ATTESTED"
    assert reason(tls_spki_sha256=b"") == "FIELD_INVALID"


@pytest.mark.parametrize(
    ("now_ms", "expected"),
    [
        (BEGIN_MS - MAX_CLOCK_SKEW_MS - 1, "TOKEN_TIME"),
        (BEGIN_MS - MAX_CLOCK_SKEW_MS, ""),
        (END_MS, ""),
        (END_MS + 1, "TOKEN_TIME"),  # no leeway: an attestation that has ended is none
    ],
)
def test_the_token_must_hold_now(now_ms: int, expected: str) -> None:
    assert reason(now_ms=now_ms) == expected


def test_a_token_of_nobody_pinned_is_refused() -> None:
    stranger = ec.derive_private_key(5, ec.SECP384R1())
    assert reason(token=sign_token(WORLD.token_claims(), stranger)) == "TOKEN_KEY_UNKNOWN"


def test_a_simulated_tee_is_refused_unless_the_roots_allow_it() -> None:
    token = sign_token(WORLD.token_claims(simulated=True))
    assert reason(token=token, roots=replace(WORLD.roots(), allow_simulated=False)) == (
        "EVIDENCE_SIMULATED"
    )
    assert reason(token=token, roots=replace(WORLD.roots(), allow_simulated=True)) == ""


def test_a_warning_and_another_policy_are_the_roots_to_allow() -> None:
    warned = sign_token(WORLD.token_claims() | {"ear_status": "warning"})
    assert reason(token=warned) == "APPRAISAL_STATUS"
    assert reason(roots=replace(WORLD.roots(), policies=(H(b"other"),))) == "POLICY_NOT_PINNED"


@pytest.mark.parametrize(
    ("delegation", "expected"),
    [
        ({"session_key": H(b"another session")}, "DELEGATION_MISMATCH"),
        ({"operator_public_key": PUBLISHER.public}, "SIGNATURE_REJECTED"),
        ({"not_after": NOW_MS - 1}, "DELEGATION_EXPIRED"),
        ({"log_origin": "another.log"}, "LOG_NOT_PINNED"),
    ],
)
def test_the_operator_must_answer_for_the_session(
    delegation: dict[str, Any], expected: str
) -> None:
    assert reason(delegation=WORLD.delegation(**delegation)) == expected


def test_an_operator_that_is_not_pinned_is_refused() -> None:
    others = replace(WORLD.roots(), operators=(H(PUBLISHER.public),))
    assert reason(roots=others) == "OPERATOR_NOT_PINNED"
    assert reason(roots=replace(WORLD.roots(), operators=(H(OPERATOR.public),))) == ""


def test_somebody_elses_token_does_not_lend_its_key() -> None:
    stolen = sign_token(WORLD.token_claims(operator_id=H(b"another operator")))
    assert reason(token=stolen) == "DELEGATION_MISMATCH"
