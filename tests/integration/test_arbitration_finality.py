"""The arbiter against a real log: whose statements count, when they are final, and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr.arbitration.v1 import arbitration_pb2_grpc as rpc
from otr.commitment.v1 import commitment_pb2 as log_pb
from otr.commitment.v1 import commitment_pb2_grpc as commitment_rpc
from otr_arbitration.arbiter import FIRST_RETRY_MS
from otr_arbitration.arbiter import Arbiter as Rules
from otr_arbitration.main import ROLES, start
from otr_arbitration.settings import Settings
from otr_arbitration.store_sqlite import ArbiterStore
from otr_log.follow import Numbered
from otr_log.peer import LogPeer
from otr_protocol.attestation.compact_jws import jwks_document
from otr_protocol.attestation.ear import Jwks
from otr_protocol.digest import H
from otr_protocol.finality import Standing, State
from otr_protocol.identity import operator_id
from otr_protocol.statement import open_statement
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.tree import Frontier
from otr_server.channel import open_channel
from otr_server.process import Listen, Process
from otr_server.status import field_of, reason_of
from support.answers import ISSUER_KEY, MODEL_ID, OPERATOR, World, sign_token
from support.log_service import (
    EXHIBIT,
    ORIGIN,
    Service,
    SetClock,
    delegation,
    entry,
    log_service,
    pki_in,
    put,
    statement,
)

RECEIVED = pb.FINALITY_STATE_RECEIVED
PROVISIONAL = pb.FINALITY_STATE_PROVISIONAL
FINAL = pb.FINALITY_STATE_FINAL
IGNORED = pb.FINALITY_STATE_IGNORED


class Arbiter:
    """A running arbiter beside a log, which it can outlive."""

    def __init__(self, log: Service, process: Process, stub: Any) -> None:
        self.log = log
        self.process = process
        self.stub = stub

    async def states(self, payload_hash: bytes, *, until: int) -> list[pb.Finality]:
        """The changes of one statement up to the state `until`."""
        seen: list[pb.Finality] = []
        watch = self.stub.WatchFinality(pb.WatchFinalityRequest(payload_hash=payload_hash))
        try:
            async with asyncio.timeout(30):
                async for message in watch:
                    seen += message.changes
                    if until in [change.state for change in seen]:
                        return seen
        finally:
            watch.cancel()
        raise AssertionError("the stream ended")


def settings_in(directory: Path, log: Service, **changes: Any) -> Settings:
    pki = pki_in(directory)
    pki.add("arbitration")
    vkey = directory / "log.vkey"
    vkey.write_text(str(log.log_key))
    jwks = directory / "jwks.json"
    jwks.write_text(jwks_document([ISSUER_KEY.public_key()]))
    settings = Settings(
        listen=Listen(),
        data_dir=directory / "arbitration",
        commitment_target=log.process.bound.target,
        log_vkey_file=vkey,
        jwks_file=jwks,
        window_seconds=0.3,
        accept_simulated=True,
        tls=pki.server_tls("arbitration"),
    )
    return replace(settings, **changes)


@asynccontextmanager
async def arbiter(directory: Path, log: Service, **changes: Any) -> AsyncIterator[Arbiter]:
    process = await start(settings_in(directory, log, **changes))
    tls = pki_in(directory).client_tls("watcher")
    try:
        async with open_channel(process.bound.target, tls, "arbitration") as channel:
            yield Arbiter(log, process, rpc.ArbitrationServiceStub(channel))
    finally:
        await process.drain()


EVIDENCE = b"evidence bundle"
ISSUED = int(time.time()) - 600
"""When tokens are issued: long enough ago for statements under them to have ended."""


def token_of(issued: int = ISSUED, **private: Any) -> bytes:
    """A token of the test issuer for the test session, `issued` seconds since 1970."""
    claims = World().token_claims(evidence_digest=H(EVIDENCE), **private)
    return sign_token(claims | {"iat": issued, "nbf": issued, "exp": issued + 3600})


async def log_statement(
    log: Service, seq: int = 0, *, token: bytes | None = None, issued: int = ISSUED
) -> bytes:
    """Log a statement with the blobs it needs; returns its payload hash."""
    token = token_of(issued) if token is None else token
    await put(log.stub(), EXHIBIT.blob, EVIDENCE, token)
    signed = statement(
        seq,
        model_id=MODEL_ID,
        delegation_digest=H(delegation()),
        token_digest=H(token),
        start_ms=issued * 1000 + 1000,
        end_ms=issued * 1000 + 2000,
    )
    await log.stub().AppendEntry(entry(signed))
    return open_statement(signed).payload_hash


async def log_delegation(log: Service) -> None:
    await log.stub().AppendEntry(entry(delegation(), log_pb.ENTRY_KIND_DELEGATION))


def states(changes: list[pb.Finality]) -> list[int]:
    return [change.state for change in changes]


async def test_a_delegated_and_attested_statement_becomes_final(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log)
        changes = await judge.states(payload_hash, until=FINAL)
        assert states(changes) == [RECEIVED, PROVISIONAL, FINAL]
        final = changes[-1]
        assert (final.operator_id, final.payable) == (operator_id(OPERATOR.public), True)
        assert final.window_ends_ms == final.log_time_ms + 300
        found = await judge.stub.GetFinality(pb.GetFinalityRequest(leaf_index=1))
        assert found.finality == final


async def test_a_statement_waits_for_its_delegation(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        payload_hash = await log_statement(log)
        received = await judge.states(payload_hash, until=RECEIVED)
        assert states(received) == [RECEIVED]
        await log_delegation(log)
        changes = await judge.states(payload_hash, until=FINAL)
        assert states(changes) == [RECEIVED, PROVISIONAL, FINAL]


WRONG_TOKENS = [
    ("another session key", {"session_key": b"x" * 32}, "ATTESTATION_BINDING"),
    ("another model", {"model_id": b"x" * 32}, "ATTESTATION_BINDING"),
    ("another operator", {"operator_id": b"x" * 32}, "ATTESTATION_BINDING"),
]


@pytest.mark.parametrize(
    ("private", "reason"), [pytest.param(p, r, id=n) for n, p, r in WRONG_TOKENS]
)
async def test_a_token_for_somebody_else_gets_a_statement_ignored(
    tmp_path: Path, private: dict[str, bytes], reason: str
) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log, token=token_of(**private))
        changes = await judge.states(payload_hash, until=IGNORED)
        assert states(changes) == [RECEIVED, IGNORED]
        assert (changes[-1].reason, changes[-1].payable) == (reason, False)


async def test_a_token_by_an_issuer_that_is_not_pinned_is_worth_nothing(tmp_path: Path) -> None:
    foreign = ec.generate_private_key(ec.SECP384R1())
    claims = World().token_claims(evidence_digest=H(EVIDENCE))
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log, token=sign_token(claims, foreign))
        changes = await judge.states(payload_hash, until=IGNORED)
        assert changes[-1].reason == "TOKEN_KEY_UNKNOWN"


async def test_simulated_evidence_counts_only_where_it_is_accepted(tmp_path: Path) -> None:
    async with (
        log_service(tmp_path) as log,
        arbiter(tmp_path, log, accept_simulated=False) as judge,
    ):
        await log_delegation(log)
        payload_hash = await log_statement(log, token=token_of(simulated=True))
        changes = await judge.states(payload_hash, until=IGNORED)
        assert changes[-1].reason == "EVIDENCE_SIMULATED"


async def test_a_statement_logged_long_after_its_token_is_kept_and_not_paid(
    tmp_path: Path,
) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log, issued=1_700_000_000)
        changes = await judge.states(payload_hash, until=FINAL)
        assert (changes[-1].payable, changes[-1].reason) == (False, "LOGGED_LATE")


async def test_a_restarted_arbiter_goes_on_and_applies_nothing_twice(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log:
        await log_delegation(log)
        async with arbiter(tmp_path, log) as judge:
            first = await log_statement(log, 0)
            before = await judge.states(first, until=FINAL)
        second = await log_statement(log, 1)
        async with arbiter(tmp_path, log) as judge:
            await judge.states(second, until=FINAL)
            assert await judge.states(first, until=FINAL) == before
            info = await judge.stub.GetServiceInfo(pb.GetServiceInfoRequest())
        assert info.next_index == 3


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


async def test_a_drain_ends_those_who_wait_at_once(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log, drain_seconds=60) as judge:
        await judge.states(await log_statement(log), until=RECEIVED)
        watch = judge.stub.WatchFinality(pb.WatchFinalityRequest())
        await watch.read()
        unknown = pb.GetFinalityRequest(payload_hash=b"p" * 32, wait_ms=50_000)
        found = asyncio.ensure_future(judge.stub.GetFinality(unknown, timeout=60))
        await asyncio.sleep(0.2)  # until both wait
        async with asyncio.timeout(10):
            await judge.process.drain()
            assert await watch.read() is grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await found
        assert reason_of(caught.value) == "STATEMENT_UNKNOWN"


async def test_one_caller_cannot_take_every_watchers_place(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log, max_watchers=8) as judge:
        await log_statement(log)
        taken = [judge.stub.WatchFinality(pb.WatchFinalityRequest()) for _ in range(2)]
        for watch in taken:
            await watch.read()
        unknown = pb.GetFinalityRequest(payload_hash=b"p" * 32, wait_ms=100)
        for refused in (
            judge.stub.WatchFinality(pb.WatchFinalityRequest()).read(),
            judge.stub.GetFinality(unknown),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused
            assert reason_of(caught.value) == "TOO_MANY_WATCHERS"
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        tls = pki_in(tmp_path).client_tls("client")
        async with open_channel(judge.process.bound.target, tls, "arbitration") as channel:
            other = rpc.ArbitrationServiceStub(channel).WatchFinality(pb.WatchFinalityRequest())
            assert (await other.read()).changes


async def test_a_filter_that_matches_nothing_still_moves_a_durable_cursor(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_statement(log)
        watch = judge.stub.WatchFinality(pb.WatchFinalityRequest(operator_id=b"o" * 32))
        message = await asyncio.wait_for(watch.read(), 10)
        assert (list(message.changes), message.next_event) == ([], 2)


async def test_an_unknown_statement_is_waited_for_and_then_not_found(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await judge.stub.GetFinality(pb.GetFinalityRequest(payload_hash=b"p" * 32, wait_ms=100))
        assert reason_of(caught.value) == "STATEMENT_UNKNOWN"


async def test_numbers_and_names_out_of_range_are_invalid_arguments(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        stub = judge.stub
        for call, reason, field in (
            (stub.GetFinality(pb.GetFinalityRequest(leaf_index=1 << 63)), "RANGE", "leaf_index"),
            (stub.GetFinality(pb.GetFinalityRequest(payload_hash=b"p")), "LENGTH", "payload_hash"),
            (
                stub.WatchFinality(pb.WatchFinalityRequest(from_event=1 << 63)).read(),
                "RANGE",
                "from_event",
            ),
            (
                stub.WatchFinality(pb.WatchFinalityRequest(operator_id=b"o" * 31)).read(),
                "LENGTH",
                "operator_id",
            ),
            (
                stub.WatchFinality(pb.WatchFinalityRequest(payload_hash=b"p" * 33)).read(),
                "LENGTH",
                "payload_hash",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (reason_of(caught.value), field_of(caught.value)) == (f"FIELD_{reason}", field)


async def test_disputes_and_money_say_that_they_are_not_built(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        for call in (
            judge.stub.RaiseDispute(pb.RaiseDisputeRequest()),
            judge.stub.CompleteWithdrawal(pb.CompleteWithdrawalRequest()),
            judge.stub.GetGame(pb.GetGameRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_not_built_is_not_open_to_everybody_either(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        for call in (
            judge.stub.Deposit(pb.DepositRequest()),
            judge.stub.Quarantine(pb.QuarantineRequest()),
            judge.stub.IssueAllowance(pb.IssueAllowanceRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert reason_of(caught.value) == "ROLE_DENIED"


def test_every_method_of_the_contract_has_its_roles() -> None:
    methods = pb.DESCRIPTOR.services_by_name["ArbitrationService"].methods
    assert {method.name for method in methods} == {path.rpartition("/")[2] for path in ROLES}
