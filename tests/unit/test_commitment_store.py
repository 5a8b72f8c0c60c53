"""The SQLite store: all or nothing, one history, honest about being full."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from otr_commitment.lookup import By, Key, find
from otr_commitment.ports import DamagedError, Head, NewEntry, Pool, StorageFullError
from otr_commitment.store_sqlite import (
    IdentityChangedError,
    SchemaError,
    SqliteReader,
    SqliteWriter,
)
from otr_protocol.digest import H
from otr_protocol.tlog.entry import Entry, EntryKind, idempotency_key
from otr_protocol.tlog.tiles import HashTile
from support.log_store import KEY, Store, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "log")
    yield opened
    opened.close()


def new_entry(leaf_index: int, number: int, *, prefixes: tuple[int, ...] = ()) -> NewEntry:
    entry = Entry(EntryKind.CLOSE, b"record %d" % number, "spiffe://a/operator", 1)
    return NewEntry(leaf_index, entry.kind, entry.encode(), entry.leaf_hash(), prefixes)


def head_of(tree_size: int) -> Head:
    return Head(tree_size, H(b"root", bytes([tree_size])), "note", 1)


def test_two_entries_with_one_prefix_are_told_apart(store: Store) -> None:
    keys = [idempotency_key(EntryKind.CLOSE, b"record %d" % n) for n in range(3)]
    prefix = Key(By.IDEMPOTENCY_KEY, keys[1]).prefix
    pool = [new_entry(0, 0, prefixes=(prefix,)), new_entry(1, 1, prefixes=(prefix,))]
    store.writer.commit(Pool(tuple(pool), (), head_of(2)))
    found = find(store.writer, Key(By.IDEMPOTENCY_KEY, keys[1]))
    assert found is not None
    assert found.leaf_index == 1
    assert find(store.writer, Key(By.IDEMPOTENCY_KEY, keys[2])) is None


def test_a_commit_on_another_head_than_the_stored_one_leaves_nothing(store: Store) -> None:
    store.writer.commit(Pool((new_entry(0, 0),), (), head_of(1)))
    other = store.open_writer()
    other.commit(Pool((new_entry(1, 1),), (), head_of(2)))
    other.close()
    with pytest.raises(sqlite3.IntegrityError):
        store.writer.commit(Pool((new_entry(5, 9),), (), head_of(2)))
    assert store.writer.head() == head_of(2)
    assert len(store.writer.entries(0, 2, max_bytes=1 << 20)) == 2


def test_a_full_database_refuses_the_pool_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    store = Store(tmp_path / "log", max_bytes=160_000)
    acknowledged = 0
    refusal: StorageFullError | None = None
    while refusal is None:
        pool = tuple(new_entry(acknowledged + n, acknowledged + n) for n in range(64))
        try:
            store.writer.commit(Pool(pool, (), head_of_size(acknowledged + 64)))
            acknowledged += 64
        except StorageFullError as error:
            refusal = error
    assert refusal.retry_after_ms is not None
    head = store.writer.head()
    assert head is not None
    assert head.tree_size == acknowledged > 0
    assert len(store.writer.entries(0, acknowledged, max_bytes=1 << 30)) == acknowledged
    with pytest.raises(DamagedError):
        store.writer.entries(acknowledged, 1, max_bytes=1)
    store.close()


def head_of_size(tree_size: int) -> Head:
    return Head(tree_size, H(b"root"), "note", 1)


def test_entries_are_bounded_by_bytes_but_never_empty(store: Store) -> None:
    pool = tuple(new_entry(n, n) for n in range(5))
    store.writer.commit(Pool(pool, (), head_of(5)))
    size = len(pool[0].data)
    assert [e.leaf_index for e in store.writer.entries(1, 4, max_bytes=2 * size)] == [1, 2]
    assert [e.leaf_index for e in store.writer.entries(3, 2, max_bytes=0)] == [3]


def test_a_missing_entry_or_tile_is_damage(store: Store, tmp_path: Path) -> None:
    store.grow(6)
    with sqlite3.connect(tmp_path / "log" / "log.db") as db:
        db.execute("DELETE FROM entry WHERE leaf_index=3")
        db.execute("DELETE FROM tile")
    with pytest.raises(DamagedError):
        store.writer.entries(2, 3, max_bytes=1 << 20)
    with pytest.raises(DamagedError):
        store.writer.read_tile(HashTile(0, 0, 6))


def test_a_reader_sees_whole_commits(store: Store, tmp_path: Path) -> None:
    reader = SqliteReader(tmp_path / "log" / "log.db")
    store.append([record(n) for n in range(200)])
    assert len(reader.entries(0, 200, max_bytes=1 << 20)) == 200
    reader.close()


@pytest.mark.parametrize(
    ("origin", "vkey"), [("log.test/other", str(KEY.verifier)), (KEY.name, "another key")]
)
def test_a_database_of_another_log_is_refused(store: Store, origin: str, vkey: str) -> None:
    with pytest.raises(IdentityChangedError):
        SqliteWriter(store.directory / "log.db", origin=origin, vkey=vkey)


def test_a_database_that_is_no_log_or_of_another_version_is_refused(tmp_path: Path) -> None:
    for name, statement in (("a", "CREATE TABLE t (x)"), ("b", "PRAGMA user_version=99")):
        with sqlite3.connect(tmp_path / name) as db:
            db.execute(statement)
        with pytest.raises(SchemaError):
            SqliteWriter(tmp_path / name, origin=KEY.name, vkey=str(KEY.verifier))
