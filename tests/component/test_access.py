"""Who is let in where: every route of the application, with every kind of wrong and right credentials."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar import Litestar, get
from litestar.datastructures import State

from openride_analytics.access import SCOPES, Denied, keys
from openride_analytics.access.limits import Limits
from openride_analytics.cache import MemoryCache, RedisCache
from openride_analytics.config import Config
from openride_analytics.http import app as application
from openride_analytics.http.access import Declared, scope_of
from openride_analytics.http.bodies import HeldBytes
from openride_analytics.service import Service
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.component.test_http import App, problem, running, without_stores
from tests.servers.databases import drop_database, fresh_database
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a shared secret of more than 32 bytes"
ISSUER = "https://id.example.com"
AUDIENCE = "openride-analytics"
OPEN = {"/", "/health", "/health/live", "/health/ready", "/metrics", "/schema", "/docs"}
SIGNED = {"/v1/reports/unsubscribe"}  # by the link in a mail
FILES = "/dashboard/{release:str}/{name:str}"
DAY = timedelta(days=1)


def routes() -> list[tuple[str, str, str]]:
    """Method, path and scope of each route that needs one, as the application itself has them."""
    found: list[tuple[str, str, str]] = []
    for route in application._litestar(Service(Config()), HeldBytes(1)).routes:
        for handler in getattr(route, "route_handlers", []):
            scope = scope_of(handler, route.path)
            methods = sorted(handler.http_methods - {"OPTIONS"})
            if not methods:
                continue
            if scope is not None:
                found += [(method, re.sub(r"{[^}]*}", "0", route.path), scope) for method in methods]
            else:
                assert route.path in {*OPEN, *SIGNED, FILES} or handler.fn.__module__.startswith(
                    "litestar."
                ), route.path
    return sorted(found)  # Litestar keeps them in sets


ROUTES = routes()
each_route = pytest.mark.parametrize(
    ("method", "path", "scope"), ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES]
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(
    embedded_folder: Path, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[App]:
    """An instance with access on, that takes keys and tokens."""
    postgres.ensure_running()
    url = await fresh_database(postgres.url)
    sections: dict[str, dict[str, Any]] = {
        "storage": {"data_dir": str(tmp_path_factory.mktemp("data"))},
        "postgres": {"url": url},
        "server": {"cors_origins": ["https://dashboard.example.com"]},
        "auth": {
            "enabled": True,
            "requests_per_minute": 100_000,
            "jwt_secret": SECRET,
            "jwt_issuer": ISSUER,
            "jwt_audience": AUDIENCE,
        },
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
    await drop_database(url)


async def made(
    app: App, *scopes: Any, expires_at: datetime | None = None, requests_per_minute: int | None = None
) -> str:
    """A new key, which this instance knows."""
    text, _ = await keys.create(
        app.service.postgres,
        name="test",
        scopes=scopes,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        by="test",
    )
    await app.service.gate.keys.read_again(0.0)
    return text


def bearer(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials}"}


async def ask(app: App, method: str, path: str, *credentials: str) -> httpx.Response:
    headers = [("Authorization", f"Bearer {one}") for one in credentials]
    async with app.client.stream(method, path, headers=headers, content=b"[]") as response:
        if response.status_code >= 400:  # the body of a stream that was let in has no end
            await response.aread()
        return response


def refused(response: httpx.Response, status: int) -> str:
    problem(response, status)
    assert response.headers["Cache-Control"] == "no-store"
    challenge: str = response.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer realm="openride-analytics"')
    return challenge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expired_and_revoked(app: App) -> list[str]:
    """A key that has expired and one that was revoked, with all scopes."""
    expired, revoked = await made(app, *SCOPES, expires_at=datetime.now(UTC) + DAY), await made(app, *SCOPES)
    await app.service.postgres.execute(
        "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = $1", expired.split("_")[1]
    )
    assert await keys.revoke(app.service.postgres, revoked.split("_")[1], by="test")
    await app.service.gate.keys.read_again(0.0)
    return [expired, revoked]


# Every route


async def test_the_walk_finds_the_routes() -> None:
    assert len(ROUTES) > 20
    assert {scope for _, _, scope in ROUTES} >= {"read", "ingest", "admin"}


@each_route
async def test_no_key_is_a_401(app: App, method: str, path: str, scope: str) -> None:
    assert "error" not in refused(await ask(app, method, path), 401)


@each_route
async def test_what_is_no_key_is_a_401(app: App, method: str, path: str, scope: str) -> None:
    for wrong in ("x", "ork_", "ork_0_0", "a.b.c", "é"):
        response = await app.client.request(
            method, path, headers={b"Authorization": f"Bearer {wrong}".encode()}
        )
        assert 'error="invalid_token"' in refused(response, 401)


async def test_a_key_that_nobody_made_is_a_401_on_each_route(app: App) -> None:
    unknown = f"ork_{'0' * 16}_{'0' * 48}"  # looked for in vain, for all at once
    answers = await asyncio.gather(*(ask(app, method, path, unknown) for method, path, _ in ROUTES))
    assert all('error="invalid_token"' in refused(answer, 401) for answer in answers)


async def test_a_wrong_secret_is_a_401_on_each_route(app: App) -> None:
    key = await made(app, *SCOPES)
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    for method, path, _ in ROUTES:
        assert 'error="invalid_token"' in refused(await ask(app, method, path, wrong), 401)


async def test_expired_and_revoked_keys_are_a_401_on_each_route(
    app: App, expired_and_revoked: list[str]
) -> None:
    for key in expired_and_revoked:
        answers = await asyncio.gather(*(ask(app, method, path, key) for method, path, _ in ROUTES))
        assert all('error="invalid_token"' in refused(answer, 401) for answer in answers)


async def test_a_key_without_the_scope_is_a_403_on_each_route(app: App) -> None:
    for method, path, scope in ROUTES:
        others = [other for other in SCOPES if other not in (scope, "admin")]
        challenge = refused(await ask(app, method, path, await _shared(app, *others)), 403)
        assert f'error="insufficient_scope", scope="{scope}"' in challenge


async def test_a_key_with_the_scope_and_an_admin_are_let_in_on_each_route(app: App) -> None:
    for method, path, scope in ROUTES:
        for key in (await _shared(app, scope), await _shared(app, "admin")):
            assert (await ask(app, method, path, key)).status_code not in (401, 403, 429, 500), path


_KEYS: dict[tuple[str, ...], str] = {}


async def _shared(app: App, *scopes: str) -> str:
    if scopes not in _KEYS:
        _KEYS[scopes] = await made(app, *scopes)
    return _KEYS[scopes]


async def test_what_is_open_needs_no_key(app: App) -> None:
    for path in sorted(OPEN):
        assert (await app.get(path)).status_code == 200


@pytest.mark.parametrize("opt", [{}, {"scope": "raed"}])
async def test_a_route_that_does_not_say_what_it_needs_stops_the_application(opt: dict[str, str]) -> None:
    @get("/v1/forgotten", opt=opt)
    async def forgotten() -> None: ...

    with pytest.raises(ValueError, match="/v1/forgotten"):
        Litestar([forgotten], plugins=[Declared(enabled=True)], state=State({}))


async def test_the_openapi_document_names_scheme_and_scopes(app: App) -> None:
    schema = await app.get_json("/schema")
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            if path in OPEN | SIGNED:
                assert "security" not in operation
            else:
                ((scheme, scopes),) = operation["security"][0].items()
                assert (scheme, len(scopes)) == ("bearer", 1)
                assert {"401", "403", "429"} <= set(operation["responses"])


async def test_a_request_with_two_authorizations_is_a_401(app: App) -> None:
    key = await _shared(app, "read")
    refused(await ask(app, "GET", "/v1/metrics/definitions", key, key), 401)


# Keys over HTTP


async def test_a_key_is_shown_once_works_at_once_and_not_when_it_was_revoked(app: App) -> None:
    admin = bearer(await _shared(app, "admin"))
    asked = {"name": "dashboard", "scopes": ["read"], "expires_at": (datetime.now(UTC) + DAY).isoformat()}
    answer = await app.client.post("/v1/keys", json=asked, headers=admin)
    assert answer.status_code == 201, answer.text
    key, key_id = answer.json()["key"], answer.json()["id"]
    assert key.startswith(f"ork_{key_id}_")
    assert (await ask(app, "GET", "/v1/metrics/definitions", key)).status_code == 200

    await app.service.gate.keys.write_use()
    listed = (await app.client.get("/v1/keys", headers=admin)).json()["keys"]
    (mine,) = [one for one in listed if one["id"] == key_id]
    assert (mine["scopes"], mine["name"], mine["revoked_at"]) == (["read"], "dashboard", None)
    assert mine["last_used_at"]
    secret = key.rpartition("_")[2]
    assert secret not in json.dumps(listed)
    stored = await app.service.postgres.fetchval("SELECT string_agg(k::text, '') FROM api_keys k")
    assert secret not in stored
    assert hashlib.sha256(secret.encode()).hexdigest() in stored

    for _ in range(2):
        gone = await app.client.delete(f"/v1/keys/{key_id}", headers=admin)
        assert gone.status_code == 200
        assert gone.json()["revoked_at"]
    refused(await ask(app, "GET", "/v1/metrics/definitions", key), 401)
    problem(await app.client.delete("/v1/keys/nobody", headers=admin), 404)

    entries = (await app.client.get("/v1/audit", params={"limit": "2"}, headers=admin)).json()
    assert [(entry["what"], entry["details"]["id"]) for entry in entries["entries"]] == [
        ("key.revoked", key_id),
        ("key.created", key_id),
    ]
    who = {entry["who"] for entry in entries["entries"]}
    assert who == {f"key:{(await _shared(app, 'admin')).split('_')[1]}"}
    older = await app.client.get("/v1/audit", params={"cursor": entries["next_cursor"]}, headers=admin)
    assert older.json()["entries"][0]["id"] < entries["entries"][-1]["id"]
    assert secret not in older.text + json.dumps(entries)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["read"]}, ""),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a\nb", "scopes": ["read"]}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2090-01-01T00:00:00"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "requests_per_minute": -1}, "requests_per_minute"),
        ([], ""),
    ],
)
async def test_a_key_that_cannot_be_is_a_422(app: App, body: Any, field: str) -> None:
    admin = bearer(await _shared(app, "admin"))
    answer = await app.client.post("/v1/keys", json=body, headers=admin)
    assert [error["field"] for error in problem(answer, 422)["errors"]] == [field]


async def test_a_replay_is_in_the_audit_log(app: App) -> None:
    key = await _shared(app, "ingest")
    answer = await app.client.post(
        "/v1/ingest/dead-letters/replay", json={"reason": "expired"}, headers=bearer(key)
    )
    assert answer.status_code == 200, answer.text
    row = await app.service.postgres.fetchrow("SELECT * FROM audit_log ORDER BY id DESC LIMIT 1")
    assert (row["who"], row["what"]) == (f"key:{key.split('_')[1]}", "dead_letters.replayed")
    assert json.loads(row["details"]) == {"filters": ["reason"], "again": False}


async def test_a_change_of_a_schedule_is_in_the_audit_log(app: App) -> None:
    key = await _shared(app, "reports")
    body = {
        "name": "Weekly",
        "owner": "ada@example.com",
        "contents": ["overview"],
        "period": "last_week",
        "format": "pdf",
        "frequency": "weekly",
        "time": "08:00",
    }
    made_of_it = await app.client.post("/v1/reports/schedule", json=body, headers=bearer(key))
    assert made_of_it.status_code == 201, made_of_it.text
    path = made_of_it.headers["Location"]
    assert (await app.client.patch(path, json={"paused": True}, headers=bearer(key))).status_code == 200
    assert (await app.client.delete(path, headers=bearer(key))).status_code == 204
    rows = await app.service.postgres.fetch("SELECT who, what FROM audit_log ORDER BY id DESC LIMIT 3")
    assert [row["what"] for row in rows] == ["schedule.deleted", "schedule.changed", "schedule.created"]
    assert {row["who"] for row in rows} == {f"key:{key.split('_')[1]}"}


async def test_a_report_s_file_needs_a_key_or_a_link_that_is_ours(app: App) -> None:
    report_id = uuid4()
    path = f"/v1/reports/{report_id}/file"
    assert app.service.reports is not None
    _, runner = app.service.reports
    ours = urlsplit(runner.links.file(report_id, datetime.now(UTC))[0]).query
    over = urlsplit(runner.links.file(report_id, datetime.now(UTC) - timedelta(days=1_000))[0]).query
    for query, status in {
        "": 401,
        "?expires=4102444800": 401,
        "?signature=": 400,
        "?expires=&signature=": 400,
        "?expires=4102444800&signature=AAAAAAAAAAAAAAAAAAAAAA": 403,
        f"?{over}": 403,
        f"?{ours}": 404,  # let in: there is no such report
        f"?{ours}&signature=": 400,
    }.items():
        assert (await app.client.get(path + query)).status_code == status, query
    assert (await app.client.get(f"/v1/reports/{uuid4()}/file?{ours}")).status_code == 403
    assert (await app.client.get(f"/v1/reports/{report_id}?{ours}")).status_code == 401


async def test_a_key_revoked_elsewhere_is_refused_within_the_time_stated(app: App) -> None:
    key = await made(app, "read")
    async with app.client.stream(
        "GET", "/v1/metrics/realtime/stream?interval_seconds=1", headers=bearer(key)
    ) as stream:
        assert stream.status_code == 200
        await app.service.postgres.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE id = $1", key.split("_")[1]
        )
        async with asyncio.timeout(keys.READ_SECONDS * 4):
            while (await ask(app, "GET", "/v1/metrics/definitions", key)).status_code == 200:  # noqa: ASYNC110  # only asking tells
                await asyncio.sleep(0.1)
            async for _ in stream.aiter_lines():  # and what goes on for long ends
                pass


async def test_a_key_made_elsewhere_works_at_once(app: App) -> None:
    text, _ = await keys.create(
        app.service.postgres, name="t", scopes=["read"], expires_at=None, requests_per_minute=None, by="t"
    )
    assert (await ask(app, "GET", "/v1/metrics/definitions", text)).status_code == 200


async def test_keys_are_believed_for_a_bounded_time_when_postgres_is_away(postgres_url: str) -> None:
    pool = await asyncpg.create_pool(postgres_url, min_size=1)
    known = keys.Keys(600)
    with pytest.raises(Denied) as denied:
        await known.verify(f"ork_{'0' * 16}_{'0' * 48}")
    assert denied.value.status == 503
    running_ = asyncio.create_task(known.run(pool))  # whose table is not there
    await asyncio.sleep(0)
    with pytest.raises(Denied) as denied:
        await known.verify(f"ork_{'0' * 16}_{'0' * 48}")
    assert denied.value.status == 503
    running_.cancel()
    await pool.close()


# Limits


async def test_too_many_requests_are_a_429_that_says_when_to_come_again(app: App) -> None:
    key = await made(app, "read", requests_per_minute=3)
    answers = [await ask(app, "GET", "/v1/metrics/definitions", key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    problem(answers[-1], 429)
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
    other = await made(app, "read", requests_per_minute=3)
    assert (await ask(app, "GET", "/v1/metrics/definitions", other)).status_code == 200


@pytest.mark.parametrize("in_cluster", [False, True], ids=["one server", "cluster"])
async def test_instances_that_share_redis_count_together(
    request: pytest.FixtureRequest, *, in_cluster: bool
) -> None:
    servers = (
        request.getfixturevalue("redis_cluster") if in_cluster else [request.getfixturevalue("redis_server")]
    )
    for server in servers:
        server.ensure_running()
    who = f"key:{time.time_ns()}"
    caches = [RedisCache(server.url, cluster=in_cluster) for server in (servers[0], servers[-1])]
    try:
        instances = [Limits(cache) for cache in caches]
        waits = [await instances[turn % 2].wait_seconds(who, 6) for turn in range(7)]
        assert waits[:6] == [0.0] * 6
        assert 0 < waits[6] <= 10
    finally:
        for cache in caches:
            await cache.close()


async def test_without_redis_each_instance_counts_by_itself() -> None:
    away = RedisCache(f"redis://{HOST}:{free_port()}/0")
    for cache in (away, MemoryCache()):
        limits = Limits(cache)
        waits = [await limits.wait_seconds("key:1", 6) for _ in range(7)]
        assert waits[:6] == [0.0] * 6
        assert 0 < waits[6] <= 10
    await away.close()


# Headers, origins


async def test_every_answer_carries_the_security_headers(app: App) -> None:
    for path in ("/v1/metrics/users", "/nothing", "/health/live", "/schema", "/docs"):
        answer = await app.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://dashboard.example.com", True), ("https://evil.example", False)]
)
async def test_configured_origins_may_ask_and_read_and_others_may_not(
    app: App,
    origin: str,
    allowed: bool,  # noqa: FBT001  # parametrized
) -> None:
    wanted = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    preflight = await app.client.options(
        "/v1/metrics/users", headers=wanted | {"Access-Control-Request-Headers": "authorization"}
    )
    assert preflight.is_success is allowed
    answer = await app.client.get("/v1/metrics/users", headers={"Origin": origin})
    assert answer.status_code == 401
    assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed
    readable = answer.headers.get("Access-Control-Expose-Headers", "").split(", ")
    assert not allowed or {"ETag", "X-Cache", "X-Total-Rows", "WWW-Authenticate"} <= set(readable)


async def test_without_access_pages_of_other_sites_are_kept_out() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        for headers in ({"Host": "rebound.example:8097"}, {"Origin": "https://evil.example"}):
            answer = await instance.client.post("/v1/events", content=b"[]", headers=headers)
            problem_of = answer.json()
            assert (answer.status_code, problem_of["status"]) == (403, 403)
        own = str(instance.client.base_url).rstrip("/")
        answer = await instance.client.post(
            "/v1/keys", json={"name": "a", "scopes": ["admin"]}, headers={"Origin": own}
        )
        problem(answer, 409)
