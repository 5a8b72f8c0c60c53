"""Blobs between a call's stream and the store: bounded, off the event loop, cleaned up after.

Disk work runs on threads in steps of about a mebibyte, so a small blob costs one step. A step is
never abandoned: if the call is cancelled meanwhile, its clean-up waits for the step to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

from otr_commitment.ports import Blobs, BlobSizeError, Download, Upload
from otr_protocol.errors import ExhaustedError, UnavailableError
from otr_server.shares import Shares, share_of

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


class DownloadTooSlowError(UnavailableError):
    """The download took longer than one may: the client did not read."""

    reason = "DOWNLOAD_TOO_SLOW"


class BlobTransfers:
    """Moves blobs for callers on the event loop. `share` is how many places one caller may hold."""

    def __init__(
        self,
        blobs: Blobs,
        threads: Executor,
        *,
        max_uploads: int,
        max_downloads: int,
        share: float,
        upload_seconds: float,
        download_seconds: float,
    ) -> None:
        self._blobs = blobs
        self._threads = threads
        self._uploads = _places(max_uploads, share)
        self._downloads = _places(max_downloads, share)
        self._upload_seconds = upload_seconds
        self._download_seconds = download_seconds

    async def store(
        self, caller: str, digest: bytes, size_bytes: int, chunks: AsyncIterator[bytes]
    ) -> bool:
        """Store a blob from its chunks, durably; says whether it was held before.

        Raises BlobSizeError, BlobDigestError, StorageFullError, TooManyTransfersError or
        UploadTooSlowError.
        """
        with self._uploads.taken(caller):
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

    async def load(
        self, caller: str, digest: bytes, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Hand the chunks of a blob to `write`, verified before the first one.

        Raises BlobUnknownError, DamagedError, TooManyTransfersError or DownloadTooSlowError.
        """
        with self._downloads.taken(caller):
            try:
                async with asyncio.timeout(self._download_seconds):
                    await self._send(digest, write)
            except TimeoutError:
                raise DownloadTooSlowError(
                    f"the download took longer than {self._download_seconds:g} s"
                ) from None

    async def held(self, digests: list[bytes]) -> list[bool]:
        """Which of the blobs are held."""
        return await self._on_thread(lambda: [self._blobs.present(each) for each in digests])

    async def _send(self, digest: bytes, write: Callable[[bytes], Awaitable[None]]) -> None:
        download: list[Download] = []
        try:
            await self._on_thread(lambda: download.append(self._blobs.open(digest)))
            while data := await self._on_thread(lambda: download[0].read(STEP_BYTES)):
                for start in range(0, len(data), CHUNK_BYTES):
                    await write(data[start : start + CHUNK_BYTES])
        finally:
            for each in download:
                each.close()

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


def _places(limit: int, share: float) -> Shares:
    return Shares(
        limit,
        share_of(limit, share),
        TooManyTransfersError,
        "blobs on their way",
        retry_ms=RETRY_MS,
    )
