"""Every attack of the demonstration against a running stack, refused for its own reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from otr_client.demo.attacks import ATTACKS, Loot, attempt
from otr_client.models_at_hand import find_model
from otr_client.request import AnotherQuestionError, Ask
from otr_protocol.verify_answer import verify_answer
from support.stack import MODEL, raw, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

REASONS = {
    "output token changed": "BLOB_DIGEST_MISMATCH",
    "other weights under the same model id": "MODEL_CORRUPT",
    "statement signed by a key that no evidence names": "ATTESTATION_BINDING",
    "evidence with another challenge": "EVIDENCE_BINDING",
    "receipt of another answer": "INCLUSION_REJECTED",
    "truncated log proof": "INCLUSION_REJECTED",
    "old answer replayed to a new question": "ANOTHER_QUESTION",
    "simulated evidence sold as hardware": "EVIDENCE_SIMULATED",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loot(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Loot]:
    root = tmp_path_factory.mktemp("stack")
    async with running_stack(root) as stack:
        asks = (raw("In the beginning"), raw("A transaction is"))
        answers = [(await stack.answer(ask, wait_receipt=True)).answer for ask in asks]
        yield Loot(
            stack.directory,
            stack.directory.roots(),
            find_model(MODEL).directory,
            asks,
            (answers[0], answers[1]),
            tmp_path_factory.mktemp("scratch"),
        )


@pytest.mark.parametrize(("name", "attack"), ATTACKS, ids=[name for name, _ in ATTACKS])
async def test_an_attack_is_refused_for_its_own_reason(loot: Loot, name: str, attack: Any) -> None:
    outcome = await attempt(name, attack, loot)
    assert (outcome.refused, outcome.reason) == (True, REASONS[name]), outcome.detail


async def test_every_attack_has_a_reason_that_is_checked() -> None:
    assert [name for name, _ in ATTACKS] == list(REASONS)


OTHER_QUESTIONS = [
    ("request_id", {"request_id": b"r" * 32}),
    ("client_nonce", {"client_nonce": b"n" * 32}),
    ("salt", {"salt": b"s" * 32}),
    ("sampling", {"temperature": 1.0}),
    ("max_tokens", {"max_tokens": 17}),
    ("stop", {"stop": ["x"]}),
    ("declared_value", {"declared_value": 1}),
    ("stop_ids", {"stop_ids": [7]}),
    ("prompt_ids", {"prompt_ids": (1, 2, 3)}),
]


@pytest.mark.parametrize(("field", "change"), OTHER_QUESTIONS, ids=[f for f, _ in OTHER_QUESTIONS])
async def test_a_genuine_answer_to_another_question_is_refused(
    loot: Loot, field: str, change: dict[str, Any]
) -> None:
    ask: Ask = loot.asks[0]
    answer = loot.answers[0]
    later_than_both = 1 << 42
    verified = verify_answer(answer, loot.roots, later_than_both)
    ask.require_answered(verified)
    with pytest.raises(AnotherQuestionError) as caught:
        replace(ask, **change).require_answered(verified)
    assert caught.value.field == field


async def test_the_answer_file_is_enough_to_verify(loot: Loot, tmp_path: Path) -> None:
    file = tmp_path / "answer.otr"
    file.write_bytes(loot.answers[1])
    assert verify_answer(file.read_bytes(), loot.roots, 1 << 42).receipt is not None
