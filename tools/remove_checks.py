#!/usr/bin/env python3
"""`make remove-checks`: take out every check of attestation, one at a time, and see a test fail.

A check is a statement that refuses or reports: `raise`, `findings.append(...)`, `findings += ...`,
a returned finding. All tests of attestation run once, while it is noted which of them reach which
check. Then, for every check, a fork of that process runs the function without the statement and
those tests again, until one fails. A check that no test reaches, or whose removal none notices, is
one that could be lost without anybody seeing it: those are printed, and the exit code is 1.

The result is tests/adversarial/attestation_checks.json: every check with the test that holds it.
tests/unit/test_removed_checks_listed.py keeps that list complete.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "core" / "otr_protocol" / "otr_protocol"
ATTESTATION = PACKAGE / "attestation"
LIST = REPOSITORY / "tests" / "adversarial" / "attestation_checks.json"
TESTS = (
    "adversarial/test_attestation_*.py",
    "conformance/test_attestation_*.py",
    "unit/test_attestation_*.py",
    "unit/test_collateral_needs.py",
    "unit/test_policy_expression.py",
    "unit/test_signed_policy.py",
)
COLLECTIONS = {"findings", "refusals", "found"}
MAX_TESTS = 400


@dataclass(frozen=True)
class Check:
    """One statement that refuses or reports: where it stands, and its text in one line."""

    module: str
    scope: tuple[str, ...]
    text: str
    ordinal: int
    line: int
    end_line: int
    column: int

    @property
    def name(self) -> str:
        """The same while the function keeps its statement, wherever the lines move to."""
        return f"{self.module}:{'.'.join(self.scope)}: {self.text} #{self.ordinal}"

    @property
    def path(self) -> Path:
        """The module's file."""
        return PACKAGE.parent.joinpath(*self.module.split(".")).with_suffix(".py")


def checks() -> list[Check]:
    """Every check in the attestation package, in order of module and place."""
    found: list[Check] = []
    for path in sorted(ATTESTATION.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        seen: Counter[tuple[tuple[str, ...], str]] = Counter()
        for scope, statement in _statements(ast.parse(path.read_text()), ()):
            text = " ".join(ast.unparse(statement).split())[:100]
            ordinal = seen[scope, text]
            seen[scope, text] += 1
            end = statement.end_lineno or statement.lineno
            place = (statement.lineno, end, statement.col_offset)
            found.append(Check(module, scope, text, ordinal, *place))
    return found


def _statements(
    node: ast.AST, scope: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], ast.stmt]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef):
            yield from _statements(inner, (*scope, inner.name))
            continue
        if isinstance(inner, ast.stmt) and scope and _is_check(inner):
            yield scope, inner
        yield from _statements(inner, scope)


def _is_check(statement: ast.stmt) -> bool:
    match statement:
        case ast.Raise(exc=ast.Call()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"))):
            return name in COLLECTIONS
        case ast.AugAssign(target=ast.Name(id=name)):
            return name in COLLECTIONS
        case ast.Return(value=ast.List(elts=[first, *_])):
            return "inding" in ast.unparse(first)
        case ast.Return(value=ast.Call(func=ast.Name(id=name))):
            return "inding" in name
    return False


def without(check: Check) -> str:
    """The module's source with the check replaced by nothing."""
    lines = check.path.read_text().split("\n")
    nothing = "pass"
    if check.text.startswith("return"):
        nothing = "return []" if check.text.startswith("return [") else "return None"
    kept = lines[check.line - 1][: check.column]
    lines[check.line - 1 : check.end_line] = [kept + nothing]
    return "\n".join(lines)


def remove(check: Check) -> None:
    """Take the check out of the running process, and forget what was computed with it."""
    module = importlib.import_module(check.module)
    owner: Any = module
    depth = 0
    while isinstance(vars(owner).get(check.scope[depth]), type):
        owner = vars(owner)[check.scope[depth]]
        depth += 1
    function = _plain(vars(owner)[check.scope[depth]])
    code = compile(without(check), str(check.path), "exec")
    function.__code__ = _code_of(code, ".".join(check.scope[: depth + 1]))
    for name, loaded in list(sys.modules.items()):
        if name.startswith("otr_protocol.attestation"):
            for value in vars(loaded).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _plain(found: Any) -> FunctionType:
    while not isinstance(found, FunctionType):
        found = (
            getattr(found, "__wrapped__", None) or getattr(found, "fget", None) or found.__func__
        )
    return found


def _code_of(code: CodeType, qualified: str) -> CodeType:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualified:
                return constant
            try:
                return _code_of(constant, qualified)
            except LookupError:
                continue
    raise LookupError(qualified)


class Removal:
    """The pytest plugin: run everything once, then without each check."""

    def __init__(self, only: str) -> None:
        self.checks = [check for check in checks() if only in check.name]
        self.held: dict[str, str] = {}
        self._lines: dict[str, set[int]] = defaultdict(set)
        for check in self.checks:
            self._lines[str(check.path)].update(range(check.line, check.end_line + 1))
        self._reached: dict[tuple[str, int], list[pytest.Item]] = defaultdict(list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Replaces pytest's own loop."""
        failed: list[str] = []
        for number, item in enumerate(session.items):
            following = session.items[number + 1] if number + 1 < len(session.items) else None
            seen: set[tuple[str, int]] = set()
            sys.settrace(self._tracer(seen))
            passed = _run(item, following)
            sys.settrace(None)
            if not passed:
                failed.append(item.nodeid)
            for place in seen:
                self._reached[place].append(item)
        if failed:
            pytest.exit(f"fails with every check in place: {failed[:5]}", returncode=2)
        for number, check in enumerate(self.checks, 1):
            self.held[check.name] = self._holder(check)
            state = self.held[check.name] or "NOT NOTICED"
            print(f"{number}/{len(self.checks)} {check.name}\n    {state}", flush=True)
        return True

    def _tracer(self, seen: set[tuple[str, int]]) -> Callable[..., Any]:
        lines = self._lines

        def local(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            if event == "line":
                path = frame.f_code.co_filename
                if frame.f_lineno in lines[path]:
                    seen.add((path, frame.f_lineno))
            return local

        def enter(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
            return local if frame.f_code.co_filename in lines else None

        return enter

    def _holder(self, check: Check) -> str:
        """The first test that fails without the check, or nothing."""
        places = range(check.line, check.end_line + 1)
        items = dict.fromkeys(
            item for line in places for item in self._reached[str(check.path), line]
        )
        for item in sorted(items, key=_costs)[:MAX_TESTS]:
            if not _passes_in_a_fork(item, check):
                return item.nodeid
        return ""


_spent: dict[str, float] = {}


def _costs(item: pytest.Item) -> float:
    return _spent.get(item.nodeid, 0.0)


def _run(item: pytest.Item, following: pytest.Item | None) -> bool:
    from _pytest.runner import runtestprotocol

    reports = runtestprotocol(item, nextitem=following, log=False)
    _spent[item.nodeid] = sum(report.duration for report in reports)
    return not any(report.failed for report in reports)


def _passes_in_a_fork(item: pytest.Item, check: Check) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            remove(check)
            code = 0 if _run(item, None) else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Remove every check once; a test must fail.")
    parser.add_argument("--only", default="", help="checks whose name contains this; not listed")
    parser.add_argument("tests", nargs="*", help="these test files instead of all")
    arguments = parser.parse_args()
    paths = arguments.tests or [
        str(path) for pattern in TESTS for path in sorted((REPOSITORY / "tests").glob(pattern))
    ]
    removal = Removal(arguments.only)
    ended = pytest.main(["-q", "-p", "no:cacheprovider", "--timeout=0", *paths], [removal])
    if len(removal.held) != len(removal.checks):
        return int(ended) or 1
    reviewed: dict[str, str] = json.loads(LIST.read_text()) if LIST.is_file() else {}
    for name, test in removal.held.items():
        # Written by a person: why nothing can notice, such as a second check behind this one.
        if not test and reviewed.get(name, "").startswith("reviewed:"):
            removal.held[name] = reviewed[name]
    if not arguments.only:
        LIST.write_text(json.dumps(removal.held, indent=1, ensure_ascii=False) + "\n")
    unheld = [name for name, test in removal.held.items() if not test]
    print(f"{len(removal.held)} checks, {len(unheld)} that no test notices")
    return int(bool(unheld))


if __name__ == "__main__":
    sys.exit(main())
