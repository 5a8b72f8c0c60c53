"""COSE Receipts of the log, for SCITT tools (RFC 9942 sections 4 and 5, RFC9162_SHA256).

    18([                                                             tagged COSE_Sign1
      << {1: -8, 4: kid, 15: {1: origin}, 395: 1, "tree_size": n} >>,  395 is vds, 1 RFC9162_SHA256
      {396: {-1: [ << [tree_size, leaf_index, [hash, ...]] >> ]}},     vdp: one inclusion proof
      nil,                                                             detached: the root
      signature ])

A receipt of consistency has `-2: [ << [old_size, new_size, [hash, ...]] >> ]` and the new root. The
payload is detached, so a verifier cannot forget to compare the root. Two protected parameters are
this log's own choice. The CWT issuer binds a receipt to its log by more than the key. "tree_size"
is needed because RFC 9942 signs the root alone: the same path leads to the same root from leaf 8 of
9 and from leaf 1 of 2, and an index that anybody can change would decide draws and deadlines here.
One encoding again: the protected header must be byte for byte the expected one, maps have exactly
these members, integers their shortest form.

RFC 9942 writes paths as `[+ bstr]`; in a tree of one leaf the path is empty, and is written so.
The log signs notes with the same Ed25519 key: a note is UTF-8 text and a Sig_structure starts with
the byte 0x84, which no UTF-8 text does, so neither signature can pass for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol import cose, dcbor, ed25519
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.fields import as_array, as_byte_strings, as_integer
from otr_protocol.tlog import consistency, inclusion
from otr_protocol.tlog.note import ED25519, VerifierKey

MAX_RECEIPT_BYTES: Final = 8_192
MAX_PROOF_HASHES: Final = 64

VDS_LABEL: Final = 395
VDP_LABEL: Final = 396
TREE_SIZE_LABEL: Final = "tree_size"
RFC9162_SHA256: Final = 1
INCLUSION: Final = -1
CONSISTENCY: Final = -2

_SIGN1_TAG: Final = b"\xd2"
_ARRAY_OF_FOUR: Final = b"\x84"
_NIL: Final = b"\xf6"


class CoseReceiptMalformedError(MalformedError):
    """Not a COSE Receipt in the one encoding that this log gives it."""

    reason = "COSE_RECEIPT_MALFORMED"


class CoseReceiptRejectedError(RejectedError):
    """Signed by another log or key than the one expected."""

    reason = "COSE_RECEIPT_REJECTED"


@dataclass(frozen=True, slots=True)
class VerifiedInclusion:
    """The log has signed a tree of this size and root that has the leaf at `leaf_index`."""

    leaf_index: int
    tree_size: int
    root_hash: bytes


@dataclass(frozen=True, slots=True)
class VerifiedConsistency:
    """The log has signed a tree of `new_size` leaves that extends the one of `old_size`."""

    old_size: int
    new_size: int
    new_root: bytes


def sign_inclusion(
    leaf_index: int,
    tree_size: int,
    inclusion_proof: Sequence[bytes],
    root_hash: bytes,
    log_key: VerifierKey,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """A receipt of inclusion by the log whose key is `log_key`; `sign` is its Ed25519."""
    protected = _protected(log_key, tree_size)
    numbers = (tree_size, leaf_index)
    return _sign(INCLUSION, protected, numbers, inclusion_proof, root_hash, log_key, sign)


def sign_consistency(
    old_size: int,
    new_size: int,
    consistency_proof: Sequence[bytes],
    new_root: bytes,
    log_key: VerifierKey,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """A receipt of consistency by the log whose key is `log_key`."""
    protected = _protected(log_key, new_size)
    numbers = (old_size, new_size)
    return _sign(CONSISTENCY, protected, numbers, consistency_proof, new_root, log_key, sign)


def verify_inclusion(data: bytes, leaf_hash: bytes, log_key: VerifierKey) -> VerifiedInclusion:
    """Verify a receipt of inclusion for the leaf with this hash.

    Raises CoseReceiptMalformedError, CoseReceiptRejectedError for another log's receipt,
    InclusionRejectedError or SignatureRejectedError.
    """
    receipt = _parse(data, INCLUSION)
    tree_size, leaf_index = receipt.numbers
    _require_protected(receipt.protected, log_key, tree_size)
    root_hash = inclusion.root_from_inclusion(leaf_index, tree_size, leaf_hash, receipt.hashes)
    _verify_signature(receipt, root_hash, log_key)
    return VerifiedInclusion(leaf_index, tree_size, root_hash)


def verify_consistency(
    data: bytes, old_size: int, old_root: bytes, new_root: bytes, log_key: VerifierKey
) -> VerifiedConsistency:
    """Verify a receipt of consistency from a tree that the caller knows to a new root.

    Raises CoseReceiptMalformedError, CoseReceiptRejectedError for another log's receipt or another
    old tree, ConsistencyRejectedError or SignatureRejectedError.
    """
    receipt = _parse(data, CONSISTENCY)
    stated_size, new_size = receipt.numbers
    _require_protected(receipt.protected, log_key, new_size)
    if stated_size != old_size:
        raise CoseReceiptRejectedError("a proof from another old tree", field="old_size")
    consistency.verify(old_size, new_size, old_root, new_root, receipt.hashes)
    _verify_signature(receipt, new_root, log_key)
    return VerifiedConsistency(old_size, new_size, new_root)


@dataclass(frozen=True, slots=True)
class _Receipt:
    protected: bytes
    numbers: tuple[int, int]
    hashes: tuple[bytes, ...]
    signature: bytes


def _protected(log_key: VerifierKey, tree_size: int) -> bytes:
    """The protected header of a receipt by this log, its keys in deterministic order."""
    return b"".join(
        (
            dcbor.encode_head(dcbor.MAP, 5),
            dcbor.encode(1) + dcbor.encode(-8),
            dcbor.encode(4) + dcbor.encode(cose.key_id(log_key.public_key)),
            dcbor.encode(15) + dcbor.encode_head(dcbor.MAP, 1),
            dcbor.encode(1) + dcbor.encode(log_key.name),
            dcbor.encode(VDS_LABEL) + dcbor.encode(RFC9162_SHA256),
            dcbor.encode(TREE_SIZE_LABEL) + dcbor.encode(tree_size),
        )
    )


def _proofs_start(proof_type: int) -> bytes:
    """The unprotected header up to its only proof: {396: {type: [."""
    return b"".join(
        (
            dcbor.encode_head(dcbor.MAP, 1) + dcbor.encode(VDP_LABEL),
            dcbor.encode_head(dcbor.MAP, 1) + dcbor.encode(proof_type),
            dcbor.encode_head(dcbor.ARRAY, 1),
        )
    )


def _sign(
    proof_type: int,
    protected: bytes,
    numbers: tuple[int, int],
    hashes: Sequence[bytes],
    root_hash: bytes,
    log_key: VerifierKey,
    sign: Callable[[bytes], bytes],
) -> bytes:
    if log_key.signature_type != ED25519:
        raise ValueError("a log signs receipts with its Ed25519 key")
    signature = sign(cose.to_be_signed(protected, root_hash))
    return b"".join(
        (
            _SIGN1_TAG + _ARRAY_OF_FOUR,
            dcbor.encode(protected),
            _proofs_start(proof_type),
            dcbor.encode(dcbor.encode((*numbers, tuple(hashes)))),
            _NIL,
            dcbor.encode(signature),
        )
    )


def _parse(data: bytes, proof_type: int) -> _Receipt:
    if len(data) > MAX_RECEIPT_BYTES:
        raise CoseReceiptMalformedError(f"a receipt has at most {MAX_RECEIPT_BYTES} bytes")
    at = _skip(data, 0, _SIGN1_TAG + _ARRAY_OF_FOUR)
    protected, at = _take_bytes(data, at)
    at = _skip(data, at, _proofs_start(proof_type))
    proof, at = _take_bytes(data, at)
    at = _skip(data, at, _NIL)
    signature, at = _take_bytes(data, at)
    if at != len(data):
        raise CoseReceiptMalformedError("bytes after the receipt")
    value = dcbor.decode(proof, max_bytes=4096, max_depth=2, max_items=4 + MAX_PROOF_HASHES)
    first, second, hashes = as_array(value, "proof", length=3)
    return _Receipt(
        protected,
        (as_integer(first, "tree_size"), as_integer(second, "leaf_index")),
        as_byte_strings(hashes, "path"),
        signature,
    )


def _take_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    major, length, start = dcbor.read_head(data, at)
    if major != dcbor.BYTES or length > len(data) - start:
        raise CoseReceiptMalformedError("a byte string is missing or cut short")
    return data[start : start + length], start + length


def _skip(data: bytes, at: int, expected: bytes) -> int:
    if not data.startswith(expected, at):
        raise CoseReceiptMalformedError("not the layout of this log's receipts")
    return at + len(expected)


def _require_protected(protected: bytes, log_key: VerifierKey, tree_size: int) -> None:
    if log_key.signature_type != ED25519 or protected != _protected(log_key, tree_size):
        raise CoseReceiptRejectedError("not signed as the log expected", field="protected")


def _verify_signature(receipt: _Receipt, root_hash: bytes, log_key: VerifierKey) -> None:
    message = cose.to_be_signed(receipt.protected, root_hash)
    ed25519.verify(log_key.public_key, receipt.signature, message)
