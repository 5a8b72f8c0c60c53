"""Requests that are no messages, and which field is to blame (otr_server.unreadable)."""

from __future__ import annotations

import time

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from otr_server.unreadable import MAX_FIELDS, Unreadable, field_not_utf8, guarded


def length_delimited(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


BAD = b"ab\xff"


def test_a_good_request_is_read() -> None:
    read = guarded(StringValue.FromString)
    assert read is not None
    assert read(StringValue(value="ä").SerializeToString()).value == "ä"
    assert guarded(None) is None


@pytest.mark.parametrize(
    ("message_type", "data", "field"),
    [
        (StringValue, length_delimited(1, BAD), "value"),
        (error_details_pb2.ErrorInfo, length_delimited(2, BAD), "domain"),
        (
            error_details_pb2.BadRequest,
            length_delimited(1, length_delimited(1, b"ok"))
            + length_delimited(1, length_delimited(2, BAD)),
            "field_violations[1].description",
        ),
        (
            FieldMask,
            length_delimited(1, b"a") + length_delimited(1, BAD),
            "paths[1]",
        ),
    ],
)
def test_text_that_is_not_utf8_is_refused_by_its_path(message_type, data, field) -> None:  # type: ignore[no-untyped-def]
    read = guarded(message_type.FromString)
    assert read is not None
    unreadable = read(data)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.refusal.reason == "NOT_UTF8"
    assert unreadable.refusal.field == field


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x07", b"\xff" * 11, b"\x0a"])
def test_bytes_that_are_no_message_are_refused_without_a_field(data: bytes) -> None:
    read = guarded(StringValue.FromString)
    assert read is not None
    unreadable = read(data)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.refusal.reason == "UNREADABLE_REQUEST"
    assert unreadable.refusal.field is None


@given(st.binary(max_size=64))
def test_any_bytes_are_either_read_or_refused(data: bytes) -> None:
    for message_type in (StringValue, Int64Value, status_pb2.Status, error_details_pb2.Help):
        read = guarded(message_type.FromString)
        assert read is not None
        assert isinstance(read(data), message_type | Unreadable)


def test_deep_nesting_ends_the_search_not_the_process() -> None:
    data = b""
    for _ in range(60):
        data = length_delimited(3, data) if len(data) < 120 else data  # nested_type
    assert field_not_utf8(data, descriptor_pb2.DescriptorProto.DESCRIPTOR) is None


@pytest.mark.parametrize("unit", [b"z\x00", b"\x78\x00"], ids=["text", "numbers"])
def test_a_flood_of_fields_does_not_hold_up_the_event_loop(unit: bytes) -> None:
    read = guarded(status_pb2.Status.FromString)
    assert read is not None
    started = time.perf_counter()
    unreadable = read(unit * 2_000_000 + b"\x7f")
    assert time.perf_counter() - started < 1.0  # walked whole: 2 to 5 s
    assert isinstance(unreadable, Unreadable)
    assert unreadable.refusal.reason == "UNREADABLE_REQUEST"


def test_a_field_is_named_only_among_the_first_thousand() -> None:
    good, bad = length_delimited(1, b"a"), length_delimited(1, BAD)
    descriptor = FieldMask.DESCRIPTOR
    assert field_not_utf8(good * (MAX_FIELDS - 1) + bad, descriptor) == f"paths[{MAX_FIELDS - 1}]"
    assert field_not_utf8(good * MAX_FIELDS + bad, descriptor) is None


def test_nested_fields_count_too() -> None:
    # BadRequest.field_violations[], each with an empty description: two fields each.
    violation = length_delimited(1, length_delimited(2, b""))
    bad = length_delimited(1, length_delimited(2, BAD))
    descriptor = error_details_pb2.BadRequest.DESCRIPTOR
    assert field_not_utf8(violation * (MAX_FIELDS // 2) + bad, descriptor) is None
