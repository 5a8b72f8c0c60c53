"""Metric names and buckets are a contract with dashboards (facts/serving.md, section 3)."""

from __future__ import annotations

import grpc
from prometheus_client import CollectorRegistry, generate_latest

from otr_server.metrics import (
    GRPC_SECONDS,
    PREFILL_SECONDS,
    REQUEST_SECONDS,
    TIME_PER_OUTPUT_TOKEN_SECONDS,
    TIME_TO_FIRST_TOKEN_SECONDS,
    InferenceMetrics,
    ServerMetrics,
)


def test_the_inference_metrics_have_the_names_that_dashboards_draw() -> None:
    registry = CollectorRegistry()
    metrics = InferenceMetrics(registry, model_name="otr-tiny")
    metrics.running.set(2)
    metrics.waiting.set(1)
    metrics.kv_cache_usage.set(0.5)
    metrics.prompt_tokens.inc(7)
    metrics.generation_tokens.inc(9)
    metrics.succeeded("length")
    for histogram in (
        metrics.time_to_first_token,
        metrics.time_per_output_token,
        metrics.e2e_latency,
        metrics.queue_seconds,
        metrics.prefill_seconds,
        metrics.decode_seconds,
    ):
        histogram.observe(0.4)
    labels = {"model_name": "otr-tiny", "engine_type": "exact-int8"}
    for name, value in {
        "otr_num_requests_running": 2,
        "otr_num_requests_waiting": 1,
        "otr_kv_cache_usage_perc": 0.5,
        "otr_prompt_tokens_total": 7,
        "otr_generation_tokens_total": 9,
        "otr_time_to_first_token_seconds_count": 1,
        "otr_request_time_per_output_token_seconds_count": 1,
        "otr_e2e_request_latency_seconds_count": 1,
        "otr_request_queue_time_seconds_count": 1,
        "otr_request_prefill_time_seconds_count": 1,
        "otr_request_decode_time_seconds_count": 1,
    }.items():
        assert registry.get_sample_value(name, labels) == value, name
    reasons = {**labels, "finished_reason": "length"}
    assert registry.get_sample_value("otr_request_success_total", reasons) == 1


def test_the_buckets_span_what_the_facts_say_and_rise() -> None:
    assert (TIME_TO_FIRST_TOKEN_SECONDS[0], TIME_TO_FIRST_TOKEN_SECONDS[-1]) == (0.001, 2560.0)
    assert (TIME_PER_OUTPUT_TOKEN_SECONDS[0], TIME_PER_OUTPUT_TOKEN_SECONDS[-1]) == (0.01, 80.0)
    assert (REQUEST_SECONDS[0], REQUEST_SECONDS[-1]) == (0.3, 7680.0)
    for buckets in (
        TIME_TO_FIRST_TOKEN_SECONDS,
        TIME_PER_OUTPUT_TOKEN_SECONDS,
        REQUEST_SECONDS,
        PREFILL_SECONDS,
        GRPC_SECONDS,
    ):
        assert list(buckets) == sorted(set(buckets))


def test_two_processes_in_one_interpreter_count_apart() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    one = ServerMetrics(first).method("unary", "a.B", "C")
    ServerMetrics(second).method("unary", "a.B", "C")
    one.started()
    one.handled(grpc.StatusCode.NOT_FOUND, 0.002)
    labels = {"grpc_type": "unary", "grpc_service": "a.B", "grpc_method": "C"}
    assert first.get_sample_value("grpc_server_started_total", labels) == 1
    assert second.get_sample_value("grpc_server_started_total", labels) == 0
    coded = {**labels, "grpc_code": "NotFound"}
    assert first.get_sample_value("grpc_server_handled_total", coded) == 1
    assert first.get_sample_value("grpc_server_handling_seconds_count", labels) == 1
    assert b"_created" not in generate_latest(first)
