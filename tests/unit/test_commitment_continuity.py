"""A log goes on from the state that it published, or not at all."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from otr_commitment import continuity
from otr_commitment.guard_file import GuardFile
from otr_commitment.ports import Head, Mark
from otr_protocol.digest import H
from otr_protocol.tlog.note import SignerKey
from support.log_store import KEY, Store, record

SIZE = 300


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "log")
    opened.grow(SIZE)
    yield opened
    opened.close()


def head_of(store: Store) -> Head:
    head = store.writer.head()
    assert head is not None
    return head


def damage(store: Store, statement: str, *values: object) -> None:
    with sqlite3.connect(store.directory / "log.db") as db:
        db.execute(statement, values)


def check(store: Store) -> None:
    head = head_of(store)
    continuity.check_stored(store.writer, head, KEY.verifier)
    continuity.check_tiles(store.writer, head.tree_size)
    continuity.check_guard(store.writer, head, store.guard)


@pytest.mark.parametrize("tree_size", [0, 1, 255, 256, 257, 513])
def test_an_honest_log_goes_on(tmp_path: Path, tree_size: int) -> None:
    store = Store(tmp_path / "log")
    store.grow(tree_size)
    check(store)
    assert store.guard.load() == store.mark()
    store.close()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE tile SET data=zeroblob(8192) WHERE place=0", ()),
        ("UPDATE tile SET data=zeroblob(length(data)) WHERE place=1", ()),
        ("DELETE FROM tile WHERE place=0", ()),
        ("DELETE FROM tile WHERE place=1", ()),
        ("UPDATE tile SET data=substr(data, 1, 31) WHERE place=1", ()),
        ("DELETE FROM entry WHERE leaf_index=299", ()),
        ("UPDATE entry SET data=x'00' WHERE leaf_index=280", ()),
        ("UPDATE head SET tree_size=299", ()),
        ("UPDATE head SET root_hash=?", (H(b"another root"),)),
        ("UPDATE head SET note='no note'", ()),
    ],
)
def test_stored_data_that_do_not_lead_to_the_signed_root_are_a_mismatch(
    store: Store, statement: str, values: tuple[object, ...]
) -> None:
    damage(store, statement, *values)
    with pytest.raises(continuity.TreeMismatchError):
        check(store)


def test_a_checkpoint_by_another_key_is_a_mismatch(store: Store) -> None:
    other = SignerKey(KEY.name, b"\x08" * 32)
    with pytest.raises(continuity.TreeMismatchError):
        continuity.check_stored(store.writer, head_of(store), other.verifier)


def test_an_old_copy_of_the_data_is_refused(store: Store, tmp_path: Path) -> None:
    store.writer.close()
    shutil.copy(store.directory / "log.db", tmp_path / "old.db")
    store.writer = store.open_writer()
    store.append([record(SIZE)])
    store.writer.close()
    shutil.copy(tmp_path / "old.db", store.directory / "log.db")
    store.writer = store.open_writer()
    with pytest.raises(continuity.RolledBackError):
        check(store)


def test_another_continuation_is_a_fork_at_any_size(store: Store, tmp_path: Path) -> None:
    store.writer.close()
    shutil.copy(store.directory / "log.db", tmp_path / "old.db")
    store.writer = store.open_writer()
    store.append([record(SIZE)])
    published = store.mark()
    store.close()
    # The old copy, guarded by nobody, goes on in another way; then the true guard comes back.
    for more in (1, 5):
        fork = tmp_path / f"fork {more}"
        fork.mkdir()
        shutil.copy(tmp_path / "old.db", fork / "log.db")
        forked = Store(fork)
        for number in range(more):
            forked.append([record(10_000 + number)])
        forked.guard.close()
        shutil.copy(store.directory / "guard", fork / "guard")
        forked.guard = GuardFile(fork / "guard", H(b"log"))
        assert forked.guard.load() == published
        with pytest.raises(continuity.ForkedError):
            check(forked)
        forked.close()
    store.writer = store.open_writer()
    store.guard = GuardFile(store.directory / "guard", H(b"log"))


def test_data_without_a_guard_need_an_operators_word(store: Store) -> None:
    store.guard.close()
    (store.directory / "guard").unlink()
    store.guard = GuardFile(store.directory / "guard", H(b"log"))
    with pytest.raises(continuity.GuardMissingError):
        check(store)
    continuity.check_guard(store.writer, head_of(store), store.guard, adopt=True)
    assert store.guard.load() == store.mark()


def test_a_lost_database_is_not_mistaken_for_a_new_log(store: Store, tmp_path: Path) -> None:
    store.close()
    (store.directory / "log.db").unlink()
    emptied = Store(store.directory)
    with pytest.raises(continuity.RolledBackError):
        check(emptied)
    emptied.close()
    store.writer = store.open_writer()
    store.guard = GuardFile(store.directory / "guard", H(b"log"))


def test_adopting_a_guard_does_not_hide_a_fork(store: Store) -> None:
    store.guard.swap(store.mark(), Mark(SIZE, H(b"another root")))
    with pytest.raises(continuity.ForkedError):
        continuity.check_guard(store.writer, head_of(store), store.guard, adopt=True)


def test_a_long_check_ends_when_the_process_stops(store: Store) -> None:
    damage(store, "UPDATE tile SET data=zeroblob(8192) WHERE place=0")
    continuity.check_tiles(store.writer, SIZE, stopping=lambda: True)
    with pytest.raises(continuity.TreeMismatchError):
        continuity.check_tiles(store.writer, SIZE)
