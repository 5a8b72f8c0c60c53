"""A log at the other end of a real channel that keeps the protocol except where a test says not to.

Its receipts are genuine, made with the key of `log_of`. `tamper` changes them on their way out, and
`open_gate` holds appends back until it is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from otr.commitment.v1 import commitment_pb2 as pb
from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_log.peer import LogPeer
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_server.status import Context
from support.log_of import SmallLog

LOG_TIME_MS = 1_800_000_002_000


class ScriptedLog(rpc.CommitmentServiceServicer):
    """Holds every blob and takes every record."""

    def __init__(self) -> None:
        self.log = SmallLog()
        self.appends = 0
        self.tamper: Callable[[bytes], bytes] = lambda receipt: receipt
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def HasBlobs(self, request: pb.HasBlobsRequest, context: Context) -> pb.HasBlobsResponse:
        return pb.HasBlobsResponse(held=[True] * len(request.digests))

    async def AppendBatch(
        self, request: pb.AppendBatchRequest, context: Context
    ) -> pb.AppendBatchResponse:
        self.appends += 1
        await self.open_gate.wait()
        first = self.log.edge.tree_size
        for each in request.entries:
            kind = EntryKind(each.kind - 1)
            self.log.append(Entry(kind, each.record, "spiffe://otr/inference", LOG_TIME_MS))
        return pb.AppendBatchResponse(
            results=[
                pb.AppendEntryResponse(
                    leaf_index=index,
                    log_time_ms=LOG_TIME_MS,
                    receipt=self.tamper(self.log.receipt(index).encode()),
                )
                for index in range(first, self.log.edge.tree_size)
            ]
        )


@asynccontextmanager
async def scripted_log() -> AsyncIterator[tuple[ScriptedLog, LogPeer]]:
    """The log, serving on a loopback port, and a peer that is connected to it."""
    servicer = ScriptedLog()
    server = grpc.aio.server()
    rpc.add_CommitmentServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield servicer, LogPeer(channel)
    finally:
        await server.stop(None)
