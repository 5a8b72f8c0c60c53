"""Whether the services are installed: `otr up` and `otr demo` need them, asking does not."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from otr_client.cli.output import NOT_JUDGED, CommandFailedError

# The extra `stack` of this distribution: the health protocol and the five services.
STACK_MODULES: Final = (
    "grpc_health",
    "otr_arbitration",
    "otr_attestation",
    "otr_commitment",
    "otr_inference",
    "otr_spotcheck",
)


def require_stack() -> None:
    """Raise CommandFailedError unless everything of the extra `stack` can be imported."""
    try:
        for name in STACK_MODULES:
            import_module(name)
    except ModuleNotFoundError as error:
        raise CommandFailedError(
            "STACK_NOT_INSTALLED",
            f"{error.name} is missing: pip install 'otr-client[stack]'",
            code=NOT_JUDGED,
        ) from None
