"""Ed25519 with one frozen acceptance rule (RFC 8032 section 5.1.7, as OpenSSL decides it).

Implementations of Ed25519 disagree at the edges: small-order points, non-canonical encodings,
cofactored or cofactorless equations. Two parties that disagree about one signature disagree about
a checkpoint, so the rule is part of the protocol: cofactorless verification, `S < L` enforced,
exactly what `cryptography` accepts, which is 208 of the 914 C2SP/CCTV edge cases (a conformance
test holds the list's digest). Keys of small order are not excluded: whoever publishes one lets
anybody sign for them, which harms nobody else here.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from otr_protocol.errors import RejectedError

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SEED_BYTES: Final = 32


class SignatureRejectedError(RejectedError):
    """The signature is not one by this key over this message."""

    reason = "SIGNATURE_REJECTED"


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Return if `signature` (64 bytes) is by `public_key` (32 bytes) over `message`.

    Raises SignatureRejectedError otherwise, wrong lengths included.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise SignatureRejectedError("an Ed25519 public key has 32 bytes")
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureRejectedError("an Ed25519 signature has 64 bytes")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureRejectedError("the Ed25519 signature does not verify") from error


def sign(seed: bytes, message: bytes) -> bytes:
    """Sign with the private key of a 32-byte RFC 8032 seed: 64 bytes, deterministic."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def public_key_of(seed: bytes) -> bytes:
    """The 32-byte public key of a 32-byte RFC 8032 seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
