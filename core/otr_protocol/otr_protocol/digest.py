"""The protocol's hash: SHA-256 of bytes, or of the deterministic CBOR of a record (PROTOCOL)."""

from __future__ import annotations

import hashlib
from typing import Final

from otr_protocol import dcbor

DIGEST_BYTES: Final = 32


def H(*parts: bytes) -> bytes:  # noqa: N802 - the name every formula of the specification uses
    """SHA-256 of the concatenation of `parts`: 32 bytes."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def hash_record(*values: dcbor.Encodable) -> bytes:
    """`H(dCBOR[value, ...])`: 32 bytes. The first value is the record's domain string."""
    return H(dcbor.encode(values))
