"""Key sets, tokens and their JSON wrong in one thing each: what every check of them is for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol import binding
from otr_protocol.attestation import compact_jws, ear
from otr_protocol.attestation.appraise import Verdict
from otr_protocol.attestation.compact_jws import Jwks, JwksMalformedError, TokenMalformedError
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.ear import TokenClaimsError
from otr_protocol.attestation.ear_claims import VerdictNotTrustedError
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence, EvidenceBundle
from otr_protocol.attestation.strict_json import JsonMalformedError, parse_object
from otr_protocol.attestation.verdict import Status
from otr_protocol.errors import Refusal

KEY = ec.derive_private_key(7, ec.SECP384R1())
PUBLIC = KEY.public_key()
JWKS = Jwks.parse(compact_jws.jwks_document([PUBLIC]))
NOW = 1_800_000_000
BOUND = {
    "challenge": bytes([1]) * 32,
    "operator_id": bytes([2]) * 32,
    "session_key": bytes([3]) * 32,
    "tls_spki_sha256": bytes([4]) * 32,
    "model_id": bytes([5]) * 32,
}


def said(refusal: Refusal) -> tuple[type[Refusal], str, str | None]:
    return type(refusal), refusal.reason, refusal.field


def jwk(**changes: Any) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(compact_jws.jwks_document([PUBLIC]))["keys"][0]
    return {name: value for name, value in (entry | changes).items() if value is not None}


def coordinate(name: str, *, before: bytes = b"", flipped: int = 0) -> str:
    """A coordinate of the key, spelled longer or changed."""
    data = compact_jws.base64url_decode(jwk()[name].encode())
    data = data[:-1] + bytes((data[-1] ^ flipped,))
    return compact_jws.base64url_encode(before + data)


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ([], "keys"),
        ({"0": jwk()}, "keys"),
        ([jwk(kid=str(number)) for number in range(compact_jws.MAX_KEYS + 1)], "keys"),
        ([jwk(), jwk()], "kid"),
        ([1], "keys"),
        ([""], "keys"),
        ([jwk(kid=None)], "kid"),
        ([jwk(kid="")], "kid"),
        ([jwk(kid="k" * 257)], "kid"),
        ([jwk(kid=1)], "kid"),
        ([jwk(kty="OKP")], "kty"),
        ([jwk(crv="P-256")], "kty"),
        ([jwk(alg="ES256")], "alg"),
        ([jwk(use="enc")], "alg"),
        ([jwk(x=coordinate("x", flipped=1))], "keys"),
        ([jwk(x=None)], "keys"),
        ([jwk(y=1)], "keys"),
        ([jwk(x=coordinate("x", before=b"\0"))], "keys"),
    ],
)
def test_a_key_set_wrong_in_one_thing_is_refused(keys: Any, field: str) -> None:
    with pytest.raises(JwksMalformedError) as refused:
        Jwks.parse(json.dumps({"keys": keys}))
    assert said(refused.value) == (JwksMalformedError, "JWKS_MALFORMED", field)


def test_a_key_set_may_hold_as_many_keys_as_it_may() -> None:
    keys = [jwk(kid=str(number)) for number in range(compact_jws.MAX_KEYS)]
    assert len(Jwks.parse(json.dumps({"keys": keys})).keys) == compact_jws.MAX_KEYS


def test_no_key_on_another_curve_is_published() -> None:
    other = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    with pytest.raises(JwksMalformedError) as refused:
        compact_jws.jwks_document([other])
    assert said(refused.value) == (JwksMalformedError, "JWKS_MALFORMED", "crv")


def test_a_genuine_token_over_the_limit_is_refused() -> None:
    token = compact_jws.sign(b"{}", KEY)
    assert compact_jws.verify(token, JWKS, max_bytes=len(token)) == b"{}"
    with pytest.raises(TokenMalformedError) as refused:
        compact_jws.verify(token, JWKS, max_bytes=len(token) - 1)
    assert refused.value.reason == "TOKEN_MALFORMED"


def test_a_genuine_signature_spelled_with_a_leading_zero_is_refused() -> None:
    token = compact_jws.sign(b"{}", KEY)
    message, _, encoded = token.rpartition(b".")
    signature = compact_jws.base64url_decode(encoded)
    r, s = signature[:48], signature[48:]
    longer = compact_jws.base64url_encode(r + b"\0" + s).encode()
    with pytest.raises(TokenMalformedError) as refused:
        compact_jws.verify(message + b"." + longer, JWKS, max_bytes=4096)
    assert refused.value.reason == "TOKEN_MALFORMED"


def test_no_token_is_made_that_nobody_reads() -> None:
    with pytest.raises(TokenMalformedError) as refused:
        ear.sign({"iss": "a" * ear.MAX_TOKEN_BYTES}, KEY)
    assert refused.value.reason == "TOKEN_MALFORMED"


def body(**changes: Any) -> dict[str, Any]:
    claims = {
        "eat_profile": ear.EAR_PROFILE,
        "iss": "https://attestation.example",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 600,
        "ear_status": "affirming",
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
    return claims | changes


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ear_status": "certain"}, "ear_status"),
        ({"ear_status": 1}, "ear_status"),
        ({"submods": {"CPU-0": {}}}, "submods"),
        ({"submods": {"CPU-0": "affirming"}}, "submods"),
        ({"submods": {"CPU-0": {"ear_status": "Affirming"}}}, "submods"),
    ],
)
def test_a_tier_that_is_none_of_the_four_is_refused(changes: dict[str, Any], field: str) -> None:
    assert ear.verify_token(ear.sign(body(), KEY), JWKS).status is Status.AFFIRMING
    with pytest.raises(TokenClaimsError) as refused:
        ear.verify_token(ear.sign(body(**changes), KEY), JWKS)
    assert said(refused.value) == (TokenClaimsError, "TOKEN_CLAIMS", field)


@pytest.mark.parametrize("issuer", ["", "a" * 257, "\u00e4" * 129])
def test_a_token_is_made_only_under_a_name_that_is_read(issuer: str) -> None:
    bundle = EvidenceBundle(**BOUND, cpu=CpuEvidence(SEV_SNP, b"r", ()), devices=())
    verdict = Verdict(
        status=Status.AFFIRMING,
        findings=(),
        evidence_digest=bundle.digest,
        collateral_digest=bytes(32),
        policy_digest=bytes(32),
        appraised_at=NOW,
        not_after=NOW + 600,
        simulated=True,
        bound=True,
        cpu=CpuAppraisal(()),
        gpus=(),
    )
    assert ear.claims(verdict, bundle, "a" * 256, NOW)["exp"] == NOW + 600
    with pytest.raises(VerdictNotTrustedError) as refused:
        ear.claims(verdict, bundle, issuer, NOW)
    assert said(refused.value) == (VerdictNotTrustedError, "VERDICT_NOT_TRUSTED", "issuer")


def test_json_over_the_limit_is_refused() -> None:
    assert parse_object(b'{"a":1}', max_bytes=7) == {"a": 1}
    with pytest.raises(JsonMalformedError) as refused:
        parse_object(b'{"a":1}', max_bytes=6)
    assert refused.value.reason == "JSON_MALFORMED"
