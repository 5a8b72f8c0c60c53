"""Attestation tokens: EAR as an ES384 JWT (draft-ietf-rats-ear-04; spec/attestation.md, "token").

The token is what a relying party keeps of an appraisal. Its private claims, under `otr`, repeat
the binding of PROTOCOL section 1 in lower-case hex, so that the holder of a statement can see which
session key, TLS key and model the evidence named, and find evidence, collateral and policy by
digest to replay the verdict. `verify_token` trusts nothing but the pinned keys: it recomputes the
anchor and refuses a token that contradicts itself. Times are returned, not judged: PROTOCOL judges
them against the statement's own times (`AttestationResult.require_covers`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol import binding
from otr_protocol.attestation import compact_jws
from otr_protocol.attestation.compact_jws import Jwks, TokenMalformedError
from otr_protocol.attestation.ear_claims import (
    EAR_PROFILE,
    MAX_ISSUER_BYTES,
    MAX_LIFETIME_SECONDS,
    PRIVATE_CLAIMS,
    claims,
)
from otr_protocol.attestation.strict_json import Json, parse_object
from otr_protocol.attestation.verdict import Status, worst
from otr_protocol.errors import RejectedError

MAX_TOKEN_BYTES: Final = 32 * 1024
MAX_SUBMODS: Final = 64

# Every private claim with the bytes its hex stands for.
_DIGEST_CLAIMS: Final = {
    "operator_id": 32,
    "session_key": 32,
    "tls_spki_sha256": 32,
    "model_id": 32,
    "challenge": binding.CHALLENGE_BYTES,
    "anchor": binding.ANCHOR_BYTES,
    "evidence_digest": 32,
    "collateral_digest": 32,
    "policy_digest": 32,
}
_STATUS_OF_TIER: Final = {status.tier: status for status in Status}


class TokenClaimsError(RejectedError):
    """Signed, but not an attestation result of this profile, or one that contradicts itself."""

    reason = "TOKEN_CLAIMS"


class TokenNotTrustedError(RejectedError):
    """The appraisal that the token reports did not end in trust."""

    reason = "TOKEN_NOT_TRUSTED"


class TokenTimeError(RejectedError):
    """The token was not valid for the whole time it is asked to cover."""

    reason = "TOKEN_TIME"


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What a token under a pinned key establishes.

    `anchor` is 48 bytes, every other byte string 32. Times are integer seconds since 1970 UTC.
    `simulated` says that the evidence came from a development TEE; whoever relies on hardware must
    refuse it. `status` is AFFIRMING or WARNING: no other verdict is accepted as a token.
    """

    issuer: str
    operator_id: bytes
    session_key: bytes
    tls_spki_sha256: bytes
    model_id: bytes
    challenge: bytes
    anchor: bytes
    evidence_digest: bytes
    collateral_digest: bytes
    policy_digest: bytes
    simulated: bool
    status: Status
    issued_at: int
    not_before: int
    expires_at: int

    def require_covers(self, start_ms: int, end_ms: int) -> None:
        """Refuse unless `iat <= start <= end <= exp` and `nbf <= start` (PROTOCOL section 1).

        `start_ms` and `end_ms` are a statement's times in milliseconds. Raises TokenTimeError.
        """
        if not start_ms <= end_ms:
            raise TokenTimeError("the statement ends before it starts", field="end_ms")
        if start_ms < max(self.issued_at, self.not_before) * 1000:
            raise TokenTimeError("the token was issued after the statement began", field="iat")
        if end_ms > self.expires_at * 1000:
            raise TokenTimeError("the token expired before the statement ended", field="exp")


def sign(body: Mapping[str, Any], private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """The token that states `body` (see `claims`), signed with a P-384 key: ASCII bytes.

    Deterministic ECDSA (RFC 6979), so that the core needs no randomness and the same verdict gives
    the same token. The key identifier is the key's thumbprint, as `compact_jws.jwks_document` says.
    """
    payload = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    token = compact_jws.sign(payload.encode("ascii"), private_key)
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenMalformedError(f"a token of {len(token)} bytes is too large")
    return token


def verify_token(
    token: bytes | str, jwks: Jwks | bytes | str, *, max_bytes: int = MAX_TOKEN_BYTES
) -> AttestationResult:
    """Verify an attestation token under pinned keys and return what it establishes.

    `jwks` is the relying party's pinned key set, parsed or as its RFC 7517 document. Raises
    TokenMalformedError, TokenAlgorithmError, TokenKeyUnknownError, TokenSignatureError,
    JsonMalformedError, TokenClaimsError or TokenNotTrustedError, and for the key set
    JwksMalformedError; nothing else.
    """
    keys = jwks if isinstance(jwks, Jwks) else Jwks.parse(jwks)
    data = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else bytes(token)
    payload = compact_jws.verify(data, keys, max_bytes=max_bytes)
    body = parse_object(payload, max_bytes=max_bytes)
    if body.get("eat_profile") != EAR_PROFILE:
        raise TokenClaimsError("not an EAR of the profile read here", field="eat_profile")
    issuer = body.get("iss")
    if not isinstance(issuer, str) or not 1 <= len(issuer.encode()) <= MAX_ISSUER_BYTES:
        raise TokenClaimsError("the token names no issuer", field="iss")
    issued_at, not_before, expires_at = (_time(body, name) for name in ("iat", "nbf", "exp"))
    if not max(issued_at, not_before) <= expires_at <= issued_at + MAX_LIFETIME_SECONDS:
        raise TokenClaimsError(f"a token lives 0 to {MAX_LIFETIME_SECONDS} s", field="exp")
    private = body.get(PRIVATE_CLAIMS)
    if not isinstance(private, dict) or private.keys() != {*_DIGEST_CLAIMS, "simulated"}:
        raise TokenClaimsError("the private claims are not those of this version", field="otr")
    simulated = private["simulated"]
    if not isinstance(simulated, bool):
        raise TokenClaimsError("`simulated` is not a boolean", field="otr.simulated")
    digests = {name: _hex(private, name, length) for name, length in _DIGEST_CLAIMS.items()}
    expected = binding.anchor(
        challenge=digests["challenge"],
        operator_id=digests["operator_id"],
        session_key=digests["session_key"],
        tls_spki_sha256=digests["tls_spki_sha256"],
        model_id=digests["model_id"],
    )
    if digests["anchor"] != expected:
        raise TokenClaimsError("the anchor is not that of the other claims", field="otr.anchor")
    if body.get("eat_nonce") != compact_jws.base64url_encode(digests["challenge"]):
        raise TokenClaimsError("the nonce is not the challenge", field="eat_nonce")
    return AttestationResult(
        issuer=issuer,
        operator_id=digests["operator_id"],
        session_key=digests["session_key"],
        tls_spki_sha256=digests["tls_spki_sha256"],
        model_id=digests["model_id"],
        challenge=digests["challenge"],
        anchor=digests["anchor"],
        evidence_digest=digests["evidence_digest"],
        collateral_digest=digests["collateral_digest"],
        policy_digest=digests["policy_digest"],
        simulated=simulated,
        status=_trusted_status(body),
        issued_at=issued_at,
        not_before=not_before,
        expires_at=expires_at,
    )


def _time(body: dict[str, Json], name: str) -> int:
    value = body.get(name)
    # bool is an int to Python and not to anybody else.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TokenClaimsError(f"{name} is not a time in whole seconds", field=name)
    return value


def _hex(private: dict[str, Json], name: str, length: int) -> bytes:
    value = private[name]
    if isinstance(value, str) and len(value) == 2 * length and value.isascii():
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = b""
        if data.hex() == value:
            return data
    raise TokenClaimsError(f"{name} is not {length} bytes in lower-case hex", field=f"otr.{name}")


def _status(part: Json, field: str) -> Status:
    tier = part.get("ear_status") if isinstance(part, dict) else None
    status = _STATUS_OF_TIER.get(tier) if isinstance(tier, str) else None
    if status is None:
        raise TokenClaimsError("no trustworthiness tier is given", field=field)
    return status


def _trusted_status(body: dict[str, Json]) -> Status:
    """The overall tier, which may not be better than that of any part (EAR section 3)."""
    overall = _status(body, "ear_status")
    submods = body.get("submods")
    if not isinstance(submods, dict) or not 1 <= len(submods) <= MAX_SUBMODS:
        raise TokenClaimsError("the token reports on no attester", field="submods")
    parts = [_status(part, "submods") for part in submods.values()]
    if worst(overall, *parts) is not overall:
        raise TokenClaimsError("a part is less trusted than the whole", field="ear_status")
    if not overall.trusted:
        raise TokenNotTrustedError(f"the appraisal ended {overall.name}", field="ear_status")
    return overall


__all__ = [
    "EAR_PROFILE",
    "MAX_LIFETIME_SECONDS",
    "MAX_TOKEN_BYTES",
    "AttestationResult",
    "Jwks",
    "TokenClaimsError",
    "TokenMalformedError",
    "TokenNotTrustedError",
    "TokenTimeError",
    "claims",
    "sign",
    "verify_token",
]
