"""The numbers behind `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from autodeploy.runtime.stats import EngineStats

GAUGES = {
    "num_running": "Requests in the batch",
    "num_waiting": "Requests waiting for the batch",
    "num_pages": "Pages of the cache",
    "num_free_pages": "Pages of the cache that no request holds",
}
COUNTS = {
    "num_steps": "Steps run",
    "num_generated_tokens": "Tokens generated",
    "num_prompt_tokens": "Prompt tokens of the requests that started",
    "num_reused_tokens": "Prompt tokens whose cache was there already",
    "num_preemptions": "Requests put back to wait because the cache was full",
}
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True)
class EngineCollector(Collector):
    """Reads an engine's numbers whenever they are asked for."""

    stats: Callable[[], EngineStats]

    def collect(self) -> Iterator[Metric]:
        """Every gauge and count, named after the field of `EngineStats`."""
        now = self.stats()
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"autodeploy_{name}", text, value=getattr(now, name))
        for name, text in COUNTS.items():
            yield CounterMetricFamily(f"autodeploy_{name}", text, value=getattr(now, name))


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(stats))
        self.requests = Counter(
            "autodeploy_http_requests", "Requests by how they ended", ["end"], registry=self.registry
        )
        self.first_token = Histogram(
            "autodeploy_first_token_seconds",
            "From a streamed request to its first output",
            registry=self.registry,
            buckets=SECONDS,
        )
        self.whole = Histogram(
            "autodeploy_request_seconds", "From a request to its last output", registry=self.registry, buckets=SECONDS
        )


@dataclass
class Timer:
    """Times one request."""

    metrics: Metrics
    started: float = field(default_factory=time.perf_counter)
    has_output: bool = False

    def output(self) -> None:
        """Something is going to the client of a stream."""
        if not self.has_output:
            self.metrics.first_token.observe(time.perf_counter() - self.started)
        self.has_output = True

    def done(self) -> None:
        """The request has been answered whole."""
        self.metrics.whole.observe(time.perf_counter() - self.started)
        self.metrics.requests.labels("done").inc()

    def cut(self) -> None:
        """The client has left, or the engine has failed."""
        self.metrics.requests.labels("cut").inc()
