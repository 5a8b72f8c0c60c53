"""What an appraisal is a function of, from files: roots, policy, collateral and the token key.

The collateral file is looked at before every appraisal, since revocation answers last a day. A
broken new file is logged and the old one stays in use until it expires by itself: appraisal fails
closed on stale collateral, not on a half-written file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation import collateral, ear, policy, trust_roots
from otr_protocol.attestation.appraise import Verdict, appraise
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.compact_jws import jwks_document
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.errors import MalformedError, Refusal
from otr_server.settings import read_secret

log = structlog.get_logger(__name__)


class TokenKeyError(MalformedError):
    """The signing key file holds no EC P-384 private key in PEM."""

    reason = "TOKEN_KEY_INVALID"


@dataclass(frozen=True, slots=True)
class Appraised:
    """A verdict, the exact collateral it rests on, and the token when it is a trusted one."""

    verdict: Verdict
    collateral: bytes
    token: bytes


class Appraiser:
    """Appraises bundles and signs tokens. Thread-safe: its state is replaced, never changed."""

    def __init__(
        self,
        *,
        issuer: str,
        signing_key_file: Path,
        trust_roots_file: Path,
        policy_file: Path,
        collateral_file: Path,
    ) -> None:
        """Read every file; raises the refusals of what they hold."""
        self._issuer = issuer
        self._key = _token_key(signing_key_file)
        self._roots = (trust_roots.decode(trust_roots_file.read_bytes()),)
        self._policy = policy.decode(policy_file.read_bytes())
        self._collateral_file = collateral_file
        self._stamp = _stamp(collateral_file)
        self._collateral = collateral.decode(collateral_file.read_bytes())

    @property
    def jwks(self) -> str:
        """The public keys that tokens are signed with, as an RFC 7517 document."""
        return jwks_document([self._key.public_key()])

    @property
    def policy_digest(self) -> bytes:
        """The digest of the active policy: 32 bytes."""
        return self._policy.digest

    def appraise(self, bundle: EvidenceBundle, now_s: int) -> Appraised:
        """The verdict on `bundle` at `now_s`, with a token if it is trusted."""
        current = self._current_collateral()
        verdict = appraise(bundle, current, self._policy, self._roots, now_s)
        token = b""
        if verdict.status.trusted:
            token = ear.sign(ear.claims(verdict, bundle, self._issuer, now_s), self._key)
        return Appraised(verdict, current.encode(), token)

    def _current_collateral(self) -> CollateralBundle:
        try:
            stamp = _stamp(self._collateral_file)
            if stamp != self._stamp:
                self._collateral = collateral.decode(self._collateral_file.read_bytes())
                self._stamp = stamp
                log.info("collateral_reloaded", digest=self._collateral.digest.hex())
        except (OSError, Refusal) as error:
            log.error("collateral_not_reloaded", error=str(error))
        return self._collateral


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _token_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError) as error:
        raise TokenKeyError(f"{path} holds no PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise TokenKeyError(f"{path} holds no EC P-384 key")
    return key
