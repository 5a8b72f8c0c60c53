"""The tensor table: name, dtype, shape and tree root of every tensor (spec/model.md).

File `tensors.cbor`, rows in ascending order of the name's UTF-8 bytes:

    ["otr-tensors-v1", [["0.down.W", "I8", [576, 1536], root], ["0.down.c", "U16", [576], root],
                        ...]]

`weights_root`, which the manifest commits to, is the RFC 9162 root whose leaf data are the rows,
each as deterministic CBOR. A tile of a weight matrix is therefore proven by two inclusion proofs,
tile in tensor and row in table, without the rest of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from otr_numerics.tensor_tree import DTYPE_NAMES, dtype_name, tensor_root
from otr_protocol import dcbor
from otr_protocol.errors import MalformedError
from otr_protocol.fields import as_array, as_bytes, as_integers, as_text, check_digest, check_name
from otr_protocol.manifest import ModelManifest
from otr_protocol.tlog import tree

DOMAIN: Final = "otr-tensors-v1"
# 1024 layers have 16 tensors each; a row takes less than 128 bytes and 7 items.
MAX_TABLE_BYTES: Final = 4 << 20
MAX_TABLE_ITEMS: Final = 1 << 18


class TensorTableError(MalformedError):
    """A tensor table that no artefact has, or not the one of this model."""

    reason = "TENSOR_TABLE_INVALID"


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor: `dtype` is safetensors' name (I8, I16, U16, I32), `root` 32 bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    root: bytes

    def __post_init__(self) -> None:
        check_name(self.name, "tensor name")
        if self.dtype not in DTYPE_NAMES:
            raise TensorTableError(f"{self.name} has dtype {self.dtype!r}", field=self.name)
        if len(self.shape) > 2 or any(not 1 <= size < 1 << 32 for size in self.shape):
            raise TensorTableError(f"{self.name} has shape {self.shape}", field=self.name)
        check_digest(self.root, self.name)

    def leaf(self) -> bytes:
        """The row's leaf data under `weights_root`."""
        return dcbor.encode((self.name, self.dtype, self.shape, self.root))


@dataclass(frozen=True, slots=True)
class TensorTable:
    """All rows, in ascending order of the name."""

    rows: tuple[TensorRow, ...]

    def __post_init__(self) -> None:
        names = [row.name.encode() for row in self.rows]
        if names != sorted(set(names)):
            raise TensorTableError("rows are not in strictly ascending order", field="tensors")

    @classmethod
    def of(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> TensorTable:
        """Hash every tensor."""
        return cls(
            tuple(
                TensorRow(name, dtype_name(tensor.dtype), tensor.shape, tensor_root(tensor))
                for name, tensor in sorted(tensors.items(), key=lambda item: item[0].encode())
            )
        )

    def root(self) -> bytes:
        """The weights root: 32 bytes."""
        return tree.root([tree.leaf_hash(row.leaf()) for row in self.rows])

    def encode(self) -> bytes:
        """The canonical file."""
        rows = tuple((row.name, row.dtype, row.shape, row.root) for row in self.rows)
        return dcbor.encode((DOMAIN, rows))

    @classmethod
    def decode(cls, data: bytes) -> TensorTable:
        """Read the canonical file. Raises MalformedError subclasses only."""
        (items,) = dcbor.open_record(
            data, DOMAIN, tuple, max_bytes=MAX_TABLE_BYTES, max_items=MAX_TABLE_ITEMS, max_depth=4
        )
        rows = []
        for item in as_array(items, "tensors"):
            name, dtype, shape, root = as_array(item, "tensor row", length=4)
            rows.append(
                TensorRow(
                    as_text(name, "tensor name"),
                    as_text(dtype, "tensor dtype"),
                    as_integers(shape, "tensor shape"),
                    as_bytes(root, "tensor root"),
                )
            )
        return cls(tuple(rows))


def expected_tensors(manifest: ModelManifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to (dtype, shape) of exactly the tensors that a model of this manifest has."""
    s = manifest.shape
    queries, keys, half = s.heads * s.head_dim, s.kv_heads * s.head_dim, s.head_dim // 2
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "emb": ("I8", (s.vocab, s.hidden)),
        "emb_c": ("U16", (s.vocab,)),
        "nf.g": ("I16", (s.hidden,)),
        "cos": ("I16", (s.context_length, half)),
        "sin": ("I16", (s.context_length, half)),
        "exp2": ("I32", (1 << manifest.formats.f_s,)),
        "sig": ("I32", (8_192,)),
    }
    linears = {
        "q": (queries, s.hidden),
        "k": (keys, s.hidden),
        "v": (keys, s.hidden),
        "o": (s.hidden, queries),
        "gate": (s.ffn, s.hidden),
        "up": (s.ffn, s.hidden),
        "down": (s.hidden, s.ffn),
    }
    matrices = {"head": (s.vocab, s.hidden)} | {
        f"{layer}.{name}": shape for layer in range(s.layers) for name, shape in linears.items()
    }
    for name, shape in matrices.items():
        expected[f"{name}.W"] = ("I8", shape)
        expected[f"{name}.c"] = ("U16", (shape[0],))
    for layer in range(s.layers):
        expected[f"{layer}.n1.g"] = expected[f"{layer}.n2.g"] = ("I16", (s.hidden,))
    return expected


def check_complete(table: TensorTable, manifest: ModelManifest) -> None:
    """Require exactly the tensors of `manifest`. Raises TensorTableError naming the tensor."""
    expected = expected_tensors(manifest)
    for row in table.rows:
        if expected.pop(row.name, None) != (row.dtype, row.shape):
            raise TensorTableError(
                f"tensor {row.name} {row.dtype} {row.shape} is not one of this model",
                field=row.name,
            )
    if expected:
        name = min(expected)
        raise TensorTableError(f"tensor {name} is missing from the table", field=name)
