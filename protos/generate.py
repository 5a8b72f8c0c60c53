#!/usr/bin/env python3
"""Generate the Python package `otr` from the contracts under protos/otr.

The compiler (grpcio-tools 1.71) and the plug-in that types its output (mypy-protobuf 5.1) want
protobuf releases that exclude each other, so each runs in a virtual environment of its own, pinned
by requirements/protoc.lock and requirements/mypy_protobuf.lock. What is generated is never
committed; it is written to protos/gen and stamped with the digest of everything that decides its
content, so that a second run only hashes a few files.

Usage: generate.py [--check]      --check only says whether protos/gen is up to date (exit 1 if not)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
REPOSITORY = PROTOS.parent
OUTPUT = PROTOS / "gen"
STAMP = OUTPUT / ".digest"
REQUIREMENTS = REPOSITORY / "requirements"

# One environment per lock; `protoc` runs in the first and calls the plug-in of the second.
ENVIRONMENTS = {
    "protoc": REPOSITORY / ".venv-protoc",
    "mypy_protobuf": REPOSITORY / ".venv-mypy-protobuf",
}


def sources() -> list[Path]:
    """Every contract, in an order that does not depend on the file system."""
    return sorted((PROTOS / "otr").rglob("*.proto"))


def content_digest(contracts: list[Path]) -> str:
    """Digest of the contracts, both locks and this script: all that decides the output."""
    digest = hashlib.sha256()
    inputs = [Path(__file__), *(REQUIREMENTS / f"{name}.lock" for name in ENVIRONMENTS), *contracts]
    for path in inputs:
        data = path.read_bytes()
        digest.update(f"{path.resolve().relative_to(REPOSITORY)}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def up_to_date(digest: str) -> bool:
    """Whether protos/gen was generated from exactly these inputs."""
    return STAMP.is_file() and STAMP.read_text() == digest


def prepare_environment(name: str) -> Path:
    """Create the build environment `name` from its lock, unless it already matches it."""
    environment = ENVIRONMENTS[name]
    lock = REQUIREMENTS / f"{name}.lock"
    stamp = environment / ".lock-digest"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return environment
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise SystemExit("protos: no uv beside this Python nor on PATH; run `make setup` first")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)],
        [uv, "pip", "install", "--quiet", "--require-hashes", "--no-build", "-r", str(lock)],
    ):
        variables = {**os.environ, "VIRTUAL_ENV": str(environment)}
        subprocess.run(command, check=True, env=variables)
    stamp.write_text(wanted)
    return environment


def compile_contracts(contracts: list[Path], destination: Path) -> None:
    """Run protoc once over all contracts: messages, stubs and their types, into `destination`."""
    compiler = prepare_environment("protoc") / "bin" / "python"
    plugins = prepare_environment("mypy_protobuf") / "bin"
    command = [str(compiler), "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
    for plugin in ("mypy", "mypy_grpc"):
        command.append(f"--plugin=protoc-gen-{plugin}={plugins / f'protoc-gen-{plugin}'}")
    for output in ("python", "grpc_python", "mypy", "mypy_grpc"):
        command.append(f"--{output}_out={destination}")
    # "quiet" keeps the plug-in from listing every file it writes. Concrete servicers, since an RPC
    # that a service leaves out answers UNIMPLEMENTED; with abstract ones it would be a type error.
    command += ["--mypy_opt=quiet", "--mypy_grpc_opt=quiet,generate_concrete_servicer_stubs"]
    command += [str(path.relative_to(PROTOS)) for path in contracts]
    # The environment must not leak a PYTHONPATH of the caller into the isolated interpreters.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=PROTOS, env=environment)


def add_package_files(root: Path) -> None:
    """Make every generated directory a typed regular package: tools then need no special case."""
    package = root / "otr"
    for directory in [package, *sorted(path for path in package.rglob("*") if path.is_dir())]:
        name = ".".join(directory.relative_to(root).parts)
        (directory / "__init__.py").write_text(f'"""Generated package `{name}`: do not edit."""\n')
    (package / "py.typed").touch()


def generate(contracts: list[Path], digest: str) -> None:
    """Build a fresh tree beside the old one and swap it in, so that readers never see half."""
    fresh = OUTPUT.with_name("gen.new")
    stale = OUTPUT.with_name("gen.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    compile_contracts(contracts, fresh)
    add_package_files(fresh)
    (fresh / STAMP.name).write_text(digest)
    if OUTPUT.exists():
        OUTPUT.rename(stale)
    fresh.rename(OUTPUT)
    shutil.rmtree(stale, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the package `otr` from protos/otr.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    arguments = parser.parse_args()
    contracts = sources()
    if not contracts:
        print("protos: no contracts under protos/otr", file=sys.stderr)
        return 1
    digest = content_digest(contracts)
    if up_to_date(digest):
        return 0
    if arguments.check:
        print("protos: protos/gen is older than the contracts; run `make protos`", file=sys.stderr)
        return 1
    generate(contracts, digest)
    print(f"protos: generated the package `otr` from {len(contracts)} contracts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
