"""Hashing an execution while it runs (spec/trace.md).

Residuals are hashed while rows appear: one leaf per position and segment, many rows at a time. A
step reads the whole model and leaves no cache warm, so hashing after each of them would cost a
multiple of what hashing the same rows together costs. K/V pages wait for the end, because the index
of a page's leaf depends on how many pages there are in all; they are 12 KB per token of SmolLM2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from otr_numerics.kv_cache import Slot
from otr_protocol.manifest import ModelManifest
from otr_protocol.tlog import tree
from otr_protocol.trace import (
    OUT_TAG,
    LeafPrefixes,
    SegmentRoots,
    TracePreimage,
    empty_trace,
    id_root,
    kv_tag,
    page_count,
    page_rows,
    res_tag,
    trace_positions,
)

# Leaves are little-endian arrays, hashed where they lie.
if sys.byteorder != "little":
    raise ImportError("the trace recorder hashes little-endian arrays where they lie")


# Rows that wait until they are hashed together: about 1 ms of hashing for SmolLM2.
BATCH_ROWS: Final = 64


class TraceRecorder:
    """The trace of one slot: `advance` after each pass, `finish` once."""

    def __init__(
        self, sub_trace: bytes, sub_output: bytes, manifest: ModelManifest, slot: Slot
    ) -> None:
        """`sub_trace` and `sub_output` are 32-byte salts, `slot` a fresh slot."""
        self._sub_trace = sub_trace
        self._sub_output = sub_output
        self._slot = slot
        self._layout = manifest.trace_layout()
        segments = range(self._layout.segment_count)
        self._prefixes = [LeafPrefixes(sub_trace, res_tag(segment)) for segment in segments]
        self._leaves: list[list[bytes]] = [[] for _ in segments]
        self._recorded = 0

    def advance(self) -> None:
        """Hash the residuals of the rows computed since they were last hashed, if they are many."""
        if self._slot.length - self._recorded >= BATCH_ROWS:
            self._hash_residuals()

    def _hash_residuals(self) -> None:
        length = self._slot.length
        for prefixes, leaves, rows in zip(
            self._prefixes, self._leaves, self._slot.residuals, strict=True
        ):
            for position in range(self._recorded, length):
                leaves.append(prefixes.leaf_hash(position, rows[position].data))
        self._recorded = length

    def finish(self, prompt_count: int, output_ids: Sequence[int]) -> TracePreimage:
        """The preimage of the trace root. Without output nothing is committed to."""
        positions = trace_positions(prompt_count, len(output_ids))
        if not positions:
            return empty_trace(self._sub_trace, self._layout.segment_count)
        self._hash_residuals()
        if self._recorded < positions:
            raise RuntimeError(f"{self._recorded} rows were computed, the trace needs {positions}")
        segments = tuple(
            SegmentRoots(
                res=tree.root(self._leaves[segment][:positions]),
                kv=tree.root(self._kv_leaves(segment, positions)),
            )
            for segment in range(self._layout.segment_count)
        )
        out_root = id_root(self._sub_output, OUT_TAG, output_ids)
        return TracePreimage(self._sub_trace, positions, segments, out_root)

    def _kv_leaves(self, segment: int, positions: int) -> list[bytes]:
        """Leaf hashes by (layer, kv head, K then V, page), the page running fastest."""
        slot, prefixes = self._slot, LeafPrefixes(self._sub_trace, kv_tag(segment))
        pages = [page_rows(positions, page) for page in range(page_count(positions))]
        leaves: list[bytes] = []
        for layer in self._layout.segment(segment):
            for head in range(self._layout.kv_heads):
                for rows, scales in (
                    (slot.keys[layer, head], slot.key_scales[layer, head]),
                    (slot.values[layer, head], slot.value_scales[layer, head]),
                ):
                    for page in pages:
                        part = slice(page.start, page.stop)
                        content = rows[part].tobytes() + scales[part].tobytes()
                        leaves.append(prefixes.leaf_hash(len(leaves), content))
        return leaves
