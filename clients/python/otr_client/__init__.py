"""The OTR client: ask a model, verify what comes back, offline if need be."""

from otr_client.client import Chunk, Client, Completed
from otr_client.request import Ask

__all__ = ["Ask", "Chunk", "Client", "Completed"]
