"""Compact JWS with ES384 and pinned keys, and nothing else (RFC 7515, RFC 7518 section 3.4).

    BASE64URL({"alg":"ES384","kid":"..."}) . BASE64URL(payload) . BASE64URL(r || s)

The header chooses nothing: one algorithm, and a key identifier that must be among the keys pinned
by the relying party. Headers that point at keys (`jwk`, `jku`, `x5c`, ...) or extend the format
(`crit`, `b64`) are refused, so `alg: none`, HS256 with a public key as secret, and embedded keys
are refused by shape, not by cases that somebody must remember.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from otr_protocol.attestation.strict_json import Json, parse_object
from otr_protocol.errors import MalformedError, RejectedError, UnknownError

ALGORITHM: Final = "ES384"
COORDINATE_BYTES: Final = 48
SIGNATURE_BYTES: Final = 2 * COORDINATE_BYTES
MAX_HEADER_BYTES: Final = 1024
MAX_KEYS: Final = 32
MAX_JWKS_BYTES: Final = 64 * 1024

_HEADER_NAMES: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = frozenset({"JWT", "eat+jwt"})
_SIGNATURE_ALGORITHM: Final = ec.ECDSA(hashes.SHA384())


class TokenMalformedError(MalformedError):
    """Not a compact JWS of the one shape accepted here."""

    reason = "TOKEN_MALFORMED"


class TokenAlgorithmError(RejectedError):
    """The token names another algorithm than ES384."""

    reason = "TOKEN_ALGORITHM"


class TokenKeyUnknownError(UnknownError):
    """The token's key identifier is not among the pinned keys."""

    reason = "TOKEN_KEY_UNKNOWN"


class TokenSignatureError(RejectedError):
    """The token's signature does not verify under the pinned key it names."""

    reason = "TOKEN_SIGNATURE"


class JwksMalformedError(MalformedError):
    """Not a set of ES384 verification keys with distinct identifiers."""

    reason = "JWKS_MALFORMED"


@dataclass(frozen=True, slots=True)
class Jwks:
    """Pinned ES384 verification keys, by key identifier."""

    keys: Mapping[str, ec.EllipticCurvePublicKey]

    @classmethod
    def parse(cls, document: bytes | str) -> Jwks:
        """Read an RFC 7517 key set, at most 64 KiB and 32 keys; JwksMalformedError otherwise.

        Every key must be a public P-384 key with a `kid`; `alg` and `use`, where present, must say
        ES384 and `sig`. A private key in the document is refused, not ignored.
        """
        data = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
        entries = parse_object(data, max_bytes=MAX_JWKS_BYTES).get("keys")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
            raise JwksMalformedError(f"a key set holds 1 to {MAX_KEYS} keys", field="keys")
        keys: dict[str, ec.EllipticCurvePublicKey] = {}
        for entry in entries:
            kid, key = _read_jwk(entry)
            if kid in keys:
                raise JwksMalformedError(f"two keys are called {kid}", field="kid")
            keys[kid] = key
        return cls(keys)


def verify(token: bytes, jwks: Jwks, *, max_bytes: int) -> bytes:
    """Check the signature of a compact JWS and return its payload bytes.

    Raises TokenMalformedError, TokenAlgorithmError, TokenKeyUnknownError or TokenSignatureError.
    """
    if len(token) > max_bytes:
        raise TokenMalformedError(f"{len(token)} bytes, at most {max_bytes} are allowed")
    parts = token.split(b".")
    if len(parts) != 3:
        raise TokenMalformedError(f"a compact JWS has 3 parts, this has {len(parts)}")
    header = parse_object(base64url_decode(parts[0]), max_bytes=MAX_HEADER_BYTES)
    if header.get("alg") != ALGORITHM:
        raise TokenAlgorithmError("only ES384 is accepted", field="alg")
    if not header.keys() <= _HEADER_NAMES or header.get("typ", "JWT") not in _TYPES:
        raise TokenMalformedError("the header says more than alg, kid and typ", field="header")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise TokenMalformedError("the header names no key", field="kid")
    key = jwks.keys.get(kid)
    if key is None:
        raise TokenKeyUnknownError("the token is signed by a key that is not pinned", field="kid")
    payload = base64url_decode(parts[1])
    signature = base64url_decode(parts[2])
    if len(signature) != SIGNATURE_BYTES:
        raise TokenMalformedError(f"an ES384 signature has {SIGNATURE_BYTES} bytes")
    r = int.from_bytes(signature[:COORDINATE_BYTES], "big")
    s = int.from_bytes(signature[COORDINATE_BYTES:], "big")
    try:
        key.verify(encode_dss_signature(r, s), parts[0] + b"." + parts[1], _SIGNATURE_ALGORITHM)
    except InvalidSignature as error:
        raise TokenSignatureError("the token's signature does not verify") from error
    return payload


def sign(payload: bytes, private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """A compact JWS over `payload` by a P-384 key; deterministic (RFC 6979)."""
    header = {"alg": ALGORITHM, "kid": key_id(private_key.public_key()), "typ": "JWT"}
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")
    message = f"{base64url_encode(head)}.{base64url_encode(payload)}".encode("ascii")
    scheme = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
    r, s = decode_dss_signature(private_key.sign(message, scheme))
    signature = r.to_bytes(COORDINATE_BYTES, "big") + s.to_bytes(COORDINATE_BYTES, "big")
    return message + b"." + base64url_encode(signature).encode("ascii")


def base64url_encode(data: bytes) -> str:
    """Unpadded base64url (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_decode(text: bytes) -> bytes:
    """Decode the one canonical spelling: no padding, no foreign characters, no stray bits."""
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError as error:
        raise TokenMalformedError("not base64url") from error
    # The decoder skips characters it does not know and ignores unused bits; comparing finds both.
    if base64url_encode(data).encode("ascii") != text:
        raise TokenMalformedError("not the canonical base64url of its bytes")
    return data


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """The RFC 7638 thumbprint (SHA-256, base64url) that this project uses as `kid`."""
    members = _public_members(key)
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64url_encode(hashlib.sha256(canonical.encode("ascii")).digest())


def jwks_document(keys: Sequence[ec.EllipticCurvePublicKey]) -> str:
    """The RFC 7517 document that publishes `keys`; `Jwks.parse` reads it back."""
    entries = [
        {**_public_members(key), "alg": ALGORITHM, "kid": key_id(key), "use": "sig"} for key in keys
    ]
    return json.dumps({"keys": entries}, sort_keys=True, separators=(",", ":"))


def _public_members(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    if not isinstance(key.curve, ec.SECP384R1):
        raise JwksMalformedError("token keys are P-384 keys", field="crv")
    numbers = key.public_numbers()
    return {
        "crv": "P-384",
        "kty": "EC",
        "x": base64url_encode(numbers.x.to_bytes(COORDINATE_BYTES, "big")),
        "y": base64url_encode(numbers.y.to_bytes(COORDINATE_BYTES, "big")),
    }


def _read_jwk(entry: Json) -> tuple[str, ec.EllipticCurvePublicKey]:
    if not isinstance(entry, dict):
        raise JwksMalformedError("a key is not an object", field="keys")
    if "d" in entry or "k" in entry:
        raise JwksMalformedError("the key set holds a private key", field="keys")
    kid = entry.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= 256:
        raise JwksMalformedError("a key has no identifier", field="kid")
    if entry.get("kty") != "EC" or entry.get("crv") != "P-384":
        raise JwksMalformedError("a key is not a P-384 key", field="kty")
    if entry.get("alg", ALGORITHM) != ALGORITHM or entry.get("use", "sig") != "sig":
        raise JwksMalformedError("a key is not for ES384 signatures", field="alg")
    x = _coordinate(entry.get("x"))
    y = _coordinate(entry.get("y"))
    try:
        return kid, ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    except ValueError as error:
        raise JwksMalformedError("a key is not a point on P-384", field="keys") from error


def _coordinate(value: Json) -> int:
    if not isinstance(value, str):
        raise JwksMalformedError("a key lacks a coordinate", field="keys")
    data = base64url_decode(value.encode("utf-8"))
    if len(data) != COORDINATE_BYTES:
        raise JwksMalformedError(f"a coordinate has {COORDINATE_BYTES} bytes", field="keys")
    return int.from_bytes(data, "big")
