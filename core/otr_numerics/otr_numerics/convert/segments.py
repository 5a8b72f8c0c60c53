"""How many layers a trace segment spans (PROTOCOL section 8), and what recomputing one takes.

Smaller segments make disputes and audits cheaper, and hash more residuals while serving. The rule:
the smallest s >= 2 whose hashing stays below 0.7% of a decode step. So that everybody who converts
a model gets the same s, the two times come from byte counts and two declared rates, not from a
stopwatch:

* hashing: 1 ns per byte, what one core with SHA instructions reaches on leaves of this size. Each
  leaf counts 256 bytes more than its data: its salted prefix (one 64-byte block, and 32 bytes in
  the leaf), padding, and one inner node of the tree (two blocks).
* decoding: every int8 weight is read once per token, at 36 bytes per ns.

Both were measured on the same machine (SmolLM2: 3.7 ms per token), and what matters is their ratio.
"""

from __future__ import annotations

from otr_numerics.convert.source import Architecture
from otr_protocol.trace.segments import PAGE_POSITIONS

LEAST_SEGMENT_LAYERS = 2
HASH_PS_PER_BYTE = 1_000
LEAF_OVERHEAD_BYTES = 256
WEIGHT_BYTES_PER_NS = 36
BUDGET_PER_MILLE_TENTHS = 7  # 0.7% = 7 / 1000
_SCALE_BYTES = 4


def hashed_bytes_per_token(architecture: Architecture, segment_layers: int) -> int:
    """Bytes hashed per position: one residual leaf per segment, and its share of the KV pages.

    A K/V row is head_dim int8 values and a uint32 scale; a page leaf covers 64 rows, so its
    overhead is a 64th per row.
    """
    segments = -(-architecture.layers // segment_layers)
    residuals = segments * (4 * architecture.hidden + LEAF_OVERHEAD_BYTES)
    row = architecture.head_dim + _SCALE_BYTES + LEAF_OVERHEAD_BYTES // PAGE_POSITIONS
    return residuals + architecture.layers * architecture.kv_heads * 2 * row


def weight_bytes_per_token(architecture: Architecture) -> int:
    """int8 weights that one decode step reads: all matrices of all layers, and the head."""
    a = architecture
    attention = a.hidden * a.head_dim * (2 * a.heads + 2 * a.kv_heads)
    return a.layers * (attention + 3 * a.hidden * a.ffn) + a.vocab * a.hidden


def choose_segment_layers(architecture: Architecture) -> int:
    """The smallest s >= 2 that meets the budget.

    When not even one segment for the whole model does (otr-tiny, whose steps take microseconds),
    hashing cannot be hidden and the finest segments win: s = 2.
    """
    budget = BUDGET_PER_MILLE_TENTHS * 1_000 * weight_bytes_per_token(architecture)
    for candidate in range(LEAST_SEGMENT_LAYERS, architecture.layers + 1):
        hashed = hashed_bytes_per_token(architecture, candidate)
        if hashed * HASH_PS_PER_BYTE * WEIGHT_BYTES_PER_NS * 1_000 < budget:
            return candidate
    return min(LEAST_SEGMENT_LAYERS, architecture.layers)


def unit_milliseconds(architecture: Architecture, segment_layers: int) -> int:
    """The manifest's `unit_ms`: time granted to recompute one segment over a page of 64 positions.

    Weights are counted once per position at the rate above, as if nothing were batched; never less
    than a second, which covers hashing every operation and a slow disk.
    """
    per_layer = (
        weight_bytes_per_token(architecture) - architecture.vocab * architecture.hidden
    ) // (architecture.layers)
    unit = max(per_layer * segment_layers, architecture.vocab * architecture.hidden)
    return max(1_000, -(-unit * PAGE_POSITIONS // (WEIGHT_BYTES_PER_NS * 1_000_000)))
