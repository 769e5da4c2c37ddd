"""What the process counts about itself, for Prometheus.

Labels have few values, fixed by the code or the configuration: never ids, times, or what somebody has sent.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.gc_collector import GCCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector

from openride_analytics import __version__

# When each counter began would be a series of its own for every series.
disable_created_metrics()  # type: ignore[no-untyped-call]

_RATE_SECONDS = 300
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LOOP_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_MAKE_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_LOOP_EVERY_SECONDS: Final = 0.1
UNKNOWN: Final = "unknown"
"""The type of a record that claims none, or none that there is."""


class PoolUse(NamedTuple):
    """How a pool of connections is used just now."""

    used: int
    idle: int
    most: int
    waiting: int


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
        Gauge("openride_build_info", "1, for the version that runs.", ["version"], registry=registry).labels(
            __version__
        ).set(1)
        self.events_consumed = Counter(
            "openride_events_consumed",
            "Records taken in, decoded or refused, but not stored yet.",
            ["event_type", "topic"],  # a topic that is consumed, `http` or `replay`
            registry=registry,
        )
        self.events_stored = Counter(
            "openride_events_stored",
            "Events acknowledged by ClickHouse, repeats included.",
            ["event_type"],
            registry=registry,
        )
        self.rejected = Counter(
            "openride_events_rejected",
            "Records that became dead letters.",
            ["event_type", "reason", "topic"],  # a topic that is consumed, or `http`
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
        self.decode_seconds = Histogram(
            "openride_decode_seconds",
            "Time to decode what was fetched or sent at once, without the turns of other tasks.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
            registry=registry,
        )
        self.insert_seconds = Histogram(
            "openride_insert_seconds",
            "Time to store a batch to its end, retries included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.ingest_lag_seconds = Histogram(
            "openride_ingest_lag_seconds",
            "Time from arrival to stored, for the first event of each submission.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting_events = Gauge(
            "openride_ingest_waiting_events",
            "Events and dead letters that wait for the next batch.",
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
        self.report_make_seconds = Histogram(
            "openride_report_make_seconds",
            "Time to make a report's file, for each attempt.",
            buckets=_MAKE_SECONDS,
            registry=registry,
        )
        self.job_runs = Counter(
            "openride_job_runs",
            "Runs of the nightly jobs by how they ended, counted by the instance that ran them.",
            ["name", "outcome"],
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
            "Time from a request to the beginning of its answer.",
            ["method", "path", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.requests_running = Gauge(
            "openride_http_requests_running",
            "Requests that are being answered, open streams included.",
            registry=registry,
        )
        self.query_seconds = Histogram(
            "openride_query_seconds",
            "Time of each ClickHouse statement that succeeded, by its name.",
            ["query"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.query_failures = Counter(
            "openride_query_failures",
            "ClickHouse statements that failed, by name and kind of error.",
            ["query", "error"],
            registry=registry,
        )
        self.slow_queries = Counter(
            "openride_slow_queries",
            "ClickHouse statements that took longer than is usual.",
            ["query"],
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "openride_answer_seconds",
            "Time to compute an answer that the cache did not have, by endpoint.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cache_requests = Counter(
            "openride_cache_requests", "Questions by how the cache answered.", ["result"], registry=registry
        )
        for result in ("hit", "stale", "miss"):
            self.cache_requests.labels(result)
        self.cache_failures = Counter(
            "openride_cache_failures", "Calls of Redis that failed or took too long.", registry=registry
        )
        self._pool_connections = Gauge(
            "openride_pool_connections",
            "Connections to a store (of the embedded engine: its threads).",
            ["pool", "state"],
            registry=registry,
        )
        self._pool_connections_max = Gauge(
            "openride_pool_connections_max", "The most there may be.", ["pool"], registry=registry
        )
        self._pool_waiters = Gauge(
            "openride_pool_waiters", "Callers that wait for a connection.", ["pool"], registry=registry
        )
        self._loop_lag = Histogram(
            "openride_event_loop_lag_seconds",
            "How late the event loop wakes who asked for it, looked at ten times a second.",
            buckets=_LOOP_SECONDS,
            registry=registry,
        )
        self.spans_dropped = Counter(
            "openride_spans_dropped",
            "Spans that could not be sent to the collector of traces.",
            registry=registry,
        )
        self.stored_rate = Rate()
        self.rejected_rate = Rate()
        self.ready = Gauge("openride_ready", "1 while the service can serve.", registry=registry)

    def consumed(self, topic: str, by_type: Mapping[str, int]) -> None:
        """Counts records that were taken in."""
        for event_type, count in by_type.items():
            self.events_consumed.labels(event_type, topic).inc(count)

    def stored(self, *, by_type: Mapping[str, int], seconds: float, lags_seconds: Sequence[float]) -> None:
        """Counts one stored batch."""
        events = sum(by_type.values())
        for event_type, count in by_type.items():
            self.events_stored.labels(event_type).inc(count)
        self.stored_rate.add(events)
        self.batch_events.observe(events)
        self.insert_seconds.observe(seconds)
        for lag in lags_seconds:
            self.ingest_lag_seconds.observe(max(0.0, lag))

    def rejected_letters(self, letters: Sequence[tuple[str, str, str]]) -> None:
        """Counts records that became dead letters, each by its type, reason and topic."""
        self.rejected_rate.add(len(letters))
        for (event_type, reason, topic), count in Tally(letters).items():
            self.rejected.labels(event_type, reason, topic).inc(count)

    def stored_so_far(self) -> int:
        """Events stored since the start, repeats included."""
        return sum(
            int(sample.value)
            for family in self.events_stored.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )

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

    def lag_unknown(self, topic: str, partition: int) -> None:
        """Withdraws what was said of a partition, if anything: an old lag must not be read as a present one."""
        self.consumer_lag.remove(topic, partition)
        self.consumer_lag_seconds.remove(topic, partition)

    def watch_pool(self, name: str, use: Callable[[], PoolUse]) -> None:
        """Has a pool looked at with each scrape."""
        self._pool_connections.labels(name, "used").set_function(lambda: use().used)
        self._pool_connections.labels(name, "idle").set_function(lambda: use().idle)
        self._pool_connections_max.labels(name).set_function(lambda: use().most)
        self._pool_waiters.labels(name).set_function(lambda: use().waiting)

    async def watch_event_loop(self) -> None:
        """Measures, until it is cancelled, how late the loop wakes."""
        while True:
            due = monotonic() + _LOOP_EVERY_SECONDS
            await asyncio.sleep(_LOOP_EVERY_SECONDS)
            self._loop_lag.observe(max(0.0, monotonic() - due))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their media type: OpenMetrics for who accepts it, else Prometheus' text format."""
        if "application/openmetrics-text" in accept:
            text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4
