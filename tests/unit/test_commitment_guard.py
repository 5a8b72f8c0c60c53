"""The guard remembers the last published tree through crashes, and obeys one writer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_commitment.guard_file import (
    SLOT_BYTES,
    GuardFile,
    GuardForeignError,
    GuardUnreadableError,
)
from otr_commitment.locks import AlreadyRunningError
from otr_commitment.ports import GuardConflictError, Mark
from otr_protocol.digest import H

LOG_ID = H(b"this log")
FIRST = Mark(1, H(b"root of 1"))
SECOND = Mark(7, H(b"root of 7"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard"


@pytest.fixture
def guard(path: Path) -> Iterator[GuardFile]:
    held = GuardFile(path, LOG_ID)
    yield held
    held.close()


def reopened(path: Path, log_id: bytes = LOG_ID) -> Mark | None:
    held = GuardFile(path, log_id)
    try:
        return held.load()
    finally:
        held.close()


def test_a_new_guard_has_no_mark(guard: GuardFile) -> None:
    assert guard.load() is None


def test_the_newest_mark_is_found_again(guard: GuardFile, path: Path) -> None:
    marks = [None, FIRST, SECOND, Mark(8, H(b"8")), Mark(300, H(b"300"))]
    for expected, new in pairwise(marks):
        assert new is not None
        guard.swap(expected, new)
    guard.close()
    assert reopened(path) == marks[-1]


def test_a_swap_from_another_mark_is_a_conflict_and_changes_nothing(guard: GuardFile) -> None:
    guard.swap(None, FIRST)
    for expected in (None, SECOND, Mark(1, H(b"other root"))):
        with pytest.raises(GuardConflictError):
            guard.swap(expected, SECOND)
    assert guard.load() == FIRST


def test_one_process_holds_a_guard(guard: GuardFile, path: Path) -> None:
    with pytest.raises(AlreadyRunningError):
        GuardFile(path, LOG_ID)


def test_a_guard_of_another_log_is_refused(guard: GuardFile, path: Path) -> None:
    guard.swap(None, FIRST)
    guard.close()
    with pytest.raises(GuardForeignError):
        reopened(path, H(b"another log"))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_torn_write_leaves_the_mark_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "guard"
    guard = GuardFile(path, LOG_ID)
    guard.swap(None, FIRST)
    before = path.read_bytes().ljust(2 * SLOT_BYTES, b"\0")
    guard.swap(FIRST, SECOND)
    guard.close()
    after = path.read_bytes()
    # A torn write: some bytes of the new slot reached the disk, the rest are as before.
    start = data.draw(st.integers(0, 200))
    end = data.draw(st.integers(start, 2 * SLOT_BYTES))
    path.write_bytes(after[:start] + before[start:end] + after[end:])
    assert reopened(path) in (FIRST, SECOND)


def test_a_guard_that_was_overwritten_is_unreadable_rather_than_new(
    guard: GuardFile, path: Path
) -> None:
    guard.swap(None, FIRST)
    guard.close()
    path.write_bytes(b"\x01" * 2 * SLOT_BYTES)
    with pytest.raises(GuardUnreadableError):
        reopened(path)


def test_a_start_that_died_before_its_first_mark_is_a_new_guard(path: Path) -> None:
    path.write_bytes(bytes(SLOT_BYTES))
    assert reopened(path) is None
