"""What a handler raises is what a client reads, over a real server (otr_server.boundary)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import structlog

from otr_server import telemetry
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.process import Process
from otr_server.status import (
    code_of,
    field_of,
    incident_of,
    reason_of,
    refusals_as_status,
    retry_after_ms_of,
)
from support.probe_process import client, process_for
from support.probe_service import ECHO, REFUSALS, SECRET, Probe, ProbeStub, text


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevPki:
    return make_dev_pki(tmp_path_factory.mktemp("tls"), ["commitment", "client", "watcher"])


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    telemetry.configure("info", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:], root.level = before


@pytest.fixture
async def process(pki: DevPki) -> AsyncIterator[Process]:
    async with process_for(pki, Probe(), max_request_bytes=4096) as process:
        yield process


@pytest.fixture
async def stub(process: Process, pki: DevPki) -> AsyncIterator[ProbeStub]:
    async with client(process, pki) as stub:
        yield stub


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def stream_error(call: Any, received: list[str]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drink(call, received)
    return caught.value


async def drink(call: Any, received: list[str]) -> None:
    async for message in call:
        received.append(message.value)


def handled(process: Process, method: str, kind: str, code: str) -> float | None:
    labels = {"grpc_type": kind, "grpc_service": "otr.test.v1.Probe", "grpc_method": method}
    return process.registry.get_sample_value(
        "grpc_server_handled_total", {**labels, "grpc_code": code}
    )


@pytest.mark.parametrize("name", sorted(REFUSALS))
async def test_a_refusal_of_a_unary_handler_keeps_code_reason_and_field(
    stub: ProbeStub, name: str
) -> None:
    refusal = REFUSALS[name]
    error = await error_of(stub.Refuse(text(name)))
    assert error.code() is code_of(refusal)
    assert error.details() == refusal.message
    assert reason_of(error) == refusal.reason
    assert field_of(error) == refusal.field


@pytest.mark.parametrize("name", sorted(REFUSALS))
async def test_a_refusal_in_the_middle_of_a_stream_follows_what_was_sent(
    stub: ProbeStub, name: str
) -> None:
    for method in (stub.Stream, stub.Write):
        received: list[str] = []
        error = await stream_error(method(text(name)), received)
        assert received == ["first"]
        assert error.code() is code_of(REFUSALS[name])
        assert reason_of(error) == REFUSALS[name].reason


async def test_a_refusal_ends_a_bidirectional_stream(stub: ProbeStub) -> None:
    received: list[str] = []
    call = stub.Mirror(iter([text("a"), text("rejected"), text("b")]))
    error = await stream_error(call, received)
    assert received == ["a"]
    assert reason_of(error) == "CLOCK_EXPIRED"


async def test_a_full_queue_says_when_to_come_back(stub: ProbeStub) -> None:
    error = await error_of(stub.Refuse(text("exhausted")))
    assert retry_after_ms_of(error) == 1500


async def test_a_bug_is_internal_with_an_incident_and_leaks_nothing(
    stub: ProbeStub, logged: io.StringIO, process: Process
) -> None:
    unary = await error_of(stub.Refuse(text("crash")))
    streamed = await stream_error(stub.Stream(text("crash")), [])
    for error in (unary, streamed):
        assert error.code() is grpc.StatusCode.INTERNAL
        assert reason_of(error) == "INTERNAL"
        said = f"{error.details()} {error.debug_error_string()} {error.trailing_metadata()}"
        assert SECRET not in said
        assert "ZeroDivision" not in said
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    failures = {line["incident"]: line for line in lines if line["event"] == "call_failed"}
    for error in (unary, streamed):
        line = failures[incident_of(error)]
        assert "ZeroDivisionError" in line["exception"]
        assert line["request_id"]
    assert handled(process, "Refuse", "unary", "Internal") == 1
    assert handled(process, "Stream", "server_stream", "Internal") == 1


async def test_a_response_of_the_wrong_type_is_a_bug_too(stub: ProbeStub) -> None:
    error = await error_of(stub.Echo(text("wrong-type")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason_of(error) == "INTERNAL"


async def test_a_status_that_the_handler_chose_stays(stub: ProbeStub, process: Process) -> None:
    error = await error_of(stub.Echo(text("abort")))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert error.details() == "chosen by the handler"
    assert handled(process, "Echo", "unary", "OutOfRange") == 1


async def test_text_that_is_not_utf8_is_an_invalid_argument_that_names_the_field(
    stub: ProbeStub,
) -> None:
    bad = b"\x0a\x02\xff\xfe"
    unary = await error_of(stub.RawEcho(bad))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RawMirror(iter([bad])).read()
    for error in (unary, caught.value):
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (reason_of(error), field_of(error)) == ("NOT_UTF8", "value")


async def test_bytes_that_are_no_message_are_an_invalid_argument(stub: ProbeStub) -> None:
    error = await error_of(stub.RawEcho(b"\x0a\x7f"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "UNREADABLE_REQUEST"


async def test_a_request_over_the_limit_never_reaches_the_handler(pki: DevPki) -> None:
    probe = Probe()
    async with process_for(pki, probe, max_request_bytes=4096) as process:
        async with client(process, pki) as stub:
            error = await error_of(stub.Echo(text("x" * 5000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_after_ms_of(error) is None
    assert probe.calls == 0


async def test_more_calls_at_once_than_allowed_are_refused_with_a_hint(pki: DevPki) -> None:
    probe = Probe()
    async with process_for(pki, probe, max_concurrent_calls=1) as process:
        async with client(process, pki) as stub:
            held = stub.Stream(text("hold"))
            await held.read()
            error = await error_of(stub.Echo(text("x")))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(error) == "TOO_MANY_CALLS"
            assert (retry_after_ms_of(error) or 0) > 0
            probe.release.set()
            assert (await held.read()).value == "last"
            assert await held.read() is grpc.aio.EOF
            assert (await stub.Echo(text("x"))).value == "x"


async def test_one_caller_cannot_have_all_calls(pki: DevPki) -> None:
    probe = Probe()
    async with process_for(pki, probe, max_concurrent_calls=4) as process:
        async with client(process, pki) as stub, client(process, pki, "watcher") as other:
            held = [stub.Stream(text("hold")) for _ in range(2)]
            for call in held:
                await call.read()
            error = await error_of(stub.Echo(text("x")))
            assert reason_of(error) == "TOO_MANY_CALLS"
            assert (retry_after_ms_of(error) or 0) > 0
            assert (await other.Echo(text("x"))).value == "x"
            probe.release.set()


async def test_a_call_whose_work_others_gave_up_still_gets_a_status(
    stub: ProbeStub, process: Process
) -> None:
    error = await error_of(stub.Echo(text("abandoned"), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(error) == "WORK_ABANDONED"
    assert handled(process, "Echo", "unary", "Unavailable") == 1


async def test_a_role_that_may_not_call_is_denied_before_the_handler_runs(pki: DevPki) -> None:
    probe = Probe()
    async with process_for(pki, probe, roles={ECHO: {"watcher"}}) as process:
        async with client(process, pki, "client") as stub:
            denied = await error_of(stub.Echo(text("x")))
            unlisted = await error_of(stub.Refuse(text("x")))
            streamed = await stream_error(stub.Stream(text("x")), [])
        async with client(process, pki, "watcher") as stub:
            assert (await stub.Echo(text("x"))).value == "x"
            watcher = await error_of(stub.Refuse(text("x")))
    assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(denied) == "ROLE_DENIED"
    for error in (unlisted, streamed, watcher):
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reason_of(error) == "METHOD_NOT_LISTED"
    assert probe.calls == 1


async def test_the_request_id_goes_from_the_client_into_the_log(
    stub: ProbeStub, logged: io.StringIO
) -> None:
    assert (await stub.Echo(text("request-id"))).value != ""
    with telemetry.request_scope("from-the-client"):
        assert (await stub.Echo(text("request-id"))).value == "from-the-client"
        await error_of(stub.Refuse(text("unknown")))
    refused = [
        line
        for line in map(json.loads, logged.getvalue().splitlines())
        if line["event"] == "call_refused"
    ]
    assert [(line["request_id"], line["reason"]) for line in refused] == [
        ("from-the-client", "UNKNOWN")
    ]


async def test_refusals_become_statuses_on_a_bare_server_too() -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        async with refusals_as_status(context):
            raise REFUSALS["conflict"]
        return b""

    server = grpc.aio.server()
    handlers = {"Refuse": grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        error = await error_of(channel.unary_unary("/t.T/Refuse")(b""))
    await server.stop(None)
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(error) == "CONFLICT"
