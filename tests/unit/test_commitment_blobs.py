"""Blobs are what their digest says, durable before they are acknowledged, and bounded."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from otr_commitment.blobs_directory import BlobDirectory
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import (
    BlobDigestError,
    BlobSizeError,
    BlobUnknownError,
    DamagedError,
    StorageFullError,
)
from otr_protocol.digest import H


def directory(path: Path, **limits: int) -> BlobDirectory:
    return BlobDirectory(path, LogMetrics(CollectorRegistry()), **limits)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    return directory(tmp_path)


def put(blobs: BlobDirectory, data: bytes, *, step: int = 1 << 16) -> bool:
    upload = blobs.begin(H(data), len(data))
    try:
        for start in range(0, len(data), step):
            upload.write(data[start : start + step])
        return upload.finish()
    finally:
        upload.discard()


def get(blobs: BlobDirectory, digest: bytes, *, step: int = 1 << 16) -> bytes:
    download = blobs.open(digest)
    try:
        return b"".join(iter(lambda: download.read(step), b""))
    finally:
        download.close()


def incoming(path: Path) -> list[Path]:
    return list((path / "incoming").iterdir())


@given(data=st.binary(min_size=1, max_size=5000), step=st.integers(1, 6000))
@settings(max_examples=40, deadline=None)
def test_a_blob_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, step: int
) -> None:
    blobs = directory(tmp_path_factory.getbasetemp() / "shared")
    put(blobs, data, step=step)
    assert blobs.held(H(data))
    assert get(blobs, H(data), step=step) == data
    assert blobs.read(H(data), max_bytes=5000) == data


def test_the_second_put_says_that_it_existed_and_keeps_one_copy(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    assert not put(blobs, b"once")
    assert put(blobs, b"once")
    assert blobs.total_bytes == 4
    assert incoming(tmp_path) == []


def test_other_bytes_than_announced_are_not_kept(blobs: BlobDirectory, tmp_path: Path) -> None:
    upload = blobs.begin(H(b"right"), 5)
    upload.write(b"wrong")
    with pytest.raises(BlobDigestError):
        upload.finish()
    upload.discard()
    upload = blobs.begin(H(b"right"), 5)
    upload.write(b"righ")
    with pytest.raises(BlobSizeError):
        upload.finish()
    with pytest.raises(BlobSizeError):
        upload.write(b"t!")
    upload.discard()
    upload.discard()
    assert not blobs.held(H(b"right"))
    assert blobs.total_bytes == 0
    assert incoming(tmp_path) == []


def test_an_unknown_blob_is_unknown(blobs: BlobDirectory) -> None:
    assert not blobs.held(H(b"nothing"))
    assert blobs.read(H(b"nothing"), max_bytes=10) is None
    with pytest.raises(BlobUnknownError):
        blobs.open(H(b"nothing"))


@pytest.mark.parametrize("position", [0, 40_000, 99_999])
def test_a_flipped_byte_is_found_before_the_first_byte_is_read(
    blobs: BlobDirectory, position: int
) -> None:
    data = bytes(100_000)
    put(blobs, data)
    path = Path(blobs.path_of(H(data)))
    damaged = bytearray(data)
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedError):
        blobs.open(H(data))
    with pytest.raises(DamagedError):
        blobs.read(H(data), max_bytes=1 << 20)
    # Known to be damaged, it counts as not held; whoever has it can put it again.
    assert not blobs.held(H(data))
    assert not put(blobs, data)
    assert blobs.held(H(data))
    assert get(blobs, H(data)) == data
    assert blobs.total_bytes == len(data)


def test_a_blob_that_changes_while_it_is_read_is_never_read_to_its_end(
    blobs: BlobDirectory,
) -> None:
    data = bytes(100_000)
    put(blobs, data)
    download = blobs.open(H(data))
    download.read(10_000)
    with Path(blobs.path_of(H(data))).open("r+b") as file:
        file.seek(90_000)
        file.write(b"changed")
    with pytest.raises(DamagedError):
        b"".join(iter(lambda: download.read(10_000), b""))
    download.close()


def test_the_quota_counts_blobs_and_running_uploads(tmp_path: Path) -> None:
    blobs = directory(tmp_path, max_total_bytes=10)
    put(blobs, b"12345")
    running = blobs.begin(H(b"6789"), 4)
    with pytest.raises(StorageFullError) as caught:
        blobs.begin(H(b"ab"), 2)
    assert caught.value.retry_after_ms is not None
    running.discard()
    assert not put(blobs, b"abcde")
    assert blobs.total_bytes == 10
    # A restart counts what is there.
    assert directory(tmp_path, max_total_bytes=10).total_bytes == 10


def test_blobs_leave_room_for_the_log(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    blobs = directory(tmp_path, min_free_bytes=status.f_blocks * status.f_frsize)
    with pytest.raises(StorageFullError):
        put(blobs, b"any")


def test_a_disk_that_is_full_in_mid_upload_keeps_nothing_of_it(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    put(blobs, b"kept")
    data = bytes(50_000)
    with no_file_longer_than(20_000), pytest.raises(StorageFullError):
        put(blobs, data, step=10_000)
    assert incoming(tmp_path) == []
    assert blobs.total_bytes == 4
    assert get(blobs, H(b"kept")) == b"kept"
    assert not put(blobs, data)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses longer files (EFBIG), as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_uploads_that_a_crash_left_behind_are_gone_after_a_start(tmp_path: Path) -> None:
    blobs = directory(tmp_path)
    blobs.begin(H(b"unfinished"), 10).write(b"unfin")
    assert len(incoming(tmp_path)) == 1
    assert directory(tmp_path).total_bytes == 0
    assert incoming(tmp_path) == []


def test_a_blob_that_vanished_is_missed_by_whoever_looks(blobs: BlobDirectory) -> None:
    put(blobs, b"here")
    Path(blobs.path_of(H(b"here"))).unlink()
    assert not blobs.present(H(b"here"))
    assert not blobs.held(H(b"here"))
    assert not put(blobs, b"here")
    assert blobs.present(H(b"here"))


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    blobs = directory(tmp_path, remembered=3)
    for number in range(10):
        put(blobs, bytes([number]))
    assert len(blobs._found) == 3
    assert all(blobs.held(H(bytes([number]))) for number in range(10))


@pytest.mark.parametrize("held", [False, True])
def test_space_is_counted_right_when_the_disk_fails_after_the_move(
    tmp_path: Path, held: bool
) -> None:
    def failing(_: Path) -> None:
        raise OSError(errno.EIO, "the disk does not sync")

    if held:
        put(directory(tmp_path), b"data")
    blobs = directory(tmp_path, sync=failing)
    with pytest.raises(OSError, match="does not sync"):
        put(blobs, b"data")
    assert Path(blobs.path_of(H(b"data"))).read_bytes() == b"data"
    assert blobs.total_bytes == len(b"data")
