"""One writer per log: advisory locks that the kernel lets go of when their holder dies.

Two processes that append to one store would sign two trees of one size, which is equivocation. So
the writer holds a lock beside the data and another on the guard (which may be shared by a copy of
the data) for as long as it lives; `kill -9` releases both. `flock` is local to a machine or to a
file system that implements it: a network file system that does not must not hold a log.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from otr_protocol.errors import RejectedError


class AlreadyRunningError(RejectedError):
    """Another process writes this log."""

    reason = "LOG_ALREADY_RUNNING"


def lock_descriptor(descriptor: int, what: str) -> None:
    """Take an exclusive lock on an open file until it is closed. Raises AlreadyRunningError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunningError(f"another process holds {what}") from None


class FileLock:
    """An exclusive lock on a file of its own, held until `release`."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            lock_descriptor(self._descriptor, str(path))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go; does nothing the second time."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a new file is not, until its directory is synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
