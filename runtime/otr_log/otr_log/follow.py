"""Tailing the log from a durable cursor, verified.

A consumer keeps a `Cursor`: the frontier of the tree over every entry it has applied. Each batch is
hashed into that frontier and must lead to the root of a checkpoint signed by the pinned log key,
directly or through a consistency proof, before anything is applied. A log that shows one consumer
other entries than another therefore has to sign two trees, which is evidence against it.

Delivery is at least once: the consumer stores the cursor in the same transaction as its effects,
and starts again from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
import structlog

from otr.commitment.v1 import commitment_pb2 as pb
from otr_log.peer import CALL_SECONDS, LogPeer, LogUnavailableError, unavailable
from otr_protocol.errors import RejectedError
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import consistency
from otr_protocol.tlog.checkpoint import Checkpoint
from otr_protocol.tlog.entry import Entry
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.tree import Frontier, leaf_hash
from otr_server.backoff import Backoff

log = structlog.get_logger(__name__)

CHECKPOINT_WAIT_MS = 10_000
MAX_BACKOFF_SECONDS = 5.0


class LogDivergedError(RejectedError):
    """The log's entries do not lead to the root it signed: do not go on."""

    reason = "LOG_DIVERGED"


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entry with its index."""

    leaf_index: int
    entry: Entry


Apply = Callable[[Sequence[Numbered], Frontier], Awaitable[None]]
"""Applies entries and stores the frontier after them, in one transaction."""


async def follow(
    peer: LogPeer,
    log_key: VerifierKey,
    cursor: Frontier,
    apply: Apply,
    on_connected: Callable[[bool], None],
) -> None:
    """Apply every entry from `cursor` on, for ever; reconnects when the log goes away.

    `on_connected` hears True with every message of the log, and False when the stream of them ends
    for whatever reason: a log that drains ends it without an error. Raises LogDivergedError, which
    no retry can mend.
    """
    backoff = Backoff(maximum_seconds=MAX_BACKOFF_SECONDS)
    while True:
        try:
            async for batch, frontier in _verified(peer, log_key, cursor):
                await apply(batch, frontier)
                cursor = frontier
                backoff.reset()
                on_connected(True)
            log.info("log_stream_ended", next_index=cursor.tree_size)
        except LogUnavailableError as error:
            log.warning("log_stream_lost", error=error.message, next_index=cursor.tree_size)
        finally:
            on_connected(False)
        await asyncio.sleep(backoff.next_seconds())


async def _verified(
    peer: LogPeer, log_key: VerifierKey, cursor: Frontier
) -> AsyncIterator[tuple[list[Numbered], Frontier]]:
    try:
        stream = peer.stub.WatchEntries(pb.WatchEntriesRequest(from_index=cursor.tree_size))
        async for message in stream:
            batch = [_numbered(each) for each in message.entries]
            expected = range(cursor.tree_size, cursor.tree_size + len(batch))
            if [each.leaf_index for each in batch] != list(expected):
                raise LogDivergedError(f"entries are missing at {cursor.tree_size}")
            frontier = cursor.extend(leaf_hash(each.entry) for each in message.entries)
            if batch:
                await _check_root(peer, log_key, frontier)
            yield batch, frontier
            cursor = frontier
    except grpc.aio.AioRpcError as error:
        raise unavailable(error) from error


async def _check_root(peer: LogPeer, log_key: VerifierKey, frontier: Frontier) -> Checkpoint:
    """The signed checkpoint that covers `frontier`, or LogDivergedError."""
    answer = await peer.stub.GetCheckpoint(
        pb.GetCheckpointRequest(min_size=frontier.tree_size, wait_ms=CHECKPOINT_WAIT_MS),
        timeout=CALL_SECONDS,
    )
    signed = checkpoints.open_checkpoint(answer.checkpoint, [log_key]).checkpoint
    if signed.tree_size < frontier.tree_size:
        raise LogUnavailableError("the log's checkpoint does not cover its entries yet")
    if signed.tree_size == frontier.tree_size:
        if signed.root_hash != frontier.root():
            raise LogDivergedError(f"the log signed another tree of {signed.tree_size} entries")
        return signed
    proof = await peer.stub.GetConsistencyProof(
        pb.GetConsistencyProofRequest(old_size=frontier.tree_size, new_size=signed.tree_size),
        timeout=CALL_SECONDS,
    )
    consistency.verify(
        frontier.tree_size,
        signed.tree_size,
        frontier.root(),
        signed.root_hash,
        list(proof.consistency_proof),
    )
    return signed


def _numbered(message: pb.LogEntry) -> Numbered:
    return Numbered(message.leaf_index, Entry.decode(message.entry))
