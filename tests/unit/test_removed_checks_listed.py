"""Every check of attestation is on the list of those that a test holds (tools/remove_checks.py)."""

from __future__ import annotations

import json

import remove_checks


def test_every_check_is_listed_with_what_holds_it() -> None:
    listed = json.loads(remove_checks.LIST.read_text())
    now = {check.name for check in remove_checks.checks()}
    assert now - listed.keys() == set(), "new checks: make remove-checks"
    assert listed.keys() - now == set(), "checks that are gone: make remove-checks"
    assert [name for name, test in listed.items() if not test] == []


def test_a_removed_check_leaves_a_module_that_compiles() -> None:
    for check in remove_checks.checks():
        compile(remove_checks.without(check), check.module, "exec")
