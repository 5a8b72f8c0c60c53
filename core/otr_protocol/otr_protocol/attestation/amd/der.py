"""Distinguished encoding (X.690, section 10), read strictly: the few types AMD's documents use.

A value has one encoding here: lengths are minimal and definite, numbers and booleans are minimal,
and nothing follows a value that should be last. General ASN.1 readers are lenient where this one
refuses, and take ten times as long for a certificate. The caller bounds the size of what is read.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

MAX_INTEGER_BYTES: Final = 32
_LONG_LENGTH: Final = 0x80
_MULTI_BYTE_TAG: Final = 0x1F
_UTC: Final = re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z")
_GENERALIZED: Final = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z")


class DerError(ValueError):
    """The bytes are not a distinguished encoding of what was expected."""


class Element(NamedTuple):
    """One encoded value inside `data`: its tag, where it starts, where its content is."""

    data: bytes
    tag: int
    start: int
    body: int
    end: int

    @property
    def encoded(self) -> bytes:
        """The whole value, with tag and length."""
        return self.data[self.start : self.end]

    @property
    def content(self) -> bytes:
        """The value without tag and length."""
        return self.data[self.body : self.end]


def whole(data: bytes, tag: int) -> Element:
    """The one value that `data` consists of; DerError if it is another or something follows."""
    found = _element(data, 0, len(data))
    if found.end != len(data):
        raise DerError("something follows the value")
    return expect(found, tag)


def expect(element: Element, tag: int) -> Element:
    """The element itself; DerError unless it has this tag."""
    if element.tag != tag:
        raise DerError(f"tag {element.tag:#x} where {tag:#x} should be")
    return element


def children(parent: Element, tag: int) -> list[Element]:
    """What a constructed value of this tag consists of, in order."""
    expect(parent, tag)
    found: list[Element] = []
    at = parent.body
    while at < parent.end:
        child = _element(parent.data, at, parent.end)
        found.append(child)
        at = child.end
    return found


def only_child(parent: Element, tag: int) -> Element:
    """The one value inside a constructed value of this tag."""
    (child,) = children(parent, tag)
    return child


def integer(element: Element, tag: int = INTEGER) -> int:
    """A number of at most 32 bytes."""
    content = expect(element, tag).content
    if not 1 <= len(content) <= MAX_INTEGER_BYTES:
        raise DerError("a number has 1 to 32 bytes here")
    # A first byte that only repeats the sign of the second is one byte too many.
    if len(content) > 1 and content[0] == (0xFF if content[1] & 0x80 else 0x00):
        raise DerError("a number is not minimal")
    return int.from_bytes(content, "big", signed=True)


def boolean(element: Element) -> bool:
    """A truth value: 0xff or 0x00."""
    content = expect(element, BOOLEAN).content
    if content not in (b"\xff", b"\x00"):
        raise DerError("a truth value is 0 or 255")
    return content == b"\xff"


def bit_string(element: Element) -> bytes:
    """The bytes of a bit string that ends at a byte."""
    content = expect(element, BIT_STRING).content
    if not content or content[0]:
        raise DerError("a bit string ends inside a byte")
    return content[1:]


def text(element: Element) -> str:
    """A string of one of the three kinds that AMD uses."""
    if element.tag not in (UTF8_STRING, PRINTABLE_STRING, IA5_STRING):
        raise DerError("not a string")
    return element.content.decode("utf-8" if element.tag == UTF8_STRING else "ascii")


def seconds(element: Element) -> int:
    """A time as seconds since 1970 UTC; two-digit years as in RFC 5280, section 4.1.2.5.1."""
    if element.tag == UTC_TIME:
        parts = _UTC.fullmatch(element.content)
    else:
        parts = _GENERALIZED.fullmatch(expect(element, GENERALIZED_TIME).content)
    if parts is None:
        raise DerError("not a time in UTC with seconds")
    year, month, day, hour, minute, second = map(int, parts.groups())
    if element.tag == UTC_TIME:
        year += 2000 if year < 50 else 1900
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


def object_identifier(dotted: str) -> bytes:
    """The content bytes of an object identifier written with dots."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    encoded = bytearray((40 * first + second,))
    for arc in rest:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        encoded += bytes(reversed(groups))
    return bytes(encoded)


def _element(data: bytes, at: int, end: int) -> Element:
    if end - at < 2:
        raise DerError("a value is cut short")
    tag, length, body = data[at], data[at + 1], at + 2
    if tag & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
        raise DerError("a tag of several bytes")
    if length >= _LONG_LENGTH:
        size = length - _LONG_LENGTH
        if not 1 <= size <= 3 or end - body < size:
            raise DerError("a length that is indefinite, too long or cut short")
        length = int.from_bytes(data[body : body + size], "big")
        if length < _LONG_LENGTH or length >> 8 * (size - 1) == 0:
            raise DerError("a length is not minimal")
        body += size
    if length > end - body:
        raise DerError("a value is longer than what holds it")
    return Element(data, tag, at, body, body + length)
