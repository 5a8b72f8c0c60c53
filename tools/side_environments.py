#!/usr/bin/env python3
"""`make peers`, `make fuzz`: environments beside .venv, each from its own hash-pinned lock.

    .venv-nvidia-verifier   NVIDIA's own verifier, to compare with
    .venv-signxml           a general XML signature verifier, as an oracle
    .venv-fuzz              the product and a coverage-guided fuzzer

What they hold contradicts the working environment's pins or exists for some platforms only, so
nothing but the named tool is installed in them, and the product is never imported from the first
two. An environment is made anew when its lock changes.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bootstrap import BIN, REPOSITORY, REQUIREMENTS, digest_of, index_environment, members, run, say

NAMES = ("nvidia_verifier", "signxml", "fuzz")


def make(name: str) -> None:
    """Make `.venv-<name>` from `requirements/<name>.lock` unless it is there and current."""
    environment = REPOSITORY / f".venv-{name.replace('_', '-')}"
    lock, stamp = REQUIREMENTS / f"{name}.lock", environment / "lock-digest"
    wanted = digest_of([lock])
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    shutil.rmtree(environment, ignore_errors=True)
    say(f"{environment.name} ...")
    run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    install: list[str | Path] = [BIN / "uv", "pip", "install", "--python", python]
    install += ["--quiet", "--no-build"]
    run(*install, "--require-hashes", "-r", lock, environment=index_environment())
    if name == "fuzz":
        # The sources themselves, without installing them: what is fuzzed is what is on disk.
        site = next(environment.glob("lib/python3*/site-packages"))
        paths = [*(str(member) for member in members()), str(REPOSITORY / "protos" / "gen")]
        (site / "otr_sources.pth").write_text(os.linesep.join(paths) + os.linesep)
    stamp.write_text(wanted)


def main() -> int:
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            print(f"known are {', '.join(NAMES)}", file=sys.stderr)
            return 2
        make(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
