"""Blobs as files named by their SHA-256 (spec/log.md, "Blobs").

    blobs/3f/3f9a...e1     the bytes, nothing else
    incoming/<random>      uploads that are not finished; emptied at start

An upload is written to `incoming`, synced, renamed to its name, and the directory of the name
synced, before anybody is told. A file under its name is therefore whole, except after damage, which
every read looks for: the digest is checked before the first byte leaves. A damaged blob counts as
not held, so that whoever has it can put it again, which mends it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from otr_commitment.locks import sync_directory
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import (
    RETRY_FULL_MS,
    BlobDigestError,
    BlobSizeError,
    BlobUnknownError,
    DamagedError,
    StorageFullError,
)
from otr_protocol.digest import DIGEST_BYTES

REMEMBERED_BLOBS: Final = 1 << 16
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BlobDirectory:
    """A directory of blobs. Any thread may call.

    `max_total_bytes` bounds the sum of all blobs, `min_free_bytes` what is left on the file system:
    blobs stop first, so that the log beside them can still commit.
    """

    def __init__(
        self,
        directory: Path,
        metrics: LogMetrics,
        *,
        max_total_bytes: int | None = None,
        min_free_bytes: int = 0,
        remembered: int = REMEMBERED_BLOBS,
        sync: Callable[[Path], None] = sync_directory,
    ) -> None:
        self._blobs = directory / "blobs"
        self._shelves = str(self._blobs)
        self._incoming = directory / "incoming"
        self._metrics = metrics
        self._max_total_bytes = max_total_bytes
        self._min_free_bytes = min_free_bytes
        self._remembered = remembered
        self._sync = sync
        self._lock = threading.Lock()
        self._damaged: set[bytes] = set()
        # A statement's blob was mostly put a moment before: no look at the disk for each. A dict,
        # so that the oldest can be forgotten first.
        self._found: dict[bytes, None] = {}
        self._incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()
        self._total_bytes = 0  # promised to running uploads as well
        for first in range(256):
            shelf = self._blobs / f"{first:02x}"
            shelf.mkdir(parents=True, exist_ok=True)
            with os.scandir(shelf) as files:
                self._total_bytes += sum(each.stat().st_size for each in files)
        sync_directory(self._blobs)
        sync_directory(directory)

    @property
    def total_bytes(self) -> int:
        """The bytes of all blobs, running uploads included."""
        return self._total_bytes

    def begin(self, digest: bytes, size_bytes: int) -> FileUpload:
        """Start an upload, its space reserved. Raises StorageFullError."""
        with self._lock:
            limit = self._max_total_bytes
            if limit is not None and self._total_bytes + size_bytes > limit:
                raise _full("the quota for blobs is used up")
            status = os.statvfs(self._incoming)
            if status.f_bavail * status.f_frsize - size_bytes < self._min_free_bytes:
                raise _full("the disk for blobs is nearly full")
            self._total_bytes += size_bytes
        try:
            return FileUpload(self, self._incoming / secrets.token_hex(16), digest, size_bytes)
        except OSError as error:
            self.release(size_bytes)
            raise _full_or_own(error) from error

    def held(self, digest: bytes) -> bool:
        """Whether the blob is stored and not known to be damaged, as far as this process knows."""
        return digest in self._found or self.present(digest)

    def present(self, digest: bytes) -> bool:
        """Whether the blob is stored and not known to be damaged, by looking."""
        found = digest not in self._damaged and os.path.isfile(self.path_of(digest))
        if found:
            self._remember(digest)
        else:
            with self._lock:
                self._found.pop(digest, None)
        return found

    def open(self, digest: bytes) -> FileDownload:
        """Verify and open a blob. Raises BlobUnknownError or DamagedError."""
        try:
            file = open(self.path_of(digest), "rb")  # noqa: SIM115 - the download closes it
        except FileNotFoundError:
            raise BlobUnknownError(f"no blob {digest.hex()} is held", field="digest") from None
        download = FileDownload(self, file, digest)
        try:
            download.verify()
        except BaseException:
            download.close()
            raise
        return download

    def read(self, digest: bytes, *, max_bytes: int) -> bytes | None:
        """A small blob whole and verified; None if it is not held or larger than `max_bytes`."""
        try:
            with open(self.path_of(digest), "rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        if len(data) > max_bytes:
            return None
        if hashlib.sha256(data).digest() != digest:
            raise self.damaged(digest)
        return data

    def path_of(self, digest: bytes) -> str:
        """Where a blob lies or would lie. `digest` has 32 bytes."""
        if len(digest) != DIGEST_BYTES:
            raise ValueError("a digest has 32 bytes")
        name = digest.hex()
        # A plain string: every append asks three times, and a Path costs more than the disk does.
        return f"{self._shelves}/{name[:2]}/{name}"

    def damaged(self, digest: bytes) -> DamagedError:
        """Note that a blob is damaged; returns what to raise."""
        with self._lock:
            if digest not in self._damaged:
                self._damaged.add(digest)
                self._found.pop(digest, None)
                self._metrics.damaged_blobs.inc()
        return DamagedError(f"blob {digest.hex()} is damaged: put it again", field="digest")

    def keep(self, incoming: Path, digest: bytes, size_bytes: int) -> bool:
        """Move a verified file to its name, with its space; says whether the blob was held before.

        From here on the space is the blob's. It is durable, and known as held, after `settle`.
        """
        path = Path(self.path_of(digest))
        existed = _is_good(path, digest)
        if existed:
            incoming.unlink()
            self.release(size_bytes)
        else:
            with self._lock:
                replaced = path.stat().st_size if path.exists() else 0
                incoming.replace(path)
                self._damaged.discard(digest)
                self._total_bytes -= replaced
        return existed

    def settle(self, digest: bytes) -> None:
        """Make a kept blob durable, even if it existed: who put it may not have come here yet."""
        self._sync(Path(self.path_of(digest)).parent)
        self._remember(digest)

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._found[digest] = None
            if len(self._found) > self._remembered:
                del self._found[next(iter(self._found))]

    def release(self, size_bytes: int) -> None:
        """Give back space that an upload had reserved."""
        with self._lock:
            self._total_bytes -= size_bytes


class FileUpload:
    """A blob on its way into a directory."""

    def __init__(
        self, directory: BlobDirectory, path: Path, digest: bytes, size_bytes: int
    ) -> None:
        self._directory = directory
        self._path = path
        self._digest = digest
        self._size_bytes = size_bytes
        self._written = 0
        self._hash = hashlib.sha256()
        self._file: FileIO | None = path.open("xb", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Take a chunk. Raises BlobSizeError or StorageFullError."""
        self._written += len(chunk)
        if self._written > self._size_bytes:
            raise BlobSizeError(
                f"more bytes than the announced {self._size_bytes}", field="size_bytes"
            )
        self._hash.update(chunk)
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._open_file().write(view) :]
        except OSError as error:
            raise _full_or_own(error) from error

    def finish(self) -> bool:
        """Keep the blob, durably; says whether it was held before."""
        if self._written != self._size_bytes:
            raise BlobSizeError(
                f"{self._written} bytes instead of {self._size_bytes}", field="size_bytes"
            )
        if self._hash.digest() != self._digest:
            raise BlobDigestError("the bytes have another digest", field="digest")
        file = self._open_file()
        try:
            os.fsync(file.fileno())
            file.close()
            existed = self._directory.keep(self._path, self._digest, self._size_bytes)
            self._file = None  # at once: whatever fails from now on, nothing is left to discard
            self._directory.settle(self._digest)
        except OSError as error:
            raise _full_or_own(error) from error
        return existed

    def discard(self) -> None:
        """Forget what was written; does nothing after `finish` or a second time."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)
            self._directory.release(self._size_bytes)

    def _open_file(self) -> FileIO:
        if self._file is None:
            raise ValueError("the upload has ended")
        return self._file


class FileDownload:
    """A blob on its way out: hashed once before the first byte, and again while it is read."""

    def __init__(self, directory: BlobDirectory, file: BufferedReader, digest: bytes) -> None:
        self._directory = directory
        self._file = file
        self._digest = digest
        self._hash = hashlib.sha256()

    def verify(self) -> None:
        """Read it all once. Raises DamagedError."""
        if hashlib.file_digest(self._file, "sha256").digest() != self._digest:
            raise self._directory.damaged(self._digest)
        self._file.seek(0)

    def read(self, max_bytes: int) -> bytes:
        """The next bytes, none at the end. Raises DamagedError if they changed meanwhile."""
        data = self._file.read(max_bytes)
        self._hash.update(data)
        if not data and self._hash.digest() != self._digest:
            raise self._directory.damaged(self._digest)
        return data

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _is_good(path: Path, digest: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == digest
    except FileNotFoundError:
        return False


def _full(message: str) -> StorageFullError:
    return StorageFullError(message, retry_after_ms=RETRY_FULL_MS)


def _full_or_own(error: OSError) -> Exception:
    """The refusal for a full disk, or the error itself, which is a bug or a broken disk."""
    return _full(f"no room for the blob: {error.strerror}") if error.errno in _FULL else error
