"""Salted leaf prefixes, id trees and leaf bytes (spec/trace.md)."""

from __future__ import annotations

import hashlib
import struct

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.fields import FieldError
from otr_protocol.trace import (
    LeafPrefixes,
    id_root,
    kv_leaf,
    kv_tag,
    leaf_prefix,
    op_tag,
    pack_ids,
    res_tag,
    residual_leaf,
    tile_tag,
    unpack_ids,
)
from otr_protocol.trace.ids import id_bytes
from support.rfc9162 import mth

SUB = bytes(range(32))
INDICES = st.integers(0, 300) | st.integers(65_000, 66_000) | st.integers(0, 2**63 - 1)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@given(sub=st.binary(min_size=32, max_size=32), tag=st.text(max_size=20), index=INDICES)
@settings(max_examples=200)
def test_a_prefix_is_the_hash_of_its_record(sub: bytes, tag: str, index: int) -> None:
    expected = sha256(cbor2.dumps(["otr-leaf-v1", sub, tag, index]))
    assert leaf_prefix(sub, tag, index) == LeafPrefixes(sub, tag)(index) == expected


@pytest.mark.parametrize("index", [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
def test_a_prefix_is_right_where_the_encoding_of_the_index_grows(index: int) -> None:
    expected = sha256(cbor2.dumps(["otr-leaf-v1", SUB, "res/0", index]))
    assert LeafPrefixes(SUB, res_tag(0))(index) == expected


def test_an_index_below_zero_is_refused() -> None:
    with pytest.raises(FieldError):
        LeafPrefixes(SUB, "out")(-1)


def test_a_leaf_hash_covers_prefix_and_content() -> None:
    prefixes = LeafPrefixes(SUB, "kv/3")
    for content in (b"", b"abc", bytearray(b"abc"), memoryview(b"abc" * 1000)):
        assert prefixes.leaf_hash(7, content) == sha256(b"\x00" + prefixes(7) + bytes(content))


@pytest.mark.parametrize("count", [0, 1, 24, 255, 256, 257, 65_535, 65_536, 65_540])
def test_many_leaf_hashes_at_once_are_the_same_as_one_by_one(count: int) -> None:
    prefixes, packed = LeafPrefixes(SUB, "out"), pack_ids(range(count))
    together = prefixes.leaf_hashes(packed, 4)
    assert len(together) == count
    for index in {*range(min(count, 300)), *range(max(0, count - 300), count)}:
        assert together[index] == prefixes.leaf_hash(index, packed[4 * index : 4 * index + 4])


def test_tags_hold_decimal_numbers() -> None:
    tags = (res_tag(0), kv_tag(12), op_tag(1, 17), tile_tag(0, 17, 3))
    assert tags == ("res/0", "kv/12", "op/1/17", "tile/0/17/3")


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
@settings(max_examples=60)
def test_an_id_tree_is_rfc_9162_over_prefixed_big_endian_words(token_ids: list[int]) -> None:
    leaves = [
        sha256(cbor2.dumps(["otr-leaf-v1", SUB, "out", index])) + struct.pack(">I", token_id)
        for index, token_id in enumerate(token_ids)
    ]
    leaf_hashes = [sha256(b"\x00" + leaf) for leaf in leaves]
    assert id_root(SUB, "out", token_ids) == mth(leaf_hashes)


def test_an_id_tree_of_no_ids_is_the_empty_tree() -> None:
    assert id_root(SUB, "prompt", ()) == sha256(b"")


def test_the_same_ids_under_other_salts_or_tags_have_other_roots() -> None:
    roots = {id_root(SUB, "out", (1,)), id_root(bytes(32), "out", (1,)), id_root(SUB, "in", (1,))}
    assert len(roots) == 3


@given(st.lists(st.integers(0, 2**32 - 1), max_size=100))
@settings(max_examples=50)
def test_packed_ids_read_back(token_ids: list[int]) -> None:
    packed = pack_ids(token_ids)
    assert packed == b"".join(map(id_bytes, token_ids))
    assert unpack_ids(packed) == tuple(token_ids)


@pytest.mark.parametrize("token_id", [-1, 2**32])
def test_a_number_that_is_no_id_is_refused(token_id: int) -> None:
    with pytest.raises(FieldError):
        pack_ids([token_id])
    with pytest.raises(FieldError):
        id_bytes(token_id)


def test_a_torn_list_of_ids_is_refused() -> None:
    with pytest.raises(FieldError):
        unpack_ids(bytes(7), "prompt_ids")


def test_a_residual_leaf_is_its_int32_values() -> None:
    residual = struct.pack("<3i", 1, -2, 3)
    assert residual_leaf(memoryview(residual), hidden=3) == residual
    with pytest.raises(FieldError):
        residual_leaf(residual, hidden=4)


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_page_is_its_rows_then_their_scales_unpadded(rows: int) -> None:
    values, scales = bytes(range(8)) * rows, struct.pack(f"<{rows}I", *range(rows))
    assert kv_leaf(values, scales, head_dim=8) == values + scales


@pytest.mark.parametrize(("rows", "scales"), [(0, 0), (65, 65), (3, 4)])
def test_a_page_of_another_shape_is_refused(rows: int, scales: int) -> None:
    with pytest.raises(FieldError):
        kv_leaf(bytes(8 * rows), bytes(4 * scales), head_dim=8)
    with pytest.raises(FieldError):
        kv_leaf(bytes(9), bytes(4), head_dim=8)
