"""Running the demonstration and gathering its report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from otr_client.client import Chunk, Client, Completed
from otr_client.demo.attacks import ATTACKS, Attempt, Loot, attempt
from otr_client.request import Ask
from otr_client.stack.directory import StackOptions
from otr_client.stack.local import LocalStack
from otr_protocol.verify_answer import Check, VerifiedAnswer, verify_answer

PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Why is the sky blue? Answer in one sentence.",
)
RAW_PROMPTS = ("In the beginning", "The SELECT statement returns", "A transaction is")
"""For models without a chat template."""


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """One answer of the demonstration; times in milliseconds."""

    prompt: str
    text: str
    ttft_ms: float
    tokens_per_s: float
    provisional_ms: float
    receipt_ms: float
    verified: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What `otr demo --json` prints."""

    ok: bool
    model: str
    answers: list[AnswerReport]
    attacks: list[Attempt]

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "ok": self.ok,
            "model": self.model,
            "answers": [asdict(answer) for answer in self.answers],
            "attacks": [
                {"name": each.name, "refused": each.refused, "reason": each.reason}
                for each in self.attacks
            ],
        }


@dataclass(frozen=True, slots=True)
class Listener:
    """What the demonstration tells while it runs."""

    ready: Callable[[str], None] = lambda name: None
    asked: Callable[[str], None] = lambda prompt: None
    text: Callable[[str], None] = lambda text: None
    answered: Callable[[AnswerReport, tuple[Check, ...]], None] = lambda answer, checks: None
    attacking: Callable[[], None] = lambda: None
    attacked: Callable[[Attempt], None] = lambda attempt: None


@dataclass(slots=True)
class _Kept:
    asks: list[Ask] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    reports: list[AnswerReport] = field(default_factory=list)


async def run_demo(
    stack: LocalStack, options: StackOptions, *, chat: bool, max_tokens: int, tell: Listener
) -> Report:
    """Start the stack, ask, verify, attack, stop. Raises ServiceFailedError and client errors."""
    try:
        await stack.start(tell.ready)
        kept = await _ask_all(stack, chat=chat, max_tokens=max_tokens, tell=tell)
        tell.attacking()
        attacks = await _attack_all(stack, options.model.directory, kept, tell)
    finally:
        await stack.stop()
    ok = all(answer.verified for answer in kept.reports) and all(each.refused for each in attacks)
    return Report(ok, options.model.served_name, kept.reports, attacks)


async def _ask_all(stack: LocalStack, *, chat: bool, max_tokens: int, tell: Listener) -> _Kept:
    directory = stack.directory
    kept = _Kept()
    target, tls = directory.target("inference"), directory.client_tls()
    async with Client(target, tls, directory.roots()) as client:
        for prompt in PROMPTS if chat else RAW_PROMPTS:
            tell.asked(prompt)
            ask = Ask(prompt, raw=not chat, max_tokens=max_tokens)
            completed = await _generate(client, ask, tell)
            waiting = time.monotonic()
            answer, registered = await client.receipt(ask)
            receipt_ms = (time.monotonic() - waiting) * 1000
            # Verified once more from the file alone, as somebody would who only has the file.
            verified = verify_answer(answer, directory.roots(), time.time_ns() // 1_000_000)
            report = AnswerReport(
                prompt=prompt,
                text=completed.text,
                ttft_ms=round(completed.ttft_ms, 2),
                tokens_per_s=round(completed.tokens_per_s, 1),
                provisional_ms=round(completed.provisional_ms, 2),
                receipt_ms=round(receipt_ms, 2),
                verified=registered and _has_receipt(verified),
            )
            kept.asks.append(ask)
            kept.answers.append(answer)
            kept.reports.append(report)
            tell.answered(report, verified.checks)
    return kept


async def _generate(client: Client, ask: Ask, tell: Listener) -> Completed:
    async for event in client.generate(ask):
        if isinstance(event, Chunk):
            tell.text(event.text)
        else:
            return event
    raise AssertionError("generate() ends with Completed or raises")


def _has_receipt(verified: VerifiedAnswer) -> bool:
    return verified.receipt is not None


async def _attack_all(
    stack: LocalStack, model_dir: Path, kept: _Kept, tell: Listener
) -> list[Attempt]:
    attempts = []
    with tempfile.TemporaryDirectory(prefix="otr-attacks-") as scratch:
        loot = Loot(
            stack.directory,
            stack.directory.roots(),
            model_dir,
            (kept.asks[0], kept.asks[1]),
            (kept.answers[0], kept.answers[1]),
            Path(scratch),
        )
        for name, attack in ATTACKS:
            outcome = await attempt(name, attack, loot)
            attempts.append(outcome)
            tell.attacked(outcome)
    return attempts
