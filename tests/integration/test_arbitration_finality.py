"""The arbiter against a real log: whose statements count, when they are final, and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from otr.arbitration.v1 import arbitration_pb2 as pb
from otr_protocol.digest import H
from otr_protocol.identity import operator_id
from support.answers import OPERATOR, World, sign_token
from support.arbiter_service import (
    EVIDENCE,
    FINAL,
    IGNORED,
    PROVISIONAL,
    RECEIVED,
    arbiter,
    log_delegation,
    log_statement,
    states,
    token_of,
)
from support.log_service import (
    log_service,
)


async def test_a_delegated_and_attested_statement_becomes_final(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log)
        changes = await judge.states(payload_hash, until=FINAL)
        assert states(changes) == [RECEIVED, PROVISIONAL, FINAL]
        final = changes[-1]
        assert (final.operator_id, final.payable) == (operator_id(OPERATOR.public), True)
        assert final.window_ends_ms == final.log_time_ms + 300
        found = await judge.stub.GetFinality(pb.GetFinalityRequest(leaf_index=1))
        assert found.finality == final


async def test_a_statement_waits_for_its_delegation(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        payload_hash = await log_statement(log)
        received = await judge.states(payload_hash, until=RECEIVED)
        assert states(received) == [RECEIVED]
        await log_delegation(log)
        changes = await judge.states(payload_hash, until=FINAL)
        assert states(changes) == [RECEIVED, PROVISIONAL, FINAL]


WRONG_TOKENS = [
    ("another session key", {"session_key": b"x" * 32}, "ATTESTATION_BINDING"),
    ("another model", {"model_id": b"x" * 32}, "ATTESTATION_BINDING"),
    ("another operator", {"operator_id": b"x" * 32}, "ATTESTATION_BINDING"),
]


@pytest.mark.parametrize(
    ("private", "reason"), [pytest.param(p, r, id=n) for n, p, r in WRONG_TOKENS]
)
async def test_a_token_for_somebody_else_gets_a_statement_ignored(
    tmp_path: Path, private: dict[str, bytes], reason: str
) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log, token=token_of(**private))
        changes = await judge.states(payload_hash, until=IGNORED)
        assert states(changes) == [RECEIVED, IGNORED]
        assert (changes[-1].reason, changes[-1].payable) == (reason, False)


async def test_a_token_by_an_issuer_that_is_not_pinned_is_worth_nothing(tmp_path: Path) -> None:
    foreign = ec.generate_private_key(ec.SECP384R1())
    claims = World().token_claims(evidence_digest=H(EVIDENCE))
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log, token=sign_token(claims, foreign))
        changes = await judge.states(payload_hash, until=IGNORED)
        assert changes[-1].reason == "TOKEN_KEY_UNKNOWN"


async def test_simulated_evidence_counts_only_where_it_is_accepted(tmp_path: Path) -> None:
    async with (
        log_service(tmp_path) as log,
        arbiter(tmp_path, log, accept_simulated=False) as judge,
    ):
        await log_delegation(log)
        payload_hash = await log_statement(log, token=token_of(simulated=True))
        changes = await judge.states(payload_hash, until=IGNORED)
        assert changes[-1].reason == "EVIDENCE_SIMULATED"


async def test_a_statement_logged_long_after_its_token_is_kept_and_not_paid(
    tmp_path: Path,
) -> None:
    async with log_service(tmp_path) as log, arbiter(tmp_path, log) as judge:
        await log_delegation(log)
        payload_hash = await log_statement(log, issued=1_700_000_000)
        changes = await judge.states(payload_hash, until=FINAL)
        assert (changes[-1].payable, changes[-1].reason) == (False, "LOGGED_LATE")


async def test_a_restarted_arbiter_goes_on_and_applies_nothing_twice(tmp_path: Path) -> None:
    async with log_service(tmp_path) as log:
        await log_delegation(log)
        async with arbiter(tmp_path, log) as judge:
            first = await log_statement(log, 0)
            before = await judge.states(first, until=FINAL)
        second = await log_statement(log, 1)
        async with arbiter(tmp_path, log) as judge:
            await judge.states(second, until=FINAL)
            assert await judge.states(first, until=FINAL) == before
            info = await judge.stub.GetServiceInfo(pb.GetServiceInfoRequest())
        assert info.next_index == 3
