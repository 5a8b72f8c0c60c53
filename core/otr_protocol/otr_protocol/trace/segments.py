"""Which positions, segments and pages a trace covers (spec/trace.md, "layout").

Everything here follows from the model manifest and two counts; a party never chooses it.

* Positions 0 .. prompt_count + output_count - 2: the last id is produced, never fed. None at all
  when nothing was produced, since then no step is committed to.
* Segment s covers layers [s*n, min(L, (s+1)*n)), n = `trace_segment_layers`.
* RES_s has one leaf per position. KV_s has one leaf per (layer, kv head, K then V, page of 64
  positions), the page running fastest; the last page holds the rows that are left, unpadded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otr_protocol.fields import check_count, check_range

PAGE_POSITIONS: Final = 64
K: Final = 0
V: Final = 1


def trace_positions(prompt_count: int, output_count: int) -> int:
    """How many positions the trace covers."""
    check_range(prompt_count, 1, 2**32 - 1, "prompt_count")
    check_count(output_count, "output_count")
    return prompt_count + output_count - 1 if output_count else 0


def sampler_position(prompt_count: int, output_index: int) -> int:
    """The position that the sampler's counter uses for output `output_index` (from 0)."""
    return prompt_count + output_index


def page_count(positions: int) -> int:
    """How many pages of 64 positions hold `positions` rows."""
    return -(-positions // PAGE_POSITIONS)


def page_rows(positions: int, page: int) -> range:
    """The positions in `page`: 64, or what is left in the last one."""
    start = page * PAGE_POSITIONS
    return range(start, min(positions, start + PAGE_POSITIONS))


@dataclass(frozen=True, slots=True)
class TraceLayout:
    """The segments of a model with `layers` layers and `kv_heads` K/V heads."""

    layers: int
    kv_heads: int
    segment_layers: int

    def __post_init__(self) -> None:
        check_range(self.layers, 1, 2**16, "layers")
        check_range(self.kv_heads, 1, 2**16, "kv_heads")
        check_range(self.segment_layers, 1, self.layers, "trace_segment_layers")

    @property
    def segment_count(self) -> int:
        """S, the number of segments; as a segment index it names the head."""
        return -(-self.layers // self.segment_layers)

    def segment(self, index: int) -> range:
        """The layers of segment `index`."""
        check_range(index, 0, self.segment_count - 1, "segment")
        start = index * self.segment_layers
        return range(start, min(self.layers, start + self.segment_layers))

    def segment_of(self, layer: int) -> int:
        """The segment that holds `layer`."""
        check_range(layer, 0, self.layers - 1, "layer")
        return layer // self.segment_layers

    def kv_leaf_count(self, segment: int, positions: int) -> int:
        """How many leaves KV_segment has."""
        return len(self.segment(segment)) * self.kv_heads * 2 * page_count(positions)

    def kv_leaf_index(self, layer: int, head: int, part: int, page: int, positions: int) -> int:
        """The index inside its segment of the leaf of (layer, head, part, page).

        `part` is K (0) or V (1).
        """
        check_range(head, 0, self.kv_heads - 1, "kv_head")
        check_range(part, K, V, "part")
        check_range(page, 0, page_count(positions) - 1, "page")
        row = layer - self.segment(self.segment_of(layer)).start
        return ((row * self.kv_heads + head) * 2 + part) * page_count(positions) + page
