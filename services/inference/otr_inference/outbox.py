"""From the operator's disk to the log: in order, at least once, doubled never.

Records wait in the store's outbox until the log has acknowledged them durably; the log is
idempotent on the record, so sending again after a crash changes nothing. While the log is down,
answers go on and the outbox grows; a statement's blobs go first, since the log refuses a
statement without them. The log's word is not enough: a record leaves the outbox only for a receipt
that verifies under the pinned log key, since whoever answers in the log's place could otherwise
make this operator forget what it owes a log entry.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from otr_inference.ports import OutboxRow, Store
from otr_log.peer import LogPeer, RecordRefusedError, Registered
from otr_protocol.errors import Refusal, UnavailableError
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.receipt import Receipt
from otr_server.backoff import Backoff

log = structlog.get_logger(__name__)

BATCH = 64


class LogReceiptError(UnavailableError):
    """The log took records and did not show that it has them; they are sent again."""

    reason = "LOG_RECEIPT"


@dataclass(eq=False, slots=True)
class _Awaited:
    """A statement whose receipt somebody waits for; forgotten when the last of them leaves."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: int = 0


class Outbox:
    """Sends what the store holds and tells waiters when a receipt is there."""

    def __init__(
        self, store: Store, peer: LogPeer, log_key: VerifierKey, registry: CollectorRegistry
    ) -> None:
        self._store = store
        self._peer = peer
        self._log_key = log_key
        self._news = asyncio.Event()
        self._awaited: dict[bytes, _Awaited] = {}
        self._depth = Gauge(
            "otr_inference_outbox_records", "Records not yet in the log", registry=registry
        )
        self._sent = Counter(
            "otr_inference_outbox_sent", "Records acknowledged by the log", registry=registry
        )
        self._failures = Counter(
            "otr_inference_outbox_failures", "Failed attempts to reach the log", registry=registry
        )
        self._unproven = Counter(
            "otr_inference_outbox_receipts_refused",
            "Receipts of the log that do not verify",
            registry=registry,
        )
        self._set_aside = Counter(
            "otr_inference_outbox_set_aside", "Records that the log refused", registry=registry
        )

    def notify(self) -> None:
        """There is something new to send."""
        self._news.set()

    async def wait_receipt(self, payload_hash: bytes, timeout_seconds: float) -> bytes | None:
        """The receipt of a sealed statement, or None when it does not come in time."""
        awaited = self._awaited.setdefault(payload_hash, _Awaited())
        awaited.waiters += 1
        try:
            answer = await self._store.answer_by_hash(payload_hash)
            if answer is not None and answer.receipt is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_seconds):
                        await awaited.arrived.wait()
                answer = await self._store.answer_by_hash(payload_hash)
            return None if answer is None else answer.receipt
        finally:
            awaited.waiters -= 1
            if not awaited.waiters:
                del self._awaited[payload_hash]

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
        try:
            if blobs:
                await self._peer.put_blobs(list(blobs.items()))
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
        verified = await asyncio.to_thread(self._verified, rows, registered)
        await self._store.acknowledge(verified)
        self._sent.inc(len(verified))
        for row, _ in verified:
            awaited = self._awaited.get(row.payload_hash or b"")
            if awaited is not None:
                awaited.arrived.set()
        if len(verified) < len(rows):
            self._unproven.inc(len(rows) - len(verified))
            raise LogReceiptError(f"{len(rows) - len(verified)} receipts do not verify")

    def _verified(
        self, rows: Sequence[OutboxRow], registered: Sequence[Registered]
    ) -> list[tuple[OutboxRow, bytes]]:
        """The rows that the log has, each with the receipt that shows it."""
        return [
            (row, entry.receipt)
            for row, entry in zip(rows, registered, strict=False)  # a missing receipt is no receipt
            if self._shows(row, entry.receipt)
        ]

    def _shows(self, row: OutboxRow, receipt: bytes) -> bool:
        """Whether `receipt` verifies for the record under the log's key."""
        try:
            receipts.verify(
                EntryKind(row.kind),
                row.record,
                Receipt.decode(receipt),
                [self._log_key],
                unknown_lines="ignore",  # cosignatures are a relying party's to judge
            )
        except Refusal as refusal:
            log.error("receipt_refused", kind=row.kind, reason=refusal.reason)
            return False
        return True
