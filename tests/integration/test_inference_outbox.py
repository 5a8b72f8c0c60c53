"""A record that the log will never take is set aside and holds up nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

from otr_inference.store_sqlite import AnswerStore
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.verify_answer import TimeBasis
from support.stack import raw, running_stack


async def test_a_record_the_log_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        await stack.stop("inference")
        database = stack.directory.root / "data" / "inference" / "inference.sqlite"
        store = AnswerStore(database)
        await store.open()
        await store.enqueue(int(EntryKind.MODEL), b"no model record")
        await store.close()
        await stack.start("inference")
        answer = await stack.answer(raw(), wait_receipt=True)
        assert answer.verified.time_basis is TimeBasis.LOG
        await stack.stop("inference")
        again = AnswerStore(database)
        await again.open()
        assert await asyncio.wait_for(again.outbox_size(), 5) == 0
        await again.close()
