"""Equivocation: which pairs of statements convict without a game (spec/statement.md)."""

from __future__ import annotations

from typing import Any

import pytest

from otr_protocol.equivocation import (
    Equivocation,
    NoEquivocationError,
    same_request,
    same_seq,
)
from otr_protocol.output import Finish, OutputOpening, OutputOpeningError
from otr_protocol.request_blob import RequestBlob
from otr_protocol.statement import Profile, VerifiedStatement, open_statement, sign_statement
from support.answers import SESSION, World, blob_of, request_of, stored_bytes

COMPLETE = blob_of(request_of(max_tokens=20), finish=Finish.LENGTH)
SHORTER = blob_of(request_of(max_tokens=20), output_count=9, finish=Finish.STOP_ID)


def signed(blob: RequestBlob = COMPLETE, **changes: Any) -> VerifiedStatement:
    world = World()
    statement = world.statement(blob, stored_bytes(blob), b"delegation", b"token", **changes)
    return open_statement(sign_statement(statement, SESSION.sign))


def opening(blob: RequestBlob = COMPLETE) -> OutputOpening:
    return blob.output_opening()


def test_two_statements_under_one_seq_convict() -> None:
    assert same_seq(signed(), signed(end_ms=1_900_000_000_000)) is Equivocation.SAME_SEQ


def test_the_same_statement_twice_does_not_convict() -> None:
    with pytest.raises(NoEquivocationError):
        same_seq(signed(), signed())


def test_statements_under_different_seqs_do_not_convict() -> None:
    with pytest.raises(NoEquivocationError):
        same_seq(signed(), signed(seq=4))


def test_two_outputs_of_one_exact_request_convict() -> None:
    found = same_request(signed(), opening(), signed(SHORTER, seq=4), opening(SHORTER))
    assert found is Equivocation.SAME_REQUEST


def test_two_traces_of_one_exact_request_convict() -> None:
    other = signed(seq=4, trace_root=bytes(32))
    assert same_request(signed(), opening(), other, opening()) is Equivocation.SAME_REQUEST


def test_the_same_answer_twice_does_not_convict() -> None:
    with pytest.raises(NoEquivocationError):
        same_request(signed(), opening(), signed(seq=4, token_digest=bytes(32)), opening())


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": bytes(16)},
        {"client_nonce": bytes(16)},
        {"model_id": bytes(32)},
        {"input_digest": bytes(32)},
        {"operator_id": bytes(32)},
    ],
)
def test_answers_to_different_requests_do_not_convict(change: dict[str, Any]) -> None:
    other = signed(SHORTER, seq=4, **change)
    with pytest.raises(NoEquivocationError):
        same_request(signed(), opening(), other, opening(SHORTER))


@pytest.mark.parametrize("finish", [Finish.ABORTED, Finish.CANCELLED])
def test_an_answer_that_was_cut_short_may_differ(finish: Finish) -> None:
    cut = blob_of(request_of(max_tokens=20), output_count=5, finish=finish)
    with pytest.raises(NoEquivocationError):
        same_request(signed(), opening(), signed(cut, seq=4), opening(cut))


def test_float_answers_may_differ() -> None:
    other = signed(SHORTER, seq=4, profile=Profile.FLOAT)
    with pytest.raises(NoEquivocationError):
        same_request(signed(), opening(), other, opening(SHORTER))


def test_an_accuser_cannot_pass_off_a_cancelled_answer_as_complete() -> None:
    cut = blob_of(request_of(max_tokens=20), output_count=5, finish=Finish.CANCELLED)
    true = opening(cut)
    false = OutputOpening(true.sub_output, true.out_root, Finish.LENGTH)
    with pytest.raises(OutputOpeningError):
        same_request(signed(), opening(), signed(cut, seq=4), false)
