"""Which evidence an attestation token speaks of (PROTOCOL section 3, spec/log.md).

The log does not verify tokens: relying parties do, under issuer keys that they pin and the log does
not know. It only reads, from a payload that nobody has vouched for, the digest of the evidence
bundle that must be held before a statement under that token is taken. A lying token names evidence
that does not exist, and then the statement is refused; or other evidence, and then verification
fails.
"""

from __future__ import annotations

from typing import Final

from otr_protocol.attestation.compact_jws import base64url_decode
from otr_protocol.attestation.ear import MAX_TOKEN_BYTES
from otr_protocol.attestation.strict_json import parse_object
from otr_protocol.digest import DIGEST_BYTES
from otr_protocol.errors import MalformedError, RejectedError

_PRIVATE_CLAIMS: Final = "otr"
_CLAIM: Final = "evidence_digest"
_PARTS: Final = 3


class TokenUnreadableError(RejectedError):
    """The blob under `token_digest` is no token that names its evidence."""

    reason = "ATTESTATION_TOKEN_UNREADABLE"


def evidence_digest_of(token: bytes) -> bytes:
    """The claim `otr.evidence_digest` (32 bytes) of a token whose signature is NOT checked.

    Raises TokenUnreadableError.
    """
    parts = token.split(b".")
    if len(parts) != _PARTS or len(token) > MAX_TOKEN_BYTES:
        raise TokenUnreadableError("the attestation token is no compact JWS", field="token_digest")
    try:
        claims = parse_object(base64url_decode(parts[1]), max_bytes=MAX_TOKEN_BYTES)
    except MalformedError as error:
        raise TokenUnreadableError(
            f"the attestation token's claims cannot be read: {error.message}", field="token_digest"
        ) from error
    private = claims.get(_PRIVATE_CLAIMS)
    claimed = private.get(_CLAIM) if isinstance(private, dict) else None
    if isinstance(claimed, str) and len(claimed) == 2 * DIGEST_BYTES and claimed.isascii():
        try:
            digest = bytes.fromhex(claimed)
        except ValueError:
            digest = b""
        if digest.hex() == claimed:
            return digest
    raise TokenUnreadableError("the attestation token names no evidence", field="token_digest")
