"""COSE_Sign1 as this protocol uses it: one shape, one encoding (RFC 9052 section 4.2).

Untagged, EdDSA, key identifier `H(public key)`, nothing unprotected, payload attached:

    84                                   array of 4
      58 26 a2 01 27 04 58 20 <kid>      protected: {1: -8, 4: kid}, wrapped in a byte string
      a0                                 unprotected: {}
      <payload>                          byte string
      58 40 <signature>                  byte string of 64

Every other spelling of the same content is refused, so that `H(bytes)` identifies a signed object
and nobody can make a second valid encoding of somebody else's signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from otr_protocol import dcbor, ed25519
from otr_protocol.digest import DIGEST_BYTES, H
from otr_protocol.errors import MalformedError, RejectedError

MAX_BYTES: Final = 1 << 20

_PROTECTED_START: Final = bytes.fromhex("a20127045820")  # {1: -8, 4: h'..32 bytes..'}
_PROTECTED_BYTES: Final = len(_PROTECTED_START) + DIGEST_BYTES
_START: Final = b"\x84" + dcbor.encode_head(dcbor.BYTES, _PROTECTED_BYTES)
_EMPTY_MAP: Final = b"\xa0"
_SIGNATURE_HEAD: Final = dcbor.encode_head(dcbor.BYTES, ed25519.SIGNATURE_BYTES)


class CoseMalformedError(MalformedError):
    """Not the one encoding of a COSE_Sign1 that this protocol has."""

    reason = "COSE_MALFORMED"


class KeyMismatchError(RejectedError):
    """The key identifier names another key than the one expected."""

    reason = "KEY_MISMATCH"


@dataclass(frozen=True, slots=True)
class UnverifiedSign1:
    """A parsed COSE_Sign1 whose signature nobody has checked yet."""

    protected: bytes
    key_id: bytes
    payload: bytes
    signature: bytes


def key_id(public_key: bytes) -> bytes:
    """The key identifier (kid) of a raw 32-byte Ed25519 public key: `H(public key)`."""
    return H(public_key)


def protected_header(public_key: bytes) -> bytes:
    """The content of the protected header's byte string: dCBOR `{1: -8, 4: kid}`."""
    return _PROTECTED_START + key_id(public_key)


def to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """The Sig_structure `["Signature1", protected, h'', payload]` (RFC 9052 section 4.4)."""
    return dcbor.encode(("Signature1", protected, b"", payload))


def sign1(payload: bytes, sign: Callable[[bytes], bytes], public_key: bytes) -> bytes:
    """Wrap and sign `payload`; `sign` maps a message to its 64-byte Ed25519 signature."""
    protected = protected_header(public_key)
    signature = sign(to_be_signed(protected, payload))
    if len(signature) != ed25519.SIGNATURE_BYTES:
        raise ValueError("the signing callable must return 64 bytes")
    return b"".join(
        (
            _START,
            protected,
            _EMPTY_MAP,
            dcbor.encode_head(dcbor.BYTES, len(payload)),
            payload,
            _SIGNATURE_HEAD,
            signature,
        )
    )


def parse1(data: bytes, *, max_bytes: int = MAX_BYTES) -> UnverifiedSign1:
    """Take a COSE_Sign1 apart without checking its signature.

    Raises CoseMalformedError (also when longer than `max_bytes`) or what dcbor raises for a
    payload length that is not in shortest form.
    """
    if len(data) > max_bytes:
        raise CoseMalformedError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    if not data.startswith(_START + _PROTECTED_START):
        raise CoseMalformedError("not an untagged COSE_Sign1 with protected {1: -8, 4: kid}")
    protected_end = len(_START) + _PROTECTED_BYTES
    protected = data[len(_START) : protected_end]
    if data[protected_end : protected_end + 1] != _EMPTY_MAP:
        raise CoseMalformedError("the unprotected header must be an empty map")
    major, length, start = dcbor.read_head(data, protected_end + 1)
    if major != dcbor.BYTES:
        raise CoseMalformedError("the payload must be an attached byte string")
    end = start + length
    if end + len(_SIGNATURE_HEAD) + ed25519.SIGNATURE_BYTES != len(data):
        raise CoseMalformedError("the lengths inside do not add up to the length of the object")
    if data[end : end + len(_SIGNATURE_HEAD)] != _SIGNATURE_HEAD:
        raise CoseMalformedError("the signature must be a byte string of 64 bytes")
    return UnverifiedSign1(
        protected=protected,
        key_id=protected[len(_PROTECTED_START) :],
        payload=data[start:end],
        signature=data[end + len(_SIGNATURE_HEAD) :],
    )


def peek_payload(data: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The payload of a COSE_Sign1 whose signature is NOT checked, to find out whose it claims."""
    return parse1(data, max_bytes=max_bytes).payload


def verify1(data: bytes, public_key: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Verify a COSE_Sign1 by `public_key` and return its payload.

    Raises CoseMalformedError, KeyMismatchError when the kid is of another key, or
    SignatureRejectedError.
    """
    parsed = parse1(data, max_bytes=max_bytes)
    if parsed.key_id != key_id(public_key):
        raise KeyMismatchError("signed under another key", field="kid")
    message = to_be_signed(parsed.protected, parsed.payload)
    ed25519.verify(public_key, parsed.signature, message)
    return parsed.payload
