"""Attestation tokens: one profile, one algorithm, pinned keys (spec/attestation.md, "token")."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey

from otr_protocol import binding
from otr_protocol.attestation import compact_jws, ear
from otr_protocol.attestation.compact_jws import Jwks, JwksMalformedError
from otr_protocol.attestation.strict_json import JsonMalformedError, parse_object
from otr_protocol.attestation.verdict import Status
from otr_protocol.errors import Refusal

KEY = ECKey.generate_key("P-384", private=True)
PUBLIC = KEY.get_op_key("verify")
assert isinstance(PUBLIC, ec.EllipticCurvePublicKey)
JWKS = Jwks.parse(compact_jws.jwks_document([PUBLIC]))
NOW = 1_800_000_000
BOUND = {
    "challenge": bytes([1]) * 32,
    "operator_id": bytes([2]) * 32,
    "session_key": bytes([3]) * 32,
    "tls_spki_sha256": bytes([4]) * 32,
    "model_id": bytes([5]) * 32,
}


def claims() -> dict[str, Any]:
    return {
        "eat_profile": ear.EAR_PROFILE,
        "iss": "https://attestation.example",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 600,
        "ear_status": "affirming",
        "ear_verifier_id": {"developer": "otr", "build": "test"},
        "eat_nonce": compact_jws.base64url_encode(BOUND["challenge"]),
        "submods": {"CPU-0": {"ear_status": "affirming"}},
        "otr": {name: value.hex() for name, value in BOUND.items()}
        | {
            "anchor": binding.anchor(**BOUND).hex(),
            "evidence_digest": "06" * 32,
            "collateral_digest": "07" * 32,
            "policy_digest": "08" * 32,
            "simulated": True,
        },
    }


def sign(body: dict[str, Any], **header: Any) -> str:
    head = {"alg": "ES384", "kid": compact_jws.key_id(PUBLIC)} | header
    return jwt.encode(head, body, KEY, algorithms=["ES384"])


def test_a_token_made_by_an_independent_library_verifies() -> None:
    result = ear.verify_token(sign(claims()), JWKS)
    assert (result.session_key, result.simulated) == (BOUND["session_key"], True)
    assert result.status is Status.AFFIRMING
    assert (result.issued_at, result.not_before, result.expires_at) == (NOW, NOW, NOW + 600)


def test_the_key_set_can_be_given_as_its_document() -> None:
    assert ear.verify_token(sign(claims()).encode(), compact_jws.jwks_document([PUBLIC]))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("eat_profile",), "tag:ietf.org,2026:rats/ear#03", "TOKEN_CLAIMS"),
        (("iss",), "", "TOKEN_CLAIMS"),
        (("iat",), True, "TOKEN_CLAIMS"),
        (("iat",), -1, "TOKEN_CLAIMS"),
        (("exp",), NOW + 3601, "TOKEN_CLAIMS"),
        (("exp",), NOW - 1, "TOKEN_CLAIMS"),
        (("nbf",), NOW + 601, "TOKEN_CLAIMS"),
        (("eat_nonce",), "", "TOKEN_CLAIMS"),
        (("ear_status",), "warning", None),
        (("ear_status",), "contraindicated", "TOKEN_NOT_TRUSTED"),
        (("ear_status",), "none", "TOKEN_NOT_TRUSTED"),
        (("submods",), {}, "TOKEN_CLAIMS"),
        (("submods", "CPU-0", "ear_status"), "warning", "TOKEN_CLAIMS"),
        (("otr", "simulated"), 1, "TOKEN_CLAIMS"),
        (("otr", "extra"), "00", "TOKEN_CLAIMS"),
        (("otr", "session_key"), "AB" * 32, "TOKEN_CLAIMS"),
        (("otr", "session_key"), "09" * 32, "TOKEN_CLAIMS"),
        (("otr", "model_id"), "09" * 32, "TOKEN_CLAIMS"),
        (("otr", "anchor"), "09" * 48, "TOKEN_CLAIMS"),
        (("otr", "evidence_digest"), "06" * 31, "TOKEN_CLAIMS"),
    ],
)
def test_each_claim_is_checked(path: tuple[str, ...], value: Any, reason: str | None) -> None:
    body = claims()
    target = body
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    if reason is None:
        ear.verify_token(sign(body), JWKS)
        return
    with pytest.raises(Refusal) as caught:
        ear.verify_token(sign(body), JWKS)
    assert caught.value.reason == reason


def test_a_token_covers_a_statement_only_within_its_life() -> None:
    result = ear.verify_token(sign(claims()), JWKS)
    result.require_covers(NOW * 1000, (NOW + 600) * 1000)
    for start, end in [
        (NOW * 1000 - 1, NOW * 1000),
        (NOW * 1000, (NOW + 600) * 1000 + 1),
        (NOW * 1000 + 2, NOW * 1000 + 1),
    ]:
        with pytest.raises(ear.TokenTimeError):
            result.require_covers(start, end)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":9007199254740992}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[]",
        b"{}x",
        b"",
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"' + b'\\"' * 20_000,
    ],
)
def test_json_with_two_readings_is_refused(text: bytes) -> None:
    with pytest.raises(JsonMalformedError):
        parse_object(text, max_bytes=64_000)


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert parse_object(b'{"a":"' + b"[" * 100 + b'\\""}', max_bytes=1000)


def test_a_key_set_with_a_private_key_is_refused() -> None:
    with pytest.raises(JwksMalformedError):
        Jwks.parse(json.dumps({"keys": [KEY.as_dict(private=True) | {"kid": "x"}]}))


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_of_a_token_is_accepted(position: int, flip: int) -> None:
    token = bytearray(sign(claims()).encode())
    token[position % len(token)] ^= flip
    with pytest.raises(Refusal):
        ear.verify_token(bytes(token), JWKS)


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_raise_only_refusals(data: bytes) -> None:
    for call in (lambda: ear.verify_token(data, JWKS), lambda: Jwks.parse(data)):
        with pytest.raises(Refusal):
            call()


@pytest.mark.parametrize("entry", [1, "key", None, [], [["kid", "a"]]])
def test_a_key_that_is_no_object_is_refused(entry: object) -> None:
    with pytest.raises(JwksMalformedError, match="not an object"):
        Jwks.parse(json.dumps({"keys": [entry]}))
