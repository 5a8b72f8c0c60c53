"""Deterministic CBOR: one encoding per value, one value per encoding, no length trusted."""

from __future__ import annotations

import tracemalloc

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol import dcbor
from otr_protocol.digest import H, hash_record
from otr_protocol.errors import MalformedError

values = st.recursive(
    st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5).map(tuple),
    max_leaves=20,
)

# RFC 8949 appendix A, the rows whose values exist here.
RFC8949 = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ((), "80"),
    ((1, 2, 3), "83010203"),
    ((1, (2, 3), (4, 5)), "8301820203820405"),
    (tuple(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
]


@pytest.mark.parametrize(("value", "encoded"), RFC8949)
def test_the_examples_of_rfc_8949_encode_and_decode(value: dcbor.Value, encoded: str) -> None:
    assert dcbor.encode(value).hex() == encoded
    assert dcbor.decode(bytes.fromhex(encoded)) == value


@given(values)
def test_every_value_survives_and_another_library_reads_and_writes_the_same(
    value: dcbor.Value,
) -> None:
    encoded = dcbor.encode(value)
    assert dcbor.decode(encoded) == value
    assert encoded == cbor2.dumps(value, canonical=True)


@given(st.binary(max_size=60))
def test_whatever_decodes_is_the_encoding_of_what_it_decodes_to(data: bytes) -> None:
    try:
        value = dcbor.decode(data)
    except MalformedError:
        return
    assert dcbor.encode(value) == data


@pytest.mark.parametrize(
    "encoded",
    [
        "1817",  # 23 in two bytes
        "190018",  # 24 in three
        "1a00000100",
        "1b0000000000010000",
        "3800",  # -1 in two
        "5800",  # an empty byte string with a long length
        "7801" + "61",
        "9800",
    ],
)
def test_a_longer_form_of_a_length_or_number_is_refused(encoded: str) -> None:
    with pytest.raises(dcbor.NotDeterministicError):
        dcbor.decode(bytes.fromhex(encoded))


@pytest.mark.parametrize(
    "encoded",
    [
        "",  # nothing
        "18",  # a number cut short
        "43aabb",  # a string cut short
        "82 01",  # an array cut short
        "0000",  # two values
        "62c328",  # not UTF-8
        "63eda080",  # a surrogate in UTF-8
        "a0",  # maps,
        "c000",  # tags,
        "f4",  # booleans,
        "f6",  # null,
        "f7",
        "f90000",  # floats
        "fb0000000000000000",
        "5f4100ff",  # indefinite lengths
        "7f6161ff",
        "9f01ff",
        "bfff",
        "ff",
        "1c",  # reserved
        "1d",
        "1e",
        "1f",
    ],
)
def test_what_is_outside_the_value_space_is_refused(encoded: str) -> None:
    with pytest.raises(dcbor.DcborMalformedError):
        dcbor.decode(bytes.fromhex(encoded))


@pytest.mark.parametrize("value", [True, False, None, 1.0, {"a": 1}, {1}, bytearray(b"x")])
def test_a_value_of_another_type_is_our_mistake_and_not_encoded(value: object) -> None:
    with pytest.raises(TypeError):
        dcbor.encode((value,))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, "\ud800"])
def test_a_value_without_an_encoding_is_refused(value: dcbor.Value) -> None:
    with pytest.raises(dcbor.DcborMalformedError):
        dcbor.encode(value)


def test_lists_and_tuples_encode_alike() -> None:
    assert dcbor.encode([1, [b"a", "b"]]) == dcbor.encode((1, (b"a", "b")))


def test_bytes_depth_and_items_are_bounded_exactly() -> None:
    assert dcbor.decode(dcbor.encode(b"abc"), max_bytes=4) == b"abc"
    with pytest.raises(dcbor.DcborTooLargeError):
        dcbor.decode(dcbor.encode(b"abcd"), max_bytes=4)
    assert dcbor.decode(bytes.fromhex("818100"), max_depth=2) == ((0,),)
    with pytest.raises(dcbor.DcborTooLargeError):
        dcbor.decode(bytes.fromhex("81818100"), max_depth=2)
    assert dcbor.decode(dcbor.encode((1, 2)), max_items=3) == (1, 2)
    with pytest.raises(dcbor.DcborTooLargeError):
        dcbor.decode(dcbor.encode((1, 2, 3)), max_items=3)
    with pytest.raises(dcbor.DcborTooLargeError):
        dcbor.decode(dcbor.encode((1, (2, 3))), max_items=4)


@pytest.mark.parametrize("head", ["5b", "7b", "9b", "5a", "7a", "9a"])
@pytest.mark.parametrize("length", ["ffffffffffffffff", "0000000140000000", "00ffffff00000000"])
def test_a_hostile_length_allocates_nothing(head: str, length: str) -> None:
    encoded = bytes.fromhex(head + (length if head.endswith("b") else "7fffffff")) + b"\x00" * 64
    tracemalloc.start()
    with pytest.raises(MalformedError):
        dcbor.decode(encoded)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16_384


def test_a_tower_of_arrays_is_refused_without_deep_recursion() -> None:
    with pytest.raises(dcbor.DcborTooLargeError):
        dcbor.decode(b"\x81" * 1_000_000 + b"\x00")


def test_a_record_opens_to_the_fields_after_its_domain() -> None:
    data = dcbor.encode(("otr-test-v1", 7, b"x", "y", (1,)))
    assert dcbor.open_record(data, "otr-test-v1", int, bytes, str, tuple) == (7, b"x", "y", (1,))


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (7, "otr-test-v1"),
        ((), "otr-test-v1"),
        (("otr-test-v2", 7), "otr-test-v1"),
        ((b"otr-test-v1", 7), "otr-test-v1"),
        (("otr-test-v1",), "otr-test-v1"),
        (("otr-test-v1", 7, 7), "otr-test-v1"),
        (("otr-test-v1", b"7"), "otr-test-v1[0]"),
    ],
)
def test_another_record_is_refused_and_the_field_named(value: dcbor.Value, field: str) -> None:
    with pytest.raises(dcbor.RecordShapeError) as caught:
        dcbor.open_record(dcbor.encode(value), "otr-test-v1", int)
    assert caught.value.field == field


def test_the_hash_of_a_record_is_that_of_its_encoding() -> None:
    assert hash_record("otr-salt-v1", b"\x00", 1) == H(dcbor.encode(["otr-salt-v1", b"\x00", 1]))
    assert H(b"ab", b"c") == H(b"abc")
