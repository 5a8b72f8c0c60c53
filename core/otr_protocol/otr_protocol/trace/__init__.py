"""The committed execution of one answer (spec/trace.md).

`leaf` has the salted prefixes and tags, `ids` the trees over token ids, `segments` the arithmetic
of positions, segments and pages, `leaves` the bytes of residual and K/V leaves, `root` the trace
root and its preimage.
"""

from otr_protocol.trace.ids import id_leaf_hashes, id_root, pack_ids, unpack_ids
from otr_protocol.trace.leaf import (
    OUT_TAG,
    PROMPT_TAG,
    LeafPrefixes,
    kv_tag,
    leaf_prefix,
    op_tag,
    res_tag,
    tile_tag,
)
from otr_protocol.trace.leaves import kv_leaf, residual_leaf
from otr_protocol.trace.root import SegmentRoots, TracePreimage, empty_trace
from otr_protocol.trace.segments import (
    PAGE_POSITIONS,
    TraceLayout,
    page_count,
    page_rows,
    sampler_position,
    trace_positions,
)

__all__ = [
    "OUT_TAG",
    "PAGE_POSITIONS",
    "PROMPT_TAG",
    "LeafPrefixes",
    "SegmentRoots",
    "TraceLayout",
    "TracePreimage",
    "empty_trace",
    "id_leaf_hashes",
    "id_root",
    "kv_leaf",
    "kv_tag",
    "leaf_prefix",
    "op_tag",
    "pack_ids",
    "page_count",
    "page_rows",
    "res_tag",
    "residual_leaf",
    "sampler_position",
    "tile_tag",
    "trace_positions",
    "unpack_ids",
]
