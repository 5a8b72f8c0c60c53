#!/usr/bin/env python3
"""`make lock`: compile requirements/*.in into hash-pinned locks for every platform at once.

The locks carry the hashes of all files of a release (any OS and architecture, CPython 3.11 on) and
no index address, so that they hold wherever a copy of the public index does. Versions already in a
lock stay unless `--upgrade` is given, as in `make lock UPGRADE=--upgrade`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bootstrap import BIN, REQUIREMENTS, index_environment

# `dev` and `fuzz` include `runtime`, so they are compiled after it and under its pins.
LOCKS = (
    "bootstrap",
    "protoc",
    "mypy_protobuf",
    "runtime",
    "dev",
    "fuzz",
    "nvidia_verifier",
    "signxml",
)


def compile_lock(name: str, options: list[str]) -> None:
    """Write requirements/<name>.lock from requirements/<name>.in."""
    command = [str(BIN / "uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version", "3.11", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--custom-compile-command", "make lock"]
    if name in ("dev", "fuzz"):
        command += ["--constraint", "runtime.lock"]
    command += [*options, f"{name}.in", "--output-file", f"{name}.lock"]
    subprocess.run(command, cwd=REQUIREMENTS, env=index_environment(), check=True)


def forbidden_lines(path: Path) -> list[str]:
    """Lines that would tie the lock to one index or one machine, or bring a second tensor stack."""
    bad = ("://", "--find-links", "--index-url", "torch==")
    return [line for line in path.read_text().splitlines() if any(word in line for word in bad)]


def main() -> int:
    options = sys.argv[1:]
    failed = False
    for name in LOCKS:
        compile_lock(name, options)
        for line in forbidden_lines(REQUIREMENTS / f"{name}.lock"):
            print(f"requirements/{name}.lock: {line}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
