"""The repository's own checks refuse what they are there for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from check_demo import findings
from check_dependencies import imports_of
from import_contracts import violation

REPORT: dict[str, Any] = {
    "ok": True,
    "model": "smollm2",
    "answers": [
        {
            "prompt": "What is the capital of France?",
            "text": "The capital of France is Paris.",
            "ttft_ms": 20.0,
            "tokens_per_s": 200.0,
            "provisional_ms": 3.0,
            "receipt_ms": 30.0,
            "verified": True,
        }
    ]
    * 3,
    "attacks": [{"name": "token changed", "refused": True, "reason": "OUTPUT_DIGEST_MISMATCH"}] * 6,
}


def test_a_whole_demo_report_is_accepted() -> None:
    assert findings(REPORT) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("ok",), False),
        (("model",), ""),
        (("answers",), []),
        (("answers", 0, "verified"), False),
        (("answers", 1, "text"), "It is Lyon."),
        (("attacks",), []),
        (("attacks", 5, "refused"), False),
        (("attacks", 0, "reason"), ""),
    ],
)
def test_a_demo_report_with_a_flaw_is_refused(path: tuple[Any, ...], value: object) -> None:
    report = copy.deepcopy(REPORT)
    report["answers"] = [dict(answer) for answer in report["answers"]]
    report["attacks"] = [dict(attack) for attack in report["attacks"]]
    place: Any = report
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert findings(report)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("servicer", "store_sqlite"),
        ("store_sqlite", "peer_log"),
        ("wire", "servicer"),
        ("ports", "store_sqlite"),
        ("scheduler", "peer_log"),
        ("servicer", "main"),
    ],
)
def test_a_service_layer_is_not_crossed_upwards_or_sideways(importer: str, imported: str) -> None:
    assert violation("otr_log", f"otr_log.{importer}", f"otr_log.{imported}") is not None


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("main", "store_sqlite"),
        ("__main__", "main"),
        ("servicer", "ports"),
        ("store_sqlite", "ports"),
        ("store_sqlite.tables", "store_sqlite.rows"),
        ("peer_log", "wire"),
        ("servicer", "scheduler"),
    ],
)
def test_a_service_layer_may_import_what_lies_below(importer: str, imported: str) -> None:
    assert violation("otr_log", f"otr_log.{importer}", f"otr_log.{imported}") is None


def test_an_import_is_lazy_inside_functions_and_try_only(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "import a\n"
        "from b.c import d\n"
        "from . import e\n"
        "try:\n    import f\nexcept ImportError:\n    pass\n"
        "def g():\n    import h\n"
    )
    found = {(each.module, each.lazy) for each in imports_of(source)}
    assert found == {("a", False), ("b.c", False), ("f", True), ("h", True)}
