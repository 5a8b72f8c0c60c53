"""The arbiter: applies log entries, judges what was received, ends windows.

Three steps, each restartable from the store: `apply` records entries with the cursor, `judge`
decides RECEIVED statements (it needs the token blob, which the log holds), `finalise` ends windows.
The last two run side by side, so that neither waits for the other.

A statement stays RECEIVED while its delegation is not in the log yet, which may still come, and
while the log does not hand out its token, which is the log's fault and never the operator's. Such a
statement is put off and asked about again, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from otr_arbitration.ports import Deferred, Received, Row, Store
from otr_log.follow import Numbered
from otr_log.peer import BlobUnreadableError, LogPeer, LogUnavailableError
from otr_protocol import finality
from otr_protocol.attestation.ear import MAX_TOKEN_BYTES, AttestationResult, Jwks, verify_token
from otr_protocol.errors import Refusal, UnavailableError
from otr_protocol.finality import Standing
from otr_protocol.identity import open_delegation
from otr_protocol.statement import Statement, open_statement
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.tree import Frontier

log = structlog.get_logger(__name__)

BATCH = 256
TICK_SECONDS = 0.25
MAX_CACHED_TOKENS = 256
FIRST_RETRY_MS = 1_000
MAX_RETRY_MS = 600_000
"""A token that the log does not hand out is asked for after 1 s, then each time twice as late."""


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
        self._changed = asyncio.Event()
        self.next_index = 0

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change. Ask before looking at the store, so that no change is missed."""
        return self._changed

    def wake(self) -> None:
        """Let everybody who watches look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

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
            self.wake()

    async def judging(self) -> None:
        """Judge for ever."""
        await _repeat(self.judge)

    async def finalising(self) -> None:
        """Finalise for ever."""
        await _repeat(self.finalise)

    async def judge(self) -> int:
        """Decide RECEIVED statements; returns how many moved."""
        now = self._now_ms()
        decided: list[Standing] = []
        deferred: list[Deferred] = []
        for row in await self._store.judgeable(now, BATCH):
            try:
                standing = await self._judge_one(row)
            except BlobUnreadableError as error:
                deferred.append(_put_off(row, now, error))
            except LogUnavailableError as error:
                log.warning("token_blob_unreachable", error=error.message)
                # This one too: a blob on which the log hangs must not be asked for first each time.
                deferred.append(
                    Deferred(row.standing.payload_hash, now + FIRST_RETRY_MS, row.attempts)
                )
                break
            else:
                if standing is not row.standing:
                    decided.append(standing)
        if deferred:
            await self._store.defer(deferred)
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
        except UnavailableError:
            raise  # says nothing about the statement
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
            raise cached.with_traceback(None)  # which would grow with every statement
        return cached

    async def _store_moves(self, standings: Sequence[Standing]) -> int:
        if standings:
            await self._store.move(standings)
            self.wake()
        return len(standings)


def _put_off(row: Row, now_ms: int, error: BlobUnreadableError) -> Deferred:
    """When to ask for a row's token again."""
    payload = row.standing.payload_hash
    log.warning(
        "token_unreadable", payload=payload.hex(), attempts=row.attempts + 1, error=error.message
    )
    wait = min(FIRST_RETRY_MS << min(row.attempts, 20), MAX_RETRY_MS)
    return Deferred(payload, now_ms + wait, row.attempts + 1)


async def _repeat(step: Callable[[], Awaitable[int]]) -> None:
    while True:
        if not await step():
            await asyncio.sleep(TICK_SECONDS)
