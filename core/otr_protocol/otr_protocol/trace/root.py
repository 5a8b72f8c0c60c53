"""The trace root and its preimage (spec/trace.md, "root").

    trace_root = H(dCBOR["otr-trace-v1", sub("trace"), positions, [[RES_0, KV_0], ...], R_out])

The preimage is part of the request blob, so that a challenger finds the first differing segment
without asking anybody. Of an answer without output, positions is 0 and every root is H("").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from otr_protocol import dcbor
from otr_protocol.digest import H
from otr_protocol.fields import (
    FieldError,
    as_array,
    as_bytes,
    as_integer,
    check_count,
    check_digest,
    check_range,
)
from otr_protocol.tlog.tree import EMPTY_ROOT

TRACE_DOMAIN: Final = "otr-trace-v1"
MAX_SEGMENTS: Final = 4096

TraceRecord: TypeAlias = "tuple[str, bytes, int, tuple[tuple[bytes, bytes], ...], bytes]"


@dataclass(frozen=True, slots=True)
class SegmentRoots:
    """Roots of one segment: `res` over its residuals, `kv` over its K/V pages; 32 bytes each."""

    res: bytes
    kv: bytes

    def __post_init__(self) -> None:
        check_digest(self.res, "res")
        check_digest(self.kv, "kv")


@dataclass(frozen=True, slots=True)
class TracePreimage:
    """Everything that a trace root commits to, one level down."""

    sub_trace: bytes
    positions: int
    segments: tuple[SegmentRoots, ...]
    out_root: bytes

    def __post_init__(self) -> None:
        check_digest(self.sub_trace, "sub_trace")
        check_count(self.positions, "positions")
        check_range(len(self.segments), 1, MAX_SEGMENTS, "segments")
        check_digest(self.out_root, "out_root")
        roots = {root for segment in self.segments for root in (segment.res, segment.kv)}
        if self.positions == 0 and roots | {self.out_root} != {EMPTY_ROOT}:
            raise FieldError("a trace of no positions has only empty trees", field="segments")
        if self.positions and EMPTY_ROOT in roots:
            raise FieldError("a trace of positions has no empty tree", field="segments")

    def record(self) -> TraceRecord:
        """The record as a value, for the blob that carries it."""
        roots = tuple((segment.res, segment.kv) for segment in self.segments)
        return (TRACE_DOMAIN, self.sub_trace, self.positions, roots, self.out_root)

    def trace_root(self) -> bytes:
        """The 32-byte trace root of the statement."""
        return H(dcbor.encode(self.record()))


def empty_trace(sub_trace: bytes, segment_count: int) -> TracePreimage:
    """The trace of an answer that produced nothing."""
    segments = (SegmentRoots(EMPTY_ROOT, EMPTY_ROOT),) * segment_count
    return TracePreimage(sub_trace, 0, segments, EMPTY_ROOT)


def trace_from_record(value: dcbor.Value) -> TracePreimage:
    """Read a trace record that was decoded as part of a blob."""
    sub_trace, positions, roots, out_root = dcbor.open_fields(
        value, TRACE_DOMAIN, bytes, int, tuple, bytes
    )
    pairs = as_array(roots, "segments")
    check_range(len(pairs), 1, MAX_SEGMENTS, "segments")
    segments = []
    for pair in pairs:
        res, kv = as_array(pair, "segments", length=2)
        segments.append(SegmentRoots(as_bytes(res, "res"), as_bytes(kv, "kv")))
    return TracePreimage(
        sub_trace=as_bytes(sub_trace, "sub_trace"),
        positions=as_integer(positions, "positions"),
        segments=tuple(segments),
        out_root=as_bytes(out_root, "out_root"),
    )
