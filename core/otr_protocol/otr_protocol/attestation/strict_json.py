"""JSON as a token may hold it: the I-JSON subset (RFC 7493) that has one reading.

Python's parser takes the last of two equal keys, `NaN`, floats and any nesting its stack survives.
Two readers of one token must not differ, so all of that is refused before a claim is looked at.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn, TypeAlias

from otr_protocol.errors import MalformedError

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"

MAX_DEPTH: Final = 16
# I-JSON: integers beyond 2^53 are read differently by different parsers.
MAX_INTEGER: Final = 2**53 - 1

_MAX_DIGITS: Final = len(str(MAX_INTEGER))
# A string, or the rest of the text after a quote that nothing closes: linear on any input.
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)


class JsonMalformedError(MalformedError):
    """Not JSON, or JSON that two parsers could read differently."""

    reason = "JSON_MALFORMED"


def parse_object(data: bytes, *, max_bytes: int) -> dict[str, Json]:
    """The one object that `data` (UTF-8, no byte order mark) holds.

    Refuses more than `max_bytes`, nesting deeper than 16, duplicate names, floats, NaN, integers
    beyond 2^53 - 1 and unpaired surrogates, all with JsonMalformedError.
    """
    if len(data) > max_bytes:
        raise JsonMalformedError(f"{len(data)} bytes of JSON, at most {max_bytes} are allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonMalformedError("JSON is not UTF-8") from error
    if "\ufeff" in text[:1]:
        raise JsonMalformedError("JSON starts with a byte order mark")
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except ValueError as error:
        raise JsonMalformedError("not JSON") from error
    if not isinstance(value, dict):
        raise JsonMalformedError("JSON is not an object")
    _check_text(value)
    return value


def _check_depth(text: str) -> None:
    """Count brackets outside strings first: the parser itself recurses on the C stack."""
    depth = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonMalformedError(f"JSON is nested deeper than {MAX_DEPTH}")
        elif character in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise JsonMalformedError("a JSON object names a member twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS + 1 or abs(int(digits)) > MAX_INTEGER:
        raise JsonMalformedError("a JSON integer is beyond 2^53 - 1")
    return int(digits)


def _no_float(_: str) -> NoReturn:
    raise JsonMalformedError("a JSON number is not an integer")


def _no_constant(name: str) -> NoReturn:
    raise JsonMalformedError(f"{name} is not JSON")


def _check_text(value: Json) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise JsonMalformedError("JSON text holds an unpaired surrogate") from error
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check_text(item)
