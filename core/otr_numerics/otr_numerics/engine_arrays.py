"""The arrays on which a step works, made from a model's weights.

Apart from the engine, so that a test or an audit can set up a single operation, run it with
`kernels_step.run` and look at what it wrote.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from otr_numerics.kernels_step import ModelArrays, Numbers, WorkArrays
from otr_numerics.packing import padded
from otr_numerics.weights import Weights

# Rows per step: enough that a weight read from memory is used often, few enough that their
# activations (1,536 int16 of SmolLM2) stay in the second-level cache.
CHUNK_ROWS: Final = 64


def model_arrays(weights: Weights, segment_layers: int) -> ModelArrays:
    """The weights as the kernels take them; segments have `segment_layers` layers."""
    layout, formats = weights.packed.layout, weights.formats
    groups = [(g.offset, g.first, g.stride, g.outputs) for g in (*layout.layer, layout.head)]
    norms = [norm for layer in weights.layers for norm in (layer.n1, layer.n2)]
    norms.append(weights.final_norm)
    numbers = Numbers(
        hidden=weights.hidden,
        layers=len(weights.layers),
        heads=weights.heads,
        kv_heads=weights.kv_heads,
        head_dim=weights.head_dim,
        ffn=weights.ffn,
        layer_bytes=layout.layer_bytes,
        layer_rows=layout.layer_rows,
        embedding_shift=weights.embedding.S,
        eps_q=weights.eps_q,
        f_n=formats.f_n,
        f_g=formats.f_g,
        f_h=formats.f_h,
        f_s=formats.f_s,
        score_shift=14 + formats.f_q + formats.f_k - formats.f_s,
        segment_layers=segment_layers,
    )
    return ModelArrays(
        matrices=weights.packed.matrices,
        requant=weights.packed.requant,
        groups=np.array(groups, np.int64),
        norms=np.stack([norm.g for norm in norms]),
        norm_bits=np.array([norm.G for norm in norms], np.int64),
        embedding=weights.embedding.W,
        embedding_scales=weights.embedding.c,
        cos=weights.cos,
        sin=weights.sin,
        exp2=weights.exp2,
        sig=weights.sig,
        numbers=np.array(numbers, np.int64),
    )


def work_arrays(weights: Weights, max_positions: int, threads: int) -> WorkArrays:
    """Room for a step of `CHUNK_ROWS` rows over sequences of at most `max_positions` rows."""
    rows, attended = CHUNK_ROWS, weights.heads * weights.head_dim
    projected = attended + 2 * weights.kv_heads * weights.head_dim
    widest_input = padded(max(weights.hidden, attended, weights.ffn))
    widest_row = max(weights.hidden, weights.ffn, weights.head_dim)
    return WorkArrays(
        x=np.zeros((rows, weights.hidden), np.int32),
        wide=np.zeros((rows, max(projected, 2 * weights.ffn)), np.int32),
        q=np.zeros((rows, widest_input), np.int16),
        M=np.zeros(rows, np.int64),
        e=np.zeros(rows, np.int64),
        queries=np.zeros((rows, weights.heads, padded(weights.head_dim)), np.int16),
        query_scales=np.zeros((rows, weights.heads), np.int64),
        attended=np.zeros((rows, attended), np.int32),
        scores=np.zeros((threads, max_positions), np.int64),
        weights=np.zeros((threads, max_positions), np.int32),
        row=np.zeros((threads, widest_row), np.int32),
        ids=np.zeros(rows, np.int64),
        slots=np.zeros(rows, np.int64),
        positions=np.zeros(rows, np.int64),
        chosen=np.zeros(rows, np.int64),
        barrier=np.zeros(1, np.int64),
    )
