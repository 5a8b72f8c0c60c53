"""Refuse to package generated code that is missing or older than the contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GeneratedCodeIsCurrent(BuildHookInterface):  # type: ignore[type-arg]
    """Run before every build of otr-protos, editable ones included."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fail the build unless `generate.py --check` is content."""
        generator = Path(self.root) / "generate.py"
        if subprocess.run([sys.executable, str(generator), "--check"]).returncode:
            raise RuntimeError("protos/gen is missing or stale; run `make protos`")
