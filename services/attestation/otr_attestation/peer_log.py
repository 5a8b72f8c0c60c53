"""The log's blob store, as this service uses it.

The log hands each caller a bounded number of transfers at once; this process keeps below that by
itself, and waits for its turn where another of its kind has taken them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import grpc

from otr_log.peer import LogPeer, unavailable
from otr_protocol.errors import UnavailableError
from otr_server.channel import retry

TRANSFERS_AT_ONCE: Final = 4
ATTEMPTS: Final = 5
WAIT_SECONDS: Final = 5.0

Result = TypeVar("Result")


class LogBlobs:
    """`ports.Blobs` over a channel to the log."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._peer = LogPeer(channel)
        self._turn = asyncio.Semaphore(TRANSFERS_AT_ONCE)

    async def put_blobs(self, blobs: Sequence[tuple[bytes, bytes]]) -> None:
        """See `ports.Blobs`; raises LogUnavailableError."""
        await self._in_turn(lambda: self._peer.put_blobs(blobs))

    async def get(self, digest: bytes, *, max_bytes: int) -> bytes | None:
        """See `ports.Blobs`; raises LogUnavailableError, BlobUnreadableError, BlobMismatchError."""
        try:
            return await self._in_turn(lambda: self._peer.get_blob(digest, max_bytes=max_bytes))
        except UnavailableError as refusal:
            if _code(refusal) is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    async def _in_turn(self, transfer: Callable[[], Awaitable[Result]]) -> Result:
        async def once() -> Result:
            try:
                return await transfer()
            except UnavailableError as refusal:
                cause = refusal.__cause__
                # Only a log that says "later" is asked again: one that is away is told at once.
                if _code(refusal) is grpc.StatusCode.RESOURCE_EXHAUSTED and cause is not None:
                    raise cause from None
                raise

        async with self._turn:
            try:
                return await retry(once, attempts=ATTEMPTS, deadline_seconds=WAIT_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise unavailable(error) from error


def _code(refusal: UnavailableError) -> grpc.StatusCode | None:
    cause = refusal.__cause__
    return cause.code() if isinstance(cause, grpc.aio.AioRpcError) else None
