"""The log's blob store, as this service uses it."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from otr_log.peer import LogPeer
from otr_protocol.errors import UnavailableError


class LogBlobs:
    """`ports.Blobs` over a channel to the log."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._peer = LogPeer(channel)

    async def put_blobs(self, blobs: Sequence[tuple[bytes, bytes]]) -> None:
        """See `ports.Blobs`; raises LogUnavailableError."""
        await self._peer.put_blobs(blobs)

    async def get(self, digest: bytes, *, max_bytes: int) -> bytes | None:
        """See `ports.Blobs`; raises LogUnavailableError, BlobUnreadableError, BlobMismatchError."""
        try:
            return await self._peer.get_blob(digest, max_bytes=max_bytes)
        except UnavailableError as refusal:
            cause = refusal.__cause__
            if (
                isinstance(cause, grpc.aio.AioRpcError)
                and cause.code() is grpc.StatusCode.NOT_FOUND
            ):
                return None
            raise
