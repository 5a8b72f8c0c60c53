"""The layers inside a service, as a contract for import-linter (docs/architecture.md).

`main` chooses the adapters; `servicer`, `store_*` and `peer_*` are the adapters and do not know one
another; `ports` and `wire` are what they share. import-linter's own layers contract wants every
module listed by name, while a service may have any number of stores and peers, so this contract
goes by the names' prefixes. Other modules of a service (settings, domain code) may be imported from
anywhere and may not import upwards into `main` or sideways into an adapter.
"""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def adapter_family(service: str, module: str) -> str | None:
    """The adapter that `module` belongs to, e.g. `store_sqlite`, or None if it is no adapter."""
    head = module.removeprefix(f"{service}.").split(".", 1)[0]
    if head.startswith(("servicer", "store_", "peer_")):
        return head
    return None


def violation(service: str, importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported` (both inside `service`), or None if it may."""
    main = f"{service}.main"
    if importer in {main, service, f"{service}.__main__"}:
        return None
    if imported == main:
        return "only the process entry knows main"
    theirs = adapter_family(service, imported)
    if theirs is None:
        return None
    ours = adapter_family(service, importer)
    if ours == theirs or (ours is not None and same_kind(ours, theirs)):
        return None
    if ours is None:
        return "an adapter is chosen by main and reached through a port"
    return "adapters do not know one another: share a port"


def same_kind(ours: str, theirs: str) -> bool:
    """Whether both modules are parts of one adapter kind, such as two stores of one database."""
    return ours.split("_", 1)[0] == theirs.split("_", 1)[0]


class ServiceLayersContract(Contract):
    """`packages`: the services whose inner layers are checked."""

    type_name = "service_layers"

    packages = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Look at every import between two modules of one service."""
        found: list[tuple[str, str, str]] = []
        for service in self.packages:  # type: ignore[attr-defined]
            inside = {service, *graph.find_descendants(service)}
            for importer in sorted(inside):
                for imported in sorted(graph.find_modules_directly_imported_by(importer) & inside):
                    why = violation(service, importer, imported)
                    if why is not None:
                        found.append((importer, imported, why))
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line per import that crosses a layer the wrong way."""
        metadata: dict[str, Any] = check.metadata
        for importer, imported, why in metadata["found"]:
            output.print_error(f"{importer} -> {imported}: {why}", bold=False)
        output.new_line()
