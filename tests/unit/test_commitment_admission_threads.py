"""What strangers append is looked at on a thread, never on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from otr_commitment.admission import Admission
from otr_commitment.appending import Appender, Offered
from otr_commitment.blobs_directory import BlobDirectory
from otr_commitment.metrics import LogMetrics
from otr_commitment.sequencer import Submission
from otr_commitment.standing import Standing
from otr_commitment.store_sqlite import SqliteReader, SqliteWriter
from otr_protocol.tlog.entry import EntryKind
from support.log_of import LOG_KEY
from support.log_service import delegation


@pytest.fixture
def appender(tmp_path: Path) -> Iterator[Appender]:
    metrics = LogMetrics(CollectorRegistry())
    path = tmp_path / "log.db"
    writer = SqliteWriter(path, origin=LOG_KEY.name, vkey=str(LOG_KEY.verifier), max_bytes=None)
    reader = SqliteReader(path)
    with ThreadPoolExecutor(1, thread_name_prefix="admission") as threads:
        admission = Admission(BlobDirectory(tmp_path, metrics))
        yield Appender(admission, reader, Standing(), threads, metrics, max_pending=8, share=1)
    reader.close()
    writer.close()


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_guests_record_is_admitted_on_a_thread(appender: Appender, trusted: bool) -> None:
    loop = asyncio.get_running_loop()
    admitted_on: asyncio.Future[threading.Thread] = loop.create_future()

    def submit(submission: Submission) -> None:
        loop.call_soon_threadsafe(admitted_on.set_result, threading.current_thread())

    appender.connect(submit)
    offered = [Offered(EntryKind.DELEGATION, delegation(), "record")]
    call = asyncio.create_task(appender.append(offered, "somebody", trusted=trusted))
    thread = await asyncio.wait_for(admitted_on, 5)
    call.cancel()
    assert (thread is threading.main_thread()) is trusted
