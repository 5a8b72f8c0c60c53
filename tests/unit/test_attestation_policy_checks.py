"""What a policy's record, settings and condition may not be, one thing wrong at a time.

Each row would be accepted, or refused for another cause, without the check that it is about.
"""

from __future__ import annotations

from typing import Any

import pytest

from otr_protocol import dcbor
from otr_protocol.attestation import policy, policy_expression
from otr_protocol.attestation.policy import FIELDS, Policy, RevocationMode
from otr_protocol.attestation.policy_expression import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_LEVELS,
    MAX_LIST,
    MAX_MACRO_TOKENS,
    MAX_MACROS,
    MAX_MEMBER_NODES,
    MAX_NODES,
    PolicyExpressionError,
    compile_expression,
)
from otr_protocol.attestation.policy_fields import PolicyMalformedError, choice
from otr_protocol.attestation.verdict import Finding, Status


def record(**changes: Any) -> bytes:
    """The record of the default policy, with other values for some fields."""
    values = {name: kind.encode(getattr(Policy(), name)) for name, kind in FIELDS.items()}
    return dcbor.encode((policy.DOMAIN, *(values | changes).values()))


def test_the_record_that_the_rows_change_is_the_default_policy() -> None:
    assert policy.decode(record()) == Policy()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("accept_simulated", 2, "a flag is 0 or 1"),
        ("accept_vlek", -1, "a flag is 0 or 1"),
        ("revocation", "sometimes", "not one of the known choices"),
        ("revocation", "", "not one of the known choices"),
    ],
)
def test_a_record_says_what_the_kind_of_its_field_knows(field: str, value: Any, says: str) -> None:
    with pytest.raises(PolicyMalformedError, match=says) as caught:
        policy.decode(record(**{field: value}))
    assert (caught.value.reason, caught.value.field) == ("POLICY_MALFORMED", field)


def test_a_choice_is_one_of_its_enumeration() -> None:
    kind = choice(RevocationMode)
    assert kind.decode("require", "revocation") is RevocationMode.REQUIRE
    with pytest.raises(PolicyMalformedError, match="not one of the known choices") as caught:
        kind.decode("REQUIRE", "revocation")
    assert (caught.value.reason, caught.value.field) == ("POLICY_MALFORMED", "revocation")


@pytest.mark.parametrize(
    ("field", "value"),
    # Nothing, but not the text that stands for "no minimum".
    [("min_driver_version", 0), ("min_vbios_version", None), ("min_switch_bios_version", [])],
)
def test_a_setting_that_is_no_text_is_not_taken_for_the_empty_one(field: str, value: Any) -> None:
    with pytest.raises(PolicyMalformedError, match="cannot be read") as caught:
        Policy.from_mapping({field: value})
    assert (caught.value.reason, caught.value.field) == ("POLICY_MALFORMED", field)
    assert str(caught.value.__cause__) == "not text"


VISIT = "devices.all(d, true)"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        (f"status != '{'x' * MAX_BYTES}'", "printable ASCII"),
        ("true" + " " * MAX_BYTES, "printable ASCII"),
        ("status != 'é'", "printable ASCII"),
        ("status != 'a\tb'", "printable ASCII"),
        ("(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1), "nested deeper than"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + " == []", "nested deeper than"),
        (" && ".join([VISIT] * (MAX_MACROS + 1)), "too much stands inside macros"),
        (
            f"devices.all(d, {' && '.join(['true'] * (MAX_MACRO_TOKENS // 2))})",
            "too much stands inside macros",
        ),
        ("devices.all(devices, true)", "names its own variable"),
        ("devices.all(status, true)", "names its own variable"),
        ("unknown == 1", "there is no 'unknown' here"),
        (f"{VISIT} && d.hwmodel == 'GH100'", "there is no 'd' here"),
        ("devices == devices", "devices is not compared whole"),
        ("cpu != policy", "cpu is not compared whole"),
    ],
    ids=[
        *("too long", "too long for its spaces", "no ASCII", "a control character"),
        *("deep brackets", "deep lists", "nine macros", "a long macro"),
        *("a variable of the document bound", "another of them bound"),
        *("an unknown name", "a bound name after its macro"),
        *("devices compared whole", "cpu compared whole"),
    ],
)
def test_a_condition_is_refused_for_what_it_is(expression: str, says: str) -> None:
    with pytest.raises(PolicyExpressionError, match=says) as caught:
        compile_expression(expression)
    reason = "POLICY_EXPRESSION_MALFORMED"
    assert (caught.value.reason, caught.value.field) == (reason, "expression")


@pytest.mark.parametrize(
    "expression",
    [
        "true" + " " * (MAX_BYTES - 4),
        "(" * MAX_DEPTH + "true" + ")" * MAX_DEPTH,
        " && ".join([VISIT] * MAX_MACROS),
    ],
    ids=["length", "depth", "macros"],
)
def test_what_just_keeps_a_bound_is_a_condition(expression: str) -> None:
    assert judge(expression) == ()


VARIABLES: dict[str, Any] = {
    "cpu": {"hwmodel": "Milan", "advisories": []},
    "devices": [{"hwmodel": "GH100"}],
    "policy": {"required_gpus": 1},
    "simulated": False,
    "status": "affirming",
}


def judge(expression: str, **changes: Any) -> tuple[Finding, ...]:
    return policy_expression.judge(expression, VARIABLES | changes)


# CEL visits a map's keys, and would answer.
@pytest.mark.parametrize("expression", ["cpu.all(key, true)", "devices[0].exists(key, true)"])
def test_a_macro_does_not_visit_a_map(expression: str) -> None:
    (finding,) = judge(expression)
    assert (finding.reason, finding.status) == (
        "POLICY_EXPRESSION_FAILED",
        Status.CONTRAINDICATED,
    )
    assert finding.message.endswith("is no list")


@pytest.mark.parametrize(
    ("expression", "status"),
    [
        ("simulated", Status.CONTRAINDICATED),
        ('"contraindicated"', Status.CONTRAINDICATED),
        ('"warning"', Status.WARNING),
        ('"none"', Status.INDETERMINATE),
    ],
)
def test_a_condition_that_does_not_hold_is_a_finding(expression: str, status: Status) -> None:
    (finding,) = judge(expression)
    assert (finding.reason, finding.status) == ("POLICY_EXPRESSION_REFUSED", status)
    assert finding.component == policy_expression.COMPONENT


def nested(levels: int) -> Any:
    """A number inside so many lists."""
    return [nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"more": True}, "the variables are not those of this version"),
        (
            {"cpu": {"wide": {str(n): n for n in range(MAX_MEMBER_NODES)}}},
            "a part says more than a condition may look at",
        ),
        (
            {"devices": [{str(n): n for n in range(MAX_MEMBER_NODES)}]},
            "a part says more than a condition may look at",
        ),
        (
            {"cpu": {str(n): n for n in range(MAX_NODES)}},
            "more was verified than a condition may look at",
        ),
        (
            {"cpu": {"long": "x" * (MAX_CHARACTERS + 1)}},
            "more was verified than a condition may look at",
        ),
        ({"cpu": {"deep": nested(MAX_LEVELS + 1)}}, "a value is nested too deeply"),
        ({"policy": {"deep": nested(MAX_LEVELS + 2)}}, "a value is nested too deeply"),
        ({"cpu": {"number": 1.5}}, "of no type or size that conditions know"),
        ({"cpu": {"bytes": b"x"}}, "of no type or size that conditions know"),
        ({"cpu": {"keys": {1: "x"}}}, "of no type or size that conditions know"),
        ({"cpu": {"many": [1] * (MAX_LIST + 1)}}, "of no type or size that conditions know"),
    ],
)
def test_facts_beyond_the_bounds_fail_a_condition_for_what_they_are(
    changes: dict[str, Any], says: str
) -> None:
    (finding,) = judge("true", **changes)
    assert (finding.reason, finding.status) == (
        "POLICY_EXPRESSION_FAILED",
        Status.CONTRAINDICATED,
    )
    assert finding.message.endswith(says)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": {"deep": nested(MAX_LEVELS)}},
        {"cpu": {"many": [1] * MAX_LIST}},
        {"cpu": {"long": "x" * (MAX_CHARACTERS - 1024)}},
        {"devices": [{str(n): n for n in range(MAX_MEMBER_NODES - 1)}]},
    ],
)
def test_facts_that_just_keep_a_bound_can_be_looked_at(changes: dict[str, Any]) -> None:
    assert judge("true", **changes) == ()
