"""Where the weight matrices lie in memory.

All matrices of a model share one allocation, so that the kernel can back it with huge pages (a
decode step reads every byte of it once; with 4 KiB pages about a sixth of the bandwidth goes to
address translation), and matrices that are multiplied by the same input lie side by side:

    layer:  [q | k | v]  [o]  [gate | up]  [down]          then, after all layers,  [head]

Rows are padded with zeros to a multiple of 16 inputs, one step of the product kernel. One word per
output row, `c | S << 16`, carries its scale and its shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from otr_protocol.manifest import ModelShape

LANES: Final = 16
SHIFT_BITS: Final = 16
_PAGE_BYTES: Final = 4096
LAYER_GROUPS: Final = ("qkv", "o", "gate_up", "down")


def padded(inputs: int) -> int:
    """The row stride in bytes of a matrix with `inputs` columns."""
    return -(-inputs // LANES) * LANES


@dataclass(frozen=True, slots=True)
class MatrixGroup:
    """Matrices multiplied by the same input: `outputs` rows of `stride` bytes in all.

    `offset` and `first` are where they start, in bytes and in rows.
    """

    outputs: int
    inputs: int
    offset: int
    first: int

    @property
    def stride(self) -> int:
        """Bytes from row to row."""
        return padded(self.inputs)

    def moved(self, offset: int, first: int) -> MatrixGroup:
        """The same group further on, for the next layer."""
        return MatrixGroup(self.outputs, self.inputs, self.offset + offset, self.first + first)


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """The groups of layer 0 in the order of `LAYER_GROUPS`, the head, and the distances between."""

    layer: tuple[MatrixGroup, MatrixGroup, MatrixGroup, MatrixGroup]
    layer_bytes: int
    layer_rows: int
    head: MatrixGroup
    total_bytes: int
    total_rows: int

    @classmethod
    def of(cls, shape: ModelShape) -> PackedLayout:
        """The layout of a model of this shape."""
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        sizes = (
            (queries + 2 * keys, shape.hidden),
            (shape.hidden, queries),
            (2 * shape.ffn, shape.hidden),
            (shape.hidden, shape.ffn),
        )
        groups = []
        offset = first = 0
        for outputs, inputs in sizes:
            groups.append(MatrixGroup(outputs, inputs, offset, first))
            offset += outputs * padded(inputs)
            first += outputs
        qkv, o, gate_up, down = groups
        head = MatrixGroup(shape.vocab, shape.hidden, offset * shape.layers, first * shape.layers)
        return cls(
            layer=(qkv, o, gate_up, down),
            layer_bytes=offset,
            layer_rows=first,
            head=head,
            total_bytes=head.offset + head.outputs * head.stride,
            total_rows=head.first + head.outputs,
        )

    def group(self, layer: int, name: str) -> MatrixGroup:
        """One group of one layer; `name` is one of `LAYER_GROUPS`."""
        group = self.layer[LAYER_GROUPS.index(name)]
        return group.moved(layer * self.layer_bytes, layer * self.layer_rows)


class PackedMatrices:
    """All matrices of a model: `matrices` int8 [bytes], `requant` uint32 [rows]."""

    __slots__ = ("layout", "matrices", "requant")

    def __init__(self, layout: PackedLayout) -> None:
        """An allocation of zeros for `layout`."""
        self.layout = layout
        space = np.zeros(layout.total_bytes + _PAGE_BYTES, np.int8)
        skip = -space.ctypes.data % _PAGE_BYTES
        self.matrices: npt.NDArray[np.int8] = space[skip : skip + layout.total_bytes]
        self.requant: npt.NDArray[np.uint32] = np.zeros(layout.total_rows, np.uint32)

    def place(
        self,
        group: MatrixGroup,
        skip: int,
        W: npt.NDArray[np.int8],
        c: npt.NDArray[np.uint16],
        S: int,
    ) -> npt.NDArray[np.int8]:
        """Copy W [N, K] behind the first `skip` rows of `group`; the copy is returned as [N, K]."""
        rows, stride = W.shape[0], group.stride
        start = group.offset + skip * stride
        target = self.matrices[start : start + rows * stride].reshape(rows, stride)
        target[:, : group.inputs] = W
        first = group.first + skip
        self.requant[first : first + rows] = c.astype(np.uint32) | np.uint32(S << SHIFT_BITS)
        return target[:, : group.inputs]
