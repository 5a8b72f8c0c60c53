"""Whether a channel ends inside the TEE: the rule behind RA-TLS (spec/attestation.md, AT-23).

The evidence names the TLS key, the token repeats it, and whoever holds the other end of a channel
has shown that key in the handshake. So if the key of the peer's certificate is the one in a valid
token, the channel ends in the machine that was appraised, whoever issued the certificate. The
operator's delegation of the session key in the same token says whose machine it is.

That holds as long as the TLS key has never left the TEE. Nothing here can see whether it has.
"""

from __future__ import annotations

from otr_protocol import answer_refusals as refusals
from otr_protocol.answer_rules import attestation_status, pinned_token
from otr_protocol.attestation.ear import AttestationResult, TokenTimeError
from otr_protocol.errors import RejectedError
from otr_protocol.fields import check_digest
from otr_protocol.identity import Delegation, open_delegation
from otr_protocol.signer import MAX_CLOCK_SKEW_MS
from otr_protocol.trust import TrustRoots


class TlsKeyNotAttestedError(RejectedError):
    """The channel ends at another key than the evidence names: somebody is in between."""

    reason = "TLS_KEY_NOT_ATTESTED"


def require_attested_peer(
    *, token: bytes, delegation: bytes, tls_spki_sha256: bytes, roots: TrustRoots, now_ms: int
) -> AttestationResult:
    """What the token says of a peer whose TLS key has this SHA-256, if all of it holds now.

    `token` and `delegation` are what the peer said of itself; `now_ms` is in milliseconds since
    1970 UTC. Raises TlsKeyNotAttestedError, TokenTimeError, the refusals of the token, of its
    status, and of the delegation.
    """
    check_digest(tls_spki_sha256, "tls_spki_sha256")
    result = pinned_token(token, roots)
    attestation_status(result, roots)
    _require_current(result, now_ms)
    _require_delegated(result, open_delegation(delegation).delegation, roots, now_ms)
    if result.tls_spki_sha256 != tls_spki_sha256:
        raise TlsKeyNotAttestedError(
            "the channel does not end at the key that was attested", field="tls_spki_sha256"
        )
    return result


def _require_current(result: AttestationResult, now_ms: int) -> None:
    # A clock that is behind the issuer's must not refuse a token that was just made.
    if now_ms + MAX_CLOCK_SKEW_MS < max(result.issued_at, result.not_before) * 1000:
        raise TokenTimeError("the token is from the future", field="iat")
    if now_ms > result.expires_at * 1000:
        raise TokenTimeError("the token has expired", field="exp")


def _require_delegated(
    result: AttestationResult, delegation: Delegation, roots: TrustRoots, now_ms: int
) -> None:
    if delegation.operator_id != result.operator_id:
        raise refusals.DelegationMismatchError("by another operator", field="operator_id")
    if delegation.session_key != result.session_key:
        raise refusals.DelegationMismatchError("of another session key", field="session_key")
    if now_ms > delegation.not_after:
        raise refusals.DelegationExpiredError("the delegation has expired", field="not_after")
    if roots.operators and delegation.operator_id not in roots.operators:
        raise refusals.OperatorNotPinnedError("the operator is not pinned", field="operator_id")
    if roots.logs and all(key.name != delegation.log_origin for key in roots.logs):
        raise refusals.LogNotPinnedError("the log is not pinned", field="log_origin")
