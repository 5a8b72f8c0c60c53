"""What this service measures of its answers, under the names that inference dashboards use."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Histogram

from otr_inference.answering import Outcome
from otr_inference.engine_worker import EngineWorker
from otr_server.metrics import InferenceMetrics

SEAL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Measurements:
    """Feeds the metrics of one model."""

    def __init__(self, registry: CollectorRegistry, model_name: str, worker: EngineWorker) -> None:
        self._metrics = metrics = InferenceMetrics(registry, model_name=model_name)
        metrics.running.set_function(lambda: worker.running)
        metrics.waiting.set_function(lambda: worker.waiting)
        self._seal_seconds = Histogram(
            "otr_inference_seal_seconds",
            "Seconds from the last token to the durable signed statement.",
            buckets=SEAL_SECONDS,
            registry=registry,
        )

    @staticmethod
    def clock_ns() -> int:
        """The monotonic clock that durations are taken on."""
        return time.monotonic_ns()

    def answered(self, outcome: Outcome) -> None:
        """Record a sealed answer."""
        metrics, measured, result = self._metrics, outcome.measured, outcome.result
        queue, prefill, decode, seal = (
            nanoseconds / 1e9
            for nanoseconds in (
                measured.queue_ns,
                measured.prefill_ns,
                measured.decode_ns,
                measured.seal_ns,
            )
        )
        metrics.queue_seconds.observe(queue)
        metrics.prefill_seconds.observe(prefill)
        metrics.decode_seconds.observe(decode)
        metrics.time_to_first_token.observe(queue + prefill)
        metrics.e2e_latency.observe(queue + prefill + decode + seal)
        self._seal_seconds.observe(seal)
        if len(result.output_ids) > 1:
            metrics.time_per_output_token.observe(decode / (len(result.output_ids) - 1))
        metrics.prompt_tokens.inc(result.prompt_count)
        metrics.generation_tokens.inc(len(result.output_ids))
        metrics.succeeded(result.finish.name.lower())
