#!/usr/bin/env python3
"""`make lint-breaking`: contracts may only grow against the previously landed main.

protos/BASELINE names the git commit to compare with; before the first landing there is none.
A shallow clone that lacks it says so and compares nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys

from bootstrap import BIN, REPOSITORY

BASELINE = REPOSITORY / "protos" / "BASELINE"


def main() -> int:
    if not BASELINE.is_file():
        print("contracts: no protos/BASELINE yet, so nothing to compare with")
        return 0
    commit = BASELINE.read_text().strip()
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        print("contracts: protos/BASELINE must hold one full commit id", file=sys.stderr)
        return 1
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=REPOSITORY, capture_output=True
    )
    if known.returncode and _is_shallow():
        print(f"contracts: NOT COMPARED, this shallow clone lacks the baseline {commit}")
        return 0
    if known.returncode:
        print(f"contracts: this clone lacks the baseline {commit}: fetch it", file=sys.stderr)
        return 1
    against = f".git#ref={commit}"
    return subprocess.run(
        [str(BIN / "buf"), "breaking", "--against", against], cwd=REPOSITORY
    ).returncode


def _is_shallow() -> bool:
    answer = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip() == "true"


if __name__ == "__main__":
    sys.exit(main())
