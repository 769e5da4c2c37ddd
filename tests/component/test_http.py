"""The HTTP face as its clients see it: a real server in the test's loop, on the embedded engine and PostgreSQL."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Never
from uuid import uuid4

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from openride_analytics.config import Config
from openride_analytics.http.app import http_app
from openride_analytics.service import Service
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.samples import minimal
from tests.servers.databases import drop_database, fresh_database
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_REQUEST_BYTES = 100_000
METRICS = ("users", "bookings", "payments", "trips", "drivers", "routes")
BOM = b"\xef\xbb\xbf"
NDJSON = {"Content-Type": "application/x-ndjson"}
ARRAY = {"Content-Type": "application/json"}
GZIP = NDJSON | {"Content-Encoding": "gzip"}


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class App:
    """A running instance and a client of it."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self.service = service
        self.client = client

    async def get(self, path: str, /, **parameters: str | list[str]) -> httpx.Response:
        """One request, whatever its answer."""
        return await self.client.get(path, params=parameters)

    async def get_json(self, path: str, /, **parameters: str) -> Any:
        """The JSON of an answer that must be a 200."""
        response = await self.get(path, **parameters)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """A body of events: an array if it begins like one, unless the headers say otherwise."""
        is_array = body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        headers = headers or (ARRAY if is_array else NDJSON)
        return await self.client.post("/v1/events", content=body, headers=headers)

    async def registered(self, city: str) -> int:
        """How many users of a city have registered lately."""
        answer = await self.get_json("/v1/metrics/users", city=city)
        return int(answer["summary"]["registrations"])


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[App]:
    """An instance in this loop, from when it takes requests (its stores may be away)."""
    port = free_port()
    server = _Server(uvicorn.Config(http_app(service), host=HOST, port=port, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=30, trust_env=False) as client:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        try:
            yield App(service, client)
        finally:
            service.begin_stop()
            server.should_exit = True
            await serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(
    embedded_folder: Path, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[App]:
    """An instance that is ready; nothing that is stored is older than an answer of it."""
    postgres.ensure_running()
    postgres_url = await fresh_database(postgres.url)
    sections: dict[str, dict[str, Any]] = {
        "storage": {"data_dir": str(tmp_path_factory.mktemp("data"))},
        "postgres": {"url": postgres_url},
        "ingest": {"max_request_bytes": MAX_REQUEST_BYTES, "max_delay_seconds": 0.01},
        "cache": {"fresh_seconds": 0.0, "stale_seconds": 0.0},
        "retention": {"hot_days": 0, "cold_days": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        # One folder a process: the engine does not take a second one.
        patch.setattr(
            "openride_analytics.service.warehouse_of",
            lambda _: EmbeddedWarehouse(embedded_folder, query_timeout_seconds=30, insert_timeout_seconds=30),
        )
        service = Service(msgspec.convert(sections, Config))
    async with running(service) as instance:
        await asyncio.wait_for(service.started.wait(), 60)
        yield instance
    await drop_database(postgres_url)


@contextlib.asynccontextmanager
async def without_stores(clickhouse_url: str, **clickhouse: Any) -> AsyncIterator[App]:
    """An instance whose PostgreSQL is away, and ClickHouse what the address says."""
    nobody = f"postgresql://postgres@{HOST}:{free_port()}/postgres"
    sections = {"clickhouse": {"url": clickhouse_url, **clickhouse}, "postgres": {"url": nobody}}
    async with running(Service(msgspec.convert(sections, Config))) as instance:
        yield instance


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem details, which must have the contract's form."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    details: dict[str, Any] = response.json()
    assert details["status"] == status
    assert details["instance"] == response.url.path
    assert all(isinstance(details[name], str) and details[name] for name in ("type", "title", "detail"))
    for forbidden in ("Traceback", "SELECT", HOST, 'File "'):
        assert forbidden not in response.text
    return details


def faults(response: httpx.Response) -> dict[str, str]:
    """The parameters at fault and what is wrong with each."""
    return {error["field"]: error["message"] for error in problem(response, 400)["errors"]}


def users(city: str, count: int) -> list[dict[str, Any]]:
    """Registrations of yesterday, each of another user."""
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    return [
        minimal("user.registered", city=city, user_id=str(uuid4()), event_timestamp=yesterday)
        for _ in range(count)
    ]


def lines(events: list[dict[str, Any]], end: str = "\n") -> bytes:
    """The events as NDJSON."""
    return "".join(json.dumps(event) + end for event in events).encode()


def anywhere() -> str:
    """A city that no other test knows."""
    return f"City {uuid4()}"


# Questions that cannot be answered


async def test_a_bad_request_names_all_parameters_at_fault_at_once(app: App) -> None:
    response = await app.get(
        "/v1/metrics/bookings",
        timezone="Mars/Olympus",
        currency="naira",
        planet="Mars",
        route_id="7",
        city="",
        start_date="yesterday",
    )
    assert set(faults(response)) == {"timezone", "currency", "planet", "route_id", "city", "start_date"}
    assert problem(response, 400)["detail"] == "6 parameters cannot be used."


async def test_an_unknown_parameter_is_told_which_there_are(app: App) -> None:
    message = faults(await app.get("/v1/metrics/users", provider="paystack"))["provider"]
    assert "city" in message
    assert "start_date" in message


@pytest.mark.parametrize("path", ["/v1/metrics/definitions", "/v1/ingest/status"])
async def test_what_takes_no_parameters_refuses_them(app: App, path: str) -> None:
    assert list(faults(await app.get(path, endpoint="users"))) == ["endpoint"]


async def test_events_are_sent_without_parameters(app: App) -> None:
    sent = await app.client.post("/v1/events", params={"x": "1"}, content=b"", headers=NDJSON)
    assert list(faults(sent)) == ["x"]


async def test_a_repeated_parameter_is_refused(app: App) -> None:
    assert "more than once" in faults(await app.get("/v1/metrics/users", city=["Ikeja", "Lekki"]))["city"]


@pytest.mark.parametrize(
    ("endpoint", "name", "value"),
    [
        ("users", "timezone", "Nowhere"),
        ("users", "timezone", "../etc/passwd"),
        ("users", "timezone", ""),
        ("users", "start_date", "2026-02-30"),
        ("users", "start_date", "yesterday"),
        ("users", "start_date", "2026-03-01T07:05:00"),
        ("users", "end_date", "0001-01-01"),
        ("users", "granularity", "minute"),
        ("users", "granularity", "DAY"),
        ("users", "compare", "next"),
        ("users", "city", " "),
        ("users", "city", "x" * 201),
        ("users", "state", "La\0gos"),
        ("bookings", "route_id", "0f8c2d1e-5b1b-4f4e-8f63"),
        ("bookings", "driver_id", "{0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f}"),
        ("bookings", "currency", "ngn"),
        ("bookings", "currency", "NGN\n"),
        ("drivers", "sort", "name"),
        ("drivers", "limit", "0"),
        ("drivers", "limit", "1001"),
        ("routes", "limit", "1.5"),
        ("routes", "limit", "-1"),
        ("routes", "limit", "٣"),
        ("realtime", "window_minutes", "1441"),
        ("realtime", "window_minutes", ""),
        ("realtime/stream", "interval_seconds", "0"),
    ],
)
async def test_a_bad_value_is_refused_by_its_name(app: App, endpoint: str, name: str, value: str) -> None:
    assert list(faults(await app.get(f"/v1/metrics/{endpoint}", **{name: value}))) == [name]


@pytest.mark.parametrize(
    ("start", "end", "granularity", "field", "message"),
    [
        ("2026-03-02", "2026-03-01", "day", "end_date", "after the start"),
        ("2026-03-01T07:00:00Z", "2026-03-01T07:00:00Z", "day", "end_date", "after the start"),
        ("2023-03-01", "2026-03-01", "day", "start_date", "3 years"),
        ("2024-03-01", "2026-03-01", "hour", "granularity", "10000 buckets"),
    ],
)
async def test_a_period_that_cannot_be_answered_is_refused(
    app: App, start: str, end: str, granularity: str, field: str, message: str
) -> None:
    response = await app.get("/v1/metrics/bookings", start_date=start, end_date=end, granularity=granularity)
    assert message in faults(response)[field]


async def test_the_longest_period_is_answered(app: App) -> None:
    answer = await app.get_json(
        "/v1/metrics/bookings", start_date="2023-03-01", end_date="2026-02-28", granularity="month"
    )
    assert len(answer["series"]) == 36


async def test_an_unescaped_plus_in_an_offset_is_understood(app: App) -> None:
    period = "start_date=2026-03-01T00:00:00+01:00&end_date=2026-03-02T00:00:00%2B01:00"
    response = await app.client.get(f"/v1/metrics/trips?{period}")
    assert response.json()["period"]["start"] == "2026-02-28T23:00:00Z"


@pytest.mark.parametrize("endpoint", METRICS)
async def test_each_metrics_endpoint_answers_in_the_contracts_form(app: App, endpoint: str) -> None:
    answer = await app.get_json(
        f"/v1/metrics/{endpoint}", start_date="2026-03-01", end_date="2026-03-31", compare="previous"
    )
    assert answer["period"] == {
        "start": "2026-02-28T23:00:00Z",
        "end": "2026-03-31T23:00:00Z",
        "timezone": "Africa/Lagos",
        "granularity": "day",
    }
    assert {"data_through", "summary", "previous", "series", "breakdowns"} <= set(answer)
    assert answer["previous"]["period"] == {"start": "2026-01-31T23:00:00Z", "end": "2026-02-28T23:00:00Z"}
    assert len(answer["series"]) == 31
    assert all({"start", "partial"} <= set(bucket) for bucket in answer["series"])


# What HTTP itself refuses


async def test_an_unknown_address_is_a_404(app: App) -> None:
    problem(await app.get("/v1/metrics/planets"), 404)


async def test_a_wrong_method_is_a_405_that_names_the_right_ones(app: App) -> None:
    response = await app.client.delete("/v1/metrics/users")
    problem(response, 405)
    assert "GET" in response.headers["Allow"]


@pytest.mark.parametrize(
    ("path", "status", "media_type"),
    [
        ("/health/live", 200, "application/json"),
        ("/v1/metrics/bookings", 200, "application/json"),
        ("/v1/exports/csv?dataset=bookings", 200, "text/csv; charset=utf-8"),
        ("/v1/metrics/realtime/stream", 200, "text/event-stream; charset=utf-8"),
        ("/v1/metrics/bookings?start_date=tomorrow", 400, "application/problem+json"),
        ("/v1/metrics/planets", 404, "application/problem+json"),
    ],
)
async def test_head_is_answered_as_get_without_its_body(
    app: App, path: str, status: int, media_type: str
) -> None:
    async with asyncio.timeout(10):
        head = await app.client.head(path)
    assert (head.status_code, head.headers["Content-Type"], head.content) == (status, media_type, b"")
    assert head.headers["X-Request-ID"]
    after = await app.get("/health/live")
    assert after.json() == {"status": "ok"}
    assert _connection_of(head) == _connection_of(after)


def _connection_of(response: httpx.Response) -> Any:
    return response.extensions["network_stream"].get_extra_info("client_addr")


async def test_the_head_of_an_answer_has_the_headers_of_the_answer(app: App) -> None:
    got = await app.get("/v1/metrics/trips", city=(city := anywhere()))
    head = await app.client.head("/v1/metrics/trips", params={"city": city})
    differs = {"date", "age", "x-cache", "x-request-id"}
    assert {n: v for n, v in head.headers.items() if n not in differs} == {
        n: v for n, v in got.headers.items() if n not in differs
    }
    assert int(head.headers["Content-Length"]) == len(got.content)
    scraped = (await app.get("/metrics")).text
    assert 'method="HEAD",path="/v1/metrics/trips"' in scraped


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_a_413(app: App, announced: bool) -> None:  # noqa: FBT001  # parametrized
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_REQUEST_BYTES // 1_000 + 1):
            yield b" " * 1_000

    body = b" " * (MAX_REQUEST_BYTES + 1) if announced else chunks()
    problem(await app.client.post("/v1/events", content=body, headers=NDJSON), 413)


async def test_an_unknown_content_encoding_is_a_415(app: App) -> None:
    problem(await app.post(b"{}", {"Content-Encoding": "br"}), 415)


# Stores that are away or slow


async def test_without_clickhouse_an_answer_is_a_503_that_says_when_to_try_again() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        for endpoint in (*METRICS, "realtime"):
            response = await instance.get(f"/v1/metrics/{endpoint}")
            problem(response, 503)
            assert int(response.headers["Retry-After"]) > 0
            assert response.headers["Cache-Control"] == "no-store"


async def test_without_its_stores_the_service_lives_and_is_not_ready() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        assert (await instance.get("/health/live")).status_code == 200
        ready = await instance.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "unavailable"
        assert ready.json()["parts"]["clickhouse"] == "away"
        assert ready.json()["parts"]["migrations"] == "starting"
        instance.service.stopping.set()
        stopping = (await instance.service.health())[1]
        assert stopping == {**ready.json()["parts"], "service": "stopping"}


async def test_events_that_are_not_stored_in_time_are_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openride_analytics.http.events._STORED_WITHIN_SECONDS", 0.1)
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        response = await instance.post(lines(users("Ikeja", 1)))
        problem(response, 503)
        assert int(response.headers["Retry-After"]) > 0


async def test_a_query_past_its_limit_is_a_504() -> None:
    connected = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, HOST, port := free_port())
    async with silent, without_stores(f"clickhouse://{HOST}:{port}", query_timeout_seconds=0.2) as instance:
        details = problem(await instance.get("/v1/metrics/bookings"), 504)
        assert connected.is_set()
        assert "shorter period" in details["detail"]


async def test_many_short_queries_that_take_too_long_together_are_a_504(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def data_through(warehouse: Warehouse) -> Never:
        nonlocal asked
        while True:
            await warehouse.query("SELECT sleep(0.1)")
            asked += 1

    config = app.service.config
    quick = msgspec.structs.replace(config.clickhouse, query_timeout_seconds=0.5)
    monkeypatch.setattr(app.service, "config", msgspec.structs.replace(config, clickhouse=quick))
    monkeypatch.setattr("openride_analytics.metrics.question.data_through", data_through)
    problem(await app.get("/v1/metrics/bookings", city=anywhere()), 504)
    assert asked > 1


async def test_a_stream_outlives_an_outage_and_ends_with_the_service() -> None:
    async with (
        without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance,
        instance.client.stream("GET", "/v1/metrics/realtime/stream?interval_seconds=60") as stream,
    ):
        said = stream.aiter_lines()
        assert (await anext(said)).startswith(": no answer just now")
        instance.service.begin_stop()
        async with asyncio.timeout(5):
            assert [line async for line in said if line] == []


# The stream


async def test_the_stream_yields_metrics_events(app: App) -> None:
    answers: list[dict[str, Any]] = []
    async with (
        asyncio.timeout(20),
        app.client.stream("GET", "/v1/metrics/realtime/stream?interval_seconds=1&window_minutes=5") as stream,
    ):
        assert stream.status_code == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        name = ""
        async for line in stream.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                assert name == "metrics"
                answers.append(json.loads(value))
                if len(answers) == 2:
                    break
    alone = await app.get_json("/v1/metrics/realtime", window_minutes="5")
    assert [set(answer) for answer in answers] == [set(alone)] * 2


# Documentation and operations


def _properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, component in schema["components"]["schemas"].items():
        for key, described in component.get("properties", {}).items():
            yield f"{name}.{key}", described


async def test_the_schema_is_openapi_and_describes_everything(app: App) -> None:
    schema = await app.get_json("/schema")
    assert schema["openapi"].startswith("3.1")
    operations = {
        f"{method} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    assert {f"get /v1/metrics/{name}" for name in METRICS} < set(operations)
    assert {"post /v1/events", "get /health/ready", "get /v1/metrics/realtime/stream"} < set(operations)

    asked = [(where, one) for where, each in operations.items() for one in each.get("parameters", [])]
    assert [(where, one["name"]) for where, one in asked if not one.get("description")] == []
    assert [(where, one["name"]) for where, one in asked if not one["schema"].get("examples")] == []
    assert [where for where, operation in operations.items() if not operation.get("summary")] == []

    properties = list(_properties(schema))
    assert len(properties) > 100
    assert [name for name, described in properties if not described.get("description")] == []


@pytest.mark.parametrize("endpoint", METRICS)
async def test_the_schema_lists_the_parameters_an_endpoint_takes(app: App, endpoint: str) -> None:
    schema = await app.get_json("/schema")
    listed = {one["name"] for one in schema["paths"][f"/v1/metrics/{endpoint}"]["get"]["parameters"]}
    told = faults(await app.get(f"/v1/metrics/{endpoint}", nothing="1"))["nothing"]
    assert f"There are: {', '.join(sorted(listed))}." in told


@pytest.mark.parametrize("endpoint", METRICS)
async def test_the_schema_lists_the_fields_of_an_answer(app: App, endpoint: str) -> None:
    schema = await app.get_json("/schema")

    def fields(described: dict[str, Any]) -> dict[str, Any]:
        """The properties of the component that is referred to, beside a description or not."""
        (reference,) = described.get("allOf", [described])
        found = schema["components"]["schemas"][reference["$ref"].rsplit("/", 1)[1]]
        return dict(found["properties"])

    responses = schema["paths"][f"/v1/metrics/{endpoint}"]["get"]["responses"]
    documented = fields(responses["200"]["content"]["application/json"]["schema"])
    answer = await app.get_json(f"/v1/metrics/{endpoint}")
    assert set(documented) == set(answer)
    assert set(fields(documented["summary"])) == set(answer["summary"])


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_a_ready_service_says_the_state_of_each_part(app: App, path: str) -> None:
    response = await app.get(path)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json()["status"] == "ok"
    assert response.json()["parts"] == {
        "clickhouse": "ok",
        "postgres": "ok",
        "migrations": "ok",
        "ingest": "ok",
        "redis": "off",
        "kafka": "off",
    }


async def test_those_who_ask_at_once_share_a_probe(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = 0
    parts = app.service._parts

    async def counted() -> dict[str, str]:
        nonlocal probes
        probes += 1
        return await parts()

    monkeypatch.setattr(app.service, "_parts", counted)
    monkeypatch.setattr(app.service, "_probed", None)
    found = await asyncio.gather(*(app.service.health() for _ in range(100)))
    assert {status for status, _ in found} == {"ok"}
    assert probes == 1


async def test_who_was_being_looked_at_when_it_began_to_stop_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        looked = asyncio.Event()

        async def parts() -> dict[str, str]:
            await looked.wait()
            return dict.fromkeys(("clickhouse", "postgres", "migrations", "redis", "kafka", "ingest"), "ok")

        monkeypatch.setattr(instance.service, "_parts", parts)
        monkeypatch.setattr(instance.service, "_probed", None)
        looking = asyncio.create_task(instance.service.health())
        await asyncio.sleep(0)
        instance.service.begin_stop()
        looked.set()
        assert (await looking)[1]["service"] == "stopping"
        assert instance.service.metrics.registry.get_sample_value("openride_ready") == 0


async def test_a_living_process_says_so(app: App) -> None:
    assert await app.get_json("/health/live") == {"status": "ok"}


async def test_prometheus_gets_counters_and_times_by_route(app: App) -> None:
    await app.post(lines(users(anywhere(), 1)))
    await app.get(f"/nothing/{uuid4()}")
    scraped = await app.get("/metrics")
    assert scraped.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = scraped.text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    stored = sum(sample.value for sample in samples if sample.name == "openride_events_stored_total")
    assert stored >= 1
    routes = {value for sample in samples for name, value in sample.labels.items() if name == "path"}
    assert "/v1/events" in routes
    assert not any(route.startswith("/nothing") for route in routes)


async def test_a_task_that_ends_as_cancelled_ends_the_service_unless_it_stops() -> None:
    """As where Kafka's client cancels a task of its own and lets that out: events would not be read any more, in silence."""
    nobody = f"clickhouse://{HOST}:{free_port()}/openride"
    for stopping in (False, True):
        async with without_stores(nobody) as instance:
            service = instance.service
            ended = asyncio.Event()
            service.on_failure = ended.set
            if stopping:
                service.stopping.set()
            service._tasks["event_loop"].cancel()
            await asyncio.wait([service._tasks["event_loop"]])
            await asyncio.sleep(0)
            assert ended.is_set() is not stopping
            assert (service.failed is None) is stopping
