"""A real arbiter beside a real log, and statements for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr.arbitration.v1 import arbitration_pb2_grpc as rpc
from otr.commitment.v1 import commitment_pb2 as log_pb
from otr_arbitration.main import start
from otr_arbitration.settings import Settings
from otr_protocol.attestation.compact_jws import jwks_document
from otr_protocol.digest import H
from otr_protocol.statement import open_statement
from otr_server.channel import open_channel
from otr_server.process import Listen, Process
from support.answers import ISSUER_KEY, MODEL_ID, World, sign_token
from support.log_service import (
    EXHIBIT,
    Service,
    delegation,
    entry,
    pki_in,
    put,
    statement,
)

RECEIVED = pb.FINALITY_STATE_RECEIVED
PROVISIONAL = pb.FINALITY_STATE_PROVISIONAL
FINAL = pb.FINALITY_STATE_FINAL
IGNORED = pb.FINALITY_STATE_IGNORED


class Arbiter:
    """A running arbiter beside a log, which it can outlive."""

    def __init__(self, log: Service, process: Process, stub: Any) -> None:
        self.log = log
        self.process = process
        self.stub = stub

    async def states(self, payload_hash: bytes, *, until: int) -> list[pb.Finality]:
        """The changes of one statement up to the state `until`."""
        seen: list[pb.Finality] = []
        watch = self.stub.WatchFinality(pb.WatchFinalityRequest(payload_hash=payload_hash))
        try:
            async with asyncio.timeout(30):
                async for message in watch:
                    seen += message.changes
                    if until in [change.state for change in seen]:
                        return seen
        finally:
            watch.cancel()
        raise AssertionError("the stream ended")


def settings_in(directory: Path, log: Service, **changes: Any) -> Settings:
    """Settings of an arbiter in `directory` that follows `log`, with windows of 0.3 s."""
    pki = pki_in(directory)
    pki.add("arbitration")
    vkey = directory / "log.vkey"
    vkey.write_text(str(log.log_key))
    jwks = directory / "jwks.json"
    jwks.write_text(jwks_document([ISSUER_KEY.public_key()]))
    settings = Settings(
        listen=Listen(),
        data_dir=directory / "arbitration",
        commitment_target=log.process.bound.target,
        log_vkey_file=vkey,
        jwks_file=jwks,
        window_seconds=0.3,
        accept_simulated=True,
        tls=pki.server_tls("arbitration"),
    )
    return replace(settings, **changes)


@asynccontextmanager
async def arbiter(directory: Path, log: Service, **changes: Any) -> AsyncIterator[Arbiter]:
    """An arbiter as a watcher sees it, drained at the end."""
    process = await start(settings_in(directory, log, **changes))
    tls = pki_in(directory).client_tls("watcher")
    try:
        async with open_channel(process.bound.target, tls, "arbitration") as channel:
            yield Arbiter(log, process, rpc.ArbitrationServiceStub(channel))
    finally:
        await process.drain()


EVIDENCE = b"evidence bundle"
ISSUED = int(time.time()) - 600
"""When tokens are issued: long enough ago for statements under them to have ended."""


def token_of(issued: int = ISSUED, **private: Any) -> bytes:
    """A token of the test issuer for the test session, `issued` seconds since 1970."""
    claims = World().token_claims(evidence_digest=H(EVIDENCE), **private)
    return sign_token(claims | {"iat": issued, "nbf": issued, "exp": issued + 3600})


async def log_statement(
    log: Service, seq: int = 0, *, token: bytes | None = None, issued: int = ISSUED
) -> bytes:
    """Log a statement with the blobs it needs; returns its payload hash."""
    token = token_of(issued) if token is None else token
    await put(log.stub(), EXHIBIT.blob, EVIDENCE, token)
    signed = statement(
        seq,
        model_id=MODEL_ID,
        delegation_digest=H(delegation()),
        token_digest=H(token),
        start_ms=issued * 1000 + 1000,
        end_ms=issued * 1000 + 2000,
    )
    await log.stub().AppendEntry(entry(signed))
    return open_statement(signed).payload_hash


async def log_delegation(log: Service) -> None:
    """Log the delegation that the statements name."""
    await log.stub().AppendEntry(entry(delegation(), log_pb.ENTRY_KIND_DELEGATION))


def states(changes: list[pb.Finality]) -> list[int]:
    """The states that changes led to."""
    return [change.state for change in changes]
