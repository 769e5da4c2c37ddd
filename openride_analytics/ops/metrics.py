"""What the process counts about itself, for Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One set for one service (not process-wide: tests run several services side by side)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.events_stored = Counter(
            "openride_events_stored",
            "Events acknowledged by ClickHouse, repeats included.",
            registry=registry,
        )
        self.rejected = Counter(
            "openride_events_rejected",
            "Records that became dead letters.",
            ["reason", "topic"],  # a topic that is consumed, or `http`: both are few
            registry=registry,
        )
        self.replayed = Counter(
            "openride_dead_letters_replayed",
            "Replays of dead letters, one for each letter tried.",
            ["outcome"],
            registry=registry,
        )
        self.insert_failures = Counter(
            "openride_insert_failures",
            "Attempts to store a batch that failed and were repeated.",
            registry=registry,
        )
        self.batch_events = Histogram(
            "openride_batch_events",
            "Events in a stored batch.",
            buckets=(1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000),
            registry=registry,
        )
        self.insert_seconds = Histogram(
            "openride_insert_seconds",
            "Time to store a batch, retries included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.ingest_lag_seconds = Histogram(
            "openride_ingest_lag_seconds",
            "Time from arrival to stored, for the first event of each submission.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.consumer_lag = Gauge(
            "openride_consumer_lag_events",
            "Records not yet consumed.",
            ["topic", "partition"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "openride_http_request_seconds",
            "Time to answer a request.",
            ["method", "path", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cache_requests = Counter(
            "openride_cache_requests", "Questions by how the cache answered.", ["result"], registry=registry
        )
        self.ready = Gauge("openride_ready", "1 while the service can serve.", registry=registry)

    def stored(self, *, events: int, seconds: float, lags_seconds: Sequence[float]) -> None:
        """Counts one stored batch."""
        self.events_stored.inc(events)
        self.batch_events.observe(events)
        self.insert_seconds.observe(seconds)
        for lag in lags_seconds:
            self.ingest_lag_seconds.observe(max(0.0, lag))

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
