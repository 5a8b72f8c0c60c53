#!/usr/bin/env python3
"""Check the one JSON object of `otr demo --json` on standard input (used by .ci/run).

Fails unless the demo says ok, at least three answers verified offline and at least six attacks were
refused with a reason. Keys that later releases add are ignored.
"""

from __future__ import annotations

import json
import sys
from typing import Any

ANSWER_KEYS = (
    "prompt",
    "text",
    "ttft_ms",
    "tokens_per_s",
    "provisional_ms",
    "receipt_ms",
    "verified",
)
ATTACK_KEYS = ("name", "refused", "reason")


def findings(report: dict[str, Any]) -> list[str]:
    """Everything about the report that should not be so."""
    found = []
    if report.get("ok") is not True:
        found.append("the demo does not say ok")
    if not report.get("model"):
        found.append("the demo names no model")
    answers = report.get("answers", [])
    attacks = report.get("attacks", [])
    if len(answers) < 3:
        found.append(f"{len(answers)} answers instead of at least 3")
    if len(attacks) < 6:
        found.append(f"{len(attacks)} attacks instead of at least 6")
    for kind, keys, items in (("answer", ANSWER_KEYS, answers), ("attack", ATTACK_KEYS, attacks)):
        for number, item in enumerate(items):
            missing = [key for key in keys if key not in item]
            if missing:
                found.append(f"{kind} {number} lacks {', '.join(missing)}")
    for answer in answers:
        if "France" in answer.get("prompt", "") and "Paris" not in answer.get("text", ""):
            found.append(f"the capital of France became {answer.get('text')!r}")
    found += [f"unverified: {a.get('prompt')!r}" for a in answers if a.get("verified") is not True]
    found += [f"not refused: {a.get('name')!r}" for a in attacks if a.get("refused") is not True]
    found += [f"no reason: {a.get('name')!r}" for a in attacks if not a.get("reason")]
    return found


def main() -> int:
    report = json.load(sys.stdin)
    found = findings(report)
    for line in found:
        print(f"demo: {line}", file=sys.stderr)
    if not found:
        answers, attacks = report["answers"], report["attacks"]
        print(f"demo: {len(answers)} answers verified, {len(attacks)} attacks refused")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
