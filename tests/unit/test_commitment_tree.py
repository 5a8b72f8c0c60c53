"""Proofs made from stored tiles verify, or are not given out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_commitment.ports import DamagedError, Mark
from otr_commitment.reading import EntryUnknownError, Reading, TileUnknownError
from otr_commitment.tree import Tree, TreeSizeUnknownError
from otr_protocol.tlog import consistency, inclusion
from otr_protocol.tlog.bundle import verify_bundle
from otr_protocol.tlog.consistency import ConsistencyRejectedError
from otr_protocol.tlog.entry import Entry
from otr_protocol.tlog.tiles import HashTile
from otr_protocol.tlog.tree import root
from support.log_store import Store

SIZE = 600  # two full tiles of level 0, a partial one, and a partial one of level 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store(tmp_path_factory.mktemp("tree") / "log")
    opened.grow(SIZE)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def leaf_hashes(store: Store) -> list[bytes]:
    stored = store.writer.entries(0, SIZE, max_bytes=1 << 20)
    return [Entry.decode(each.data).leaf_hash() for each in stored]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_inclusion_and_consistency_proofs_verify_for_any_published_size(
    store: Store, leaf_hashes: list[bytes], data: st.DataObject
) -> None:
    tree, published = Tree(store.writer), store.mark()
    new = data.draw(st.integers(1, SIZE))
    old = data.draw(st.integers(1, new))
    leaf = data.draw(st.integers(0, new - 1))
    new_root = root(leaf_hashes[:new])
    assert tree.root(new, published) == new_root
    proof = tree.inclusion_proof(leaf, leaf_hashes[leaf], new, published)
    inclusion.verify(leaf, new, leaf_hashes[leaf], proof, new_root)
    proof = tree.consistency_proof(old, new, published)
    consistency.verify(old, new, root(leaf_hashes[:old]), new_root, proof)


def test_a_tree_beyond_the_published_one_is_unknown(store: Store, leaf_hashes: list[bytes]) -> None:
    tree = Tree(store.writer)
    published = Mark(500, root(leaf_hashes[:500]))
    assert tree.root(500, published) == published.root_hash
    with pytest.raises(TreeSizeUnknownError):
        tree.inclusion_proof(3, leaf_hashes[3], 501, published)
    with pytest.raises(TreeSizeUnknownError):
        tree.consistency_proof(3, 501, published)
    with pytest.raises(ConsistencyRejectedError):
        tree.consistency_proof(3, 2, published)


def test_a_proof_for_another_leaf_than_the_stored_one_is_damage(
    store: Store, leaf_hashes: list[bytes]
) -> None:
    with pytest.raises(DamagedError):
        Tree(store.writer).inclusion_proof(3, leaf_hashes[4], SIZE, store.mark())


@pytest.mark.parametrize(("level", "index", "leaf"), [(0, 0, 1), (0, 2, 513), (1, 0, 300)])
def test_a_flipped_byte_in_a_tile_never_becomes_a_proof(
    tmp_path: Path, level: int, index: int, leaf: int
) -> None:
    store = Store(tmp_path / "log")
    store.grow(SIZE)
    place = level << 56 | index
    with sqlite3.connect(tmp_path / "log" / "log.db") as db:
        (data,) = db.execute("SELECT data FROM tile WHERE place=?", (place,)).fetchone()
        changed = bytes([data[0] ^ 1]) + data[1:]
        db.execute("UPDATE tile SET data=? WHERE place=?", (changed, place))
    reading, head = Reading(store.writer, Tree(store.writer)), store.writer.head()
    assert head is not None
    with pytest.raises(DamagedError):
        reading.inclusion_proof(leaf, SIZE, head)
    with pytest.raises(DamagedError):
        reading.consistency_proof(leaf, SIZE, head)
    store.close()


def test_a_changed_entry_is_damage_wherever_it_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "log")
    store.grow(40)
    changed = Entry(Entry.decode(entry_of(store, 7)).kind, b"forged", "spiffe://a/b", 1).encode()
    with sqlite3.connect(tmp_path / "log" / "log.db") as db:
        db.execute("UPDATE entry SET data=? WHERE leaf_index=7", (changed,))
    reading, head = Reading(store.writer, Tree(store.writer)), store.writer.head()
    assert head is not None
    assert len(reading.entries(8, 30, head)) == 30
    for read in (
        lambda: reading.entry(7, head),
        lambda: reading.entries(0, 10, head),
        lambda: reading.bundle(0, 40, head),
    ):
        with pytest.raises(DamagedError):
            read()
    store.close()


def test_tiles_and_bundles_are_those_of_the_published_tree(
    store: Store, leaf_hashes: list[bytes]
) -> None:
    reading, head = Reading(store.writer, Tree(store.writer)), store.writer.head()
    assert head is not None
    for index, width in ((0, 256), (1, 17), (2, SIZE - 512)):
        tile = reading.tile(HashTile(0, index, width), head)
        assert tile == b"".join(leaf_hashes[256 * index : 256 * index + width])
        verify_bundle(reading.bundle(index, width, head), tile, width)
    assert reading.tile(HashTile(1, 0, 2), head) == root(leaf_hashes[:256]) + root(
        leaf_hashes[256:512]
    )
    for level, index, width in ((0, 2, SIZE - 511), (1, 0, 3), (2, 0, 1)):
        with pytest.raises(TileUnknownError):
            reading.tile(HashTile(level, index, width), head)
    with pytest.raises(TileUnknownError):
        reading.bundle(2, SIZE - 511, head)


def test_readers_do_not_see_beyond_the_published_head(tmp_path: Path) -> None:
    store = Store(tmp_path / "log")
    head = store.grow(10)
    store.grow(20)
    reading = Reading(store.writer, Tree(store.writer))
    assert len(reading.entries(0, 100, head)) == 10
    assert reading.entries(10, 1, head) == []
    with pytest.raises(EntryUnknownError):
        reading.entry(10, head)
    with pytest.raises(EntryUnknownError):
        reading.inclusion_proof(10, 11, head)
    store.close()


def entry_of(store: Store, leaf_index: int) -> bytes:
    (stored,) = store.writer.entries(leaf_index, 1, max_bytes=1 << 20)
    return stored.data
