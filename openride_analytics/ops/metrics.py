"""What the process counts about itself, for Prometheus."""

from collections import Counter as Tally
from collections.abc import Sequence
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

_RATE_SECONDS = 300
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Rate:
    """How many a second, over the last minutes."""

    def __init__(self) -> None:
        self._by_second: Tally[int] = Tally()

    def add(self, count: int) -> None:
        """So many, now."""
        now = int(monotonic())
        self._by_second[now] += count
        for second in [second for second in self._by_second if second < now - _RATE_SECONDS]:
            del self._by_second[second]

    def per_second(self, seconds: int) -> float:
        """Their mean rate over the last whole seconds, at most five minutes of them."""
        now = int(monotonic())
        return sum(self._by_second[second] for second in range(now - seconds, now)) / seconds


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
            "Records of an assigned partition that are not stored yet.",
            ["topic", "partition"],
            registry=registry,
        )
        self.consumer_lag_seconds = Gauge(
            "openride_consumer_lag_seconds",
            "How long the oldest record of an assigned partition that is not stored yet has waited, at most.",
            ["topic", "partition"],
            registry=registry,
        )
        self.records_lost = Counter(
            "openride_records_lost",
            "Records that Kafka's retention removed before they were read.",
            ["topic"],
            registry=registry,
        )
        self.letters_not_published = Counter(
            "openride_dead_letters_not_published",
            "Dead letters that are in the table, but could not be sent to the topic.",
            registry=registry,
        )
        self.requests_denied = Counter(
            "openride_requests_denied",
            "Requests that were not let in: no or bad credentials, no scope, too many.",
            ["reason"],
            registry=registry,
        )
        self.report_runs = Counter(
            "openride_report_runs", "Runs of reports by what became of them.", ["state"], registry=registry
        )
        self.report_deliveries = Counter(
            "openride_report_deliveries",
            "Attempts to deliver a report (or to tell its owner) by how they ended.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.part_ok = Gauge(
            "openride_part_ok",
            "1 while a part of the service works: its servers, its migrations, its ingestion.",
            ["part"],
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
        self.stored_rate = Rate()
        self.rejected_rate = Rate()
        self.ready = Gauge("openride_ready", "1 while the service can serve.", registry=registry)

    def stored(self, *, events: int, seconds: float, lags_seconds: Sequence[float]) -> None:
        """Counts one stored batch."""
        self.events_stored.inc(events)
        self.stored_rate.add(events)
        self.batch_events.observe(events)
        self.insert_seconds.observe(seconds)
        for lag in lags_seconds:
            self.ingest_lag_seconds.observe(max(0.0, lag))

    def rejected_letters(self, reasons_and_topics: Sequence[tuple[str, str]]) -> None:
        """Counts records that became dead letters."""
        self.rejected_rate.add(len(reasons_and_topics))
        for (reason, topic), count in Tally(reasons_and_topics).items():
            self.rejected.labels(reason, topic).inc(count)

    def stored_so_far(self) -> int:
        """Events stored since the start, repeats included."""
        return int(self.registry.get_sample_value("openride_events_stored_total") or 0)

    def rejected_by_reason(self) -> dict[str, int]:
        """How many records became dead letters since the start."""
        counted: Tally[str] = Tally()
        for family in self.rejected.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    counted[sample.labels["reason"]] += int(sample.value)
        return dict(counted)

    def lag(self, topic: str, partition: int, events: int, seconds: float | None) -> None:
        """How far behind one assigned partition is; seconds of None: not known."""
        self.consumer_lag.labels(topic, partition).set(events)
        if seconds is not None:
            self.consumer_lag_seconds.labels(topic, partition).set(seconds)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
