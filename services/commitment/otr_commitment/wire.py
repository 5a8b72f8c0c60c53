"""From the contract's messages to the protocol's values and back; limits at the edge.

The lengths and counts are those that `commitment.proto` documents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from otr.commitment.v1 import commitment_pb2 as pb
from otr_commitment.appending import Offered
from otr_commitment.lookup import By, Key
from otr_commitment.ports import StoredEntry
from otr_commitment.sequencer import MAX_POOL_ENTRIES, Registered
from otr_protocol.digest import DIGEST_BYTES
from otr_protocol.errors import MalformedError
from otr_protocol.tlog.entry import MAX_RECORD_BYTES, EntryKind
from otr_protocol.tlog.tiles import MAX_INDEX, TILE_WIDTH, HashTile
from otr_protocol.tlog.tree import MAX_TREE_SIZE
from otr_server import limits

MAX_WAIT_MS: Final = 60_000
MAX_RANGE_ENTRIES: Final = 1024
MAX_TILE_LEVEL: Final = 5
MAX_CHUNK_BYTES: Final = 256 << 10
MAX_BLOB_BYTES: Final = 64 << 20
MAX_DIGESTS: Final = 256
# 256 records of 16 KiB and what protobuf puts around them.
MAX_REQUEST_BYTES: Final = MAX_POOL_ENTRIES * (MAX_RECORD_BYTES + 64) + 4096

_KINDS: Final = {pb.EntryKind.ValueType(kind + 1): kind for kind in EntryKind}


class KindError(MalformedError):
    """Not a kind of entry."""

    reason = "ENTRY_KIND_UNKNOWN"


class HeaderError(MalformedError):
    """An upload is one header, then chunks."""

    reason = "BLOB_HEADER"


def offered(request: pb.AppendEntryRequest, field: str = "record") -> Offered:
    """One record to append; `field` is its name in refusals."""
    record = limits.bounded_bytes(request.record, field, minimum=1, maximum=MAX_RECORD_BYTES)
    return Offered(entry_kind(request.kind, "kind"), record, field)


def offered_batch(request: pb.AppendBatchRequest) -> list[Offered]:
    """1 to 256 records to append together."""
    limits.bounded_count(request.entries, "entries", minimum=1, maximum=MAX_POOL_ENTRIES)
    return [
        offered(entry, f"entries[{index}].record") for index, entry in enumerate(request.entries)
    ]


def entry_kind(kind: pb.EntryKind.ValueType, field: str) -> EntryKind:
    """The kind of an entry; unspecified is none."""
    known = _KINDS.get(kind)
    if known is None:
        raise KindError(f"{kind} is no kind of entry", field=field)
    return known


def entry_kinds(kinds: Sequence[pb.EntryKind.ValueType]) -> frozenset[EntryKind]:
    """A filter; empty, or with the unspecified kind in it, it means all."""
    limits.bounded_count(kinds, "kinds", maximum=len(pb.EntryKind.keys()))
    if not kinds or pb.ENTRY_KIND_UNSPECIFIED in kinds:
        return frozenset(EntryKind)
    return frozenset(entry_kind(kind, "kinds") for kind in kinds)


def entry_name(request: pb.GetReceiptRequest) -> int | Key:
    """What a receipt is asked for: an index, or a key to look up."""
    which = request.WhichOneof("entry")
    if which is None:
        raise limits.RequiredError("an entry must be named", field="entry")
    if which == "leaf_index":
        return index(request.leaf_index, "leaf_index")
    if which == "leaf_hash":
        return Key(By.LEAF_HASH, digest(request.leaf_hash, which))
    if which == "idempotency_key":
        return Key(By.IDEMPOTENCY_KEY, digest(request.idempotency_key, which))
    name = limits.bounded_bytes(request.request_id, "request_id", minimum=16, maximum=64)
    return Key(By.REQUEST_ID, name)


def digest(value: bytes, field: str) -> bytes:
    """32 bytes."""
    return limits.exact_bytes(value, field, DIGEST_BYTES)


def digests(values: Sequence[bytes], field: str) -> list[bytes]:
    """At most 256 digests."""
    limits.bounded_count(values, field, maximum=MAX_DIGESTS)
    return [digest(value, f"{field}[{at}]") for at, value in enumerate(values)]


def index(value: int, field: str) -> int:
    """A leaf index or tree size; what no tree has is refused before it is compared."""
    return limits.bounded_int(value, field, minimum=0, maximum=MAX_TREE_SIZE)


def wait_seconds(wait_ms: int) -> float:
    """How long a call may wait: at most a minute."""
    return limits.bounded_int(wait_ms, "wait_ms", minimum=0, maximum=MAX_WAIT_MS) / 1000


async def blob_header(parts: AsyncIterator[pb.PutBlobRequest], max_bytes: int) -> tuple[bytes, int]:
    """Digest and size from the first part of an upload."""
    first = await anext(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise HeaderError("the header comes first", field="header")
    size = limits.bounded_int(
        first.header.size_bytes, "size_bytes", minimum=1, maximum=min(max_bytes, MAX_BLOB_BYTES)
    )
    return digest(first.header.digest, "digest"), size


async def blob_chunks(parts: AsyncIterator[pb.PutBlobRequest]) -> AsyncIterator[bytes]:
    """The chunks of an upload, after its header."""
    async for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise HeaderError("after the header come chunks", field="part")
        yield limits.bounded_bytes(part.chunk, "chunk", minimum=1, maximum=MAX_CHUNK_BYTES)


def append_response(result: Registered, receipt: bytes = b"") -> pb.AppendEntryResponse:
    """The acknowledgement of one record."""
    return pb.AppendEntryResponse(
        leaf_index=result.leaf_index,
        leaf_hash=result.leaf_hash,
        log_time_ms=result.log_time_ms,
        duplicate=result.duplicate,
        receipt=receipt,
    )


def log_entry(stored: StoredEntry) -> pb.LogEntry:
    """One entry as readers get it."""
    return pb.LogEntry(leaf_index=stored.leaf_index, entry=stored.data)


def hash_tile(request: pb.GetTileRequest) -> HashTile:
    """The tile that is asked for; of an entry bundle, the one of level 0 above it."""
    level = limits.bounded_int(request.level, "level", minimum=0, maximum=MAX_TILE_LEVEL)
    at = limits.bounded_int(request.index, "index", minimum=0, maximum=MAX_INDEX)
    width = limits.bounded_int(request.width, "width", minimum=1, maximum=TILE_WIDTH)
    return HashTile(0 if request.entries else level, at, width)
