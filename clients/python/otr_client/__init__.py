"""The OTR client: ask a model, verify what comes back, offline if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otr_client.client import Chunk, Client, Completed
    from otr_client.request import Ask

__all__ = ["Ask", "Chunk", "Client", "Completed"]


def __getattr__(name: str) -> object:
    """The SDK's names, imported when they are first used: gRPC takes half a second to load."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "request" if name == "Ask" else "client"
    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
