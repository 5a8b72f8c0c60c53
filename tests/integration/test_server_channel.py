"""Channels put a deadline on every call and come back when asked to (otr_server.channel)."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from otr_protocol.errors import ExhaustedError, Refusal, RejectedError, UnavailableError
from otr_server.backoff import Backoff
from otr_server.channel import open_channel, retry
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.process import Listen
from otr_server.status import DETAILS_KEY, code_of, status_of
from support.probe_process import client, process_for
from support.probe_service import Probe, ProbeStub, text


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevPki:
    return make_dev_pki(tmp_path_factory.mktemp("tls"), ["commitment", "client"])


async def test_a_call_without_timeout_gets_the_channels(pki: DevPki) -> None:
    async with process_for(pki, Probe()) as process:
        options = {"timeout_seconds": 0.1, "stream_timeout_seconds": 0.1}
        async with client(process, pki, **options) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as unary:
                await stub.Echo(text("hold"))
            stream = stub.Stream(text("hold"))
            await stream.read()
            with pytest.raises(grpc.aio.AioRpcError) as streamed:
                await stream.read()
            for caught in (unary, streamed):
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_channel_that_waits_finds_a_server_that_starts_later(pki: DevPki) -> None:
    first = process_for(pki, Probe())
    await first.start()
    port = first.bound.port
    await first.drain()
    async with open_channel(
        f"127.0.0.1:{port}",
        pki.client_tls("client"),
        "commitment",
        timeout_seconds=30,
        wait_for_ready=True,
    ) as channel:
        call = asyncio.ensure_future(ProbeStub(channel).Echo(text("early")))
        async with process_for(pki, Probe(), listen=Listen(port=port)):
            assert (await call).value == "early"


async def test_a_channel_that_does_not_wait_fails_at_once(pki: DevPki) -> None:
    process = process_for(pki, Probe())
    await process.start()
    await process.drain()
    async with client(process, pki, timeout_seconds=60) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(20):
                await stub.Echo(text("x"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


class Server:
    """Refuses as told, then answers; and remembers how long it was left alone."""

    def __init__(self, *refusals: Refusal) -> None:
        self.refusals = list(refusals)
        self.slept: list[float] = []

    async def call(self) -> str:
        if not self.refusals:
            return "answer"
        refusal = self.refusals.pop(0)
        trailers = grpc.aio.Metadata((DETAILS_KEY, status_of(refusal).SerializeToString()))
        raise grpc.aio.AioRpcError(code_of(refusal), grpc.aio.Metadata(), trailers)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def steps() -> Backoff:
    return Backoff(initial_seconds=2, maximum_seconds=8, draw=lambda: 0.0)


async def test_an_outage_is_waited_out_with_growing_pauses() -> None:
    server = Server(*[UnavailableError("down")] * 3)
    assert await retry(server.call, backoff=steps(), sleep=server.sleep) == "answer"
    assert server.slept == [1.0, 2.0, 4.0]


async def test_a_full_queue_is_left_alone_for_as_long_as_it_asked() -> None:
    server = Server(ExhaustedError("full", retry_after_ms=7500))
    assert await retry(server.call, backoff=steps(), sleep=server.sleep) == "answer"
    assert server.slept == [7.5]


@pytest.mark.parametrize("refusal", [RejectedError("no"), ExhaustedError("too large")])
async def test_what_trying_again_cannot_help_is_raised_at_once(refusal: Refusal) -> None:
    server = Server(refusal)
    with pytest.raises(grpc.aio.AioRpcError):
        await retry(server.call, backoff=steps(), sleep=server.sleep)
    assert server.slept == []


async def test_attempts_are_bounded() -> None:
    server = Server(*[UnavailableError("down")] * 9)
    with pytest.raises(grpc.aio.AioRpcError):
        await retry(server.call, attempts=3, backoff=steps(), sleep=server.sleep)
    assert len(server.slept) == 2


async def test_a_pause_past_the_deadline_is_not_made() -> None:
    server = Server(ExhaustedError("full", retry_after_ms=60_000))
    with pytest.raises(grpc.aio.AioRpcError):
        await retry(server.call, deadline_seconds=5, backoff=steps(), sleep=server.sleep)
    assert server.slept == []


async def test_a_retried_call_reaches_a_server_that_comes_back(pki: DevPki) -> None:
    first = process_for(pki, Probe())
    await first.start()
    port = first.bound.port
    await first.drain()
    second = process_for(pki, Probe(), listen=Listen(port=port))
    pauses: list[float] = []

    async def start_second(seconds: float) -> None:
        pauses.append(seconds)
        await second.start()

    async with client(first, pki) as stub:

        async def call() -> str:
            # grpc itself reconnects with a pause: the second attempt must wait for that.
            response = await stub.Echo(text("again"), wait_for_ready=bool(pauses))
            return response.value

        assert await retry(call, backoff=steps(), sleep=start_second) == "again"
    assert pauses == [1.0]
    await second.drain()
