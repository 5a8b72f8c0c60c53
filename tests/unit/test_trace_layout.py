"""Positions, segments, pages and the trace root (spec/trace.md)."""

from __future__ import annotations

import hashlib

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.dcbor import decode
from otr_protocol.errors import MalformedError
from otr_protocol.fields import FieldError
from otr_protocol.tlog.tree import EMPTY_ROOT
from otr_protocol.trace import (
    SegmentRoots,
    TraceLayout,
    TracePreimage,
    empty_trace,
    page_count,
    page_rows,
    sampler_position,
    trace_positions,
)
from otr_protocol.trace.root import trace_from_record

DIGEST = st.binary(min_size=32, max_size=32)


@st.composite
def preimages(draw: st.DrawFn) -> TracePreimage:
    segments = draw(st.lists(st.builds(SegmentRoots, DIGEST, DIGEST), min_size=1, max_size=8))
    return TracePreimage(
        draw(DIGEST), draw(st.integers(1, 2**32 - 1)), tuple(segments), draw(DIGEST)
    )


@pytest.mark.parametrize(
    ("prompt", "output", "positions"), [(1, 0, 0), (9, 0, 0), (1, 1, 1), (9, 1, 9), (9, 4, 12)]
)
def test_the_last_output_id_is_never_fed(prompt: int, output: int, positions: int) -> None:
    assert trace_positions(prompt, output) == positions


def test_the_first_output_is_sampled_at_the_position_after_the_prompt() -> None:
    assert [sampler_position(9, index) for index in range(3)] == [9, 10, 11]


@given(layers=st.integers(1, 100), data=st.data())
@settings(max_examples=60)
def test_segments_partition_the_layers(layers: int, data: st.DataObject) -> None:
    layout = TraceLayout(layers, 1, data.draw(st.integers(1, layers)))
    segments = [layout.segment(index) for index in range(layout.segment_count)]
    assert [layer for segment in segments for layer in segment] == list(range(layers))
    for index, segment in enumerate(segments):
        assert all(layout.segment_of(layer) == index for layer in segment)


@given(
    layers=st.integers(1, 7),
    kv_heads=st.integers(1, 4),
    positions=st.integers(1, 200),
    data=st.data(),
)
@settings(max_examples=60)
def test_the_leaves_of_a_segment_are_numbered_without_gaps(
    layers: int, kv_heads: int, positions: int, data: st.DataObject
) -> None:
    layout = TraceLayout(layers, kv_heads, data.draw(st.integers(1, layers)))
    for segment in range(layout.segment_count):
        indices = [
            layout.kv_leaf_index(layer, head, part, page, positions)
            for layer in layout.segment(segment)
            for head in range(kv_heads)
            for part in (0, 1)
            for page in range(page_count(positions))
        ]
        assert indices == list(range(layout.kv_leaf_count(segment, positions)))


@given(st.integers(0, 1000))
def test_pages_partition_the_positions(positions: int) -> None:
    pages = [page_rows(positions, page) for page in range(page_count(positions))]
    assert [position for page in pages for position in page] == list(range(positions))
    assert all(len(page) == 64 for page in pages[:-1])


def test_a_segment_or_page_outside_the_model_is_refused() -> None:
    layout = TraceLayout(layers=5, kv_heads=2, segment_layers=2)
    for call in (
        lambda: layout.segment(3),
        lambda: layout.segment_of(5),
        lambda: layout.kv_leaf_index(0, 2, 0, 0, 64),
        lambda: layout.kv_leaf_index(0, 0, 2, 0, 64),
        lambda: layout.kv_leaf_index(0, 0, 0, 1, 64),
        lambda: TraceLayout(layers=5, kv_heads=2, segment_layers=6),
    ):
        with pytest.raises(FieldError):
            call()


@given(preimages())
@settings(max_examples=60)
def test_a_trace_root_is_the_hash_of_its_record(trace: TracePreimage) -> None:
    roots = [[segment.res, segment.kv] for segment in trace.segments]
    record = ["otr-trace-v1", trace.sub_trace, trace.positions, roots, trace.out_root]
    assert trace.trace_root() == hashlib.sha256(cbor2.dumps(record)).digest()
    assert trace_from_record(decode(cbor2.dumps(record))) == trace


def test_a_trace_of_nothing_has_no_positions_and_only_empty_trees() -> None:
    trace = empty_trace(bytes(32), segment_count=3)
    assert trace.positions == 0
    assert trace.segments == (SegmentRoots(EMPTY_ROOT, EMPTY_ROOT),) * 3
    assert trace.out_root == EMPTY_ROOT


def test_a_trace_of_nothing_with_a_root_is_refused() -> None:
    with pytest.raises(FieldError):
        TracePreimage(bytes(32), 0, (SegmentRoots(EMPTY_ROOT, bytes(32)),), EMPTY_ROOT)


def test_a_trace_without_segments_is_refused() -> None:
    with pytest.raises(FieldError):
        TracePreimage(bytes(32), 1, (), bytes(32))


def test_a_record_of_another_shape_is_malformed() -> None:
    good = ["otr-trace-v1", bytes(32), 1, [[bytes(32), bytes(32)]], bytes(32)]
    assert trace_from_record(decode(cbor2.dumps(good))).positions == 1
    for index, wrong in ((0, "otr-trace-v2"), (1, bytes(31)), (2, -1), (3, [[bytes(32)]]), (4, 0)):
        bad = [wrong if place == index else value for place, value in enumerate(good)]
        with pytest.raises(MalformedError):
            trace_from_record(decode(cbor2.dumps(bad)))
