"""The engine: exact-int8 forward passes over batches of rows (spec/numerics.md).

One engine owns one model's slots and work arrays, and is driven by one thread at a time; it
releases the GIL while it computes. How rows are grouped into calls, how many threads there are and
what else runs in the batch never changes a bit of any result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from otr_numerics.engine_arrays import CHUNK_ROWS, model_arrays, work_arrays
from otr_numerics.kernels_step import LAYER_OPS, run
from otr_numerics.kv_cache import Slot, SlotCapacityError, SlotPool
from otr_numerics.self_test import check_kernels
from otr_numerics.step_threads import StepThreads
from otr_numerics.weights import Weights
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.manifest import ModelManifest

__all__ = ["Engine", "EngineModel", "EngineSettingsError", "FeedError", "Slot"]

Logits = npt.NDArray[np.int32]
Ids = npt.NDArray[np.integer] | Sequence[int]

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
    def manifest(self) -> ModelManifest:
        """What the model commits to."""
        ...

    @property
    def weights(self) -> Weights:
        """Its weights, checked."""
        ...


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
        self._model = model_arrays(weights, self._segment_layers)
        self._work = work_arrays(weights, max_positions, threads)
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

    def warm(self) -> None:
        """Compile the step, or load it, so that no request waits for that and counts it as its own.

        Computes one row in a slot of its own. Raises NoSlotError when every slot is open.
        """
        slot = self.open(1)
        try:
            self.forward([(slot, [0])])
        finally:
            self.close(slot)

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
