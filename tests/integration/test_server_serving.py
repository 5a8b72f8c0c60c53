"""A real process on loopback: ports, health, drain (otr_server.process)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otr_server.channel import open_channel
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.identity import parse_identity
from otr_server.process import Listen, Process, ProcessStartError, RestartPolicy, Servicer
from support.probe_process import client, process_for
from support.probe_service import (
    ECHO,
    OPEN_ROLES,
    SERVICE,
    Probe,
    ProbeStub,
    add_probe,
    text,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevPki:
    return make_dev_pki(tmp_path_factory.mktemp("tls"), ["commitment", "client", "watcher"])


@asynccontextmanager
async def health(process: Process) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    target = f"127.0.0.1:{process.bound.health_port}"
    async with grpc.aio.insecure_channel(target) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def call_until_refused(stub: ProbeStub) -> None:
    """The first calls may still reach the open connection, before GOAWAY does."""
    while True:
        await stub.Echo(text("late"), timeout=10)


async def state(stub: health_pb2_grpc.HealthStub, service: str = "") -> int:
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return int(response.status)


async def test_a_process_answers_over_mutual_tls(pki: DevPki) -> None:
    async with process_for(pki, Probe()) as process, client(process, pki) as stub:
        assert (await stub.Echo(text("ä"))).value == "ä"
        assert (await stub.Echo(text("who"))).value == "spiffe://otr.local/client"
        assert [m.value async for m in stub.Stream(text(""))] == ["first", "last"]
        assert [m.value async for m in stub.Write(text(""))] == ["first", "last"]
        assert (await stub.Join(iter([text("a"), text("b")]))).value == "a b"
        mirrored = [m.value async for m in stub.Mirror(iter([text("a"), text("b")]))]
        assert mirrored == ["a", "b"]


async def test_health_is_not_serving_until_main_says_so(pki: DevPki) -> None:
    async with process_for(pki, Probe()) as process, health(process) as stub:
        assert await state(stub) == NOT_SERVING
        assert await state(stub, SERVICE) == NOT_SERVING
        process.set_serving(True)
        assert await state(stub) == SERVING
        assert await state(stub, SERVICE) == SERVING
        listed = await stub.List(health_pb2.HealthListRequest())
        assert {name: entry.status for name, entry in listed.statuses.items()} == {
            "": SERVING,
            SERVICE: SERVING,
        }
        process.set_serving(False)
        assert await state(stub) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await state(stub, "other.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_of_health_sees_every_change_and_the_end(pki: DevPki) -> None:
    process = process_for(pki, Probe())
    await process.start()
    async with health(process) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)
        stranger = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=30)
        assert (await watch.read()).status == NOT_SERVING
        assert (await stranger.read()).status == SERVICE_UNKNOWN
        process.set_serving(True)
        assert (await watch.read()).status == SERVING
        draining = asyncio.create_task(process.drain())
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        await draining


async def test_the_health_port_has_nothing_but_health(pki: DevPki) -> None:
    async with process_for(pki, Probe(), reflection=True) as process:
        target = f"127.0.0.1:{process.bound.health_port}"
        async with grpc.aio.insecure_channel(target) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ProbeStub(channel).Echo(text("x"), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_drain_finishes_the_stream_in_flight_and_refuses_new_calls(pki: DevPki) -> None:
    probe = Probe()
    process = process_for(pki, probe)
    await process.start()
    process.set_serving(True)
    async with client(process, pki) as stub, health(process) as watcher:
        stream = stub.Stream(text("hold"))
        assert (await stream.read()).value == "first"
        await probe.entered.wait()
        draining = asyncio.create_task(process.drain())
        await process.draining.wait()
        assert await state(watcher) == NOT_SERVING
        calls_before = probe.calls
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_until_refused(stub)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not draining.done()
        calls_refused = probe.calls
        probe.release.set()
        assert (await stream.read()).value == "last"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        async with asyncio.timeout(10):
            await draining
        assert probe.calls == calls_refused >= calls_before


async def test_a_drain_cuts_off_what_does_not_finish_in_time(pki: DevPki) -> None:
    probe = Probe()
    process = process_for(pki, probe, drain_seconds=0.05)
    await process.start()
    async with client(process, pki) as stub:
        stream = stub.Stream(text("hold"))
        await stream.read()
        async with asyncio.timeout(10):
            await process.drain()
        assert probe.left.is_set()
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()


async def test_a_handler_that_outlives_the_drain_ends_quietly(pki: DevPki) -> None:
    """Its refusal has no wire to go to, and must not be sent on the stopped server."""
    probe = Probe()
    process = process_for(pki, probe, drain_seconds=0.05)
    await process.start()
    async with client(process, pki) as stub:
        call = stub.Echo(text("stubborn"))
        await probe.entered.wait()
        draining = asyncio.create_task(process.drain())
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await probe.left.wait()
        assert not draining.done()
        probe.release.set()
        async with asyncio.timeout(4):
            await draining


async def test_stores_are_closed_after_the_last_handler_and_in_reverse(pki: DevPki) -> None:
    probe = Probe()
    order: list[str] = []

    def closer(name: str) -> Any:
        async def close() -> None:
            order.append(f"{name} {'after' if probe.left.is_set() else 'before'}")
            if name == "channel":
                raise OSError("already gone")

        return close

    process = process_for(
        pki, probe, drain_seconds=0.05, closing=[closer("store"), closer("channel")]
    )
    await process.start()
    async with client(process, pki) as stub:
        stream = stub.Stream(text("hold"))
        await stream.read()
        await asyncio.gather(process.drain(), process.drain())
        stream.cancel()
    assert order == ["channel after", "store after"]


async def test_a_client_that_leaves_frees_the_handler(pki: DevPki) -> None:
    probe = Probe()
    async with process_for(pki, probe) as process, client(process, pki) as stub:
        stream = stub.Stream(text("hold"))
        await stream.read()
        await probe.entered.wait()
        stream.cancel()
        async with asyncio.timeout(10):
            await probe.left.wait()


async def test_a_client_that_leaves_in_the_middle_of_a_write_frees_the_handler(
    pki: DevPki,
) -> None:
    probe = Probe()
    async with process_for(pki, probe) as process, client(process, pki) as stub:
        stream = stub.Flood(text(""))
        await stream.read()  # and no more, so that flow control blocks the writer
        stream.cancel()
        async with asyncio.timeout(10):
            await probe.left.wait()


async def test_a_drain_waits_for_the_clean_up_of_a_stream_cut_off_in_a_write(
    pki: DevPki,
) -> None:
    probe = Probe()
    process = process_for(pki, probe, drain_seconds=0.05)
    await process.start()
    async with client(process, pki) as stub:
        stream = stub.Flood(text("slow clean-up"))
        await stream.read()
        draining = asyncio.create_task(process.drain())
        await probe.left.wait()
        finished, _ = await asyncio.wait({draining}, timeout=0.3)
        assert not finished
        probe.release.set()
        async with asyncio.timeout(4):
            await draining


async def test_a_deadline_stops_the_handler(pki: DevPki) -> None:
    probe = Probe()
    async with process_for(pki, probe) as process, client(process, pki) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Echo(text("hold"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(10):
            await probe.left.wait()


async def test_a_failing_background_task_shows_in_health(pki: DevPki) -> None:
    fail, failed = asyncio.Event(), asyncio.Event()

    async def tail_the_log() -> None:
        if not failed.is_set():
            await fail.wait()
            failed.set()
            raise OSError("disk")
        await asyncio.Event().wait()

    policy = RestartPolicy(initial_seconds=0.01, settle_seconds=0.05)
    process = process_for(pki, Probe(), background=[tail_the_log], restart=policy)
    async with process, health(process) as stub:
        process.set_serving(True)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await watch.read()).status == SERVING
        fail.set()
        assert (await watch.read()).status == NOT_SERVING
        assert (await watch.read()).status == SERVING


async def test_a_port_in_use_is_a_clear_refusal_to_start(pki: DevPki) -> None:
    async with process_for(pki, Probe()) as process:
        for taken in ("port", "health_port", "metrics_port"):
            listen = Listen(**{taken: getattr(process.bound, taken)})
            with pytest.raises(ProcessStartError, match="cannot listen on"):
                await process_for(pki, Probe(), listen=listen).start()


async def test_tables_that_contradict_the_services_refuse_to_start(pki: DevPki) -> None:
    for changes, message in (
        ({"roles": {**OPEN_ROLES, f"/{SERVICE}/Ehco": {"client"}}}, "nobody serves: .*Ehco"),
        ({"roles": {ECHO: {"mallory"}}}, "unknown roles"),
        ({"servicers": [Servicer(add_probe, Probe(), "otr.test.v1.Prob")]}, "wrong full_name"),
    ):
        with pytest.raises(ProcessStartError, match=message):
            await process_for(pki, Probe(), **changes).start()


async def test_plaintext_is_for_loopback_and_still_has_roles(pki: DevPki) -> None:
    with pytest.raises(ProcessStartError, match="loopback"):
        process_for(pki, Probe(), tls=None, listen=Listen(host="0.0.0.0"))  # noqa: S104
    somebody = parse_identity("spiffe://otr.local/watcher")
    for peer, roles, code in (
        (None, OPEN_ROLES, grpc.StatusCode.UNAUTHENTICATED),
        (somebody, {ECHO: {"client"}}, grpc.StatusCode.PERMISSION_DENIED),
        (somebody, OPEN_ROLES, None),
    ):
        process = process_for(pki, Probe(), tls=None, plaintext_peer=peer, roles=roles)
        async with process, open_channel(process.bound.target, None, "commitment") as channel:
            call = ProbeStub(channel).Echo(text("who"))
            if code is None:
                assert (await call).value == somebody.uri
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is code


async def test_two_processes_live_in_one_interpreter(pki: DevPki) -> None:
    one, two = process_for(pki, Probe()), process_for(pki, Probe())
    async with one, two, client(one, pki) as first, client(two, pki) as second:
        one.set_serving(True)
        assert (one.serving, two.serving) == (True, False)
        assert (await first.Echo(text("1"))).value == "1"
        await one.drain()
        assert (await second.Echo(text("2"))).value == "2"


async def test_reflection_is_off_unless_asked_for(pki: DevPki) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    request = reflection_pb2.ServerReflectionRequest(list_services="")
    for asked in (False, True):
        process = process_for(pki, Probe(), reflection=asked)
        async with (
            process,
            open_channel(process.bound.target, pki.client_tls("client"), "commitment") as channel,
        ):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([request]))
            if asked:
                (response,) = [response async for response in call]
                names = [entry.name for entry in response.list_services_response.service]
                assert SERVICE in names
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_rotated_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    pki = make_dev_pki(tmp_path, ["commitment", "client"])
    async with process_for(pki, Probe()) as process:
        async with client(process, pki) as stub:
            await stub.Echo(text("before"))
        for path in (pki.ca_file, tmp_path / "ca.key"):
            path.unlink()
        make_dev_pki(tmp_path, ["commitment", "client"])  # another CA, hence all others anew
        async with client(process, pki) as stub:
            assert (await stub.Echo(text("after"))).value == "after"
        pki.key_file("commitment").write_bytes(b"torn")
        async with client(process, pki) as stub:
            assert (await stub.Echo(text("kept"))).value == "kept"
