"""The outbox gives a record up only for a receipt that verifies, and tells everybody who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from otr_inference.outbox import Outbox
from otr_inference.ports import Sealed, SessionRow
from otr_inference.store_sqlite import AnswerStore
from otr_protocol.statement import payload_hash, sign_statement
from otr_protocol.tlog.entry import Entry, EntryKind
from support.answers import SESSION, World, blob_of, stored_bytes
from support.log_of import LOG_KEY
from support.scripted_log import LOG_TIME_MS, ScriptedLog, scripted_log

CLIENT = "spiffe://otr/client/test"
SECONDS = 5.0


@dataclass
class Spool:
    """A store, the outbox that empties it, and the log it is emptied into."""

    store: AnswerStore
    outbox: Outbox
    log: ScriptedLog
    registry: CollectorRegistry

    def count(self, name: str) -> float:
        """A counter of the outbox."""
        return self.registry.get_sample_value(f"otr_inference_outbox_{name}_total") or 0.0

    async def seal(self) -> bytes:
        """One signed answer, waiting for the log; its payload hash."""
        world, blob = World(), blob_of()
        delegation, token, stored = world.delegation(), b"token", stored_bytes(blob)
        statement = world.statement(
            blob, stored, delegation, token, seq=0, exposure=0, cumulative_exposure=0
        )
        row = SessionRow(SESSION.public, delegation, token, b"t" * 32, b"evidence", b"e" * 32)
        await self.store.record_session(row, 0)
        await self.store.admit(CLIENT, statement.request_id, b"f" * 32)
        answer = await self.store.seal(
            CLIENT,
            statement.request_id,
            SESSION.public,
            0,
            lambda seq, cumulative: Sealed(
                payload_hash(statement), sign_statement(statement, SESSION.sign)
            ),
            blob=stored,
            blob_digest=statement.blob_digest,
            content_key=b"",
            kind=int(EntryKind.STATEMENT),
        )
        self.outbox.notify()
        return answer.payload_hash


@asynccontextmanager
async def spool(directory: Path) -> AsyncIterator[Spool]:
    """A running outbox over an empty store and log."""
    store = AnswerStore(directory / "inference.sqlite")
    await store.open()
    registry = CollectorRegistry()
    async with scripted_log() as (log, peer):
        outbox = Outbox(store, peer, LOG_KEY.verifier, registry)
        task = asyncio.create_task(outbox.run())
        try:
            yield Spool(store, outbox, log, registry)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await store.close()


async def test_a_record_stays_until_its_receipt_verifies(tmp_path: Path) -> None:
    async with spool(tmp_path) as running:
        running.log.tamper = lambda receipt: b"GARBAGE"
        sealed = await running.seal()
        assert await running.outbox.wait_receipt(sealed, 0.3) is None
        assert await running.store.outbox_size() == 1
        assert running.count("receipts_refused") >= 1
        running.log.tamper = lambda receipt: receipt
        assert await running.outbox.wait_receipt(sealed, SECONDS) is not None
        assert await running.store.outbox_size() == 0


async def test_a_receipt_of_another_record_is_not_taken(tmp_path: Path) -> None:
    async with spool(tmp_path) as running:
        running.log.log.append(Entry(EntryKind.MODEL, b"another record", CLIENT, LOG_TIME_MS))
        foreign = running.log.log.receipt(0).encode()
        running.log.tamper = lambda receipt: foreign
        sealed = await running.seal()
        assert await running.outbox.wait_receipt(sealed, 0.3) is None
        assert await running.store.outbox_size() == 1


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with spool(tmp_path) as running:
        running.log.open_gate.clear()
        sealed = await running.seal()
        patient = asyncio.create_task(running.outbox.wait_receipt(sealed, SECONDS))
        assert await running.outbox.wait_receipt(sealed, 0.05) is None
        running.log.open_gate.set()
        async with asyncio.timeout(2.0):
            assert await patient is not None


async def test_a_receipt_that_came_unannounced_is_found_at_the_last_look(tmp_path: Path) -> None:
    async with spool(tmp_path) as running:
        running.log.open_gate.clear()
        sealed = await running.seal()
        waiting = asyncio.create_task(running.outbox.wait_receipt(sealed, 0.3))
        await asyncio.sleep(0.1)
        [row] = await running.store.outbox(1)
        await running.store.acknowledge([(row, b"receipt")])
        assert await waiting == b"receipt"
