"""The arbiter: applies log entries, judges what was received, ends windows.

Three steps, each restartable from the store: `apply` records entries with the cursor, `judge`
decides RECEIVED statements (it needs the token blob, which the log holds), `finalise` ends windows.
A statement whose delegation is not in the log yet stays RECEIVED; the delegation may still come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from otr_arbitration.ports import Received, Row, Store
from otr_log.follow import Numbered
from otr_log.peer import LogPeer, LogUnavailableError
from otr_protocol import finality
from otr_protocol.attestation.ear import MAX_TOKEN_BYTES, AttestationResult, Jwks, verify_token
from otr_protocol.errors import Refusal
from otr_protocol.finality import Standing
from otr_protocol.identity import open_delegation
from otr_protocol.statement import Statement, open_statement
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.tree import Frontier

log = structlog.get_logger(__name__)

BATCH = 256
TICK_SECONDS = 0.25
MAX_CACHED_TOKENS = 256


class Arbiter:
    """Moves statements towards finality."""

    def __init__(
        self,
        store: Store,
        peer: LogPeer,
        jwks: Jwks,
        *,
        log_origin: str,
        window_ms: int,
        accept_simulated: bool,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._peer = peer
        self._jwks = jwks
        self._log_origin = log_origin
        self._window_ms = window_ms
        self._accept_simulated = accept_simulated
        self._now_ms = now_ms
        self._tokens: dict[bytes, AttestationResult | Refusal] = {}
        self._changed = asyncio.Condition()
        self.next_index = 0

    @property
    def changed(self) -> asyncio.Condition:
        """Notified after every change, for those who watch."""
        return self._changed

    async def apply(self, batch: Sequence[Numbered], cursor: Frontier) -> None:
        """Record a verified batch of log entries and the cursor after it."""
        delegations: list[tuple[bytes, bytes]] = []
        statements: list[Received] = []
        for numbered in batch:
            entry = numbered.entry
            try:
                if entry.kind is EntryKind.DELEGATION:
                    delegations.append((open_delegation(entry.record).digest, entry.record))
                elif entry.kind is EntryKind.STATEMENT:
                    opened = open_statement(entry.record)
                    standing = Standing(
                        opened.payload_hash,
                        numbered.leaf_index,
                        entry.log_time_ms,
                        entry.log_time_ms + self._window_ms,
                    )
                    signed = opened.statement
                    statements.append(
                        Received(
                            standing,
                            entry.record,
                            signed.exposure,
                            signed.fee,
                            signed.delegation_digest,
                        )
                    )
            except Refusal as refusal:  # the log checks too; what slips through binds nobody
                log.warning("entry_ignored", index=numbered.leaf_index, reason=refusal.reason)
        await self._store.apply(delegations, statements, cursor)
        self.next_index = cursor.tree_size
        if statements or delegations:
            await self._notify()

    async def run(self) -> None:
        """Judge and finalise for ever."""
        while True:
            try:
                moved = await self.judge() + await self.finalise()
            except LogUnavailableError as error:
                log.warning("token_blob_unreachable", error=error.message)
                moved = 0
            if not moved:
                await asyncio.sleep(TICK_SECONDS)

    async def judge(self) -> int:
        """Decide RECEIVED statements; returns how many moved."""
        decided: list[Standing] = []
        for row in await self._store.judgeable(BATCH):
            standing = await self._judge_one(row)
            if standing is not row.standing:
                decided.append(standing)
        return await self._store_moves(decided)

    async def finalise(self) -> int:
        """End the windows that are due; returns how many statements became FINAL."""
        now = self._now_ms()
        due = await self._store.due(now, BATCH)
        return await self._store_moves([finality.advance(row.standing, now) for row in due])

    async def _judge_one(self, row: Row) -> Standing:
        statement = open_statement(row.statement).statement
        record = await self._store.delegation(statement.delegation_digest)
        if record is None:
            return row.standing
        try:
            finality.require_answerable(
                statement,
                open_delegation(record),
                self._log_origin,
                row.standing.log_time_ms,
            )
            result = await self._token(statement)
            finality.require_attested(statement, result, accept_simulated=self._accept_simulated)
        except LogUnavailableError:
            raise
        except Refusal as refusal:
            payload = row.standing.payload_hash.hex()
            log.info("statement_ignored", payload=payload, reason=refusal.reason)
            return finality.ignored(row.standing, refusal.reason)
        return finality.provisional(row.standing, statement, result)

    async def _token(self, statement: Statement) -> AttestationResult:
        """The verified token of a statement; verdicts are cached, since a session signs many."""
        cached = self._tokens.get(statement.token_digest)
        if cached is None:
            token = await self._peer.get_blob(statement.token_digest, max_bytes=MAX_TOKEN_BYTES)
            try:
                cached = verify_token(token, self._jwks)
            except Refusal as refusal:
                cached = refusal
            if len(self._tokens) >= MAX_CACHED_TOKENS:
                self._tokens.pop(next(iter(self._tokens)))
            self._tokens[statement.token_digest] = cached
        if isinstance(cached, Refusal):
            raise cached
        return cached

    async def _store_moves(self, standings: Sequence[Standing]) -> int:
        if standings:
            await self._store.move(standings)
            await self._notify()
        return len(standings)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
