"""The engine: exact-int8 forward passes over batches of rows (spec/numerics.md).

One engine owns one model's slots and work arrays, and is driven by one thread at a time; it releases
the GIL while it computes. How rows are grouped into calls, how many threads there are and what else
runs in the batch never changes a bit of any result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from otr_numerics.kernels_step import (
    LAYER_OPS,
    ModelArrays,
    Numbers,
    WorkArrays,
    run,
)
from otr_numerics.kv_cache import Slot, SlotCapacityError, SlotPool
from otr_numerics.packing import padded
from otr_numerics.self_test import check_kernels
from otr_numerics.step_threads import StepThreads
from otr_numerics.weights import Weights
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.manifest import ModelManifest

Logits = npt.NDArray[np.int32]
Ids = npt.NDArray[np.integer] | Sequence[int]

# Rows per step: enough that a weight read from memory is used often, few enough that their
# activations (1,536 int16 of SmolLM2) stay in the second-level cache.
CHUNK_ROWS: Final = 64
MAX_THREADS: Final = 64


class EngineSettingsError(MalformedError):
    """Slots, positions or threads that no engine has."""

    reason = "ENGINE_SETTINGS"


class FeedError(RejectedError):
    """Rows that cannot be computed: an id outside the vocabulary, no ids, a slot fed twice."""

    reason = "FEED_INVALID"


class EngineModel(Protocol):
    """What an engine needs of a `LoadedModel`."""

    @property
    def manifest(self) -> ModelManifest: ...

    @property
    def weights(self) -> Weights: ...


class Engine:
    """Runs one model. See the module docstring for who may call it."""

    def __init__(
        self, model: EngineModel, *, slots: int, max_positions: int, threads: int = 1
    ) -> None:
        """Reserve `slots` sequences of at most `max_positions` rows; check the kernels.

        Raises EngineSettingsError, KernelRefusedError.
        """
        weights, manifest = model.weights, model.manifest
        if not 1 <= slots <= 1 << 12 or not 1 <= threads <= MAX_THREADS:
            raise EngineSettingsError(f"{slots} slots and {threads} threads", field="slots")
        if not 1 <= max_positions <= weights.context:
            raise EngineSettingsError(
                f"{max_positions} positions; the model has 1 to {weights.context}",
                field="max_positions",
            )
        check_kernels(weights.shape)
        self.weights = weights
        self.max_positions = max_positions
        self._segment_layers = manifest.trace_segment_layers
        layout = manifest.trace_layout()
        self._pool = SlotPool(weights.shape, layout.segment_count, slots, max_positions)
        self._model = _model_arrays(weights, self._segment_layers)
        self._work = _work_arrays(weights, max_positions, threads)
        self._operations = weights.shape.layers * LAYER_OPS + 3
        self._threads = StepThreads(threads)
        self._logits = np.zeros((1, weights.vocab), np.int32)

    @property
    def threads(self) -> int:
        """How many threads compute a step."""
        return self._threads.count

    @property
    def free_slots(self) -> int:
        """How many more slots can be opened."""
        return self._pool.free

    def open(self, capacity: int) -> Slot:
        """A slot for a new sequence. Raises NoSlotError, SlotCapacityError."""
        return self._pool.open(capacity)

    def close(self, slot: Slot) -> None:
        """Wipe a slot and take it back. Raises SlotClosedError."""
        self._pool.close(slot)

    def forward(self, feeds: Sequence[tuple[Slot, Ids]], *, all_logits: bool = False) -> Logits:
        """Append ids to slots; logits int32 [len(feeds), V] of each feed's last row.

        With `all_logits` those of every row in order, [sum of lengths, V]. A slot appears at most
        once. Raises FeedError, SlotClosedError, SlotCapacityError before anything is computed.
        """
        total = self._check(feeds)
        wanted = total if all_logits else len(feeds)
        logits = np.empty((wanted, self.weights.vocab), np.int32)
        work = self._work
        rows = chosen = done = 0
        for slot, ids in feeds:
            last = len(ids) - 1
            for index, token in enumerate(ids):
                work.ids[rows] = token
                work.slots[rows] = slot.index
                work.positions[rows] = slot.length + index
                if all_logits or index == last:
                    work.chosen[chosen] = rows
                    chosen += 1
                rows += 1
                if rows == CHUNK_ROWS:
                    self._step(rows, chosen, logits[done : done + chosen])
                    done += chosen
                    rows = chosen = 0
        if rows:
            self._step(rows, chosen, logits[done:])
        for slot, ids in feeds:
            slot.length += len(ids)
        return logits

    def _step(self, rows: int, chosen: int, logits: Logits) -> None:
        # A chunk in the middle of a prompt has no row whose logits anybody wants.
        stop = self._operations if chosen else self._operations - 2
        self._threads.run(
            run,
            self._work.barrier,
            (self._model, self._pool.arrays, self._work, rows, chosen, logits, 0, stop),
        )

    def _check(self, feeds: Sequence[tuple[Slot, Ids]]) -> int:
        seen: set[int] = set()
        total = 0
        vocab = self.weights.vocab
        for slot, ids in feeds:
            self._pool.check(slot)
            if slot.index in seen:
                raise FeedError("a slot is fed twice in one call", field="slot")
            seen.add(slot.index)
            count = len(ids)
            if count == 0:
                raise FeedError("a feed has no ids", field="ids")
            if slot.length + count > slot.capacity:
                raise SlotCapacityError(
                    f"{slot.length} + {count} rows exceed the slot's {slot.capacity}", field="ids"
                )
            if min(ids) < 0 or max(ids) >= vocab:
                raise FeedError(f"an id is outside 0 to {vocab - 1}", field="ids")
            total += count
        if not feeds:
            raise FeedError("nothing to compute", field="feeds")
        return total


def _model_arrays(weights: Weights, segment_layers: int) -> ModelArrays:
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


def _work_arrays(weights: Weights, max_positions: int, threads: int) -> WorkArrays:
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
