#!/usr/bin/env python3
"""`make lint-dependencies`: every distribution declares exactly what it imports.

An image installs only its own service's dependencies, so an undeclared import works on a
developer's machine and fails in the image, and a declared but unused one grows the image for
nothing. Checked for each member of the workspace: imports against [project.dependencies] and
[project.optional-dependencies]; lower bounds everywhere; third-party names against
requirements/runtime.in and runtime.lock. An optional dependency may be imported inside a
function or a `try`, or anywhere in the subpackage that has the extra's name. Tests, benchmarks and
tools may import what requirements/dev.in names.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bootstrap import REPOSITORY, REQUIREMENTS, members

# Programs for other verifiers' environments (tools/side_environments.py).
PEERS = REPOSITORY / "tests" / "differential" / "peers"

# Imported for their effect or by another name than their own, so that no import shows them.
NOT_IMPORTED: dict[str, str] = {
    "grpcio-status": "google.rpc.Status in trailers: imported as grpc_status",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported top-level module; `lazy` if a missing package would only fail when reached."""

    module: str
    path: Path
    line: int
    lazy: bool


def imports_of(path: Path) -> Iterator[Import]:
    """Every absolute import of a file, with the dotted module where a namespace needs it."""
    tree = ast.parse(path.read_text(), filename=str(path))
    lazy: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try) or typing_only:
            lazy.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            yield Import(name, path, node.lineno, node in lazy)


class Installed:
    """Which distribution provides a module, from what is installed here."""

    def __init__(self, own: dict[str, str]) -> None:
        self._own = own
        self._packages = metadata.packages_distributions()

    def provider(self, module: str) -> set[str]:
        """Canonical names of the distributions that may provide `module`; empty if unknown."""
        top = module.split(".", 1)[0]
        if top in self._own:
            return {self._own[top]}
        if top == "google":  # a namespace that several distributions share
            shared = "protobuf" if module.startswith("google.protobuf") else None
            return {shared or "googleapis-common-protos"}
        return {str(canonicalize_name(name)) for name in self._packages.get(top, [])}


def check_member(member: Path, installed: Installed) -> Iterator[str]:
    """Findings about one distribution."""
    label = member.relative_to(REPOSITORY)
    project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    required = {
        canonicalize_name(r.name): r for r in map(Requirement, project.get("dependencies", []))
    }
    extras = {
        extra: {canonicalize_name(r.name): r for r in map(Requirement, requirements)}
        for extra, requirements in project.get("optional-dependencies", {}).items()
    }
    optional = {name: r for requirements in extras.values() for name, r in requirements.items()}
    for name, requirement in {**required, **optional}.items():
        ours = name.startswith("otr-")
        if not ours and not re.search(r"(>=|==|~=)", str(requirement.specifier)):
            yield f"{label}: {name} has no lower bound"
    used: set[str] = set()
    for package in sorted(path.parent for path in member.glob("*/__init__.py")):
        for path in sorted(package.rglob("*.py")):
            for found in imports_of(path):
                top = found.module.split(".", 1)[0]
                if top in sys.stdlib_module_names or top == package.name:
                    continue
                where = f"{path.relative_to(REPOSITORY)}:{found.line}"
                providers = installed.provider(found.module)
                if not providers:
                    if not found.lazy:
                        yield f"{where}: nothing installed provides {found.module}"
                    continue
                used |= providers
                if providers & set(required):
                    continue
                inside = path.relative_to(package).parts[0].removesuffix(".py")
                if providers & set(optional) and (
                    found.lazy or providers & set(extras.get(inside, {}))
                ):
                    continue
                names = " or ".join(sorted(providers))
                yield f"{where}: imports {found.module}, but {label} does not declare {names}"
    if member.name != "protos":
        for unused in sorted({str(name) for name in required} - used - set(NOT_IMPORTED)):
            yield f"{label}: declares {unused} and never imports it"


def requirement_names(path: Path) -> set[str]:
    """Canonical names in a requirements input file."""
    lines = (line.split("#", 1)[0].strip() for line in path.read_text().splitlines())
    return {canonicalize_name(Requirement(line).name) for line in lines if line and line[0] != "-"}


def locked_versions(path: Path) -> dict[str, list[str]]:
    """Canonical name to pinned versions (one per environment marker)."""
    versions: dict[str, list[str]] = {}
    for match in re.finditer(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE):
        versions.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return versions


def check_locks(projects: list[Path]) -> Iterator[str]:
    """Findings about the union of all declared dependencies against the locks."""
    wanted = requirement_names(REQUIREMENTS / "runtime.in")
    locked = locked_versions(REQUIREMENTS / "runtime.lock")
    declared: set[str] = set()
    for member in projects:
        project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
        optional = [line for e in project.get("optional-dependencies", {}).values() for line in e]
        declared |= {canonicalize_name(Requirement(line).name) for line in optional}
        for requirement in map(Requirement, project.get("dependencies", [])):
            name = canonicalize_name(requirement.name)
            if name.startswith("otr-"):
                continue
            declared.add(name)
            if name not in wanted:
                yield f"requirements/runtime.in: lacks {name}, declared by {member.name}"
            for version in locked.get(name, []):
                if not requirement.specifier.contains(version, prereleases=True):
                    yield f"requirements/runtime.lock: {name} {version} is not {requirement}"
    for stray in sorted(wanted - declared):
        yield f"requirements/runtime.in: {stray} is declared by no distribution"


def check_programs(installed: Installed) -> Iterator[str]:
    """Findings about what belongs to no distribution: tests, benchmarks, tools."""
    wanted = requirement_names(REQUIREMENTS / "dev.in")
    wanted |= requirement_names(REQUIREMENTS / "runtime.in")
    # pytest and mypy find these two on the path (pyproject.toml).
    shared = {
        path.stem for folder in ("tests", "tools") for path in (REPOSITORY / folder).iterdir()
    }
    for folder in ("tests", "bench", "tools"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if path.is_relative_to(PEERS):
                continue
            beside = {sibling.stem for sibling in path.parent.iterdir()} | shared
            for found in imports_of(path):
                top = found.module.split(".", 1)[0]
                if top in sys.stdlib_module_names or top in beside:
                    continue
                providers = installed.provider(found.module)
                ours = any(name.startswith("otr-") for name in providers)
                if not ours and not providers & wanted and not found.lazy:
                    where = f"{path.relative_to(REPOSITORY)}:{found.line}"
                    yield f"{where}: imports {found.module}, which requirements/dev.in lacks"


def main() -> int:
    """Print every finding; exit 1 if there is one."""
    projects = members()
    packages = [init.parent.name for init in REPOSITORY.glob("*/*/otr_*/__init__.py")]
    own = {package: package.replace("_", "-") for package in packages}
    for member in projects:
        name = tomllib.loads((member / "pyproject.toml").read_text())["project"]["name"]
        for package in member.glob("*/__init__.py"):
            own[package.parent.name] = str(canonicalize_name(name))
    own["otr"] = "otr-protos"
    installed = Installed(own)
    findings = [line for member in projects for line in check_member(member, installed)]
    findings += check_locks(projects)
    findings += check_programs(installed)
    for package in sorted(REPOSITORY.glob("*/*/otr_*/__init__.py")):
        if package.parent.parent not in projects:
            findings.append(f"{package.parent.relative_to(REPOSITORY)}: has no pyproject.toml")
    for line in findings:
        print(line)
    print(f"dependencies: {len(projects)} distributions, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
