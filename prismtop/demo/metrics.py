"""The engine's own counters in Prometheus form, named like vLLM's (``vllm/v1/metrics/loggers.py``).

Importing this module imports prometheus_client; the server does so only when it starts.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prismtop.demo.output import SchedulerOutput
from prismtop.demo.request import RequestOutput
from prismtop.demo.scheduler import Scheduler

_NS = 1e-9
_TOKEN_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SECOND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class PrometheusStatLogger:
    """Counts every executed step; gauges are read from the scheduler when they are scraped."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = registry = CollectorRegistry()
        self._iteration_tokens = Histogram(
            "demo:iteration_tokens_total",
            "Tokens per engine step.",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self._ttft = Histogram(
            "demo:time_to_first_token_seconds",
            "From arrival to the first token.",
            buckets=_SECOND_BUCKETS,
            registry=registry,
        )
        self._itl = Histogram(
            "demo:inter_token_latency_seconds",
            "Between two tokens of one request.",
            buckets=_SECOND_BUCKETS,
            registry=registry,
        )
        self._queue_time = Histogram(
            "demo:request_queue_time_seconds",
            "From arrival to the first step that computes the request.",
            buckets=_SECOND_BUCKETS,
            registry=registry,
        )
        self._prompt_tokens = Counter("demo:prompt_tokens", "Prompt tokens computed.", registry=registry)
        self._generation_tokens = Counter("demo:generation_tokens", "Tokens generated.", registry=registry)
        self._preemptions = Counter("demo:num_preemptions", "Requests preempted.", registry=registry)
        _gauge("demo:num_requests_running", "Requests in the batch.", registry).set_function(
            lambda: len(scheduler.running)
        )
        _gauge("demo:num_requests_waiting", "Requests in the queue.", registry).set_function(
            lambda: len(scheduler.waiting)
        )
        _gauge("demo:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", registry).set_function(
            lambda: scheduler.kv_cache.usage
        )

    def record(self, scheduler_output: SchedulerOutput, outputs: list[RequestOutput]) -> None:
        """Count one executed step and its new tokens."""
        self._iteration_tokens.observe(scheduler_output.total_num_scheduled_tokens)
        if scheduler_output.preempted_req_ids:
            self._preemptions.inc(len(scheduler_output.preempted_req_ids))
        if not outputs:
            return
        self._generation_tokens.inc(len(outputs))
        for output in outputs:
            if output.previous_token_time_ns is None:
                self._prompt_tokens.inc(output.num_prompt_tokens)
                self._ttft.observe((output.token_time_ns - output.arrival_time_ns) * _NS)
                self._queue_time.observe((output.scheduled_time_ns - output.arrival_time_ns) * _NS)
            else:
                self._itl.observe((output.token_time_ns - output.previous_token_time_ns) * _NS)

    def expose(self) -> bytes:
        """The text exposition format, for ``GET /metrics``."""
        return generate_latest(self._registry)


def _gauge(name: str, documentation: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, documentation, registry=registry)
