"""A real log service and real records for it: mTLS on loopback, SQLite in a temporary directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc

from otr.commitment.v1 import commitment_pb2 as pb
from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_commitment.main import start
from otr_commitment.ports import Clock
from otr_commitment.settings import Settings
from otr_protocol.digest import H
from otr_protocol.identity import Delegation, operator_id, sign_delegation
from otr_protocol.payment import Close, sign_close
from otr_protocol.registry import ModelRecord, sign_model_record
from otr_protocol.statement import Profile, Statement, sign_statement
from otr_protocol.tlog.note import VerifierKey
from otr_server.channel import open_channel
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.process import Listen, Process
from support.answers import OPERATOR, PUBLISHER, Key, World, sign_token

Stub: TypeAlias = "rpc.CommitmentServiceAsyncStub"  # of the type stubs only

ORIGIN: Final = "log.test/otr"
ROLES: Final = (
    "commitment",
    "inference",
    "attestation",
    "client",
    "watcher",
    "arbitration",
    "spotcheck",
)
CHUNK_BYTES: Final = 256 << 10


@dataclass
class SetClock:
    """A clock that shows what it was set to."""

    time_ms: int = 1_800_000_000_000

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return self.time_ms


def pki_in(directory: Path) -> DevPki:
    """The development certificates of every role that a test of the log uses."""
    return make_dev_pki(directory / "pki", ROLES)


def settings_in(directory: Path, **changes: Any) -> Settings:
    """Settings of a log whose files lie in `directory`."""
    pki = pki_in(directory)
    settings = Settings(
        listen=Listen(),
        origin=ORIGIN,
        data_dir=directory / "data",
        guard_file=directory / "guard" / "log.guard",
        log_key_file=directory / "keys" / "log.key",
        tls=pki.server_tls("commitment"),
        generate_log_key=True,
        min_free_bytes=0,
    )
    return replace(settings, **changes)


@dataclass
class Service:
    """A running log and the channels to it, one per role."""

    process: Process
    directory: Path
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def stub(self, role: str = "inference") -> Stub:
        """The log as a caller of this role sees it."""
        if role not in self.channels:
            tls = pki_in(self.directory).client_tls(role)
            self.channels[role] = open_channel(self.process.bound.target, tls, "commitment")
        stub: Stub = rpc.CommitmentServiceStub(self.channels[role])
        return stub

    @property
    def log_key(self) -> VerifierKey:
        """What a relying party pins."""
        return log_key_in(self.directory)

    async def stop(self) -> None:
        """Close the channels and drain the process."""
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))
        await self.process.drain()


def log_key_in(directory: Path) -> VerifierKey:
    """The log's verifier key, from the file that it publishes."""
    return VerifierKey.parse((directory / "keys" / "log.key.pub").read_text().strip())


@asynccontextmanager
async def log_service(
    directory: Path, *, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Service]:
    """A log in `directory`, which may hold one already."""
    service = Service(await start(settings_in(directory, **changes), clock=clock), directory)
    try:
        yield service
    finally:
        await service.stop()


@dataclass(frozen=True)
class Exhibit:
    """What must be held before a statement: blob, token and the evidence that the token names."""

    blob: bytes = b"request blob"
    evidence: bytes = b"evidence bundle"

    @property
    def token(self) -> bytes:
        """A token that names the evidence."""
        return sign_token(World().token_claims(evidence_digest=H(self.evidence)))

    @property
    def blobs(self) -> tuple[bytes, bytes, bytes]:
        """All three, as they are put."""
        return self.blob, self.token, self.evidence


EXHIBIT: Final = Exhibit()
SESSION: Final = Key("session")
_TOKEN_DIGEST: Final = H(EXHIBIT.token)


def statement(seq: int, *, session: Key = SESSION, **changes: Any) -> bytes:
    """A signed statement about EXHIBIT; different for every `seq`."""
    number = seq.to_bytes(8, "big")
    honest = Statement(
        operator_id=operator_id(OPERATOR.public),
        session_key=session.public,
        delegation_digest=H(b"delegation"),
        request_id=request_id(seq),
        client_nonce=H(b"nonce", number)[:16],
        model_id=H(b"model"),
        profile=Profile.EXACT_INT8,
        input_digest=H(b"input", number),
        output_digest=H(b"output", number),
        prompt_count=10,
        output_count=20,
        trace_root=H(b"trace", number),
        blob_digest=H(EXHIBIT.blob),
        start_ms=1_800_000_000_000,
        end_ms=1_800_000_001_000,
        token_digest=_TOKEN_DIGEST,
        seq=seq,
        exposure=1,
        cumulative_exposure=seq + 1,
        voucher_digest=b"",
        fee=0,
    )
    return sign_statement(replace(honest, **changes), session.sign)


def request_id(seq: int) -> bytes:
    """The request id of `statement(seq)`."""
    return H(b"request", seq.to_bytes(8, "big"))[:16]


def delegation(not_after: int = 1_900_000_000_000) -> bytes:
    """A signed delegation; different for every `not_after`."""
    record = Delegation(OPERATOR.public, SESSION.public, ORIGIN, not_after)
    return sign_delegation(record, OPERATOR.sign)


def model_record(name: str = "model") -> bytes:
    """A publisher's signed record; different for every name."""
    record = ModelRecord(name, H(b"model"), PUBLISHER.public)
    return sign_model_record(record, PUBLISHER.sign)


def close_record(last_seq: int = 0) -> bytes:
    """A session's signed close."""
    return sign_close(Close(SESSION.public, last_seq, last_seq + 1), SESSION.sign)


def entry(
    record: bytes,
    kind: pb.EntryKind.ValueType = pb.ENTRY_KIND_STATEMENT,
    *,
    wait_receipt: bool = False,
) -> pb.AppendEntryRequest:
    """A request that appends `record`."""
    return pb.AppendEntryRequest(kind=kind, record=record, wait_receipt=wait_receipt)


def entries(records: Sequence[bytes]) -> pb.AppendBatchRequest:
    """A request that appends statements together."""
    return pb.AppendBatchRequest(entries=[entry(record) for record in records])


async def put(stub: Stub, *blobs: bytes) -> list[bool]:
    """Put blobs; says of each whether it was held."""
    answers = [await stub.PutBlob(blob_parts(data)) for data in blobs]
    return [answer.existed for answer in answers]


async def blob_parts(
    data: bytes, *, digest: bytes | None = None, size_bytes: int | None = None
) -> AsyncIterator[pb.PutBlobRequest]:
    """An upload; `digest` and `size_bytes` may lie."""
    header = pb.PutBlobHeader(
        digest=H(data) if digest is None else digest,
        size_bytes=len(data) if size_bytes is None else size_bytes,
    )
    yield pb.PutBlobRequest(header=header)
    for start_at in range(0, len(data), CHUNK_BYTES):
        yield pb.PutBlobRequest(chunk=data[start_at : start_at + CHUNK_BYTES])


async def get(stub: Stub, digest: bytes) -> bytes:
    """Read a blob."""
    return b"".join([part.chunk async for part in stub.GetBlob(pb.GetBlobRequest(digest=digest))])
