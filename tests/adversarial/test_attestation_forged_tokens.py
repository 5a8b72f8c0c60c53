"""Forgers of attestation tokens: no other algorithm, no other key, no other session."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey

from otr_protocol.answer_refusals import IssuerMismatchError
from otr_protocol.answer_rules import pinned_token
from otr_protocol.attestation import compact_jws, ear
from otr_protocol.attestation.compact_jws import (
    Jwks,
    TokenAlgorithmError,
    TokenKeyUnknownError,
    TokenMalformedError,
    TokenSignatureError,
)
from otr_protocol.attestation.ear import TokenClaimsError, TokenTimeError
from otr_protocol.attestation.ear_claims import VerdictNotTrustedError
from otr_protocol.attestation.verdict import Status
from otr_protocol.errors import Refusal
from otr_protocol.trust import TokenIssuer, TrustRoots
from support import devtee_world as world


def jwks() -> Jwks:
    return Jwks.parse(compact_jws.jwks_document([world.token_key().public_key()]))


def body() -> dict[str, Any]:
    bundle = world.bundle()
    return ear.claims(world.judge(bundle), bundle, world.ISSUER, world.NOW)


def kid() -> str:
    return compact_jws.key_id(world.token_key().public_key())


def spell(header: dict[str, Any], payload: dict[str, Any], signature: bytes) -> bytes:
    return b".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=")
        for part in (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    )


def test_the_honest_token_says_what_was_appraised() -> None:
    bundle = world.bundle(2)
    verdict = world.judge(bundle)
    token = ear.sign(ear.claims(verdict, bundle, world.ISSUER, world.NOW), world.token_key())
    result = ear.verify_token(token, jwks())
    assert result.issuer == world.ISSUER
    for name, value in world.BOUND.items():
        assert getattr(result, name) == value
    assert result.anchor == bundle.anchor
    assert result.evidence_digest == bundle.digest
    assert result.collateral_digest == world.collateral().digest
    assert result.policy_digest == world.pki().policy().digest
    assert result.simulated
    assert result.status is Status.AFFIRMING
    assert (result.issued_at, result.expires_at) == (world.NOW, world.NOW + 3600)


def test_an_independent_library_reads_our_token() -> None:
    key = ECKey.import_key(
        world.token_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    token = jwt.decode(ear.sign(body(), world.token_key()).decode(), key, algorithms=["ES384"])
    assert token.header == {"alg": "ES384", "kid": kid(), "typ": "JWT"}
    assert token.claims["otr"]["simulated"] is True


def test_the_same_verdict_gives_the_same_token() -> None:
    claims = body()
    assert ear.sign(claims, world.token_key()) == ear.sign(claims, world.token_key())


@pytest.mark.parametrize("algorithm", ["none", "None", "", "ES256", "ES512", "HS256", "EdDSA"])
def test_the_forger_chooses_another_algorithm(algorithm: str) -> None:
    for signature in (b"", bytes(96)):
        with pytest.raises(TokenAlgorithmError):
            ear.verify_token(spell({"alg": algorithm, "kid": kid()}, body(), signature), jwks())


def test_the_forger_uses_the_public_key_as_a_shared_secret() -> None:
    public = world.token_key().public_key()
    for secret in (
        b"secret",
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ):
        unsigned = spell({"alg": "HS256", "kid": kid()}, body(), b"").rsplit(b".", 1)[0]
        mac = hmac.new(secret, unsigned, hashlib.sha256).digest()
        token = unsigned + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
        with pytest.raises(TokenAlgorithmError):
            ear.verify_token(token, jwks())


def test_the_forger_brings_his_own_key() -> None:
    own = ec.generate_private_key(ec.SECP384R1())
    token = ear.sign(body(), own)
    with pytest.raises(TokenKeyUnknownError):
        ear.verify_token(token, jwks())
    unsigned = spell({"alg": "ES384", "kid": kid()}, body(), b"").rsplit(b".", 1)[0]
    signature = token.rsplit(b".", 1)[1]
    with pytest.raises(TokenSignatureError):
        ear.verify_token(unsigned + b"." + signature, jwks())


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": {"kty": "EC"}},
        {"jku": "https://attacker.example/jwks"},
        {"x5c": ["AAAA"]},
        {"x5u": "https://attacker.example"},
        {"crit": ["exp"]},
        {"b64": False},
        {"zip": "DEF"},
        {"typ": "at+jwt"},
    ],
)
def test_the_forger_embeds_a_key_or_a_rule(extra: dict[str, Any]) -> None:
    header = {"alg": "ES384", "kid": kid()} | extra
    with pytest.raises(TokenMalformedError):
        ear.verify_token(spell(header, body(), bytes(96)), jwks())


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(95) + b"\1"])
def test_degenerate_signatures_do_not_verify(signature: bytes) -> None:
    with pytest.raises(TokenSignatureError):
        ear.verify_token(spell({"alg": "ES384", "kid": kid()}, body(), signature), jwks())


def test_the_thief_puts_his_session_key_into_a_token_of_another() -> None:
    """Without the issuer's key the signature breaks; with it, the anchor contradicts the claim."""
    token = ear.sign(body(), world.token_key())
    header, payload, signature = token.split(b".")
    claims = json.loads(compact_jws.base64url_decode(payload))
    claims["otr"]["session_key"] = "66" * 32
    changed = compact_jws.base64url_encode(json.dumps(claims).encode()).encode()
    with pytest.raises(TokenSignatureError):
        ear.verify_token(b".".join((header, changed, signature)), jwks())
    with pytest.raises(TokenClaimsError):
        ear.verify_token(ear.sign(claims, world.token_key()), jwks())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token + b"=",
        lambda token: token + b"\n",
        lambda token: b" " + token,
        lambda token: token.replace(b".", b"..", 1),
        lambda token: token + b"." + token,
        lambda token: token.split(b".", 1)[0],
        lambda token: b"",
        lambda token: token + b"A" * 40_000,
    ],
)
def test_a_token_has_one_spelling(spoil: Any) -> None:
    with pytest.raises(Refusal):
        ear.verify_token(spoil(ear.sign(body(), world.token_key())), jwks())


def roots(*issuers: TokenIssuer) -> TrustRoots:
    return TrustRoots(issuers=issuers)


def test_an_issuer_speaks_in_no_other_issuers_name() -> None:
    """Both are pinned; each key is pinned for one of them."""
    ours, theirs = world.token_key(), ec.generate_private_key(ec.SECP384R1())
    keys_of_theirs = Jwks.parse(compact_jws.jwks_document([theirs.public_key()]))
    pinned = roots(
        TokenIssuer(world.ISSUER, jwks()), TokenIssuer("https://other.example", keys_of_theirs)
    )
    assert pinned_token(ear.sign(body(), ours), pinned).issuer == world.ISSUER
    for key, issuer in (
        (theirs, world.ISSUER),
        (ours, "https://other.example"),
        (ours, world.ISSUER + "/"),
        (ours, world.ISSUER.upper()),
    ):
        with pytest.raises(IssuerMismatchError):
            pinned_token(ear.sign(body() | {"iss": issuer}, key), pinned)
    with pytest.raises(TokenKeyUnknownError):
        pinned_token(ear.sign(body(), ours), roots(pinned.issuers[1]))


@pytest.mark.parametrize("issuer", ["", None, 7, ["https://attestation.example"], "x" * 257])
def test_a_token_without_a_proper_issuer_is_refused(issuer: Any) -> None:
    with pytest.raises(TokenClaimsError):
        ear.verify_token(ear.sign(body() | {"iss": issuer}, world.token_key()), jwks())


def test_the_forger_names_another_pinned_key() -> None:
    """Two keys are pinned, as while one is replaced by the next: the named one must have signed."""
    other = ec.generate_private_key(ec.SECP384R1())
    both = Jwks.parse(
        compact_jws.jwks_document([world.token_key().public_key(), other.public_key()])
    )
    payload = json.dumps(body()).encode()
    for signer, named in ((world.token_key(), other), (other, world.token_key())):
        header, _, signature = compact_jws.sign(payload, signer).split(b".")
        renamed = {"alg": "ES384", "kid": compact_jws.key_id(named.public_key()), "typ": "JWT"}
        forged = spell(renamed, body(), compact_jws.base64url_decode(signature))
        assert not forged.startswith(header)
        with pytest.raises(TokenSignatureError):
            ear.verify_token(forged, both)


@pytest.mark.parametrize("key_id", ["", "another", None, 1, ["x"]])
def test_a_kid_that_names_no_pinned_key_is_refused(key_id: Any) -> None:
    header = {"alg": "ES384", "kid": key_id}
    with pytest.raises((TokenKeyUnknownError, TokenMalformedError)):
        ear.verify_token(spell(header, body(), bytes(96)), jwks())
    with pytest.raises((TokenKeyUnknownError, TokenMalformedError)):
        ear.verify_token(spell({"alg": "ES384"}, body(), bytes(96)), jwks())


@pytest.mark.parametrize(
    "nonce",
    [
        compact_jws.base64url_encode(b"x" * 32),
        world.BOUND["challenge"].hex(),
        compact_jws.base64url_encode(world.BOUND["challenge"]) + "=",
        "",
        None,
        [compact_jws.base64url_encode(world.BOUND["challenge"])],
    ],
)
def test_a_nonce_that_is_not_the_challenge_is_refused(nonce: Any) -> None:
    token = ear.sign(body() | {"eat_nonce": nonce}, world.token_key())
    with pytest.raises(TokenClaimsError):
        ear.verify_token(token, jwks())


def test_no_token_is_made_about_other_evidence_than_was_appraised() -> None:
    """Two bundles under one challenge: the verdict on the one gives no token about the other."""
    appraised, other = world.bundle(), world.bundle()
    assert appraised.digest != other.digest
    verdict = world.judge(appraised)
    with pytest.raises(VerdictNotTrustedError):
        ear.claims(verdict, other, world.ISSUER, world.NOW)


@pytest.mark.parametrize("seconds", [1, 119, 120, 121, 3600])
def test_a_statement_begun_before_its_token_is_not_covered(seconds: int) -> None:
    """No leeway: a clock that is behind the issuer's asks again, and nothing is dated back."""
    token = ear.sign(body() | {"nbf": world.NOW + seconds}, world.token_key())
    result = ear.verify_token(token, jwks())
    end_ms = result.expires_at * 1000
    result.require_covers((world.NOW + seconds) * 1000, end_ms)
    with pytest.raises(TokenTimeError):
        result.require_covers((world.NOW + seconds) * 1000 - 1, end_ms)
    with pytest.raises(TokenTimeError):
        result.require_covers(end_ms, end_ms + 1)


@pytest.mark.parametrize(
    "times",
    [
        {"nbf": world.NOW + 3601},
        {"exp": world.NOW - 1},
        {"exp": world.NOW + 3601},
        {"iat": world.NOW + 3601},
        {"iat": -1},
        {"nbf": True},
        {"exp": world.NOW + 0.5},
        {"exp": str(world.NOW + 60)},
        {"exp": None},
    ],
)
def test_times_that_no_token_has_are_refused(times: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        ear.verify_token(
            spell_signed(body() | times),
            jwks(),
        )


def spell_signed(claims: dict[str, Any]) -> bytes:
    """A token by the real key over whatever JSON its owner was made to sign."""
    return compact_jws.sign(json.dumps(claims).encode(), world.token_key())


def test_a_token_about_eight_gpus_fits() -> None:
    bundle = world.bundle(8)
    claims = ear.claims(world.judge(bundle), bundle, world.ISSUER, world.NOW)
    assert len(ear.sign(claims, world.token_key())) <= ear.MAX_TOKEN_BYTES
    assert sorted(claims["submods"]) == ["CPU-0", *(f"GPU-{n}" for n in range(8))]


def test_of_simulated_hardware_the_token_claims_nothing() -> None:
    for submod in body()["submods"].values():
        assert "hardware" not in submod["ear_trustworthiness_vector"]
