"""What a field of a hashed or signed record may be (spec/statement.md, section "fields").

Every record of the protocol is a deterministic CBOR array whose items are one of a few kinds:
digests and keys (32 bytes), identifiers (bounded byte strings), names (bounded text), counts, times
(integer milliseconds since 1970 UTC) and money (integer micro-units). The bounds live here once, so
that a record cannot be built with a field that another implementation would refuse to read.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, TypeVar

from otr_protocol.dcbor import Value
from otr_protocol.errors import MalformedError

DIGEST_BYTES: Final = 32
SALT_BYTES: Final = 32
MIN_ID_BYTES: Final = 16
MAX_ID_BYTES: Final = 64
MAX_NAME_BYTES: Final = 255
MAX_COUNT: Final = 2**32 - 1
# Times, money and sequence numbers travel as int64 in the gRPC contracts.
MAX_INT64: Final = 2**63 - 1
# Bound of every small signed record (statement, delegation, allowance, ...), in bytes.
MAX_SIGNED_BYTES: Final = 4096

Ordered = TypeVar("Ordered", int, bytes)


class FieldError(MalformedError):
    """A field has a length, range or type that no valid record has."""

    reason = "FIELD_INVALID"


def check_bytes(value: bytes, length: int, field: str) -> None:
    """Refuse anything but exactly `length` bytes."""
    if len(value) != length:
        raise FieldError(f"{field} has {len(value)} bytes, not {length}", field=field)


def check_digest(value: bytes, field: str) -> None:
    """Refuse anything but 32 bytes: a SHA-256 digest, an Ed25519 or an X25519 key."""
    check_bytes(value, DIGEST_BYTES, field)


def check_identifier(value: bytes, field: str) -> None:
    """Refuse a request id or nonce outside 16 to 64 bytes."""
    if not MIN_ID_BYTES <= len(value) <= MAX_ID_BYTES:
        raise FieldError(
            f"{field} has {len(value)} bytes, not {MIN_ID_BYTES} to {MAX_ID_BYTES}", field=field
        )


def check_optional_digest(value: bytes, field: str) -> None:
    """Refuse anything but 32 bytes or none: the empty string stands for absence."""
    if value:
        check_digest(value, field)


def check_name(value: str, field: str) -> None:
    """Refuse a name that is empty, longer than 255 UTF-8 bytes, or holds control characters.

    A lone surrogate is refused too: it has no UTF-8 form, so it could not be hashed.
    """
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise FieldError(f"{field} is not Unicode text", field=field) from None
    if not 1 <= length <= MAX_NAME_BYTES:
        raise FieldError(f"{field} has {length} bytes, not 1 to {MAX_NAME_BYTES}", field=field)
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in value):
        raise FieldError(f"{field} holds a control character", field=field)


def check_range(value: int, low: int, high: int, field: str) -> None:
    """Refuse an integer outside [low, high]."""
    if not low <= value <= high:
        raise FieldError(f"{field} is {value}, not {low} to {high}", field=field)


def check_count(value: int, field: str) -> None:
    """Refuse a count outside [0, 2^32 - 1]."""
    check_range(value, 0, MAX_COUNT, field)


def check_time(value: int, field: str) -> None:
    """Refuse a time (ms since 1970 UTC) or amount (micro-units) outside [0, 2^63 - 1]."""
    check_range(value, 0, MAX_INT64, field)


check_amount = check_time


def check_ascending(values: tuple[Ordered, ...], field: str) -> None:
    """Refuse a set that is not written in its one order: strictly ascending."""
    for left, right in pairwise(values):
        if left >= right:
            raise FieldError(f"{field} is not in strictly ascending order", field=field)


def as_array(value: Value, field: str, *, length: int | None = None) -> tuple[Value, ...]:
    """The items of a decoded array, with `length` checked when it is given."""
    if not isinstance(value, tuple):
        raise FieldError(f"{field} is not an array", field=field)
    if length is not None and len(value) != length:
        raise FieldError(f"{field} has {len(value)} items, not {length}", field=field)
    return value


def as_integer(value: Value, field: str) -> int:
    """A decoded integer."""
    if not isinstance(value, int):
        raise FieldError(f"{field} is not an integer", field=field)
    return value


def as_bytes(value: Value, field: str) -> bytes:
    """A decoded byte string."""
    if not isinstance(value, bytes):
        raise FieldError(f"{field} is not a byte string", field=field)
    return value


def as_text(value: Value, field: str) -> str:
    """A decoded text string."""
    if not isinstance(value, str):
        raise FieldError(f"{field} is not text", field=field)
    return value


def as_integers(value: Value, field: str) -> tuple[int, ...]:
    """A decoded array of integers."""
    return tuple(as_integer(item, field) for item in as_array(value, field))


def as_byte_strings(value: Value, field: str) -> tuple[bytes, ...]:
    """A decoded array of byte strings."""
    return tuple(as_bytes(item, field) for item in as_array(value, field))
