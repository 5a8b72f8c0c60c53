"""A policy's condition: a bounded part of CEL that can only make a verdict worse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from otr_protocol.attestation import policy_expression
from otr_protocol.attestation.policy_expression import PolicyExpressionError, compile_expression
from otr_protocol.attestation.verdict import Status
from support import devtee_world as world

VARIABLES: dict[str, Any] = {
    "cpu": {
        "hwmodel": "Milan",
        "otr-snp-vmpl": 0,
        "otr-snp-reported-tcb": {"snp": 23},
        "advisories": ["INTEL-SA-00001", "INTEL-SA-00002"],
    },
    "devices": [
        {"hwmodel": "GH100", "x-nvidia-gpu-driver-version": "550.90.07"},
        {"hwmodel": "GH100", "x-nvidia-gpu-driver-version": "570.86.10"},
    ],
    "policy": {"required_gpus": 1},
    "simulated": False,
    "status": "affirming",
}


def outcome(expression: str, **changes: Any) -> tuple[str, Status] | None:
    findings = policy_expression.judge(expression, VARIABLES | changes)
    assert len(findings) <= 1
    return (findings[0].reason, findings[0].status) if findings else None


REFUSED = ("POLICY_EXPRESSION_REFUSED", Status.CONTRAINDICATED)
FAILED = ("POLICY_EXPRESSION_FAILED", Status.CONTRAINDICATED)


@pytest.mark.parametrize(
    "expression",
    [
        "true",
        "!simulated && status == 'affirming'",
        'cpu.hwmodel in ["Milan", "Genoa"] && cpu["otr-snp-vmpl"] == 0',
        'cpu["otr-snp-reported-tcb"].snp >= 20',
        'devices.all(d, d["x-nvidia-gpu-driver-version"] >= "550")',
        'devices.exists(d, d["x-nvidia-gpu-driver-version"].startsWith("570."))',
        'cpu.advisories.all(a, a in ["INTEL-SA-00001", "INTEL-SA-00002"])',
        "size(devices) >= policy.required_gpus && devices.size() - 1 == 1",
        'has(cpu.hwmodel) && !("nothing" in cpu)',
        'devices[0].hwmodel == "GH100" ? true : false',
        '"affirming"',
        "status",
    ],
)
def test_a_condition_that_holds_changes_nothing(expression: str) -> None:
    assert outcome(expression) is None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("false", REFUSED),
        ("simulated", REFUSED),
        ('devices.all(d, d["x-nvidia-gpu-driver-version"] >= "560")', REFUSED),
        ('"warning"', ("POLICY_EXPRESSION_REFUSED", Status.WARNING)),
        ('"none"', ("POLICY_EXPRESSION_REFUSED", Status.INDETERMINATE)),
        ('"contraindicated"', REFUSED),
        ("cpu.nothing == 1", FAILED),
        ("devices[7].hwmodel == 'GH100'", FAILED),
        ("1", FAILED),
        ("null", FAILED),
        ('"splendid"', FAILED),
        ("cpu.advisories", FAILED),
        ("cpu.all(key, true)", FAILED),
        ("cpu.nothing.all(a, true)", FAILED),
        ("true &&", FAILED),
        ("", FAILED),
    ],
)
def test_a_condition_that_does_not_hold_only_worsens(
    expression: str, expected: tuple[str, Status]
) -> None:
    assert outcome(expression) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "devices.map(d, d) == []",
        "devices.filter(d, true) == []",
        'status.matches("(a+)+")',
        'status + status == "x"',
        "1 * 1 == 1",
        "[1, 2].all(x, true)",
        "(devices).all(d, true)",
        "devices.all(d, devices.all(e, true))",
        "devices.all(devices, true)",
        "devices == devices",
        "[devices] == [devices]",
        "timestamp('2026-01-01T00:00:00Z') == null",
        "string(1) == '1'",
        "unknown == 1",
        "d.hwmodel == 'GH100'",
        '"""x""" == "x"',
        'r"x" == "x"',
        "'\\x61' == 'a'",
        "1.5 > 1",
        "5u == 5u",
        "{'a': 1}.a == 1",
        "true // comment",
        "status == 'é'",
        "status == 'a\tb'",
        "(true",
        "true)",
        "(true]",
    ],
)
def test_what_the_bounds_do_not_cover_is_no_condition(expression: str) -> None:
    with pytest.raises(PolicyExpressionError):
        compile_expression(expression)
    assert outcome(expression) == FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": {"number": 1.5}},
        {"cpu": {"bytes": b"x"}},
        {"cpu": {1: "x"}},
        {"cpu": {"many": list(range(policy_expression.MAX_LIST + 1))}},
        {"cpu": {str(n): n for n in range(policy_expression.MAX_NODES)}},
        {"cpu": {"long": "x" * (policy_expression.MAX_CHARACTERS + 1)}},
        {"cpu": {"wide": {str(n): n for n in range(policy_expression.MAX_MEMBER_NODES)}}},
        {"devices": [{str(n): n for n in range(policy_expression.MAX_MEMBER_NODES)}]},
        {"cpu": {"deep": [[[[[[[[1]]]]]]]]}},
        {"more": True},
    ],
)
def test_facts_outside_the_bounds_fail_the_condition(changes: dict[str, Any]) -> None:
    assert outcome("true", **changes) == FAILED


def test_one_compiled_condition_serves_many_threads() -> None:
    expression = 'devices.all(d, d.hwmodel == "GH100")'
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(outcome, [expression] * 64)) == {None}


def verdict_under(expression: str) -> Any:
    return world.judge(world.bundle(2), policy=replace(world.pki().policy(), expression=expression))


def test_a_condition_sees_the_claims_of_every_part() -> None:
    verdict = verdict_under(
        'simulated && status == "affirming" && size(devices) == 2 && policy.required_gpus == 1 && '
        'cpu.hwmodel == "Milan" && devices.all(d, d["x-nvidia-gpu-driver-version"] == "550.90.07")'
    )
    assert verdict.status is Status.AFFIRMING
    assert verdict.findings == ()


def test_a_refusing_condition_ends_a_verdict_that_all_else_affirms() -> None:
    verdict = verdict_under("size(devices) == 8")
    assert verdict.status is Status.CONTRAINDICATED
    assert world.reasons(verdict) == {("platform", "POLICY_EXPRESSION_REFUSED")}
    assert verdict.not_after <= verdict.appraised_at


def test_a_condition_cannot_mend_what_a_check_refused() -> None:
    policy = replace(world.pki().policy(), accept_simulated=False, expression='"affirming"')
    verdict = world.judge(world.bundle(), policy=policy)
    assert verdict.status is Status.CONTRAINDICATED
    assert world.reasons(verdict) == {("platform", "SIMULATED_EVIDENCE")}


def test_a_warning_of_the_condition_is_a_warning_of_the_verdict() -> None:
    assert verdict_under('"warning"').status is Status.WARNING
