"""The metrics port over real HTTP (otr_server.observation, metrics)."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.metrics import InferenceMetrics
from otr_server.process import Process
from support.probe_process import client, process_for
from support.probe_service import Probe, text


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DevPki:
    return make_dev_pki(tmp_path_factory.mktemp("tls"), ["commitment", "client"])


@pytest.fixture
async def process(pki: DevPki) -> AsyncIterator[Process]:
    async with process_for(pki, Probe()) as process:
        yield process


async def fetch(
    process: Process, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, str]:
    def ask() -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", process.bound.metrics_port, timeout=10)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, response.getheader("content-type", ""), body

    return await asyncio.to_thread(ask)


async def raw(process: Process, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", process.bound.metrics_port)
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_calls_show_in_the_exposition(process: Process, pki: DevPki) -> None:
    InferenceMetrics(process.registry, model_name="otr-tiny").running.set(3)
    async with client(process, pki) as stub:
        for _ in range(2):
            await stub.Echo(text("x"))
        assert [m.value async for m in stub.Stream(text(""))] == ["first", "last"]
        status, kind, body = await fetch(process, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    labels = (
        ("grpc_method", "Echo"),
        ("grpc_service", "otr.test.v1.Probe"),
        ("grpc_type", "unary"),
    )
    assert samples["grpc_server_started_total", *labels] == 2
    assert samples["grpc_server_handled_total", ("grpc_code", "OK"), *labels] == 2
    assert samples["grpc_server_handling_seconds_count", *labels] == 2
    assert samples[("otr_server_serving",)] == 0
    assert any(name[0] == "process_resident_memory_bytes" for name in samples)
    running = (("engine_type", "exact-int8"), ("model_name", "otr-tiny"))
    assert samples["otr_num_requests_running", *running] == 3


async def test_readiness_follows_health_and_liveness_does_not(process: Process) -> None:
    assert (await fetch(process, "/readyz"))[0] == 503
    assert (await fetch(process, "/livez"))[0] == 200
    process.set_serving(True)
    assert (await fetch(process, "/readyz"))[0] == 200
    assert "otr_server_serving 1.0" in (await fetch(process, "/metrics"))[2]


async def test_openmetrics_is_given_to_who_asks(process: Process) -> None:
    _, kind, body = await fetch(process, "/metrics", Accept="application/openmetrics-text")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


async def test_anything_else_is_refused(process: Process) -> None:
    assert (await fetch(process, "/"))[0] == 404
    assert (await fetch(process, "/metrics/../etc"))[0] == 404
    assert (await fetch(process, "/metrics", "POST"))[0] == 405
    assert (await fetch(process, "/metrics?x=1"))[0] == 200
    assert (await raw(process, b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert (await raw(process, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")).startswith(
        b"HTTP/1.1 400 "
    )


async def test_a_head_request_has_no_body(process: Process) -> None:
    answer = await raw(process, b"HEAD /livez HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_drain_does_not_wait_for_a_silent_connection(pki: DevPki) -> None:
    process = process_for(pki, Probe())
    await process.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", process.bound.metrics_port)
    await fetch(process, "/livez")
    async with asyncio.timeout(4):  # less than the port gives a slow client
        await process.drain()
    assert await reader.read() == b""
    writer.close()
