"""What this service counts, besides what every server does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from otr_protocol.attestation.verdict import Status

APPRAISAL_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class VerifierMetrics:
    """Verdicts, replays, streams and open challenges."""

    def __init__(self, registry: CollectorRegistry, open_challenges: Callable[[], float]) -> None:
        self._verdicts = Counter(
            "otr_attestation_verdicts", "Verdicts, by status.", ("status",), registry=registry
        )
        self._replays = Counter(
            "otr_attestation_replays",
            "Verdicts recomputed, by status.",
            ("status",),
            registry=registry,
        )
        self._seconds = Histogram(
            "otr_attestation_appraisal_seconds",
            "Seconds of one appraisal.",
            buckets=APPRAISAL_SECONDS,
            registry=registry,
        )
        self.streams = Gauge("otr_attestation_streams", "Open VerifyStreams.", registry=registry)
        self._refusals = Counter(
            "otr_attestation_stream_refusals",
            "Requests of streams that were refused, by reason.",
            ("reason",),
            registry=registry,
        )
        Gauge(
            "otr_attestation_open_challenges",
            "Challenges that are issued and neither used nor expired.",
            registry=registry,
        ).set_function(open_challenges)

    def appraised(self, status: Status, seconds: float) -> None:
        """Count a verdict."""
        self._verdicts.labels(status.name).inc()
        self._seconds.observe(seconds)

    def replayed(self, status: Status) -> None:
        """Count a replay."""
        self._replays.labels(status.name).inc()

    def refused(self, reason: str) -> None:
        """Count a refusal inside a stream, by its permanent reason."""
        self._refusals.labels(reason).inc()


class CollateralMetrics:
    """Where collateral came from, and what could not be had."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "otr_collateral_answers",
            "Pieces asked for, by kind and outcome: stored, fetched, unknown, unavailable.",
            ("kind", "outcome"),
            registry=registry,
        )
        self._fetches = Counter(
            "otr_collateral_fetches",
            "Origins asked, by origin, kind and outcome: found, absent, refused, unavailable.",
            ("origin", "kind", "outcome"),
            registry=registry,
        )
        self.watchers = Gauge("otr_collateral_watchers", "Open watches.", registry=registry)

    def answered(self, kind: str, outcome: str) -> None:
        """Count an answer."""
        self._answers.labels(kind, outcome).inc()

    def fetched(self, origin: str, kind: str, outcome: str) -> None:
        """Count a look at an origin."""
        self._fetches.labels(origin, kind, outcome).inc()
