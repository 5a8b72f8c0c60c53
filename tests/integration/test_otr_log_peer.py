"""What a writer hears from a real log: refused for ever, or to be sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otr_log.peer import LogPeer, LogUnavailableError, RecordRefusedError
from otr_protocol.digest import H
from otr_protocol.tlog.entry import EntryKind
from support.log_service import EXHIBIT, Service, log_service, put, statement


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Service]:
    async with log_service(tmp_path) as running:
        yield running


def peer_of(log: Service) -> LogPeer:
    log.stub("inference")  # opens the channel
    return LogPeer(log.channels["inference"])


FORGED = statement(1)[:-1] + b"\x00"


@pytest.mark.parametrize(
    ("kind", "record", "reason"),
    [
        (EntryKind.MODEL, b"no model record", "COSE_MALFORMED"),
        (EntryKind.AUDIT_RATE, b"a kind without a parser", "ENTRY_KIND_NOT_TAKEN"),
        (EntryKind.STATEMENT, FORGED, "SIGNATURE_REJECTED"),
    ],
)
async def test_a_record_that_can_never_be_logged_is_refused_for_ever(
    log: Service, kind: EntryKind, record: bytes, reason: str
) -> None:
    await put(log.stub(), *EXHIBIT.blobs)
    with pytest.raises(RecordRefusedError) as caught:
        await peer_of(log).append([(int(kind), record)])
    assert caught.value.log_reason == reason


@pytest.mark.parametrize("held", [0, 1, 2], ids=["no blob", "no token", "no evidence"])
async def test_a_statement_whose_blobs_may_still_come_is_sent_again(
    log: Service, held: int
) -> None:
    await put(log.stub(), *EXHIBIT.blobs[:held])
    with pytest.raises(LogUnavailableError):
        await peer_of(log).append([(int(EntryKind.STATEMENT), statement(1))])


async def test_a_token_that_names_no_evidence_is_refused_for_ever(log: Service) -> None:
    await put(log.stub(), EXHIBIT.blob, b"no token")
    record = statement(1, token_digest=H(b"no token"))
    with pytest.raises(RecordRefusedError) as caught:
        await peer_of(log).append([(int(EntryKind.STATEMENT), record)])
    assert caught.value.log_reason == "ATTESTATION_TOKEN_UNREADABLE"


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "FIELD_RANGE"), (b"other bytes", "BLOB_DIGEST")]
)
async def test_a_blob_that_can_never_be_held_is_refused_for_ever(
    log: Service, data: bytes, reason: str
) -> None:
    with pytest.raises(RecordRefusedError) as caught:
        await peer_of(log).put_blobs([(H(b"the bytes"), data)])
    assert caught.value.log_reason == reason


async def test_a_log_that_may_not_go_on_is_asked_again(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log:
        await put(log.stub(), *EXHIBIT.blobs)
        await peer_of(log).append([(int(EntryKind.STATEMENT), statement(1))])
    (tmp_path / "guard" / "log.guard").unlink()
    async with log_service(tmp_path) as log:
        with pytest.raises(LogUnavailableError, match="FAILED_PRECONDITION"):
            await peer_of(log).append([(int(EntryKind.STATEMENT), statement(2))])
