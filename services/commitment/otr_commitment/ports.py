"""What the log needs from the outside: a clock, a store, a guard and a place for blobs.

The sequencer, the proofs and the servicer know these protocols only; `main` chooses what is behind
them (`store_sqlite`, `guard_file`, `blobs_directory`). Everything here is synchronous: the writer
has a thread of its own, and readers run on a pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from otr_protocol.errors import ExhaustedError, MalformedError, Refusal, RejectedError, UnknownError
from otr_protocol.tlog.edge import WrittenTile
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.tiles import HashTile

RETRY_FULL_MS = 30_000


class StorageFullError(ExhaustedError):
    """The disk or its quota is full: nothing of this request was kept, all before it was."""

    reason = "STORAGE_FULL"


class DamagedError(Refusal):
    """What is stored is not what was written: DATA_LOSS, and somebody has to look."""

    reason = "DATA_DAMAGED"


class BlobUnknownError(UnknownError):
    """No blob with this digest is held."""

    reason = "BLOB_UNKNOWN"


class BlobSizeError(MalformedError):
    """The chunks are more or fewer bytes than the header announced."""

    reason = "BLOB_SIZE"


class BlobDigestError(RejectedError):
    """The bytes do not have the digest that the header announced."""

    reason = "BLOB_DIGEST"


class Clock(Protocol):
    """The log's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """The newest signed tree: what the store commits and the service publishes.

    `root_hash` has 32 bytes; `note` is the signed checkpoint; `log_time_ms` is that of the last
    entry, which no later one may precede (0 in an empty log).
    """

    tree_size: int
    root_hash: bytes
    note: str
    log_time_ms: int


@dataclass(frozen=True, slots=True)
class NewEntry:
    """One entry to write: its place, its bytes and their leaf hash, the prefixes to find it by."""

    leaf_index: int
    kind: EntryKind
    data: bytes
    leaf_hash: bytes
    prefixes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything that one commit writes, all or nothing."""

    entries: tuple[NewEntry, ...]
    tiles: tuple[WrittenTile, ...]
    head: Head


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry as it was read back."""

    leaf_index: int
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry that was written with a prefix, and so may be the one that is looked for."""

    prefix: int
    leaf_index: int


class Reader(Protocol):
    """Reads what is committed. Any thread may call; each call sees one consistent state."""

    def read_tile(self, tile: HashTile) -> bytes:
        """The stored bytes of the tile, as wide as they are; DamagedError if there are none."""
        ...

    def entries(self, first: int, count: int, *, max_bytes: int) -> list[StoredEntry]:
        """The `count` entries from index `first` on, which all exist, in order.

        Fewer only where the next one would exceed `max_bytes`, but never less than one. Raises
        DamagedError when an entry is missing.
        """
        ...

    def candidates(self, prefixes: Sequence[int]) -> list[Candidate]:
        """The entries that were written with any of these prefixes, lowest index first."""
        ...


class Writer(Reader, Protocol):
    """The one writer. Only the sequencer's thread calls it once the service runs."""

    def head(self) -> Head | None:
        """The committed head, or None in a store that has never had one."""
        ...

    def commit(self, pool: Pool) -> None:
        """Write a pool durably, in one transaction, on top of the head before it.

        Raises StorageFullError when the disk or quota is full: then nothing of it was kept and the
        writer may go on. Anything else leaves the outcome unknown.
        """
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """Size and root (32 bytes) of the last tree that was published."""

    tree_size: int
    root_hash: bytes


class Guard(Protocol):
    """Remembers the last published tree, apart from the data (a copy of which may be old)."""

    def load(self) -> Mark | None:
        """The mark, or None if there has never been one."""
        ...

    def swap(self, expected: Mark | None, new: Mark) -> None:
        """Durably replace `expected` by `new`; GuardConflictError if another mark is there."""
        ...


class GuardConflictError(RejectedError):
    """Somebody else has moved the guard: another process signs for this log."""

    reason = "LOG_GUARD_CONFLICT"


class Upload(Protocol):
    """A blob on its way in. Used by one call at a time; `discard` after `finish` does nothing."""

    def write(self, chunk: bytes) -> None:
        """Take a chunk. Raises BlobSizeError as soon as there are too many bytes."""
        ...

    def finish(self) -> bool:
        """Keep the blob, durably; says whether it was held before.

        Raises BlobSizeError or BlobDigestError, and StorageFullError.
        """
        ...

    def discard(self) -> None:
        """Forget what was written."""
        ...


class Download(Protocol):
    """A blob on its way out, verified before the first byte."""

    def read(self, max_bytes: int) -> bytes:
        """The next bytes, none at the end. Raises DamagedError if they changed meanwhile."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class Blobs(Protocol):
    """Content-addressed blobs. Any thread may call."""

    def begin(self, digest: bytes, size_bytes: int) -> Upload:
        """Start an upload. Raises StorageFullError."""
        ...

    def held(self, digest: bytes) -> bool:
        """Whether the blob is stored and not known to be damaged.

        May go by what this process has stored or found before.
        """
        ...

    def present(self, digest: bytes) -> bool:
        """The same, by looking."""
        ...

    def open(self, digest: bytes) -> Download:
        """Verify and open a blob. Raises BlobUnknownError or DamagedError."""
        ...

    def read(self, digest: bytes, *, max_bytes: int) -> bytes | None:
        """A small blob whole and verified; None if it is not held or larger than `max_bytes`.

        Raises DamagedError.
        """
        ...
