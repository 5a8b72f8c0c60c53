"""Deterministic CBOR, the one encoding of what is hashed or signed (RFC 8949 section 4.2).

The value space is deliberately small: integers of 64 bits and sign, byte strings, text and arrays.
No maps, floats, tags, booleans or null, so that a value has exactly one encoding and an encoding
exactly one value. The decoder is our own because a general one must be told what to forget; this
one knows nothing else, checks every length against the bytes that are really there before it
allocates, and never recurses deeper than its caller allows.

    ["otr-salt-v1", h'00ff', "input"]  ->  83 6b 6f74722d73616c742d7631 42 00ff 65 696e707574
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from otr_protocol.errors import MalformedError

Value: TypeAlias = "int | bytes | str | tuple[Value, ...]"
# What `encode` takes: lists too, so that callers need not convert what they have just built.
Encodable: TypeAlias = "int | bytes | str | Sequence[Encodable]"

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 1 << 16

UNSIGNED: Final = 0
NEGATIVE: Final = 1
BYTES: Final = 2
TEXT: Final = 3
ARRAY: Final = 4
MAP: Final = 5
_SIMPLE: Final = 7

_LIMIT: Final = 1 << 64
# Additional information 24..27 announces an argument of 1, 2, 4 or 8 bytes; the argument must not
# fit the next smaller form (RFC 8949 section 4.2.1, preferred serialisation).
_WIDTH: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_SMALLEST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}


class DcborMalformedError(MalformedError):
    """Not CBOR of our value space: truncated, trailing bytes, a foreign type, bad UTF-8."""

    reason = "DCBOR_MALFORMED"


class NotDeterministicError(MalformedError):
    """CBOR, but not the one deterministic encoding of its value."""

    reason = "DCBOR_NOT_DETERMINISTIC"


class DcborTooLargeError(MalformedError):
    """More bytes, items or depth than the caller allows."""

    reason = "DCBOR_TOO_LARGE"


class RecordShapeError(MalformedError):
    """Deterministic CBOR, but not the record that was asked for."""

    reason = "RECORD_SHAPE"


def encode_head(major: int, argument: int) -> bytes:
    """The initial byte and argument of a data item, in its shortest form."""
    if not 0 <= argument < _LIMIT:
        raise DcborMalformedError(f"{argument} does not fit in 64 bits")
    top = major << 5
    if argument < 24:
        return bytes((top | argument,))
    if argument < 1 << 8:
        return bytes((top | 24, argument))
    if argument < 1 << 16:
        return bytes((top | 25,)) + argument.to_bytes(2, "big")
    if argument < 1 << 32:
        return bytes((top | 26,)) + argument.to_bytes(4, "big")
    return bytes((top | 27,)) + argument.to_bytes(8, "big")


def read_head(data: bytes, offset: int) -> tuple[int, int, int]:
    """Read one head at `offset`: (major type, argument, offset after it).

    Raises DcborMalformedError when truncated, of indefinite length or of major type 7,
    NotDeterministicError when the argument would fit a shorter form. Says nothing about whether
    the content is there.
    """
    if offset >= len(data):
        raise DcborMalformedError("the encoding ends where an item should start")
    initial = data[offset]
    major, information = initial >> 5, initial & 31
    offset += 1
    if major == _SIMPLE:
        # Its argument is no number: a float would be judged by the rule for lengths below.
        raise DcborMalformedError("floats, booleans and null are not allowed")
    if information < 24:
        return major, information, offset
    width = _WIDTH.get(information)
    if width is None:
        raise DcborMalformedError(f"initial byte 0x{initial:02x} is reserved or indefinite")
    end = offset + width
    if end > len(data):
        raise DcborMalformedError("the encoding ends inside a length")
    argument = int.from_bytes(data[offset:end], "big")
    if argument < _SMALLEST[information]:
        raise NotDeterministicError(f"{argument} is not written in its shortest form")
    return major, argument, end


def encode(value: Encodable) -> bytes:
    """Encode a value; lists and tuples are arrays.

    Raises DcborMalformedError for an integer outside [-2^64, 2^64) or text that is not Unicode
    scalar values, and TypeError, which is our own mistake, for any other type (bool included).
    """
    parts: list[bytes] = []
    _encode_into(parts, value)
    return b"".join(parts)


def _encode_into(parts: list[bytes], value: Encodable) -> None:
    if isinstance(value, bytes):
        parts.append(encode_head(BYTES, len(value)))
        parts.append(value)
    elif isinstance(value, str):
        try:
            text = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DcborMalformedError("text holds a lone surrogate") from error
        parts.append(encode_head(TEXT, len(text)))
        parts.append(text)
    elif isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            parts.append(encode_head(UNSIGNED, value))
        else:
            parts.append(encode_head(NEGATIVE, -1 - value))
    elif isinstance(value, tuple | list):
        parts.append(encode_head(ARRAY, len(value)))
        for item in value:
            _encode_into(parts, item)
    else:
        raise TypeError(f"{type(value).__name__} has no deterministic encoding here")


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_items: int = MAX_ITEMS,
) -> Value:
    """Decode exactly one value; arrays come back as tuples.

    `max_items` bounds the number of data items in the whole value, `max_depth` the nesting of
    arrays (a bare integer has depth 0). Raises DcborTooLargeError, DcborMalformedError or
    NotDeterministicError. `encode(decode(data)) == data` holds for everything accepted.
    """
    if len(data) > max_bytes:
        raise DcborTooLargeError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    decoder = _Decoder(bytes(data), max_items)
    value, end = decoder.item(0, max_depth)
    if end != len(data):
        raise DcborMalformedError(f"{len(data) - end} bytes after the value")
    return value


class _Decoder:
    """Recursive descent; depth is bounded by the caller, so Python's own limit is never met."""

    __slots__ = ("_data", "_items_left")

    def __init__(self, data: bytes, max_items: int) -> None:
        self._data = data
        self._items_left = max_items

    def item(self, offset: int, depth_left: int) -> tuple[Value, int]:
        if self._items_left <= 0:
            raise DcborTooLargeError("too many items")
        self._items_left -= 1
        data = self._data
        major, argument, offset = read_head(data, offset)
        if major == UNSIGNED:
            return argument, offset
        if major == NEGATIVE:
            return -1 - argument, offset
        if major in (BYTES, TEXT):
            end = offset + argument
            if end > len(data):
                raise DcborMalformedError("a string is longer than the encoding")
            content = data[offset:end]
            if major == BYTES:
                return content, end
            try:
                return content.decode("utf-8"), end
            except UnicodeDecodeError as error:
                raise DcborMalformedError("text is not UTF-8") from error
        if major != ARRAY:
            raise DcborMalformedError(f"major type {major} is not allowed")
        if depth_left <= 0:
            raise DcborTooLargeError("arrays are nested too deeply")
        # Every item takes at least one byte: an array cannot promise more than the bytes left.
        if argument > len(data) - offset:
            raise DcborMalformedError("an array is longer than the encoding")
        if argument > self._items_left:
            raise DcborTooLargeError("too many items")
        items: list[Value] = []
        for _ in range(argument):
            value, offset = self.item(offset, depth_left - 1)
            items.append(value)
        return tuple(items), offset


def open_record(
    data: bytes,
    domain: str,
    *types: type,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_items: int = MAX_ITEMS,
) -> tuple[Value, ...]:
    """Decode `[domain, field, ...]` and return the fields after the domain string.

    `types` gives the exact type of every field, each one of int, bytes, str, tuple. Raises
    RecordShapeError when the domain, the number of fields or a type differs, and what `decode`
    raises. Values, ranges and lengths of fields are the caller's to check.
    """
    value = decode(data, max_bytes=max_bytes, max_depth=max_depth, max_items=max_items)
    return open_fields(value, domain, *types)


def open_fields(value: Value, domain: str, *types: type) -> tuple[Value, ...]:
    """`open_record` for a value that is decoded already, such as a record inside a record."""
    if not isinstance(value, tuple):
        raise RecordShapeError(f"{domain} must be an array", field=domain)
    if not value or value[0] != domain:
        raise RecordShapeError(f"this is not a {domain} record", field=domain)
    fields = value[1:]
    if len(fields) != len(types):
        raise RecordShapeError(
            f"{domain} has {len(types)} fields, this has {len(fields)}", field=domain
        )
    for index, (field, expected) in enumerate(zip(fields, types, strict=True)):
        if type(field) is not expected:
            raise RecordShapeError(
                f"field {index} of {domain} must be {expected.__name__}",
                field=f"{domain}[{index}]",
            )
    return fields
