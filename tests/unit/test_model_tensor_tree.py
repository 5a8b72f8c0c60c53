"""Tile trees over tensors, and the table over the trees (spec/model.md, MO-5 and MO-6)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_numerics import tensor_tree
from otr_numerics.tensor_table import TensorRow, TensorTable, TensorTableError
from otr_protocol import dcbor
from otr_protocol.errors import MalformedError
from otr_protocol.tlog import inclusion, tree


def matrix(seed: int, rows: int, columns: int) -> npt.NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-127, 128, (rows, columns), np.int8)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 200), columns=st.integers(1, 600))
def test_the_tiles_cover_a_matrix_once_output_block_major(rows: int, columns: int) -> None:
    weights = matrix(0, rows, columns)
    hashes = tensor_tree.leaf_hashes(weights)
    assert len(hashes) == tensor_tree.leaf_count("I8", (rows, columns))
    covered = np.zeros((rows, columns), np.int8)
    across = -(-columns // 256)
    for index, leaf_hash in enumerate(hashes):
        tile = tensor_tree.tile(weights, index)
        assert leaf_hash == hashlib.sha256(b"\0" + tile.tobytes()).digest()
        top, left = index // across * 64, index % across * 256
        assert np.array_equal(tile, weights[top : top + 64, left : left + 256])
        covered[top : top + 64, left : left + 256] += 1
    assert (covered == 1).all()


@settings(max_examples=50, deadline=None)
@given(
    dtype=st.sampled_from(["<i2", "<u2", "<i4", "<i1"]),
    shape=st.one_of(st.tuples(st.integers(1, 30_000)), st.tuples(st.integers(1, 99), st.just(96))),
)
def test_other_tensors_are_chunks_of_their_little_endian_bytes(
    dtype: str, shape: tuple[int, ...]
) -> None:
    if dtype == "<i1" and len(shape) == 2:
        return
    tensor = np.random.default_rng(1).integers(0, 127, shape).astype(dtype)
    data = tensor.tobytes()
    chunks = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
    assert tensor_tree.leaf_hashes(tensor) == [tree.leaf_hash(chunk) for chunk in chunks]
    name = tensor_tree.dtype_name(tensor.dtype)
    assert len(chunks) == tensor_tree.leaf_count(name, shape)
    swapped = tensor.astype(tensor.dtype.newbyteorder(">"))
    assert tensor_tree.tensor_root(swapped) == tensor_tree.tensor_root(tensor)


def test_memory_order_does_not_change_a_root() -> None:
    weights = matrix(2, 130, 300)
    assert tensor_tree.tensor_root(np.asfortranarray(weights)) == tensor_tree.tensor_root(weights)
    assert tensor_tree.tensor_root(weights[::-1][::-1]) == tensor_tree.tensor_root(weights)


def test_a_tile_is_proven_by_two_inclusion_proofs() -> None:
    tensors: dict[str, npt.NDArray[Any]] = {
        "a.W": matrix(3, 150, 600),
        "b.W": matrix(4, 64, 256),
        "nf.g": np.arange(64, dtype=np.int16),
    }
    table = TensorTable.of(tensors)
    hashes = tensor_tree.leaf_hashes(tensors["a.W"])
    for index in range(len(hashes)):
        leaf = tensor_tree.tile(tensors["a.W"], index).tobytes()
        proof = inclusion.prove(hashes, index)
        root = inclusion.root_from_inclusion(index, len(hashes), tree.leaf_hash(leaf), proof)
        assert root == table.rows[0].root
    rows = [tree.leaf_hash(row.leaf()) for row in table.rows]
    proof = inclusion.prove(rows, 0)
    assert inclusion.root_from_inclusion(0, len(rows), rows[0], proof) == table.root()


def row(name: str, **changes: Any) -> TensorRow:
    fields: dict[str, Any] = {"name": name, "dtype": "I8", "shape": (2, 3), "root": bytes(32)}
    return TensorRow(**(fields | changes))


def test_the_table_file_is_canonical() -> None:
    table = TensorTable((row("0.q.W"), row("0.q.c", dtype="U16", shape=(2,)), row("emb")))
    assert TensorTable.decode(table.encode()) == table


def test_name_dtype_and_shape_are_under_the_root() -> None:
    base = TensorTable((row("emb"),)).root()
    for other in (row("emb2"), row("emb", dtype="I16"), row("emb", shape=(3, 2))):
        assert TensorTable((other,)).root() != base


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "F32"}, {"shape": (0,)}, {"shape": (1, 1, 1)}, {"shape": (-1,)}, {"root": b""}],
    ids=str,
)
def test_a_row_of_no_artefact_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        row("emb", **changes)
    fields = {"dtype": "I8", "shape": (2, 3), "root": bytes(32)} | changes
    item = ("emb", fields["dtype"], fields["shape"], fields["root"])
    with pytest.raises(MalformedError):
        TensorTable.decode(dcbor.encode(("otr-tensors-v1", (item,))))


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a")])
def test_rows_out_of_order_or_twice_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(TensorTableError):
        TensorTable(tuple(row(name) for name in names))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_garbage_is_a_typed_refusal(data: bytes) -> None:
    with pytest.raises(MalformedError):
        TensorTable.decode(data)
