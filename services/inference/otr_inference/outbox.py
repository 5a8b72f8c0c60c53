"""From the operator's disk to the log: in order, at least once, doubled never.

Records wait in the store's outbox until the log has acknowledged them durably; the log is
idempotent on the record, so sending again after a crash changes nothing. While the log is down,
answers go on and the outbox grows; a statement's blobs go first, since the log refuses a
statement without them.
"""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from otr_inference.ports import OutboxRow, Store
from otr_log.peer import LogPeer, RecordRefusedError
from otr_protocol.errors import Refusal
from otr_server.backoff import Backoff

log = structlog.get_logger(__name__)

BATCH = 64


class Outbox:
    """Sends what the store holds and tells waiters when a receipt is there."""

    def __init__(self, store: Store, peer: LogPeer, registry: CollectorRegistry) -> None:
        self._store = store
        self._peer = peer
        self._news = asyncio.Event()
        self._receipts: dict[bytes, asyncio.Event] = {}
        self._depth = Gauge(
            "otr_inference_outbox_records", "Records not yet in the log", registry=registry
        )
        self._sent = Counter(
            "otr_inference_outbox_sent", "Records acknowledged by the log", registry=registry
        )
        self._failures = Counter(
            "otr_inference_outbox_failures", "Failed attempts to reach the log", registry=registry
        )

        self._set_aside = Counter(
            "otr_inference_outbox_set_aside", "Records that the log refused", registry=registry
        )

    def notify(self) -> None:
        """There is something new to send."""
        self._news.set()

    async def wait_receipt(self, payload_hash: bytes, timeout_seconds: float) -> bytes | None:
        """The receipt of a sealed statement, or None when it does not come in time."""
        event = self._receipts.setdefault(payload_hash, asyncio.Event())
        try:
            answer = await self._store.answer_by_hash(payload_hash)
            if answer is not None and answer.receipt is None:
                async with asyncio.timeout(timeout_seconds):
                    await event.wait()
                answer = await self._store.answer_by_hash(payload_hash)
            return None if answer is None else answer.receipt
        except TimeoutError:
            return None
        finally:
            self._receipts.pop(payload_hash, None)

    async def run(self) -> None:
        """Send for ever; a failure backs off and tries again."""
        backoff = Backoff()
        while True:
            self._news.clear()
            rows = await self._store.outbox(BATCH)
            self._depth.set(await self._store.outbox_size())
            if not rows:
                await self._news.wait()
                continue
            try:
                await self._send(rows)
            except (Refusal, OSError) as error:
                self._failures.inc()
                log.warning("log_unreachable", waiting=len(rows), error=str(error))
                await asyncio.sleep(backoff.next_seconds())
            else:
                backoff.reset()

    async def _send(self, rows: list[OutboxRow]) -> None:
        blobs: dict[bytes, bytes] = {}
        for row in rows:
            if row.payload_hash is None:
                continue
            answer = await self._store.answer_by_hash(row.payload_hash)
            if answer is None:
                raise RuntimeError("an outbox row without its answer")
            session = answer.session
            blobs[session.evidence_digest] = session.evidence
            blobs[session.token_digest] = session.token
            blobs[answer.blob_digest] = answer.blob
        if blobs:
            await self._peer.put_blobs(list(blobs.items()))
        try:
            registered = await self._peer.append([(row.kind, row.record) for row in rows])
        except RecordRefusedError as refusal:
            if len(rows) > 1:  # all or nothing: find the one, so that it does not hold up the rest
                for row in rows:
                    await self._send([row])
            else:
                log.error("record_set_aside", kind=rows[0].kind, reason=refusal.log_reason)
                await self._store.set_aside(rows[0], refusal.log_reason)
                self._set_aside.inc()
            return
        await self._store.acknowledge(
            [(row, entry.receipt) for row, entry in zip(rows, registered, strict=True)]
        )
        self._sent.inc(len(rows))
        for row in rows:
            waiter = self._receipts.get(row.payload_hash or b"")
            if waiter is not None:
                waiter.set()
