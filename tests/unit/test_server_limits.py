"""Limits at the edge name the field they refuse (otr_server.limits)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol.errors import MalformedError
from otr_server import limits


def test_bytes_of_the_right_length_pass_unchanged() -> None:
    assert limits.exact_bytes(bytes(32), "digest", 32) == bytes(32)
    assert limits.bounded_bytes(b"ab", "id", minimum=1, maximum=2) == b"ab"
    assert limits.optional_bytes(b"", "nonce", 16) is None
    assert limits.optional_bytes(bytes(16), "nonce", 16) == bytes(16)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda: limits.exact_bytes(b"", "f", 32), "FIELD_REQUIRED"),
        (lambda: limits.exact_bytes(bytes(31), "f", 32), "FIELD_LENGTH"),
        (lambda: limits.exact_bytes(bytes(33), "f", 32), "FIELD_LENGTH"),
        (lambda: limits.bounded_bytes(b"", "f", minimum=1, maximum=4), "FIELD_REQUIRED"),
        (lambda: limits.bounded_bytes(bytes(5), "f", maximum=4), "FIELD_LENGTH"),
        (lambda: limits.optional_bytes(bytes(3), "f", 4), "FIELD_LENGTH"),
        (lambda: limits.bounded_count([], "f", minimum=1, maximum=2), "FIELD_REQUIRED"),
        (lambda: limits.bounded_count([1, 2, 3], "f", maximum=2), "FIELD_COUNT"),
        (lambda: limits.utf8_text("", "f", minimum_bytes=1, maximum_bytes=9), "FIELD_REQUIRED"),
        (lambda: limits.utf8_text("äää", "f", maximum_bytes=5), "FIELD_LENGTH"),
        (lambda: limits.utf8_text(b"\xff", "f", maximum_bytes=5), "FIELD_TEXT"),
        (lambda: limits.utf8_text("\ud800", "f", maximum_bytes=5), "FIELD_TEXT"),
        (lambda: limits.utf8_text("a\0b", "f", maximum_bytes=5), "FIELD_TEXT"),
        (lambda: limits.bounded_int(5, "f", minimum=0, maximum=4), "FIELD_RANGE"),
        (lambda: limits.bounded_float(float("nan"), "f", minimum=0, maximum=4), "FIELD_RANGE"),
        (lambda: limits.bounded_float(float("inf"), "f", minimum=0, maximum=4), "FIELD_RANGE"),
        (lambda: limits.one_of(3, "f", {1, 2}), "FIELD_CHOICE"),
    ],
)
def test_what_is_out_of_bounds_is_malformed_and_names_the_field(check, reason) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MalformedError) as caught:
        check()
    assert caught.value.reason == reason
    assert caught.value.field == "f"


@given(st.binary(max_size=64), st.integers(0, 40))
def test_bytes_count_as_text_exactly_if_they_are_short_utf8_without_nul(
    data: bytes, maximum: int
) -> None:
    try:
        good = len(data) <= maximum and "\0" not in data.decode()
    except UnicodeDecodeError:
        good = False
    if good:
        assert limits.utf8_text(data, "f", maximum_bytes=maximum).encode() == data
    else:
        with pytest.raises(MalformedError):
            limits.utf8_text(data, "f", maximum_bytes=maximum)


@given(st.text(max_size=32))
def test_text_and_its_bytes_are_judged_alike(value: str) -> None:
    verdicts = []
    for form in (value, value.encode("utf-8", "surrogatepass")):
        try:
            verdicts.append(limits.utf8_text(form, "f", maximum_bytes=24))
        except MalformedError as refusal:
            verdicts.append(refusal.reason)
    assert verdicts[0] == verdicts[1]
