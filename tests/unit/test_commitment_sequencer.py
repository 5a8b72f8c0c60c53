"""The sequencer gives every record one index, in commits that are all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_commitment import continuity
from otr_commitment.guard_file import GuardFile
from otr_commitment.ports import GuardConflictError, Mark, StorageFullError
from otr_commitment.sequencer import (
    MAX_POOL_ENTRIES,
    Committed,
    OutcomeUnknownError,
    Registered,
    StoppingError,
    Submission,
)
from otr_protocol.digest import H
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog.entry import Entry
from otr_protocol.tlog.tree import root
from support.log_service import SetClock
from support.log_store import KEY, SUBMITTER, Store, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "log")
    yield opened
    opened.close()


def registered(outcome: object) -> list[Registered]:
    assert isinstance(outcome, list)
    return outcome


@given(calls=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), max_size=12))
@settings(max_examples=40, deadline=None)
def test_each_record_has_one_index_however_often_it_is_offered(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[int]]
) -> None:
    store = Store(tmp_path_factory.mktemp("log"))
    index_of: dict[int, int] = {}
    for _ in range(2):  # the second time everything is a duplicate
        outcomes = store.append(*([record(n) for n in call] for call in calls))
        for call, outcome in zip(calls, outcomes, strict=True):
            for number, result in zip(call, registered(outcome), strict=True):
                assert result.duplicate == (number in index_of)
                assert index_of.setdefault(number, result.leaf_index) == result.leaf_index
    assert sorted(index_of.values()) == list(range(len(index_of)))
    head = store.writer.head()
    assert head is not None
    stored = store.writer.entries(0, len(index_of), max_bytes=1 << 20) if index_of else []
    hashes = [Entry.decode(each.data).leaf_hash() for each in stored]
    assert (head.tree_size, head.root_hash) == (len(index_of), root(hashes))
    assert checkpoints.open_checkpoint(head.note, [KEY.verifier]).checkpoint.root_hash == root(
        hashes
    )
    store.close()


def test_what_waits_together_is_one_commit(store: Store) -> None:
    store.append(*([record(n)] for n in range(100)))
    assert len(store.announced) == 1


def test_a_pool_ends_before_the_call_that_would_not_fit(store: Store) -> None:
    calls = [[record(100 * c + n) for n in range(100)] for c in range(3)]
    store.append(*calls)
    sizes = [sum(len(call.records) for call, _ in each.outcomes) for each in store.announced]
    assert sizes == [200, 100]
    assert max(sizes) <= MAX_POOL_ENTRIES


def test_log_time_never_runs_backwards(store: Store) -> None:
    assert isinstance(store.clock, SetClock)
    times = []
    for number, now in enumerate((1000, 5000, 2000, 4999, 5001)):
        store.clock.time_ms = now
        (outcome,) = store.append([record(number)])
        times.append(registered(outcome)[0].log_time_ms)
    assert times == [1000, 5000, 5000, 5000, 5001]


def test_a_duplicate_keeps_the_time_it_was_first_taken_at(store: Store) -> None:
    assert isinstance(store.clock, SetClock)
    store.append([record(1)])
    first = store.clock.time_ms
    store.clock.time_ms += 1000
    (outcome,) = store.append([record(1)])
    assert registered(outcome)[0].log_time_ms == first


def test_a_full_disk_refuses_the_pool_and_the_next_that_fits_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "log", max_bytes=200_000)
    number = 0
    while True:
        (outcome,) = store.append([record(n) for n in range(number, number + 200)])
        if isinstance(outcome, StorageFullError):
            break
        number += 200
    before = store.mark()
    assert before.tree_size == number > 0
    assert store.standing.good
    # What is in the log already needs no room.
    (again,) = store.append([record(0)])
    assert registered(again)[0].duplicate
    assert store.mark() == before
    store.close()
    # Room again: the same records, the same index as if nothing had happened.
    roomy = Store(tmp_path / "log")
    (outcome,) = roomy.append([record(number)])
    assert registered(outcome)[0].leaf_index == number
    roomy.close()


def test_a_guard_moved_by_somebody_else_ends_appending(store: Store) -> None:
    sequencer = store.sequencer()
    store.guard.swap(store.mark(), Mark(5, H(b"their tree")))
    sequencer.submit(Submission([record(1)], SUBMITTER, asyncio.new_event_loop().create_future()))
    sequencer.submit(Submission([record(2)], SUBMITTER, asyncio.new_event_loop().create_future()))
    sequencer.start()
    sequencer.stop()
    outcomes = [outcome for each in store.announced for _, outcome in each.outcomes]
    assert all(isinstance(outcome, OutcomeUnknownError) for outcome in outcomes)
    assert all(each.head is None for each in store.announced)
    with pytest.raises(GuardConflictError):
        store.standing.require_good()


def test_a_commit_that_was_never_published_is_published_by_the_next_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "log")
    store.append([record(n) for n in range(10)])
    store.guard.close()
    old_guard = (store.directory / "guard").read_bytes()
    store.guard = GuardFile(store.directory / "guard", H(b"log"))
    store.append([record(10)])
    newest = store.mark()
    store.close()
    # As if the process had died between the commit and the guard.
    (store.directory / "guard").write_bytes(old_guard)
    revived = Store(tmp_path / "log")
    head = revived.writer.head()
    assert head is not None
    continuity.check_guard(revived.writer, head, revived.guard)
    assert revived.guard.load() == newest
    (outcome,) = revived.append([record(10)])
    assert registered(outcome)[0].duplicate
    revived.close()


def test_nothing_is_announced_before_it_is_durable_and_guarded(store: Store) -> None:
    seen: list[tuple[Mark | None, int]] = []

    def look(committed: Committed) -> None:
        other = store.open_writer()
        head = other.head()
        assert head is not None
        seen.append((store.guard.load(), head.tree_size))
        other.close()
        assert committed.head is not None
        assert committed.head.tree_size == head.tree_size

    sequencer = store.sequencer(look)
    sequencer.submit(Submission([record(1)], SUBMITTER, asyncio.new_event_loop().create_future()))
    sequencer.start()
    sequencer.stop()
    assert seen == [(store.mark(), 1)]


def test_a_stopped_sequencer_has_committed_what_it_took_and_takes_no_more(store: Store) -> None:
    (outcome,) = store.append([record(n) for n in range(MAX_POOL_ENTRIES)])
    assert len(registered(outcome)) == MAX_POOL_ENTRIES
    sequencer = store.sequencer()
    sequencer.stop()
    with pytest.raises(StoppingError):
        sequencer.submit(
            Submission([record(0)], SUBMITTER, asyncio.new_event_loop().create_future())
        )
