"""The Merkle tree over one tensor (spec/numerics.md section 2, PROTOCOL section 4).

Weight matrices are cut into the tiles that a dispute opens, 64 outputs by 256 inputs, output block
major: all input blocks of outputs 0..63, then of outputs 64..127. A tile at an edge is as small as
the matrix leaves it; nothing is padded. Every other tensor is cut into chunks of 16 KiB of its
little-endian, C-ordered bytes, the last one shorter. The bytes of a tile or chunk are the leaf data
of a tree after RFC 9162; name, dtype and shape are bound beside the root, in the tensor table.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from otr_protocol.tlog import tree

TILE_OUTPUTS: Final = 64
TILE_INPUTS: Final = 256
CHUNK_BYTES: Final = 16 << 10

# safetensors' names of the dtypes that an artefact has.
DTYPE_NAMES: Final[dict[str, np.dtype[Any]]] = {
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
}


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The table's name of a dtype. Raises KeyError for one that no artefact has."""
    return {known: name for name, known in DTYPE_NAMES.items()}[dtype.newbyteorder("<")]


def is_tiled(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a weight matrix (or the embedding): int8 with two dimensions."""
    return dtype == "I8" and len(shape) == 2


def leaf_count(dtype: str, shape: tuple[int, ...]) -> int:
    """How many leaves the tree over such a tensor has."""
    if is_tiled(dtype, shape):
        return -(-shape[0] // TILE_OUTPUTS) * -(-shape[1] // TILE_INPUTS)
    size = DTYPE_NAMES[dtype].itemsize
    for each in shape:
        size *= each
    return -(-size // CHUNK_BYTES)


def tile(matrix: npt.NDArray[np.int8], leaf_index: int) -> npt.NDArray[np.int8]:
    """The view of `matrix` that leaf `leaf_index` covers, int8 [<= 64, <= 256]."""
    row, column = divmod(leaf_index, -(-matrix.shape[1] // TILE_INPUTS))
    return matrix[
        row * TILE_OUTPUTS : (row + 1) * TILE_OUTPUTS,
        column * TILE_INPUTS : (column + 1) * TILE_INPUTS,
    ]


def leaf_hashes(tensor: npt.NDArray[Any]) -> list[bytes]:
    """The leaf hashes of a tensor's tree, in order."""
    sha256 = hashlib.sha256
    if is_tiled(dtype_name(tensor.dtype), tensor.shape):
        hashes = []
        for top in range(0, tensor.shape[0], TILE_OUTPUTS):
            block = tensor[top : top + TILE_OUTPUTS]
            for left in range(0, tensor.shape[1], TILE_INPUTS):
                # hashlib lets other threads run while it hashes a buffer of this size.
                leaf = b"\x00" + block[:, left : left + TILE_INPUTS].tobytes()
                hashes.append(sha256(leaf).digest())
        return hashes
    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    data = np.ascontiguousarray(little).data.cast("B")
    return [
        sha256(b"\x00" + data[start : start + CHUNK_BYTES]).digest()
        for start in range(0, len(data), CHUNK_BYTES)
    ]


def tensor_root(tensor: npt.NDArray[Any]) -> bytes:
    """Root of the tensor's tree: 32 bytes."""
    return tree.root(leaf_hashes(tensor))
