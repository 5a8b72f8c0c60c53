"""Roots and the token key: what a verdict and its token are made with, apart from their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from otr_protocol.attestation import ear
from otr_protocol.attestation.appraise import Verdict, appraise
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.compact_jws import jwks_document
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.errors import MalformedError
from otr_server.settings import read_secret


class TokenKeyError(MalformedError):
    """The signing key file holds no EC P-384 private key in PEM."""

    reason = "TOKEN_KEY_INVALID"


@dataclass(frozen=True, slots=True)
class Appraised:
    """A verdict, and the token when it is one that may have a token."""

    verdict: Verdict
    token: bytes


class Appraiser:
    """Appraises bundles and signs tokens. Immutable, therefore thread-safe."""

    def __init__(
        self,
        *,
        issuer: str,
        signing_key: ec.EllipticCurvePrivateKey,
        trust_roots: tuple[TrustRootSet, ...],
    ) -> None:
        self.issuer = issuer
        self.trust_roots = trust_roots
        self._key = signing_key
        self.jwks = jwks_document([signing_key.public_key()])

    def appraise(
        self, bundle: EvidenceBundle, collateral: CollateralBundle, policy: Policy, now_s: int
    ) -> Appraised:
        """The verdict on `bundle` at `now_s`, with a token if it is trusted and may have one."""
        verdict = self.judge(bundle, collateral, policy, now_s)
        token = b""
        # The verdict of an audit is bound to nothing (`Verdict.bound`), so that it gets no token.
        if verdict.status.trusted and verdict.bound:
            token = ear.sign(ear.claims(verdict, bundle, self.issuer, now_s), self._key)
        return Appraised(verdict, token)

    def judge(
        self, bundle: EvidenceBundle, collateral: CollateralBundle, policy: Policy, now_s: int
    ) -> Verdict:
        """The verdict alone."""
        return appraise(bundle, collateral, policy, self.trust_roots, now_s)


def read_token_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The signing key in a PEM file; raises TokenKeyError or SecretFileError."""
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError) as error:
        raise TokenKeyError(f"{path} holds no PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise TokenKeyError(f"{path} holds no EC P-384 key")
    return key
