"""What operators see of the service at work, on a real ClickHouse: its metrics, request ids and slow statements."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from openride_analytics import __version__, postgres
from openride_analytics.access import keys
from openride_analytics.cache import RedisCache
from openride_analytics.config import Config
from openride_analytics.events import Events
from openride_analytics.metrics import bookings
from openride_analytics.ops.metrics import Metrics, PoolUse
from openride_analytics.service import Service
from openride_analytics.warehouse import StatementRefused
from openride_analytics.warehouse.observed import UNNAMED, ObservedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.component.test_http import App, lines, problem, running, without_stores
from tests.reporting import body
from tests.samples import minimal
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.databases import drop_database, fresh_database
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, free_port
from tests.servers.smtp import SmtpServer
from tests.stores import decoded

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLAY = "/v1/ingest/dead-letters/replay"
NDJSON = {"Content-Type": "application/x-ndjson"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(
    clickhouse: ClickHouseServer,
    postgres: PostgresServer,
    smtp_server: SmtpServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[App]:
    """An instance with access on, to which every statement is a slow one; its client has a key for everything."""
    postgres.ensure_running()
    clickhouse.ensure_running()
    urls = [await fresh_database(server.url) for server in (clickhouse, postgres)]
    sections: dict[str, dict[str, Any]] = {
        "storage": {"data_dir": str(tmp_path_factory.mktemp("data"))},
        "clickhouse": {"url": urls[0], "slow_query_seconds": 1e-9},
        "postgres": {"url": urls[1]},
        "smtp": smtp_server.config,
        "ingest": {"max_delay_seconds": 0.01},
        "cache": {"fresh_seconds": 600, "stale_seconds": 600, "max_age_seconds": 3600},
        "retention": {"hot_days": 0, "cold_days": 0},
        "auth": {"enabled": True, "requests_per_minute": 0},
    }
    service = Service(msgspec.convert(sections, Config))
    async with running(service) as instance:
        await asyncio.wait_for(service.started.wait(), 60)
        key, _ = await keys.create(
            service.postgres,
            name="test",
            scopes=("admin",),
            expires_at=None,
            requests_per_minute=None,
            by="test",
        )
        await service.gate.keys.read_again(0.0)
        instance.client.headers["Authorization"] = f"Bearer {key}"
        yield instance
    for url in urls:
        await drop_database(url)


class Scraped:
    """The metrics at one moment, as Prometheus reads them."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    @classmethod
    async def of(cls, app: App) -> "Scraped":
        return cls((await app.get("/metrics")).text)

    def __call__(self, name: str, /, **labels: str) -> float:
        """A metric, summed over the labels that are not given."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and sample.labels.items() >= labels.items()
        )


@contextlib.contextmanager
def logged() -> Iterator[list[Any]]:
    """What is logged meanwhile, as it would be written."""
    with capture_logs(processors=[merge_contextvars]) as entries:
        yield entries


# Metrics


async def test_events_are_counted_by_type_and_reason_when_they_come_when_they_are_stored_and_when_not(
    app: App,
) -> None:
    before = await Scraped.of(app)
    good = [minimal("booking.created", event_id=str(uuid4())) for _ in range(3)]
    good += [minimal("driver.location.updated", driver_id=str(uuid4())) for _ in range(2)]
    bad = [
        minimal("booking.created", seats_booked=-1),
        minimal("booking.created", event_type=f"no.{uuid4()}"),
    ]
    receipt = (await app.post(lines(good + bad), NDJSON)).json()
    assert receipt["accepted"] == 5
    (await app.client.post(REPLAY, json={"reason": "invalid_field"})).raise_for_status()
    after = await Scraped.of(app)

    def more(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    consumed = "openride_events_consumed_total"
    assert more(consumed) == more(consumed, topic="http") == 7
    assert more(consumed, event_type="booking.created") == 4
    assert more(consumed, event_type="unknown") == 1
    assert more("openride_events_stored_total") == 5
    assert more("openride_events_stored_total", event_type="booking.created") == 3
    assert more("openride_events_stored_total", event_type="driver.location.updated") == 2
    rejected = "openride_events_rejected_total"
    assert more(rejected) == 2
    assert more(rejected, event_type="booking.created", reason="invalid_field", topic="http") == 1
    assert more(rejected, event_type="unknown", reason="unknown_event_type", topic="http") == 1
    assert more("openride_dead_letters_replayed_total", outcome="rejected") == 1
    assert more("openride_batch_events_count") == 1
    assert more("openride_batch_events_sum") == 5
    assert more("openride_decode_seconds_count") == 1
    assert 0 < more("openride_decode_seconds_sum") < more("openride_insert_seconds_sum")
    assert more("openride_insert_seconds_count") == more("openride_ingest_lag_seconds_count") == 1
    assert more("openride_query_seconds_count", query="insert.incoming") == 1
    assert more("openride_insert_failures_total") == 0
    assert after("openride_ingest_waiting_events") == 0


async def test_a_replayed_event_is_consumed_once_more(app: App) -> None:
    before = await Scraped.of(app)
    event = minimal("user.registered", event_id=str(uuid4()))
    await app.service.pipeline.put_again(Events.of(decoded([event])), 0)  # as a replay does
    after = await Scraped.of(app)
    consumed, labels = "openride_events_consumed_total", {"event_type": "user.registered", "topic": "replay"}
    assert after(consumed, **labels) == before(consumed, **labels) + 1


async def test_questions_are_counted_by_route_cache_and_statement(app: App) -> None:
    city = f"City {uuid4()}"
    before = await Scraped.of(app)
    for expected in ("miss", "hit"):
        answer = await app.get("/v1/metrics/bookings", city=city)
        assert answer.headers["X-Cache"] == expected
    await app.get("/v1/metrics/bookings", start_date="never")
    await app.get(f"/{uuid4()}")
    (await app.get("/v1/exports/csv", dataset="bookings")).raise_for_status()
    after = await Scraped.of(app)

    def more(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    seconds = "openride_http_request_seconds_count"
    route = {"method": "GET", "path": "/v1/metrics/bookings"}
    assert (more(seconds, **route, status="200"), more(seconds, **route, status="400")) == (2, 1)
    assert more(seconds, path="unknown", status="404") == 1
    assert more("openride_cache_requests_total", result="miss") == 1
    assert more("openride_cache_requests_total", result="hit") == 1
    assert more("openride_answer_seconds_count", endpoint="/v1/metrics/bookings") == 1
    assert more("openride_query_seconds_count", query="bookings.buckets") == 1
    assert more("openride_query_seconds_count", query="exports.rows") == 1
    assert more("openride_slow_queries_total", query="bookings.buckets") == 1
    assert after("openride_http_requests_running") == 1  # the scrape itself


async def test_every_statement_of_every_question_has_a_name(app: App) -> None:
    paths = [
        f"/v1/metrics/{name}" for name in ("users", "bookings", "payments", "trips", "drivers", "routes")
    ]
    paths += [f"/v1/analytics/{name}" for name in ("funnel", "cohort", "retention", "geographic")]
    for path in [
        *paths,
        "/v1/metrics/realtime",
        "/v1/ingest/dead-letters",
        "/v1/exports/excel?dataset=users",
    ]:
        (await app.client.get(path)).raise_for_status()
    for level in ("city", "h3"):
        (await app.get("/v1/analytics/geographic", level=level)).raise_for_status()
    scraped = await Scraped.of(app)
    named = {sample.labels["query"] for sample in scraped.samples if "query" in sample.labels}
    assert UNNAMED not in named
    assert {name.partition(".")[0] for name in named} >= {path.rpartition("/")[2] for path in paths}
    assert {"migrations.apply", "migrations.record", "ttl.tables", "health.probe", "freshness"} <= named


async def test_who_is_not_let_in_is_counted(app: App) -> None:
    before = await Scraped.of(app)
    problem(await app.client.get("/v1/metrics/users", headers={"Authorization": ""}), 401)
    after = await Scraped.of(app)
    denied = "openride_requests_denied_total"
    assert after(denied) == before(denied) + 1


async def test_reports_and_jobs_are_counted_by_what_became_of_them(app: App) -> None:
    before = await Scraped.of(app)
    for when_empty in ("skip", "send"):
        schedule = body(
            contents=["metrics.bookings"],
            format="csv",
            filters={"city": f"City {uuid4()}"},
            when_empty=when_empty,
        )
        made = await app.client.post("/v1/reports/schedule", json=schedule)
        assert made.status_code == 201, made.text
        run = await app.client.post(f"/v1/reports/schedule/{made.json()['schedule_id']}/run")
        assert run.is_success, run.text
    runs, deliveries = "openride_report_runs_total", "openride_report_deliveries_total"
    async with asyncio.timeout(60):
        while (after := await Scraped.of(app))(runs) < 2:  # noqa: ASYNC110  # only asking tells
            await asyncio.sleep(0.05)
    assert after(runs, state="skipped") == after(runs, state="delivered") == 1
    assert after(deliveries, kind="email", outcome="delivered") == 1
    assert app.service._jobs is not None
    due = datetime.now(UTC)

    async def fails() -> None:
        raise OSError

    await app.service._jobs.run_once("fails", due, fails)
    await app.service._jobs.run_once("works", due, _nothing)
    after = await Scraped.of(app)
    assert after("openride_report_make_seconds_count") == before("openride_report_make_seconds_count") + 2
    assert after("openride_job_runs_total", name="fails", outcome="failed") == 1
    assert after("openride_job_runs_total", name="works", outcome="done") == 1


async def _nothing() -> None:
    pass


async def test_the_process_tells_its_version_its_parts_and_its_pools(app: App) -> None:
    scraped = await Scraped.of(app)
    assert scraped("openride_build_info", version=__version__) == 1
    assert scraped("openride_ready") == 1
    parts = {s.labels["part"]: s.value for s in scraped.samples if s.name == "openride_part_ok"}
    assert parts == dict.fromkeys(("clickhouse", "postgres", "migrations", "redis", "kafka", "ingest"), 1)
    for pool, most in (("clickhouse", 16), ("postgres", 5)):
        assert scraped("openride_pool_connections_max", pool=pool) == most
        assert 1 <= scraped("openride_pool_connections", pool=pool) <= most
        assert scraped("openride_pool_waiters", pool=pool) == 0
    assert scraped("process_resident_memory_bytes") > 1_000_000
    assert scraped("openride_event_loop_lag_seconds_count") > 0


async def test_no_label_holds_what_somebody_has_sent(app: App) -> None:
    mark = uuid4().hex
    await app.client.request(
        f"M{mark}".upper(), f"/{mark}?{mark}", headers={mark: mark, "X-Request-ID": mark}
    )
    await app.get("/v1/metrics/bookings", city=mark)
    await app.post(lines([minimal("booking.created", event_type=mark)]), NDJSON)
    text = (await app.get("/metrics")).text
    assert mark not in text.lower()
    assert "_created " not in text


async def test_who_asks_for_openmetrics_gets_it(app: App) -> None:
    answer = await app.client.get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics_families(answer.text)}  # type: ignore[no-untyped-call]
    assert {"openride_events_stored", "openride_query_seconds"} <= names


async def test_a_pool_tells_who_uses_it_and_who_waits(postgres_url: str, clickhouse_url: str) -> None:
    pool = await postgres.connect(postgres_url)
    warehouse = ServerWarehouse(
        clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30, max_connections=2
    )
    assert postgres.use(pool) == PoolUse(used=0, idle=1, most=5, waiting=0)
    assert warehouse.use() == PoolUse(used=0, idle=0, most=2, waiting=0)
    asked = [pool.fetch("SELECT pg_sleep(1)") for _ in range(7)]
    asked += [warehouse.query("SELECT sleep(1) AS s") for _ in range(5)]
    tasks = [asyncio.ensure_future(one) for one in asked]
    async with asyncio.timeout(30):
        while postgres.use(pool) != PoolUse(used=5, idle=0, most=5, waiting=2):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while warehouse.use() != PoolUse(used=2, idle=0, most=2, waiting=3):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert warehouse.use()[::3] == (0, 0)
    await postgres.close(pool)
    await warehouse.close()


async def test_calls_of_a_redis_that_is_away_are_counted() -> None:
    failures: list[int] = []
    cache = RedisCache(f"redis://{HOST}:{free_port()}/0", lambda: failures.append(1))
    await cache.get("question")
    await cache.get("question")  # it is left alone now
    assert failures == [1]
    await cache.close()


# Request ids


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-ID": "gateway-7.B_1"}, "gateway-7.B_1"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"X-Request-ID": "first", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "first"),
        ({"X-Request-ID": "ada@example.com"}, None),
        ({"X-Request-ID": "x" * 129}, None),
        ({"X-Request-ID": ""}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": "nonsense"}, None),
        ({}, None),
    ],
)
async def test_a_request_has_the_id_that_it_came_with_or_a_new_one(
    app: App, headers: dict[str, str], expected: str | None
) -> None:
    answers = [await app.client.get("/v1/nothing", headers=headers) for _ in range(2)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert [problem(answer, 404)["request_id"] for answer in answers] == ids
    if expected is not None:
        assert ids == [expected] * 2
    else:
        assert ids[0] != ids[1]
        assert all(len(one) == 32 and one.isalnum() for one in ids)


async def test_the_id_stands_in_every_log_line_of_the_request_and_in_no_other(app: App) -> None:
    with logged() as entries:
        await asyncio.gather(
            *(
                app.client.post(REPLAY, json={"ids": [uuid4().hex]}, headers={"X-Request-ID": f"replay-{n}"})
                for n in range(3)
            )
        )
        await app.service.warehouse.query("-- test.alone\nSELECT 1 AS one")
    of_requests = [entry for entry in entries if str(entry.get("request_id")).startswith("replay-")]
    for n in range(3):
        events = [entry["event"] for entry in of_requests if entry["request_id"] == f"replay-{n}"]
        assert {"dead_letters_replayed", "slow_query"} == set(events)
    (alone,) = [entry for entry in entries if entry.get("query") == "test.alone"]
    assert "request_id" not in alone


async def test_a_store_that_is_away_is_logged_with_the_id_that_the_problem_names() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        with logged() as entries:
            details = problem(await instance.get("/v1/metrics/bookings"), 503)
    (line,) = [entry for entry in entries if entry["event"] == "warehouse_unavailable"]
    assert line["request_id"] == details["request_id"]


async def test_requests_that_are_refused_before_they_are_looked_at_have_an_id_too() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        answer = await instance.client.get("/v1/metrics/bookings", headers={"Host": "evil.example.com"})
        assert problem(answer, 403)["request_id"] == answer.headers["X-Request-ID"]


# Slow statements


@pytest_asyncio.fixture(loop_scope="module")
async def observed(clickhouse_url: str) -> AsyncIterator[tuple[ObservedWarehouse, Metrics]]:
    """A ClickHouse to which half a second is slow."""
    metrics = Metrics()
    engine = ServerWarehouse(clickhouse_url, query_timeout_seconds=2, insert_timeout_seconds=2)
    yield ObservedWarehouse(engine, metrics, slow_seconds=0.5), metrics
    await engine.close()


def slow(entries: list[Any]) -> list[tuple[Any, Any]]:
    return [(entry["query"], entry["rows"]) for entry in entries if entry["event"] == "slow_query"]


async def test_a_slow_statement_is_logged_with_its_name_and_rows_and_no_value(
    observed: tuple[ObservedWarehouse, Metrics],
) -> None:
    warehouse, metrics = observed
    with logged() as entries:
        sql = "-- test.slow\nSELECT sleep(0.7) AS s, {who:String} AS who FROM numbers(1)"
        await warehouse.query(sql, {"who": "Ada"})
        await warehouse.query("-- test.fast\nSELECT {who:String} AS who", {"who": "Ada"})
    assert slow(entries) == [("test.slow", 1)]
    assert entries[0]["seconds"] >= 0.7
    assert entries[0]["log_level"] == "warning"
    assert "Ada" not in str(entries)
    assert metrics.registry.get_sample_value("openride_slow_queries_total", {"query": "test.slow"}) == 1
    assert metrics.registry.get_sample_value("openride_slow_queries_total", {"query": "test.fast"}) is None


async def test_a_stream_is_as_slow_as_its_engine_and_not_as_its_reader(
    observed: tuple[ObservedWarehouse, Metrics],
) -> None:
    warehouse, _ = observed
    with logged() as entries:
        for name, sql in (
            ("reader", "SELECT number FROM numbers(3)"),
            ("engine", "SELECT number, sleepEachRow(0.3) AS s FROM numbers(3)"),
        ):
            async with warehouse.stream(f"-- test.{name}\n{sql}", timeout_seconds=30) as blocks:
                async for _ in blocks:
                    await asyncio.sleep(0.6)
    assert slow(entries) == [("test.engine", 3)]


async def test_a_statement_that_fails_is_counted_by_its_error_and_logged_if_that_took_long(
    observed: tuple[ObservedWarehouse, Metrics],
) -> None:
    warehouse, metrics = observed
    with logged() as entries:
        with pytest.raises(StatementRefused):
            await warehouse.execute("-- test.refused\nINSERT INTO nowhere SELECT 1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await warehouse.query("-- test.cancelled\nSELECT sleep(1.5) AS s")
    for query, error in (("test.refused", "refused"), ("test.cancelled", "cancelled")):
        labels = {"query": query, "error": error}
        assert metrics.registry.get_sample_value("openride_query_failures_total", labels) == 1
        assert metrics.registry.get_sample_value("openride_query_seconds_count", {"query": query}) is None
    assert [(entry["query"], entry["failed"]) for entry in entries] == [("test.cancelled", "cancelled")]


async def test_a_question_over_http_is_logged_by_its_statements_names(app: App) -> None:
    city = f"City {uuid4()}"
    with logged() as entries:
        await app.client.get("/v1/metrics/trips", params={"city": city}, headers={"X-Request-ID": "mine"})
    names = {
        entry["query"]
        for entry in entries
        if entry["event"] == "slow_query" and entry["request_id"] == "mine"
    }
    assert names == {"trips.buckets", "freshness"}
    assert city not in str(entries)


async def test_the_engine_itself_knows_a_statement_by_its_name(app: App) -> None:
    assert bookings._SQL.startswith("\n-- bookings.buckets\n")
    waiting = asyncio.create_task(app.service.warehouse.query("-- test.running\nSELECT sleep(2) AS s"))
    seen: list[Any] = []
    async with asyncio.timeout(30):
        while not seen and not waiting.done():
            seen = await app.service.warehouse.query(
                "-- test.looking\nSELECT query FROM system.processes WHERE startsWith(query, '-- test.running')"
            )
    assert seen
    await waiting
