"""Slots: the K/V cache and the segment residuals of the sequences an engine runs.

All slots live in one pool that is allocated once; the operating system commits its pages as rows
are first written. A slot hands out views for the trace (spec/trace.md, "leaves"): the rows of one
(layer, head, page) are contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from otr_numerics.kernels_step import CacheArrays
from otr_numerics.packing import padded
from otr_protocol.errors import ExhaustedError, RejectedError
from otr_protocol.manifest import ModelShape


class NoSlotError(ExhaustedError):
    """All slots of the engine are open."""

    reason = "NO_SLOT"


class SlotCapacityError(RejectedError):
    """More positions than the slot, the engine or the model has."""

    reason = "SLOT_CAPACITY"


class SlotClosedError(RejectedError):
    """A slot that was closed, or of another engine."""

    reason = "SLOT_CLOSED"


class Slot:
    """The state of one sequence. Rows below `length` are valid; the engine alone writes them.

    `keys`, `values` int8 [L, G, capacity, d]; `key_scales`, `value_scales` uint32 [L, G, capacity];
    `residuals` int32 [S, capacity, D], the residual after each segment.
    """

    __slots__ = (
        *("capacity", "index", "is_open", "key_scales", "keys", "length", "residuals"),
        *("value_scales", "values"),
    )

    def __init__(self, index: int, capacity: int, head_dim: int, pool: CacheArrays) -> None:
        self.index = index
        self.capacity = capacity
        self.length = 0
        self.is_open = True
        self.keys: npt.NDArray[np.int8] = pool.keys[index, :, :, :capacity, :head_dim]
        self.key_scales: npt.NDArray[np.uint32] = pool.key_scales[index, :, :, :capacity]
        self.values: npt.NDArray[np.int8] = pool.values[index, :, :, :capacity, :head_dim]
        self.value_scales: npt.NDArray[np.uint32] = pool.value_scales[index, :, :, :capacity]
        self.residuals: npt.NDArray[np.int32] = pool.residuals[index, :, :capacity]

    def rewind(self, length: int) -> None:
        """Forget the rows from `length` on: they will be computed anew."""
        if not 0 <= length <= self.length:
            raise SlotCapacityError(f"cannot rewind {self.length} rows to {length}", field="length")
        self.length = length

    def wipe(self) -> None:
        """Overwrite every row that was used: the next sequence may be somebody else's."""
        used = slice(0, self.length)
        self.keys[:, :, used] = 0
        self.key_scales[:, :, used] = 0
        self.values[:, :, used] = 0
        self.value_scales[:, :, used] = 0
        self.residuals[:, used] = 0
        self.length = 0


class SlotPool:
    """`slots` slots of at most `positions` rows each."""

    def __init__(self, shape: ModelShape, segments: int, slots: int, positions: int) -> None:
        self.positions = positions
        self._head_dim = shape.head_dim
        rows = (slots, shape.layers, shape.kv_heads, positions)
        width = padded(shape.head_dim)
        self.arrays = CacheArrays(
            keys=_reserve((*rows, width), np.int8),
            key_scales=_reserve(rows, np.uint32),
            values=_reserve((*rows, width), np.int8),
            value_scales=_reserve(rows, np.uint32),
            residuals=_reserve((slots, segments, positions, shape.hidden), np.int32),
        )
        self._open: list[Slot | None] = [None] * slots

    def open(self, capacity: int) -> Slot:
        """A fresh slot for `capacity` positions. Raises NoSlotError, SlotCapacityError."""
        if not 1 <= capacity <= self.positions:
            raise SlotCapacityError(
                f"{capacity} positions, this engine has 1 to {self.positions}", field="capacity"
            )
        for index, occupant in enumerate(self._open):
            if occupant is None:
                slot = Slot(index, capacity, self._head_dim, self.arrays)
                self._open[index] = slot
                return slot
        raise NoSlotError(f"all {len(self._open)} slots are in use")

    def check(self, slot: Slot) -> None:
        """Raise SlotClosedError unless `slot` is an open slot of this pool."""
        if not slot.is_open or self._open[slot.index] is not slot:
            raise SlotClosedError("the slot is not open", field="slot")

    def close(self, slot: Slot) -> None:
        """Wipe the slot and take it back; its views must not be read afterwards."""
        self.check(slot)
        slot.wipe()
        slot.is_open = False
        self._open[slot.index] = None

    @property
    def free(self) -> int:
        """How many slots are left."""
        return self._open.count(None)


def _reserve(shape: tuple[int, ...], dtype: type[Any]) -> npt.NDArray[Any]:
    """Zeros whose pages are committed when first touched."""
    return np.zeros(shape, dtype)
