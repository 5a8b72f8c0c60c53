"""Whoever may write a policy tries to stop its verifiers: 50 ms and 64 MB is all he gets."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.attestation import policy_expression as pe

MAX_SECONDS: Final = 0.050
MAX_BYTES: Final = 64 << 20

# In a process of its own: a condition that goes wrong in the library ends the process.
PROBE: Final = """
import json, resource, sys, time
from otr_protocol.attestation import policy_expression
given = json.load(sys.stdin)
policy_expression.judge("true", given["variables"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
findings = policy_expression.judge(given["expression"], given["variables"])
print(json.dumps({
    "seconds": time.process_time() - started,
    "bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
    "reasons": [finding.reason for finding in findings],
}))
"""


def widest() -> dict[str, Any]:
    """As much as a condition may look at: twelve devices, lists and texts at their limits."""
    about = {f"x-claim-{n}": "v" * 40 for n in range(pe.MAX_MEMBER_NODES - 2)}
    texts = ["t" * 700 for _ in range(pe.MAX_LIST)]
    pairs = [["t" * 100] for _ in range(63)]
    return {
        "cpu": {"list": texts, "other": texts, "long": "a" * 30_000, "tree": pairs},
        "devices": [{**about, "n": n} for n in range(12)],
        "policy": {},
        "simulated": False,
        "status": "affirming",
    }


def joined(part: str, count: int, link: str = " && ") -> str:
    return link.join([part] * count)


# The dearest conditions that are admitted.
ADMITTED: Final = {
    "other devices compared in a macro": (
        f"cpu.list.all(a, {joined('devices[0] != devices[1]', 5)})"
    ),
    "equal devices compared in a macro": (
        f"cpu.list.all(a, {joined('devices[0] == devices[0]', 5)})"
    ),
    "lists searched in a macro": f"cpu.list.all(a, {joined('!(a in devices)', 8)})",
    "lists compared in a macro": f"cpu.list.all(a, {joined('cpu.list == cpu.other', 7)})",
    "trees compared in a macro": f"cpu.list.all(a, {joined('cpu.tree == cpu.tree', 7)})",
    "texts searched in a macro": (
        f"cpu.list.all(a, {joined('cpu.long.contains(a)', 6, ' || ')} || true)"
    ),
    "lists compared": joined("cpu.list == cpu.other", 63),
    "trees compared": joined("cpu.tree == cpu.tree", 63),
    "devices compared": joined("devices[0] == devices[0]", 50),
    "texts compared": joined("cpu.long == cpu.long", 63),
    "many macros": joined("devices.all(d, d == d)", 6),
    "a long literal": "1 in [" + joined("1", 240, ",") + "]",
    "many minus signs": "-" * 500 + "1 == 1",
    "many negations": "!" * 500 + "true",
    "deep brackets": "(" * pe.MAX_DEPTH + "true" + ")" * pe.MAX_DEPTH,
    "deep lists": "[" * pe.MAX_DEPTH + "]" * pe.MAX_DEPTH + " == []",
    "many choices": "true ? true : " * 40 + "true",
}

# What a condition of the whole language could do; the first of these ends the process if let in.
BEYOND: Final = {
    "doubling text": "[status]" + ".map(a, a + a)" * 40 + "[0].size() > 0",
    "nested maps": "devices.map(a, devices.map(b, devices.map(c, devices.map(d, a)))) == []",
    "nested macros": "devices.all(a, devices.all(b, devices.all(c, devices.all(d, true))))",
    "patterns": 'status.matches("(a{1,1000}){1,1000}")',
    "a thousand brackets": "(" * 1000 + "true" + ")" * 1000,
    "a thousand operands": joined("true", 700),
    "a wide range": "[" + joined("1", 250, ",") + "].all(a, true)",
    "a huge number": "9" * 400 + " > 1",
    "a full document": "true && " * 510 + "true",
}


def run(expression: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps({"expression": expression, "variables": widest()}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("attack", sorted(ADMITTED))
def test_the_dearest_admitted_conditions_stay_within_the_bounds(attack: str) -> None:
    expression = ADMITTED[attack]
    pe.compile_expression(expression)  # admitted, or the test would show nothing
    measured = run(expression)
    assert "POLICY_EXPRESSION_FAILED" not in measured["reasons"]
    assert measured["seconds"] <= MAX_SECONDS
    assert measured["bytes"] <= MAX_BYTES


@pytest.mark.parametrize("attack", sorted(BEYOND))
def test_what_could_exceed_them_is_refused_before_it_runs(attack: str) -> None:
    with pytest.raises(pe.PolicyExpressionError):
        pe.compile_expression(BEYOND[attack])
    measured = run(BEYOND[attack])
    assert measured["reasons"] == ["POLICY_EXPRESSION_FAILED"]
    assert measured["seconds"] <= MAX_SECONDS
    assert measured["bytes"] <= MAX_BYTES


PIECES: Final = st.sampled_from(
    [
        *("cpu", "devices", "policy", "simulated", "status", "d", "a", "true", "false", "null"),
        *(".", "[", "]", "(", ")", ",", "?", ":", "!", "-", " in ", "&&", "||", "==", "<", ">="),
        *("0", "7", "999999999999999999", '"n"', "'x-claim-1'", '""'),
        *(".all(d,", ".exists(a,", ".exists_one(d,", ".map(d,", ".size()", "size(", "has(", "int("),
        *(".contains(", ".startsWith(", "cpu.list", "devices[0]", 'd["n"]', "d.n"),
    ]
)
FEW: Final = {
    "cpu": {"list": ["a", "b"], "n": 1},
    "devices": [{"n": n, "x-claim-1": "v"} for n in range(3)],
    "policy": {"n": 0},
    "simulated": False,
    "status": "affirming",
}


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=24).map("".join) | st.text(max_size=60))
def test_no_soup_of_tokens_does_more_than_refuse(expression: str) -> None:
    findings = pe.judge(expression, FEW)
    assert len(findings) <= 1
    assert findings == pe.judge(expression, FEW)
    try:
        pe.compile_expression(expression)
    except pe.PolicyExpressionError:
        assert [finding.reason for finding in findings] == ["POLICY_EXPRESSION_FAILED"]
