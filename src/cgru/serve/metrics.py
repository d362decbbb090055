"""What a server counts, for Prometheus: a registry of its own, and histograms that take a round's values at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily

_SECONDS = [0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 5]
_ROWS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]


class Buckets:
    """A histogram fed by arrays: one search for all values of a round; observing each costs a microsecond."""

    def __init__(self, name: str, told: str, bounds: list[float]) -> None:
        self._name, self._told, self._bounds = name, told, np.array(bounds, float)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def observe(self, values: np.ndarray) -> None:
        found = np.searchsorted(self._bounds, values)  # le: a value on a bound belongs below it
        self._counts += np.bincount(found, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterator[Any]:
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, np.cumsum(self._counts).tolist(), strict=True))
        family = HistogramMetricFamily(self._name, self._told)
        family.add_metric([], buckets, self._sum)
        yield family


class Metrics:
    """Everything that ``/metrics`` shows."""

    def __init__(self, open_streams: Callable[[], int], capacity: int, saved: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.latency = Buckets("cgru_step_latency_seconds", "From a frame's arrival to its output", _SECONDS)
        self.duration = Buckets("cgru_round_seconds", "Duration of a step of the pool", _SECONDS)
        self.rows = Buckets("cgru_round_streams", "Streams in a step of the pool", [float(n) for n in _ROWS])
        for buckets in (self.latency, self.duration, self.rows):
            registry.register(buckets)
        self.requests = Counter("cgru_requests", "HTTP and gRPC requests", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "cgru_request_seconds", "Duration of a request", ["route"], registry=registry, buckets=_SECONDS
        )
        self.refused = Counter("cgru_refused", "Requests and streams refused", ["reason"], registry=registry)
        self.ended = Counter("cgru_streams_ended", "Streams ended", ["reason"], registry=registry)
        self.resumed = Counter("cgru_streams_resumed", "Streams resumed by token", registry=registry)
        Gauge("cgru_streams_open", "Streams now open", registry=registry).set_function(open_streams)
        Gauge("cgru_streams_saved", "States kept for streams to resume", registry=registry).set_function(saved)
        Gauge("cgru_streams_capacity", "Streams that may be open", registry=registry).set(capacity)

    def round(self, arrived: np.ndarray, begun: float, ended: float) -> None:
        """A step of the pool: when its frames arrived, when it began and ended."""
        self.latency.observe(ended - arrived)
        self.duration.observe(np.array([ended - begun]))
        self.rows.observe(np.array([float(len(arrived))]))
