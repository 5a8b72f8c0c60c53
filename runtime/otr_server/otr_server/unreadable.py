"""Requests whose bytes are no message: INVALID_ARGUMENT, naming the field that is to blame.

Left to grpc, such a request ends as UNKNOWN with a parser's message. The one mistake that clients
make in practice is text that is not UTF-8 in a `string` field (protobuf requires UTF-8 there); to
name that field, the bytes are walked once more along the message's descriptor (protobuf.dev,
"Encoding"). The walk runs on the event loop, for callers who have not been authorized yet: so it
gives up after MAX_FIELDS, and the refusal then names no field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from otr_protocol.errors import MalformedError

MAX_DEPTH = 32
MAX_FIELDS = 1000
"""Fields walked of one request, nested ones included: a few milliseconds at most."""

Deserializer = Callable[[bytes], Any]


class UnreadableRequestError(MalformedError):
    """The request's bytes are not the message of this method."""

    reason = "UNREADABLE_REQUEST"


class NotUtf8Error(MalformedError):
    """A text field is not UTF-8."""

    reason = "NOT_UTF8"


class Unreadable:
    """Stands in for a request that could not be parsed, until the boundary refuses it."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: MalformedError) -> None:
        self.refusal = refusal


def guarded(deserialize: Deserializer | None) -> Deserializer | None:
    """A deserializer that returns Unreadable where `deserialize` raises."""
    if deserialize is None:
        return None
    message_type = getattr(deserialize, "__self__", None)
    descriptor = getattr(message_type, "DESCRIPTOR", None)

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception as error:  # a parser's errors are its own business: all mean "unreadable"
            refusal = UnreadableRequestError("the request is not a message of this method")
            if isinstance(descriptor, Descriptor):
                field = field_not_utf8(data, descriptor)
                if field is not None:
                    return Unreadable(NotUtf8Error(f"{field} is not UTF-8", field=field))
            refusal.__cause__ = error
            return Unreadable(refusal)

    return read


def field_not_utf8(data: bytes, descriptor: Descriptor) -> str | None:
    """The dotted path of the first `string` field that is not UTF-8, or None.

    None also where the bytes are malformed in another way before such a field, or MAX_FIELDS
    fields come before it.
    """
    try:
        return _search(memoryview(data), descriptor, MAX_DEPTH, iter(range(MAX_FIELDS)))
    except (ValueError, IndexError):
        return None


def _search(
    data: memoryview, descriptor: Descriptor, depth: int, budget: Iterator[int]
) -> str | None:
    """As field_not_utf8; `budget` has one item for each field that may still be walked."""
    seen: dict[int, int] = {}
    for number, value in _length_delimited(data, budget):
        field = descriptor.fields_by_number.get(number)
        if field is None:
            continue
        index = seen.get(number, 0)
        seen[number] = index + 1
        name = f"{field.name}[{index}]" if field.is_repeated else field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                str(value, "utf-8")
            except UnicodeDecodeError:
                return name
        elif field.message_type is not None and depth:
            inner = _search(value, field.message_type, depth - 1, budget)
            if inner is not None:
                return f"{name}.{inner}"
    return None


def _length_delimited(data: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """Field numbers and values of wire type 2.

    Raises ValueError or IndexError when the bytes are malformed, ValueError when `budget` ends.
    """
    at = 0
    while at < len(data):
        if next(budget, None) is None:
            raise ValueError("more fields than are walked")
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                if size > len(data) - at:
                    raise ValueError("a field runs past the end")
                yield tag >> 3, data[at : at + size]
                at += size
            case 5:
                at += 4
            case _:
                raise ValueError("a wire type that no field here has")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint longer than ten bytes")
