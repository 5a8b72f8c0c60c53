"""One stack per directory: who holds the lock, and whether that stack has started.

A second stack would write another configuration under the running one and lose half-way, when the
log finds its database taken. The lock is the kernel's (flock), so a stack that was killed leaves
none behind; the file's text says how far its holder is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from enum import Enum, unique
from pathlib import Path
from typing import Final

from otr_protocol.errors import ConflictError

LOCK_FILE: Final = "stack.lock"
READY: Final = b"ready\n"
STARTING: Final = b"starting\n"
# Whoever asks for the state holds the lock for an instant: try again before calling it taken.
ATTEMPTS: Final = 5
PAUSE_SECONDS: Final = 0.05


class StackRunningError(ConflictError):
    """Another process runs a stack in this directory."""

    reason = "STACK_RUNNING"


@unique
class StackState(Enum):
    """What runs in a directory."""

    NONE = "none"
    STARTING = "starting"
    READY = "ready"


class StackLock:
    """The right to run a stack in a directory, until `release` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Take it. Raises StackRunningError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        for attempt in range(ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE_SECONDS)
        else:
            os.close(self._handle)
            raise StackRunningError(
                f"a stack runs in {directory}: stop it, or choose another --dir"
            )
        self._say(STARTING)

    def ready(self) -> None:
        """Let `stack_state` say that every service serves."""
        self._say(READY)

    def release(self) -> None:
        """Give the directory free."""
        os.close(self._handle)

    def _say(self, text: bytes) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text, 0)


def stack_state(directory: Path) -> StackState:
    """What runs in `directory` at this moment."""
    with _opened(directory / LOCK_FILE) as handle:
        if handle is None:
            return StackState.NONE
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(handle, len(STARTING), 0)
            return StackState.READY if said == READY else StackState.STARTING
        return StackState.NONE


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int | None]:
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)
