"""The guard: the last published tree, kept apart from the data (as Sunlight keeps its lock).

A log that starts on an old copy of its database would sign a second, different continuation of a
tree that others have already seen. The copy cannot know that it is old; this file does, because it
lies on another volume than the data and is moved by compare-and-swap after every commit and before
anything of that commit is told to anybody.

    two slots of 4,096 bytes, each   length (2 bytes) || record || SHA-256(record) || zeros
    record                           dCBOR ["otr-log-guard-v1", log_id, generation, tree_size,
                                     root_hash]

A swap writes the slot that is not in use and syncs it. A crash in between leaves the other slot,
and so the tree before: the commit that was not yet published is found in the data at the next
start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otr_commitment.locks import lock_descriptor, sync_directory
from otr_commitment.ports import GuardConflictError, Mark
from otr_protocol import dcbor
from otr_protocol.digest import DIGEST_BYTES, H
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.fields import as_bytes, as_integer, check_digest, check_range
from otr_protocol.tlog.tree import MAX_TREE_SIZE

DOMAIN: Final = "otr-log-guard-v1"
SLOT_BYTES: Final = 4096
_LENGTH_BYTES: Final = 2
_MAX_GENERATION: Final = 2**63 - 1


class GuardUnreadableError(RejectedError):
    """The guard's file holds no valid slot."""

    reason = "LOG_GUARD_UNREADABLE"


class GuardForeignError(RejectedError):
    """The guard belongs to another log."""

    reason = "LOG_GUARD_FOREIGN"


@dataclass(frozen=True, slots=True)
class _Slot:
    generation: int
    mark: Mark


class GuardFile:
    """A guard in a file, locked against other processes from `__init__` to `close`.

    `log_id` (32 bytes) says which log the guard belongs to. Raises AlreadyRunningError when another
    process holds it.
    """

    def __init__(self, path: Path, log_id: bytes) -> None:
        self._path = path
        self._log_id = log_id
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            lock_descriptor(self._descriptor, str(path))
            # An empty file is a guard that was never set; its name must survive a crash too.
            sync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def load(self) -> Mark | None:
        """The mark, or None if there has never been one.

        Raises GuardUnreadableError or GuardForeignError.
        """
        slot = self._newest()
        return None if slot is None else slot.mark

    def swap(self, expected: Mark | None, new: Mark) -> None:
        """Replace `expected` by `new`, durably; GuardConflictError if another mark is there."""
        slot = self._newest()
        found = None if slot is None else slot.mark
        if found != expected:
            size = "nothing" if found is None else f"a tree of {found.tree_size}"
            raise GuardConflictError(f"the guard holds {size}, put there by somebody else")
        generation = 0 if slot is None else slot.generation + 1
        data = self._encode(_Slot(generation, new))
        os.pwrite(self._descriptor, data, generation % 2 * SLOT_BYTES)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the file and its lock; does nothing the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _newest(self) -> _Slot | None:
        data = os.pread(self._descriptor, 2 * SLOT_BYTES, 0)
        if not data.strip(b"\0"):
            return None  # new, or cut off before the very first mark was synced
        slots = [self._decode(data[at : at + SLOT_BYTES]) for at in (0, SLOT_BYTES)]
        valid = [slot for slot in slots if slot is not None]
        if not valid:
            raise GuardUnreadableError(f"{self._path} holds no readable guard")
        return max(valid, key=lambda slot: slot.generation)

    def _encode(self, slot: _Slot) -> bytes:
        mark = slot.mark
        record = dcbor.encode(
            (DOMAIN, self._log_id, slot.generation, mark.tree_size, mark.root_hash)
        )
        data = len(record).to_bytes(_LENGTH_BYTES, "big") + record + H(record)
        return data.ljust(SLOT_BYTES, b"\0")

    def _decode(self, data: bytes) -> _Slot | None:
        """The slot, or None if it is empty or torn."""
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        record = data[_LENGTH_BYTES : _LENGTH_BYTES + length]
        digest = data[_LENGTH_BYTES + length : _LENGTH_BYTES + length + DIGEST_BYTES]
        return self._open(record) if length and H(record) == digest else None

    def _open(self, record: bytes) -> _Slot:
        try:
            log_id, generation, tree_size, root_hash = dcbor.open_record(
                record, DOMAIN, bytes, int, int, bytes, max_bytes=SLOT_BYTES
            )
            slot = _Slot(
                as_integer(generation, "generation"),
                Mark(as_integer(tree_size, "tree_size"), as_bytes(root_hash, "root_hash")),
            )
            check_range(slot.generation, 0, _MAX_GENERATION, "generation")
            check_range(slot.mark.tree_size, 0, MAX_TREE_SIZE, "tree_size")
            check_digest(slot.mark.root_hash, "root_hash")
        except MalformedError as error:
            raise GuardUnreadableError(f"{self._path} holds no readable guard") from error
        if log_id != self._log_id:
            raise GuardForeignError(f"{self._path} guards another log")
        return slot
