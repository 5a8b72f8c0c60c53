"""The log's metrics (facts/translog.md section 8), names and buckets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

APPEND_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class LogMetrics:
    """What one log counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tree_size = Gauge(
            "otr_log_tree_size", "Leaves of the published tree.", registry=registry
        )
        appended = Counter(
            "otr_log_append",
            "Records offered, by what became of them.",
            ("result",),
            registry=registry,
        )
        self.append_new = appended.labels("new")
        self.append_duplicate = appended.labels("duplicate")
        self.append_refused = appended.labels("refused")
        self.append_error = appended.labels("error")
        self.append_seconds = Histogram(
            "otr_log_append_seconds",
            "Seconds from an admitted record to its durable acknowledgement.",
            buckets=APPEND_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "otr_log_batch_size",
            "New entries per commit.",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self._checkpoint_age = Gauge(
            "otr_log_checkpoint_age_seconds",
            "Age of the published checkpoint; grows while nothing is appended.",
            registry=registry,
        )
        self._cosignatures = Gauge(
            "otr_log_witness_cosignatures",
            "Witness cosignatures on the published checkpoint.",
            registry=registry,
        )
        self.equivocations = Counter(
            "otr_log_equivocation",
            "Starts or appends refused because they would have signed a second history.",
            registry=registry,
        )
        self._stored = Gauge("otr_chunk_bytes_stored", "Bytes of blobs held.", registry=registry)
        self.damaged_blobs = Counter(
            "otr_chunk_scrub_failures",
            "Blobs found not to have their digest when they were read.",
            registry=registry,
        )

    def published(self, tree_size: int, cosignatures: int) -> None:
        """A head was published."""
        self._tree_size.set(tree_size)
        self._cosignatures.set(cosignatures)

    def watch_checkpoint_age(self, seconds: Callable[[], float]) -> None:
        """Ask `seconds` at every scrape."""
        self._checkpoint_age.set_function(seconds)

    def watch_blob_bytes(self, stored_bytes: Callable[[], float]) -> None:
        """Ask `stored_bytes` at every scrape."""
        self._stored.set_function(stored_bytes)
