"""What the log does wrong holds up what it concerns, and is charged to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr.commitment.v1 import commitment_pb2 as log_pb
from otr.commitment.v1 import commitment_pb2_grpc as commitment_rpc
from otr_arbitration.arbiter import FIRST_RETRY_MS
from otr_arbitration.arbiter import Arbiter as Rules
from otr_arbitration.store_sqlite import ArbiterStore
from otr_log.follow import Numbered
from otr_log.peer import LogPeer
from otr_protocol.attestation.compact_jws import jwks_document
from otr_protocol.attestation.ear import Jwks
from otr_protocol.digest import H
from otr_protocol.finality import Standing, State
from otr_protocol.statement import open_statement
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.tree import Frontier
from otr_server.process import Listen, Process
from support.answers import ISSUER_KEY, MODEL_ID
from support.arbiter_service import (
    FINAL,
    ISSUED,
    PROVISIONAL,
    RECEIVED,
    arbiter,
    log_delegation,
    log_statement,
    states,
    token_of,
)
from support.log_service import (
    ORIGIN,
    SetClock,
    delegation,
    log_service,
    put,
    statement,
)


def blob_file(directory: Path, data: bytes) -> Path:
    name = H(data).hex()
    return directory / "data" / "blobs" / name[:2] / name


@pytest.mark.parametrize("lost", ["missing", "damaged"])
async def test_a_token_that_the_log_lost_holds_up_only_its_own_statements(
    tmp_path: Path, lost: str
) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        lost_token = token_of(ISSUED)
        stuck = await log_statement(log, 0, token=lost_token)
        if lost == "missing":
            blob_file(tmp_path, lost_token).unlink()
        else:
            blob_file(tmp_path, lost_token).write_bytes(b"damage")
        whole = await log_statement(log, 1, token=token_of(ISSUED - 1))
        await log_delegation(log)
        assert states(await judge.states(whole, until=FINAL)) == [RECEIVED, PROVISIONAL, FINAL]
        waiting = await judge.stub.GetFinality(pb.GetFinalityRequest(payload_hash=stuck))
        assert waiting.finality.state == RECEIVED
        await put(log.stub(), lost_token)  # mends the log: nobody has lost anything
        assert states(await judge.states(stuck, until=FINAL)) == [RECEIVED, PROVISIONAL, FINAL]


class FickleLog(commitment_rpc.CommitmentServiceServicer):
    """Serves blobs, under each digest whatever it was told to."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}

    async def GetBlob(
        self, request: log_pb.GetBlobRequest, context: object
    ) -> AsyncIterator[log_pb.GetBlobResponse]:
        yield log_pb.GetBlobResponse(chunk=self.blobs[request.digest])


@asynccontextmanager
async def serving(log: FickleLog) -> AsyncIterator[tuple[grpc.aio.Server, LogPeer]]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    commitment_rpc.add_CommitmentServiceServicer_to_server(log, server)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield server, LogPeer(channel)
    finally:
        await server.stop(None)


@asynccontextmanager
async def rules(
    directory: Path, peer: LogPeer, clock: SetClock
) -> AsyncIterator[tuple[Rules, ArbiterStore]]:
    """The arbiter's rules over a real store; windows of the statements below have ended."""
    store = ArbiterStore(directory / "arbitration.sqlite")
    await store.open()
    arbiter = Rules(
        store,
        peer,
        Jwks.parse(jwks_document([ISSUER_KEY.public_key()]).encode()),
        log_origin=ORIGIN,
        window_ms=1,
        accept_simulated=True,
        now_ms=clock.now_ms,
    )
    try:
        yield arbiter, store
    finally:
        await store.close()


async def record(rules: Rules, first_index: int, *records: tuple[EntryKind, bytes]) -> None:
    numbered = [
        Numbered(first_index + at, Entry(kind, data, "operator", ISSUED * 1000 + 3000))
        for at, (kind, data) in enumerate(records)
    ]
    await rules.apply(numbered, Frontier())


def statement_under(token: bytes, seq: int) -> bytes:
    return statement(
        seq,
        model_id=MODEL_ID,
        delegation_digest=H(delegation()),
        token_digest=H(token),
        start_ms=ISSUED * 1000 + 1000,
        end_ms=ISSUED * 1000 + 2000,
    )


async def standing_of(store: ArbiterStore, signed: bytes) -> Standing:
    row = await store.find(payload_hash=open_statement(signed).payload_hash)
    assert row is not None
    return row.standing


@pytest.mark.parametrize("wrong", [b"other bytes", b"x" * (1 << 20)], ids=["other", "too many"])
async def test_wrong_bytes_from_the_log_are_not_the_operators_fault(
    tmp_path: Path, wrong: bytes
) -> None:
    log, clock, token = FickleLog(), SetClock(), token_of()
    signed = statement_under(token, 0)
    async with serving(log) as (_, peer), rules(tmp_path, peer, clock) as (arbiter, store):
        await record(
            arbiter, 0, (EntryKind.DELEGATION, delegation()), (EntryKind.STATEMENT, signed)
        )
        log.blobs[H(token)] = wrong
        assert await arbiter.judge() == 0
        assert (await standing_of(store, signed)).state is State.RECEIVED
        log.blobs[H(token)] = token
        clock.time_ms += FIRST_RETRY_MS
        assert await arbiter.judge() == 1
        assert (await standing_of(store, signed)).state is State.PROVISIONAL


async def test_windows_end_while_the_log_is_away(tmp_path: Path) -> None:
    log, token, later = FickleLog(), token_of(), token_of(ISSUED - 1)
    log.blobs[H(token)] = token
    first, second = statement_under(token, 0), statement_under(later, 1)
    async with (
        serving(log) as (server, peer),
        rules(tmp_path, peer, SetClock()) as (arbiter, store),
    ):
        await record(arbiter, 0, (EntryKind.DELEGATION, delegation()), (EntryKind.STATEMENT, first))
        assert await arbiter.judge() == 1
        await server.stop(None)
        await record(arbiter, 2, (EntryKind.STATEMENT, second))
        assert await arbiter.judge() == 0
        assert await arbiter.finalise() == 1
        assert (await standing_of(store, first)).state is State.FINAL
        assert (await standing_of(store, second)).state is State.RECEIVED


async def until_health(process: Process, wanted: int) -> None:
    target = f"127.0.0.1:{process.bound.health_port}"
    async with asyncio.timeout(20), grpc.aio.insecure_channel(target) as channel:
        async for answer in HealthStub(channel).Watch(HealthCheckRequest()):
            if answer.status == wanted:
                return


async def test_the_arbiter_serves_only_while_it_follows_the_log(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await until_health(judge.process, HealthCheckResponse.SERVING)
        await log.process.drain()
        await until_health(judge.process, HealthCheckResponse.NOT_SERVING)
        async with log_service(tmp_path, listen=Listen(port=log.process.bound.port)):
            await until_health(judge.process, HealthCheckResponse.SERVING)
