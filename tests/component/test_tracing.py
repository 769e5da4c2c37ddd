"""Traces as a collector gets them: what belongs to what; and a collector that is away, which nobody notices."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from openride_analytics import __version__
from openride_analytics.config import Config
from openride_analytics.ops.metrics import Metrics
from openride_analytics.ops.otlp import RecordedTracing
from openride_analytics.ops.tracing import OFF
from openride_analytics.service import Service
from openride_analytics.warehouse import StatementRefused
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.observed import ObservedWarehouse
from tests.component.test_http import App, lines, problem, running
from tests.readings import Topic, reading
from tests.reporting import body
from tests.samples import minimal
from tests.servers.collector import Collector, attributes_of, children_of, collecting, hanging
from tests.servers.databases import drop_database, fresh_database
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, free_port
from tests.servers.smtp import SmtpServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(
    collector: Collector,
    embedded_folder: Path,
    postgres: PostgresServer,
    smtp_server: SmtpServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[App]:
    """An instance whose traces are collected."""
    postgres.ensure_running()
    postgres_url = await fresh_database(postgres.url)
    sections: dict[str, dict[str, Any]] = {
        "storage": {"data_dir": str(tmp_path_factory.mktemp("data"))},
        "postgres": {"url": postgres_url},
        "smtp": smtp_server.config,
        "ingest": {"max_delay_seconds": 0.01},
        "cache": {"fresh_seconds": 600, "stale_seconds": 600, "max_age_seconds": 3600},
        "retention": {"hot_days": 0, "cold_days": 0},
        "tracing": {"endpoint": collector.endpoint},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "openride_analytics.service.warehouse_of",
            lambda _: EmbeddedWarehouse(embedded_folder, query_timeout_seconds=30, insert_timeout_seconds=30),
        )
        service = Service(msgspec.convert(sections, Config))
    async with running(service) as instance:
        await asyncio.wait_for(service.started.wait(), 60)
        yield instance
    await drop_database(postgres_url)


async def collected(collector: Collector, *names: str, trace_id: str = "") -> dict[str, Span]:
    """As soon as they are there."""
    return await asyncio.to_thread(collector.wait_for, *names, trace_id=trace_id)


def parent(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """A caller's trace, its span, and the header that tells of them."""
    trace_id, span_id = uuid4().hex, uuid4().hex[:16]
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"}


# What belongs to what


async def test_a_request_goes_on_with_its_callers_trace_and_its_statements_are_its_children(
    app: App, collector: Collector
) -> None:
    city = f"City {uuid4()}"
    trace_id, span_id, headers = parent()
    answer = await app.client.get("/v1/metrics/bookings", params={"city": city}, headers=headers)
    assert answer.headers["X-Request-ID"] == trace_id
    route = "GET /v1/metrics/bookings"
    found = await collected(collector, route, "bookings.buckets", "freshness", trace_id=trace_id)
    assert found.keys() == {route, "bookings.buckets", "freshness"}
    request, statement = found[route], found["bookings.buckets"]
    assert request.parent_span_id.hex() == span_id
    assert request.kind == Span.SPAN_KIND_SERVER
    assert statement.kind == Span.SPAN_KIND_CLIENT
    assert children_of(request, collector.spans(trace_id)) == {"bookings.buckets", "freshness"}
    assert attributes_of(request) == {
        "http.request.method": "GET",
        "http.route": "/v1/metrics/bookings",
        "http.response.status_code": 200,
        "openride.cache": "miss",
        "openride.request_id": trace_id,
    }
    assert attributes_of(statement) == {
        "db.system.name": "clickhouse",
        "db.query.summary": "bookings.buckets",
        "db.response.returned_rows": 0,
    }
    assert request.start_time_unix_nano <= statement.start_time_unix_nano
    assert statement.end_time_unix_nano <= request.end_time_unix_nano
    assert city not in str(collector.spans())
    assert collector.resource["service.name"] == "openride-analytics"
    assert collector.resource["service.version"] == __version__


async def test_an_answer_from_the_cache_has_no_statements(app: App, collector: Collector) -> None:
    city = f"City {uuid4()}"
    await app.get("/v1/metrics/trips", city=city)
    answer = await app.get("/v1/metrics/trips", city=city)
    trace_id = answer.headers["X-Request-ID"]  # of a caller that has said neither id nor trace
    found = await collected(collector, "GET /v1/metrics/trips", trace_id=trace_id)
    assert attributes_of(found["GET /v1/metrics/trips"])["openride.cache"] == "hit"
    assert found.keys() == {"GET /v1/metrics/trips"}


async def test_requests_at_the_same_time_keep_their_traces_apart(app: App, collector: Collector) -> None:
    callers = [parent() for _ in range(5)]
    await asyncio.gather(
        *(
            app.client.get("/v1/metrics/payments", params={"city": f"City {trace_id}"}, headers=headers)
            for trace_id, _, headers in callers
        )
    )
    for trace_id, span_id, _ in callers:
        found = await collected(
            collector,
            "GET /v1/metrics/payments",
            "payments.buckets",
            "payments.breakdowns",
            trace_id=trace_id,
        )
        assert found["GET /v1/metrics/payments"].parent_span_id.hex() == span_id


async def test_a_trace_that_its_caller_does_not_sample_is_not_sent(app: App, collector: Collector) -> None:
    unsampled, _, headers = parent(sampled=False)
    answer = await app.client.get("/v1/metrics/users", headers=headers)
    assert answer.headers["X-Request-ID"] == unsampled
    later, _, headers = parent()
    await app.client.get("/v1/metrics/users", headers=headers)
    await collected(collector, "GET /v1/metrics/users", trace_id=later)
    assert collector.spans(unsampled) == []


async def test_probes_and_what_nobody_asked_for_are_not_traced(app: App, collector: Collector) -> None:
    trace_id, _, headers = parent()
    for path in ("/health/ready", "/metrics"):
        await app.client.get(path, headers=headers)
    await app.service.warehouse.query("-- test.alone\nSELECT 1 AS one")
    await app.client.get("/v1/nothing", headers=headers)
    found = await collected(collector, "GET unknown", trace_id=trace_id)
    assert found.keys() == {"GET unknown"}
    assert not {"health.probe", "test.alone"} & {span.name for span in collector.spans()}


async def test_a_failure_is_marked_by_its_kind_and_says_nothing_of_the_statement(
    app: App, collector: Collector
) -> None:
    assert isinstance(app.service.tracing, RecordedTracing)
    with app.service.tracing.span("test.failing"), pytest.raises(StatementRefused):
        await app.service.warehouse.query("-- test.refused\nSELECT secret FROM nowhere")
    found = await collected(collector, "test.refused", "test.failing")
    assert found["test.refused"].status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(found["test.refused"])["error.type"] == "StatementRefused"
    assert "secret" not in str(found["test.refused"])
    assert found["test.failing"].status.code == Status.STATUS_CODE_UNSET


async def test_events_over_http_are_stored_by_a_batch_with_its_steps(app: App, collector: Collector) -> None:
    known = {span.span_id for span in collector.spans()}
    await app.post(lines([minimal("booking.created", event_id=str(uuid4())) for _ in range(3)]), NDJSON)
    batches: list[Span] = []
    async with asyncio.timeout(30):
        while not batches:
            await asyncio.sleep(0.05)
            batches = [s for s in collector.spans() if s.name == "ingest.batch" and s.span_id not in known]
    (batch,) = batches
    spans = collector.spans(batch.trace_id.hex())
    assert not batch.parent_span_id
    assert batch.kind == Span.SPAN_KIND_CONSUMER
    assert attributes_of(batch) == {"openride.events": 3, "openride.dead_letters": 0}
    assert children_of(batch, spans) == {"ingest.insert", "ingest.settle", "ingest.derive"}
    by_name = {span.name: span for span in spans}
    assert children_of(by_name["ingest.insert"], spans) == {"insert.incoming"}
    assert children_of(by_name["ingest.settle"], spans) == {"clashes.find"}


STEPS = ("decode", "insert", "settle", "derive", "commit")


@pytest.fixture
def topic(kafka: KafkaServer) -> Topic:
    kafka.ensure_running()
    return Topic(kafka)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_batch_from_kafka_has_decoding_insert_settling_and_commit_and_nothing_for_an_event(
    topic: Topic, embedded_warehouse: EmbeddedWarehouse
) -> None:
    sent = await topic.send(200)
    metrics = Metrics()
    with collecting() as collector:
        tracing = RecordedTracing(collector.endpoint, metrics.spans_dropped)
        warehouse = ObservedWarehouse(embedded_warehouse, metrics, slow_seconds=10, tracing=tracing)
        async with reading(topic.settings, warehouse, tracing) as work:
            await work.until_stored(sent)
            await work.until_committed({0: 200})
        await tracing.close()
        spans = collector.spans()
    batches = [span for span in spans if span.name == "ingest.batch"]
    assert sum(attributes_of(batch)["openride.events"] for batch in batches) == 200
    for batch in batches:
        parts = {span.name: span for span in spans if span.parent_span_id == batch.span_id}
        assert parts.keys() == {f"ingest.{name}" for name in STEPS}
        in_order = [parts[f"ingest.{name}"] for name in STEPS]
        starts = [span.start_time_unix_nano for span in in_order]
        assert batch.start_time_unix_nano == starts[0]
        assert starts == sorted(starts)
        assert parts["ingest.commit"].start_time_unix_nano >= batch.end_time_unix_nano
        assert children_of(parts["ingest.insert"], spans) == {"insert.incoming"}
    assert len(spans) <= 10 * len(batches)
    assert metrics.spans_dropped._value.get() == 0


async def test_a_report_run_has_its_queries_and_its_deliveries(app: App, collector: Collector) -> None:
    schedule = body(contents=["metrics.bookings"], format="csv")
    made = (await app.client.post("/v1/reports/schedule", json=schedule)).json()
    trace_id, _, headers = parent()
    run = await app.client.post(f"/v1/reports/schedule/{made['schedule_id']}/run", headers=headers)
    report_id = run.json()["report_id"]
    found = await collected(collector, "report.make", "report.deliver", "report.delivery")
    make, deliver = found["report.make"], found["report.deliver"]
    for span in (make, deliver):
        assert attributes_of(span) == {"openride.report_id": report_id}
        assert span.trace_id.hex() != trace_id, "many runs may be taken up by whoever was woken"
    assert {"bookings.buckets", "freshness"} <= children_of(make, collector.spans())
    assert children_of(deliver, collector.spans()) == {"report.delivery"}
    assert attributes_of(found["report.delivery"]) == {"openride.kind": "email", "openride.attempt": 1}


async def test_log_lines_and_exemplars_name_the_trace(app: App) -> None:
    trace_id, _, headers = parent()
    with capture_logs(processors=[merge_contextvars]) as entries:
        await app.client.post(
            "/v1/ingest/dead-letters/replay",
            json={"ids": [uuid4().hex]},
            headers=headers | {"X-Request-ID": "mine"},
        )
    (line,) = [entry for entry in entries if entry["event"] == "dead_letters_replayed"]
    assert (line["request_id"], line["trace_id"]) == ("mine", trace_id)
    scraped = await app.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert f'# {{trace_id="{trace_id}"}}' in scraped.text


# A collector that is away, and none at all


@pytest.mark.parametrize("kind", ["nobody", "hanging"])
async def test_without_its_collector_the_service_works_and_stops_in_time(kind: str) -> None:
    with hanging() as hangs:
        nobody = f"http://{HOST}:{free_port()}/v1/traces"
        sections = {
            "clickhouse": {"url": f"clickhouse://{HOST}:{free_port()}/openride"},
            "postgres": {"url": f"postgresql://postgres@{HOST}:{free_port()}/postgres"},
            "tracing": {"endpoint": hangs.endpoint if kind == "hanging" else nobody},
        }
        service = Service(msgspec.convert(sections, Config))
        async with running(service) as instance:
            problem(await instance.get("/v1/metrics/bookings"), 503)
            if kind == "hanging":
                assert await asyncio.to_thread(hangs.reached.wait, 30)
            problem(await instance.get("/v1/metrics/bookings"), 503)
            began = time.monotonic()
        assert time.monotonic() - began < 15
        async with asyncio.timeout(30):
            while not service.metrics.spans_dropped._value.get():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.05)


async def test_spans_that_nobody_takes_are_dropped_and_counted_and_nobody_waits() -> None:
    metrics = Metrics()
    with hanging() as collector:
        tracing = RecordedTracing(collector.endpoint, metrics.spans_dropped)
        began = time.monotonic()
        for _ in range(10_000):
            with tracing.span("test.span"):
                pass
        took = time.monotonic() - began
        dropped = metrics.spans_dropped._value.get()
        await tracing.close()
        closed = time.monotonic() - began - took
    assert dropped >= 10_000 - 4_096 - 2 * 512
    assert took < 10
    assert closed < 10


async def test_a_collector_that_comes_back_gets_what_is_new_and_the_log_says_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openride_analytics.ops.otlp._SEND_SECONDS", 2.0)
    metrics, port = Metrics(), free_port()
    tracing = RecordedTracing(f"http://{HOST}:{port}/v1/traces", metrics.spans_dropped)
    with capture_logs() as entries:
        for number in range(2):
            with tracing.span("test.lost"):
                pass
            async with asyncio.timeout(60):
                while metrics.spans_dropped._value.get() <= number:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        with collecting(port) as collector:
            with tracing.span("test.new"):
                pass
            found = await collected(collector, "test.new")
            await tracing.close()
    assert found.keys() == {"test.new"}
    assert [entry["event"] for entry in entries] == ["traces_not_sent", "traces_sent_again"]


async def test_what_is_left_is_sent_at_the_end() -> None:
    metrics = Metrics()
    with collecting() as collector:
        tracing = RecordedTracing(collector.endpoint, metrics.spans_dropped)
        for _ in range(1_000):
            with tracing.span("test.last"):
                pass
        await tracing.close()
        assert len(collector.spans()) == 1_000
    assert metrics.spans_dropped._value.get() == 0


async def test_the_environment_says_what_opentelemetry_lets_it_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=rides")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with collecting() as collector:
        tracing = RecordedTracing(collector.endpoint, Metrics().spans_dropped)
        with tracing.span("test.span"):
            pass
        await tracing.close()
        assert collector.headers[0]["x-team"] == "rides"
        assert collector.resource["deployment.environment"] == "test"


async def test_where_no_collector_is_configured_nothing_of_it_is_loaded_and_a_span_is_always_the_same() -> (
    None
):
    assert OFF.span("one", attributes={"a": 1}) is OFF.span("two") is OFF.statement("three", "clickhouse")
    program = (
        "import sys\n"
        "from openride_analytics.http.app import http_app\n"
        "from openride_analytics.config import ClickHouse, Config\n"
        "from openride_analytics.service import Service\n"
        "http_app(Service(Config(clickhouse=ClickHouse(url='clickhouse://127.0.0.1/x'))))\n"
        "sys.exit(any(name in sys.modules for name in ('opentelemetry.exporter', 'google.protobuf')))\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], check=False, timeout=120, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
