"""Blobs between a call's stream and the store: bounded, off the event loop, cleaned up after.

Disk work runs on threads in steps of about a mebibyte, so a small blob costs one step. A step is
never abandoned: if the call is cancelled meanwhile, its clean-up waits for the step to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Final, TypeVar

from otr_commitment.ports import Blobs, BlobSizeError, Download, Upload
from otr_protocol.errors import ExhaustedError, UnavailableError

STEP_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 256 << 10
RETRY_MS: Final = 500

_Result = TypeVar("_Result")


class TooManyTransfersError(ExhaustedError):
    """As many blobs as may are on their way at once."""

    reason = "TOO_MANY_TRANSFERS"


class UploadTooSlowError(UnavailableError):
    """The upload took longer than one may."""

    reason = "UPLOAD_TOO_SLOW"


class BlobTransfers:
    """Moves blobs for callers on the event loop."""

    def __init__(
        self,
        blobs: Blobs,
        threads: Executor,
        *,
        max_uploads: int,
        max_downloads: int,
        upload_seconds: float,
    ) -> None:
        self._blobs = blobs
        self._threads = threads
        self._uploads = _Slots(max_uploads)
        self._downloads = _Slots(max_downloads)
        self._upload_seconds = upload_seconds

    async def store(self, digest: bytes, size_bytes: int, chunks: AsyncIterator[bytes]) -> bool:
        """Store a blob from its chunks, durably; says whether it was held before.

        Raises BlobSizeError, BlobDigestError, StorageFullError, TooManyTransfersError or
        UploadTooSlowError.
        """
        with self._uploads.taken():
            steps = _UploadSteps(self._blobs, digest, size_bytes)
            try:
                async with asyncio.timeout(self._upload_seconds):
                    await self._receive(steps, size_bytes, chunks)
                return await self._on_thread(steps.finish)
            except TimeoutError:
                raise UploadTooSlowError(
                    f"the upload took longer than {self._upload_seconds:g} s"
                ) from None
            finally:
                await self._on_thread(steps.discard)

    async def load(self, digest: bytes) -> AsyncIterator[bytes]:
        """The chunks of a blob, verified before the first one.

        Raises BlobUnknownError, DamagedError or TooManyTransfersError.
        """
        with self._downloads.taken():
            download: list[Download] = []
            try:
                await self._on_thread(lambda: download.append(self._blobs.open(digest)))
                while data := await self._on_thread(lambda: download[0].read(STEP_BYTES)):
                    for start in range(0, len(data), CHUNK_BYTES):
                        yield data[start : start + CHUNK_BYTES]
            finally:
                for each in download:
                    each.close()

    async def held(self, digests: list[bytes]) -> list[bool]:
        """Which of the blobs are held."""
        return await self._on_thread(lambda: [self._blobs.present(each) for each in digests])

    async def _receive(
        self, steps: _UploadSteps, size_bytes: int, chunks: AsyncIterator[bytes]
    ) -> None:
        received = waiting = 0
        async for chunk in chunks:
            received += len(chunk)
            if received > size_bytes:
                raise BlobSizeError(
                    f"more bytes than the announced {size_bytes}", field="size_bytes"
                )
            steps.waiting.append(chunk)
            waiting += len(chunk)
            if waiting >= STEP_BYTES:
                await self._on_thread(steps.write)
                waiting = 0

    async def _on_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` to its end on a thread, whatever happens to the caller."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise


class _UploadSteps:
    """The disk work of one upload; each method runs on a thread, one at a time."""

    def __init__(self, blobs: Blobs, digest: bytes, size_bytes: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size_bytes = size_bytes
        self._upload: Upload | None = None
        self.waiting: list[bytes] = []

    def write(self) -> None:
        if self._upload is None:
            self._upload = self._blobs.begin(self._digest, self._size_bytes)
        waiting, self.waiting = self.waiting, []
        self._upload.write(b"".join(waiting))

    def finish(self) -> bool:
        self.write()
        assert self._upload is not None
        return self._upload.finish()

    def discard(self) -> None:
        if self._upload is not None:
            self._upload.discard()


class _Slots:
    """A bound that refuses instead of queueing."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self._left < 1:
            raise TooManyTransfersError("too many blobs are on their way", retry_after_ms=RETRY_MS)
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1
