"""Limits at the edge: what strangers send is bounded before anything is done with it.

Each check returns the value it checked and raises a MalformedError that names the field, which the
boundary turns into INVALID_ARGUMENT. The reasons are permanent.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TypeVar

from otr_protocol.errors import MalformedError

Sized = TypeVar("Sized", bound=Collection[object])
Choice = TypeVar("Choice")


class RequiredError(MalformedError):
    """A field that must be set is absent or empty."""

    reason = "FIELD_REQUIRED"


class LengthError(MalformedError):
    """Too many or too few bytes."""

    reason = "FIELD_LENGTH"


class CountError(MalformedError):
    """Too many or too few items."""

    reason = "FIELD_COUNT"


class RangeError(MalformedError):
    """A number outside the documented range, or not a number."""

    reason = "FIELD_RANGE"


class TextError(MalformedError):
    """Not UTF-8, or text with characters that the field forbids."""

    reason = "FIELD_TEXT"


class ChoiceError(MalformedError):
    """A value outside the documented set."""

    reason = "FIELD_CHOICE"


def exact_bytes(value: bytes, field: str, length: int) -> bytes:
    """Bytes of exactly `length`."""
    if not value:
        raise RequiredError(f"{field} is required ({length} bytes)", field=field)
    if len(value) != length:
        raise LengthError(f"{field} has {len(value)} bytes, not {length}", field=field)
    return value


def bounded_bytes(value: bytes, field: str, *, minimum: int = 0, maximum: int) -> bytes:
    """Bytes with a length in [minimum, maximum]."""
    if minimum and not value:
        raise RequiredError(f"{field} is required", field=field)
    if not minimum <= len(value) <= maximum:
        raise LengthError(
            f"{field} has {len(value)} bytes, allowed are {minimum} to {maximum}", field=field
        )
    return value


def optional_bytes(value: bytes, field: str, length: int) -> bytes | None:
    """None where nothing was sent, otherwise exactly `length` bytes."""
    return exact_bytes(value, field, length) if value else None


def bounded_count(items: Sized, field: str, *, minimum: int = 0, maximum: int) -> Sized:
    """A collection with a number of items in [minimum, maximum]."""
    if minimum and not items:
        raise RequiredError(f"{field} is required", field=field)
    if not minimum <= len(items) <= maximum:
        raise CountError(
            f"{field} has {len(items)} items, allowed are {minimum} to {maximum}", field=field
        )
    return items


def utf8_text(value: str | bytes, field: str, *, minimum_bytes: int = 0, maximum_bytes: int) -> str:
    """Text whose UTF-8 form has a length in [minimum_bytes, maximum_bytes]; no NUL."""
    if isinstance(value, bytes):
        # The length comes first: decoding allocates up to four times as much.
        bounded_bytes(value, field, minimum=minimum_bytes, maximum=maximum_bytes)
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise TextError(f"{field} is not UTF-8 at byte {error.start}", field=field) from error
    else:
        text = value
        if len(text) > maximum_bytes:  # each character takes one byte at least
            raise LengthError(f"{field} is longer than {maximum_bytes} bytes", field=field)
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"{field} has no UTF-8 form", field=field) from error
        bounded_bytes(encoded, field, minimum=minimum_bytes, maximum=maximum_bytes)
    if "\0" in text:
        raise TextError(f"{field} contains NUL", field=field)
    return text


def bounded_int(value: int, field: str, *, minimum: int, maximum: int) -> int:
    """A whole number in [minimum, maximum]."""
    if not minimum <= value <= maximum:
        raise RangeError(f"{field} is {value}, allowed are {minimum} to {maximum}", field=field)
    return value


def bounded_float(value: float, field: str, *, minimum: float, maximum: float) -> float:
    """A finite number in [minimum, maximum]; nan and infinities are refused."""
    if not (math.isfinite(value) and minimum <= value <= maximum):
        raise RangeError(f"{field} is {value}, allowed are {minimum} to {maximum}", field=field)
    return value


def one_of(value: Choice, field: str, allowed: Collection[Choice]) -> Choice:
    """A member of `allowed`."""
    if value not in allowed:
        raise ChoiceError(f"{field} is {value!r}, which is not allowed", field=field)
    return value
