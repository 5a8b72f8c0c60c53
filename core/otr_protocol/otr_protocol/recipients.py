"""Who may read a sealed request: X25519 keys that are worth encrypting to (spec/log.md, LO-19).

A recipient is the little-endian u-coordinate of a point on Curve25519 (RFC 7748 section 5). Two
kinds are refused where a request is built, before anything is computed for it:

* not canonical: RFC 7748 reads u modulo p and ignores the top bit, so one recipient would have
  several spellings and could be named twice;
* of small order: every secret gives such a key the same shared secret, zero, so that its box would
  open for everybody. On the curve and its twist there are five canonical ones.
"""

from __future__ import annotations

from typing import Final

from otr_protocol.errors import MalformedError
from otr_protocol.fields import check_digest

FIELD_PRIME: Final = 2**255 - 19

_SMALL_ORDER: Final = frozenset(
    (
        0,
        1,
        FIELD_PRIME - 1,
        int.from_bytes(
            bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
            "little",
        ),
    )
)


class RecipientKeyError(MalformedError):
    """A recipient is no usable X25519 key: not canonical, or of small order."""

    reason = "RECIPIENT_KEY"


def check_recipient(recipient: bytes, field: str = "recipients") -> None:
    """Raise RecipientKeyError unless `recipient` is a canonical X25519 key of large order.

    FieldError when it does not have 32 bytes.
    """
    check_digest(recipient, field)
    coordinate = int.from_bytes(recipient, "little")
    if coordinate >= FIELD_PRIME:
        raise RecipientKeyError("the key is not in canonical form", field=field)
    if coordinate in _SMALL_ORDER:
        raise RecipientKeyError("the key has small order", field=field)
