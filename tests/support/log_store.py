"""Parts of the log service without the service: a real SQLite store and guard in a directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from otr_commitment import continuity
from otr_commitment.admission import Admitted
from otr_commitment.guard_file import GuardFile
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import Clock, Head, Mark
from otr_commitment.sequencer import Committed, Outcome, Sequencer, Start, Submission, first_head
from otr_commitment.standing import Standing
from otr_commitment.store_sqlite import SqliteWriter
from otr_protocol.digest import H
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.entry import EntryKind, idempotency_key
from otr_protocol.tlog.note import SignerKey
from support.log_service import SetClock

KEY: Final = SignerKey("log.test/otr", b"\x07" * 32)
SUBMITTER: Final = "spiffe://otr.local/inference"


def record(number: int, *, request_id: bytes | None = None) -> Admitted:
    """An admitted record of invented bytes; the sequencer does not look inside."""
    data = b"record %d" % number
    kind = EntryKind.CLOSE
    return Admitted(kind, data, idempotency_key(kind, data), request_id)


@dataclass
class Store:
    """A writer, its guard and what a sequencer over them has announced."""

    directory: Path
    max_bytes: int | None = None
    clock: Clock = field(default_factory=SetClock)
    announced: list[Committed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.writer = self.open_writer()
        self.guard = GuardFile(self.directory / "guard", H(b"log"))
        self.standing = Standing()
        self.metrics = LogMetrics(CollectorRegistry())
        self.head = self.writer.head() or first_head(self.writer, KEY)

    def open_writer(self) -> SqliteWriter:
        """One more connection that can write."""
        return SqliteWriter(
            self.directory / "log.db",
            origin=KEY.name,
            vkey=str(KEY.verifier),
            max_bytes=self.max_bytes,
        )

    def sequencer(self, announce: Callable[[Committed], None] | None = None) -> Sequencer:
        """A sequencer that goes on from what is stored; checks and adopts it as a start does."""
        head = self.writer.head()
        assert head is not None
        continuity.check_guard(self.writer, head, self.guard, adopt=True)
        return Sequencer(
            self.writer,
            self.guard,
            Start(Edge.load(self.writer.read_tile, head.tree_size), head),
            KEY,
            self.clock,
            self.standing,
            self.announced.append if announce is None else announce,
            self.metrics,
        )

    def append(self, *calls: Sequence[Admitted]) -> list[Outcome]:
        """Append the records of several calls that wait together; what each came to."""
        sequencer = self.sequencer()
        self.announced.clear()
        loop = asyncio.new_event_loop()
        for records in calls:
            sequencer.submit(Submission(records, SUBMITTER, loop.create_future()))
        sequencer.start()
        sequencer.stop()
        loop.close()
        return [outcome for each in self.announced for _, outcome in each.outcomes]

    def grow(self, tree_size: int) -> Head:
        """Append invented records up to this size."""
        head = self.writer.head()
        assert head is not None
        for first in range(head.tree_size, tree_size, 256):
            self.append([record(n) for n in range(first, min(first + 256, tree_size))])
        head = self.writer.head()
        assert head is not None
        return head

    def mark(self) -> Mark:
        """Size and root of what is stored."""
        head = self.writer.head()
        assert head is not None
        return Mark(head.tree_size, head.root_hash)

    def close(self) -> None:
        """Close writer and guard."""
        self.writer.close()
        self.guard.close()
