"""The spot-check service follows the log from a durable cursor and counts each statement once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from otr.spotcheck.v1 import spotcheck_pb2 as pb
from otr.spotcheck.v1 import spotcheck_pb2_grpc as rpc
from otr_log.follow import Numbered
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.tree import Frontier
from otr_server.channel import open_channel
from otr_server.process import Listen, Process
from otr_spotcheck.main import start
from otr_spotcheck.population import Population
from otr_spotcheck.settings import Settings
from support.log_service import EXHIBIT, Service, entries, log_service, pki_in, put, statement
from support.stack import until_serving


@asynccontextmanager
async def spotcheck(directory: Path, log: Service) -> AsyncIterator[Process]:
    pki = pki_in(directory)
    pki.add("spotcheck")
    vkey = directory / "log.vkey"
    vkey.write_text(str(log.log_key))
    process = await start(
        Settings(
            listen=Listen(),
            data_dir=directory / "spotcheck",
            commitment_target=log.process.bound.target,
            log_vkey_file=vkey,
            tls=pki.server_tls("spotcheck"),
        )
    )
    try:
        yield process
    finally:
        await process.drain()


async def next_index(process: Process, directory: Path, *, at_least: int) -> int:
    tls = pki_in(directory).client_tls("watcher")
    async with (
        asyncio.timeout(20),
        open_channel(process.bound.target, tls, "spotcheck") as channel,
    ):
        stub = rpc.SpotCheckServiceStub(channel)
        while True:
            info = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
            if info.next_index >= at_least:
                return info.next_index


async def test_the_population_survives_a_restart_and_counts_each_statement_once(
    tmp_path: Path,
) -> None:
    async with log_service(tmp_path) as log:
        await put(log.stub(), *EXHIBIT.blobs)
        await log.stub().AppendBatch(entries([statement(n) for n in range(3)]))
        async with spotcheck(tmp_path, log) as process:
            assert await next_index(process, tmp_path, at_least=3) == 3
        await log.stub().AppendBatch(entries([statement(n) for n in range(2, 5)]))
        async with spotcheck(tmp_path, log) as process:
            assert await next_index(process, tmp_path, at_least=5) == 5
    population = Population(tmp_path / "spotcheck" / "spotcheck.sqlite")
    assert population.count() == 5
    population.close()


async def test_the_count_is_known_without_asking_the_database(tmp_path: Path) -> None:
    records = [statement(n) for n in (0, 1, 1)]
    batch = [
        Numbered(index, Entry(EntryKind.STATEMENT, record, "operator", 1))
        for index, record in enumerate(records)
    ]
    population = Population(tmp_path / "spotcheck.sqlite")
    await population.apply(batch, Frontier())
    await population.apply([], Frontier())
    population.close()  # a scrape must neither wait for the database nor share its connection
    assert population.count() == 2


async def test_it_serves_on_an_empty_log_and_says_what_is_not_built(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, spotcheck(tmp_path, log) as process:
        await until_serving(process)
        tls = pki_in(tmp_path).client_tls("watcher")
        async with open_channel(process.bound.target, tls, "spotcheck") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc.SpotCheckServiceStub(channel).GetAudit(pb.GetAuditRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
