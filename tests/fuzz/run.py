#!/usr/bin/env python3
"""`make fuzz`: coverage-guided fuzzing of every target, each for some seconds.

    .venv-fuzz/bin/python tests/fuzz/run.py [--seconds 600] [--target tdx_quote ...]

Each target runs in a process of its own, since the fuzzer never returns. Prints one JSON object a
target: executions, what the corpus grew to, and whether anything but a refusal came out; exits with
1 if something did, leaving the input that caused it under --findings.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def fuzz(name: str, corpus: str, options: list[str]) -> None:
    """Fuzz one target until the fuzzer's own limits; never returns."""
    import atheris

    with atheris.instrument_imports(include=["otr_protocol"]):
        from targets import TARGETS

        from otr_protocol.errors import Refusal
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        try:
            target.read(data)
        except Refusal:
            return

    atheris.Setup(
        [sys.argv[0], f"-max_len={target.max_bytes}", *options, corpus],
        once,
        internal_libfuzzer=True,
    )
    atheris.Fuzz()


def run(name: str, seconds: int, findings: Path) -> dict[str, object]:
    """Fuzz one target in a process of its own for `seconds` after its imports."""
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        command = [sys.executable, __file__, "--one", name, "--corpus", corpus]
        command += [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={findings}/{name}-",
            "-timeout=5",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        started = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True)
        grown = len(list(Path(corpus).iterdir()))
    executions = re.search(r"stat::number_of_executed_units:\s+(\d+)", ended.stderr)
    result: dict[str, object] = {
        "name": f"fuzz_{name}",
        "value": int(executions.group(1)) if executions else 0,
        "unit": "executions",
        "seconds": round(time.monotonic() - started, 1),
        "corpus": grown,
        "findings": 0 if ended.returncode == 0 else 1,
    }
    if ended.returncode:
        result["log"] = ended.stderr[-3000:]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of strangers' bytes.")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--target", action="append")
    parser.add_argument("--findings", type=Path, default=HERE.parents[1] / "build" / "fuzz")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    arguments, options = parser.parse_known_args()
    if arguments.one:
        fuzz(arguments.one, arguments.corpus, options)
    names = arguments.target
    if not names:
        from targets import TARGETS

        names = sorted(TARGETS)
    failed = False
    for name in names:
        result = run(name, arguments.seconds, arguments.findings)
        failed = failed or bool(result["findings"]) or not result["value"]
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
