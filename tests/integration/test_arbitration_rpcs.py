"""The arbiter's calls: bounds, places for those who wait, drains, and who may call what."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr.arbitration.v1 import arbitration_pb2_grpc as rpc
from otr_arbitration.main import ROLES
from otr_server.channel import open_channel
from otr_server.status import field_of, reason_of
from support.arbiter_service import (
    RECEIVED,
    arbiter,
    log_statement,
)
from support.log_service import (
    log_service,
    pki_in,
)


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
