#!/usr/bin/env python3
"""`make bench`: run every benchmark of this directory and print its JSON line.

A benchmark is a program `bench/<idea>.py` that needs no arguments, writes progress to standard
error and one JSON object per result, with a "name", to standard output (bench/README.md). Each
runs in a process of its own, one after the other: two at once would measure each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def benchmarks() -> list[Path]:
    """Every program here but this one, in order of name; `_*.py` are their shared modules."""
    found = (path for path in HERE.glob("*.py") if path.name[0] != "_")
    return sorted(path for path in found if path.name != Path(__file__).name)


def results(output: str) -> list[dict[str, object]]:
    """The JSON objects among the lines of a program's output."""
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    return found


def main() -> int:
    failed = []
    for path in benchmarks():
        print(f"bench: {path.stem} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent / "tests")},
        )
        lines = results(run.stdout)
        if run.returncode or not lines or any("name" not in line for line in lines):
            failed.append(path.stem)
            print(f"bench: {path.stem} failed ({run.returncode})", file=sys.stderr)
        for line in lines:
            print(json.dumps(line), flush=True)
        seconds = time.monotonic() - started
        print(f"bench: {path.stem} took {seconds:.1f} s", file=sys.stderr, flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
