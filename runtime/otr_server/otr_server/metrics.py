"""Prometheus metrics: every gRPC server's, and those that dashboards of inference engines draw.

The gRPC names and labels are go-grpc-prometheus's, which existing dashboards use. The inference
names are vLLM's stems under the prefix `otr_`, with the buckets of TensorRT-LLM's collector, so
that their dashboards work after a search and replace.

Everything is registered in the registry it is given, never in the global one: several processes
live in one Python process in tests and in the local stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# The `_created` series double the scrape and no dashboard here reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]

GRPC_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0,
)  # fmt: skip
TIME_TO_FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TIME_PER_OUTPUT_TOKEN_SECONDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
REQUEST_SECONDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
PREFILL_SECONDS = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip


def new_registry() -> CollectorRegistry:
    """An empty registry with the CPU, memory and file-descriptor counts of this OS process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class ServerMetrics:
    """What every gRPC server counts: calls started, calls handled by code, and their seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter(
            "grpc_server_started_total", "Calls started.", labels, registry=registry
        )
        self._handled = Counter(
            "grpc_server_handled_total",
            "Calls completed, by status code.",
            (*labels, "grpc_code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from a call's arrival to its end.",
            labels,
            buckets=GRPC_SECONDS,
            registry=registry,
        )
        self._serving = Gauge(
            "otr_server_serving", "1 while health says SERVING.", registry=registry
        )
        self._failures = Counter(
            "otr_background_failures_total",
            "Failures of background tasks, each followed by a restart or the process's end.",
            ("task",),
            registry=registry,
        )

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """The metrics of one method; resolved once, not per call.

        `kind` is unary, server_stream, client_stream or bidi_stream.
        """
        labels = (kind, service, method)
        codes = {code: self._handled.labels(*labels, _camel(code)) for code in grpc.StatusCode}
        return MethodMetrics(self._started.labels(*labels), codes, self._seconds.labels(*labels))

    def serving(self, serving: bool) -> None:
        """Record what health says."""
        self._serving.set(1 if serving else 0)

    def background_failed(self, task: str) -> None:
        """Count a failure of a background task."""
        self._failures.labels(task).inc()


@dataclass(frozen=True, slots=True)
class MethodMetrics:
    """The metrics of one method."""

    _started: Counter
    _codes: dict[grpc.StatusCode, Counter]
    _seconds: Histogram

    def started(self) -> None:
        """A call arrived."""
        self._started.inc()

    def handled(self, code: grpc.StatusCode, seconds: float) -> None:
        """A call ended with `code` after `seconds`."""
        self._codes[code].inc()
        self._seconds.observe(seconds)


def _camel(code: grpc.StatusCode) -> str:
    """OK, NotFound, DeadlineExceeded: the spelling of go-grpc-prometheus."""
    if code is grpc.StatusCode.OK:
        return "OK"
    return "".join(part.capitalize() for part in code.name.split("_"))


class InferenceMetrics:
    """What dashboards of inference engines expect, for one model on one engine.

    `queue_seconds`, `prefill_seconds`, `decode_seconds`, `time_to_first_token`,
    `time_per_output_token` and `e2e_latency` take seconds; `running`, `waiting` count requests;
    `kv_cache_usage` is a share in [0, 1], in spite of its name, as in vLLM.
    """

    def __init__(
        self, registry: CollectorRegistry, *, model_name: str, engine_type: str = "exact-int8"
    ) -> None:
        self._labels = (model_name, engine_type)
        names = ("model_name", "engine_type")

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"otr_{name}", text, names, registry=registry).labels(*self._labels)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"otr_{name}", text, names, registry=registry).labels(*self._labels)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"otr_{name}", text, names, buckets=buckets, registry=registry).labels(
                *self._labels
            )

        self.running = gauge("num_requests_running", "Requests being generated.")
        self.waiting = gauge("num_requests_waiting", "Requests in the queue.")
        self.kv_cache_usage = gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens processed.")
        self.generation_tokens = counter("generation_tokens_total", "Tokens generated.")
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token.",
            TIME_TO_FIRST_TOKEN_SECONDS,
        )
        self.time_per_output_token = histogram(
            "request_time_per_output_token_seconds",
            "Mean seconds per token after the first.",
            TIME_PER_OUTPUT_TOKEN_SECONDS,
        )
        self.e2e_latency = histogram(
            "e2e_request_latency_seconds",
            "Seconds from a request's arrival to its end.",
            REQUEST_SECONDS,
        )
        self.queue_seconds = histogram(
            "request_queue_time_seconds", "Seconds a request waited for a slot.", REQUEST_SECONDS
        )
        self.prefill_seconds = histogram(
            "request_prefill_time_seconds",
            "Seconds from a request's slot to its first token.",
            PREFILL_SECONDS,
        )
        self.decode_seconds = histogram(
            "request_decode_time_seconds",
            "Seconds from a request's first token to its last.",
            REQUEST_SECONDS,
        )
        self._success = Counter(
            "otr_request_success_total",
            "Requests finished, by reason.",
            (*names, "finished_reason"),
            registry=registry,
        )

    def succeeded(self, finished_reason: str) -> None:
        """Count a finished request: `stop`, `stop_string`, `length`, ..., a small closed set."""
        self._success.labels(*self._labels, finished_reason).inc()
