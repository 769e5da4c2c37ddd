"""Reports over HTTP: what a schedule may be, what is refused and by which name, and what an answer looks like."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
import pytest_asyncio

from openride_analytics.config import Config
from openride_analytics.http.report_bodies import MOST_RECIPIENTS
from openride_analytics.reports import content
from openride_analytics.service import Service
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.component.test_http import App, faults, problem, running, without_stores
from tests.reporting import OWNER, SECRET, Making, body
from tests.servers.databases import drop_database, fresh_database
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, free_port
from tests.servers.smtp import SmtpServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEDULES = "/v1/reports/schedule"
PREVIEW = f"{SCHEDULES}/preview"
UNSUBSCRIBE = "/v1/reports/unsubscribe"
HOOK = "https://hooks.openride.test/reports"
FEBRUARY = {"cron": "0 0 29 2 *", "frequency": None, "time": None}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(
    embedded_folder: Path,
    postgres: PostgresServer,
    smtp_server: SmtpServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[App]:
    """An instance that sends its mail to the tests, and makes small reports at once."""
    postgres.ensure_running()
    postgres_url = await fresh_database(postgres.url)
    sections: dict[str, dict[str, Any]] = {
        "storage": {"data_dir": str(tmp_path_factory.mktemp("data"))},
        "postgres": {"url": postgres_url},
        "smtp": smtp_server.config,
        "reports": {"allowed_recipient_domains": ["openride.test"], "public_url": "https://openride.test"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "openride_analytics.service.warehouse_of",
            lambda _: EmbeddedWarehouse(embedded_folder, query_timeout_seconds=30, insert_timeout_seconds=30),
        )
        patch.setattr(content, "make", Making())
        service = Service(msgspec.convert(sections, Config))
        async with running(service) as instance:
            await asyncio.wait_for(service.started.wait(), 60)
            yield instance
    await drop_database(postgres_url)


async def post(app: App, path: str, body: Any = None) -> httpx.Response:
    if isinstance(body, bytes):
        return await app.client.post(path, content=body)
    return await app.client.post(path, json=body)


async def created(app: App, **fields: Any) -> dict[str, Any]:
    response = await post(app, SCHEDULES, body(**fields))
    assert response.status_code == 201, response.text
    schedule: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"{SCHEDULES}/{schedule['schedule_id']}"
    return schedule


def at(schedule: dict[str, Any], rest: str = "") -> str:
    return f"{SCHEDULES}/{schedule['schedule_id']}{rest}"


async def finished(app: App, report_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            report: dict[str, Any] = await app.get_json(f"/v1/reports/{report_id}")
            if report["finished_at"] is not None:
                return report
            await asyncio.sleep(0.02)


async def test_a_schedule_is_created_read_changed_and_deleted(app: App) -> None:
    schedule = await created(
        app,
        recipients=[{"email": "Ada@OpenRide.test"}, {"webhook": HOOK, "secret": SECRET}],
        filters={"city": "Ikeja"},
    )
    assert SECRET not in str(schedule)
    assert schedule["recipients"] == [
        {"kind": "email", "address": "Ada@openride.test", "unsubscribed": False},
        {"kind": "webhook", "address": HOOK, "unsubscribed": False},
    ]
    assert len(schedule["next_due_at"]) == 5
    assert schedule["timezone"] == "Africa/Lagos"
    assert schedule["filters"] == {"city": "Ikeja"}
    assert all(due.endswith("T06:00:00Z") for due in schedule["next_due_at"])
    assert await app.get_json(at(schedule)) == schedule
    listed = await app.get_json(SCHEDULES)
    assert schedule in listed["schedules"]

    response = await app.client.patch(at(schedule), json={"name": "Other", "paused": True})
    assert response.status_code == 200, response.text
    changed = response.json()
    assert (changed["name"], changed["paused"], changed["next_due_at"]) == ("Other", True, [])
    assert changed["recipients"] == schedule["recipients"]

    assert (await app.client.delete(at(schedule))).status_code == 204
    for gone in (
        await app.get(at(schedule)),
        await app.get(at(schedule, "/runs")),
        await app.client.patch(at(schedule), json={}),
        await app.client.delete(at(schedule)),
        await post(app, at(schedule, "/run")),
        await post(app, at(schedule, "/test"), {"email": OWNER}),
    ):
        assert "no schedule" in problem(gone, 404)["detail"]


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": 1}, "name"),
        ({"owner": "nobody"}, "owner"),
        ({"owner": "eve@elsewhere.test"}, "owner"),
        ({"owner": "a@b@openride.test"}, "owner"),
        ({"owner": "ada@openride.test\n"}, "owner"),
        ({"contents": []}, "contents"),
        ({"contents": ["overview", "overview"]}, "contents"),
        ({"contents": ["secrets"]}, "contents"),
        ({"contents": "overview"}, "contents"),
        ({"contents": ["bookings"]}, "contents"),
        ({"period": "tomorrow"}, "period"),
        ({"period": None}, "period"),
        ({"format": "docx"}, "format"),
        ({"cron": "* * * * *"}, "cron"),
        ({"cron": "61 * * * *", "frequency": None, "time": None}, "cron"),
        ({"cron": 5}, "cron"),
        ({"frequency": "hourly"}, "frequency"),
        ({"frequency": None}, "cron"),
        ({"time": None}, "time"),
        ({"time": "25:00"}, "time"),
        ({"time": "07:00\n"}, "time"),
        ({"weekday": "someday"}, "weekday"),
        ({"weekday": "monday"}, "weekday"),
        ({"day": 0}, "day"),
        ({"day": 1}, "day"),
        ({"day": True}, "day"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"filters": {"planet": "Mars"}}, "filters.planet"),
        ({"filters": {"route_id": "x"}}, "filters.route_id"),
        ({"filters": {"city": ""}}, "filters.city"),
        ({"filters": []}, "filters"),
        ({"recipients": "ada@openride.test"}, "recipients"),
        ({"recipients": [{"email": "a@openride.test"}] * (MOST_RECIPIENTS + 1)}, "recipients"),
        ({"recipients": [{}]}, "recipients[0]"),
        ({"recipients": [{"email": OWNER}, {"email": "eve@elsewhere.test"}]}, "recipients[1]"),
        ({"recipients": [{"email": OWNER, "webhook": HOOK}]}, "recipients[0]"),
        ({"recipients": [{"webhook": HOOK}]}, "recipients[0]"),
        ({"recipients": [{"webhook": HOOK, "secret": "short"}]}, "recipients[0]"),
        ({"recipients": [{"webhook": "http://hooks.test/", "secret": SECRET}]}, "recipients[0]"),
        ({"recipients": [{"webhook": "https://127.0.0.1/", "secret": SECRET}]}, "recipients[0]"),
        ({"recipients": [{"webhook": "ftp://hooks.test/", "secret": SECRET}]}, "recipients[0]"),
        ({"when_empty": "perhaps"}, "when_empty"),
        ({"paused": "no"}, "paused"),
        ({"planet": "Mars"}, "planet"),
        ({"x" * 5_000: 1}, "x" * 200),
    ],
)
async def test_a_bad_field_is_a_422_that_names_it(app: App, fields: dict[str, Any], at_fault: str) -> None:
    details = problem(await post(app, SCHEDULES, body(**fields)), 422)
    assert [error["field"] for error in details["errors"]] == [at_fault]
    assert details["detail"] == "1 field cannot be used."
    assert SECRET not in str(details)


async def test_all_faults_of_a_body_are_named_at_once(app: App) -> None:
    bad = body(name="", period="tomorrow", filters={"planet": "Mars"}, planet="Mars")
    details = problem(await post(app, SCHEDULES, bad), 422)
    assert {error["field"] for error in details["errors"]} == {"name", "period", "filters.planet", "planet"}
    details = problem(await post(app, SCHEDULES, {}), 422)
    assert {error["field"] for error in details["errors"]} == {
        "name",
        "owner",
        "contents",
        "period",
        "format",
    }


@pytest.mark.parametrize("sent", [b"", b"{", b"\xff", b"[" * 10_000])
async def test_a_body_that_is_no_json_is_a_400(app: App, sent: bytes) -> None:
    schedule = await created(app, **FEBRUARY)
    for path in (SCHEDULES, PREVIEW, at(schedule, "/test")):
        assert "not JSON" in problem(await post(app, path, sent), 400)["detail"]
    problem(await app.client.patch(at(schedule), content=sent), 400)
    problem(await post(app, SCHEDULES, b"[]"), 422)


async def test_a_change_replaces_one_way_of_timing_by_the_other(app: App) -> None:
    schedule = await created(app, frequency="weekly", weekday="friday")

    async def change(**fields: Any) -> dict[str, Any]:
        response = await app.client.patch(at(schedule), json=fields)
        assert response.status_code == 200, response.text
        changed: dict[str, Any] = response.json()
        return {name: changed[name] for name in ("cron", "frequency", "time", "weekday", "day")}

    none: dict[str, Any] = dict.fromkeys(("cron", "frequency", "time", "weekday", "day"))
    assert await change(time="08:00") == none | {"frequency": "weekly", "time": "08:00", "weekday": "friday"}
    assert await change(frequency="daily") == none | {"frequency": "daily", "time": "08:00"}
    assert await change(cron="0 9 * * *") == none | {"cron": "0 9 * * *"}
    problem(await app.client.patch(at(schedule), json={"frequency": "daily"}), 422)
    assert await change(frequency="monthly", time="10:00", day=31) == none | {
        "frequency": "monthly",
        "time": "10:00",
        "day": 31,
    }
    problem(await app.client.patch(at(schedule), json={"owner": "eve@elsewhere.test"}), 422)


async def test_a_change_keeps_the_secret_of_a_webhook_that_stays(app: App) -> None:
    schedule = await created(app, recipients=[{"webhook": HOOK, "secret": SECRET}], **FEBRUARY)
    response = await app.client.patch(at(schedule), json={"recipients": [{"webhook": HOOK}]})
    assert response.status_code == 200, response.text
    other = {"recipients": [{"webhook": HOOK + "/2"}]}
    assert (
        problem(await app.client.patch(at(schedule), json=other), 422)["errors"][0]["field"]
        == "recipients[0]"
    )
    pool, _ = app.service.reports or (None, None)
    assert pool is not None
    assert SECRET in {row["secret"] for row in await pool.fetch("SELECT secret FROM report_recipients")}


async def test_pages_of_schedules_follow_each_other(app: App) -> None:
    ids = [(await created(app, **FEBRUARY))["schedule_id"] for _ in range(3)]
    first = await app.get_json(SCHEDULES, limit="2")
    assert [one["schedule_id"] for one in first["schedules"]] == ids[:0:-1]
    second = await app.get_json(SCHEDULES, limit="1", cursor=first["next_cursor"])
    assert [one["schedule_id"] for one in second["schedules"]] == ids[:1]
    assert list(faults(await app.get(SCHEDULES, cursor="x"))) == ["cursor"]
    assert list(faults(await app.get(SCHEDULES, limit="0"))) == ["limit"]


async def test_due_times_are_shown_before_anything_is_saved(app: App) -> None:
    asked = {"frequency": "daily", "time": "02:30", "timezone": "Europe/Berlin", "period": "yesterday"}
    due = (await post(app, PREVIEW, asked)).json()["due"]
    assert len(due) == 5
    assert due[0]["local"][10:16] == "T02:30"
    assert due[0]["period"]["timezone"] == "Europe/Berlin"
    assert due[0]["period"]["end"] <= due[0]["due_at"]
    yearly = {"cron": "30 2 25-31 3 0", "timezone": "Europe/Berlin"}
    assert all(one["period"] is None for one in (await post(app, PREVIEW, yearly)).json()["due"])
    assert [e["field"] for e in problem(await post(app, PREVIEW, {"frequency": "daily"}), 422)["errors"]] == [
        "time"
    ]
    assert [e["field"] for e in problem(await post(app, PREVIEW, {"name": "x"}), 422)["errors"]] == ["name"]


async def test_a_report_is_run_now_shown_and_downloaded(app: App, smtp: SmtpServer) -> None:
    schedule = await created(app, paused=True)
    response = await post(app, at(schedule, "/run"))
    assert response.status_code == 202, response.text
    report_id = response.json()["report_id"]
    assert response.headers["Location"] == f"/v1/reports/{report_id}"
    report = await finished(app, report_id)
    assert (report["state"], report["cause"], report["rows"], report["bytes"]) == (
        "delivered",
        "manual",
        3,
        20,
    )
    assert report["duration_seconds"] > 0
    assert [(d["address"], d["state"]) for d in report["deliveries"]] == [("ada@openride.test", "delivered")]
    assert smtp.counts() == {"ada@openride.test": 1}
    assert (await app.get_json(at(schedule, "/runs")))["runs"][0]["report_id"] == report_id

    link = httpx.URL(report["download"]["url"])
    for asked in (dict(link.params), {}):
        file = await app.get(link.path, **asked)
        assert file.status_code == 200
        assert file.content == b"<p>made</p>".ljust(20)
        assert file.headers["Content-Type"].startswith("text/html")
        assert file.headers["Content-Disposition"] == (
            "attachment; filename=\"daily-numbers.html\"; filename*=UTF-8''daily-numbers.html"
        )
    signed = dict(link.params)
    for bad in (
        signed | {"expires": str(int(signed["expires"]) + 1)},
        signed | {"expires": "x"},
        signed | {"signature": "x"},
        {"signature": signed["signature"]},
        {"expires": signed["expires"]},
    ):
        problem(await app.get(link.path, **bad), 403)


async def test_a_test_goes_to_oneself_only(app: App, smtp: SmtpServer) -> None:
    schedule = await created(app)
    report = (await post(app, at(schedule, "/test"), {"email": "me@openride.test"})).json()
    assert (await finished(app, report["report_id"]))["cause"] == "test"
    assert smtp.counts() == {"me@openride.test": 1}
    for bad in ({}, {"email": "x"}, {"email": "eve@elsewhere.test"}, {"email": None}):
        assert problem(await post(app, at(schedule, "/test"), bad), 422)["errors"][0]["field"] == "email"


async def test_one_click_unsubscribes_and_a_look_at_the_page_does_not(app: App, smtp: SmtpServer) -> None:
    schedule = await created(app)
    report = (await post(app, at(schedule, "/run"))).json()
    await finished(app, report["report_id"])
    link = httpx.URL(str(smtp.mails[0].message["List-Unsubscribe"]).strip("<>"))
    assert link.path == UNSUBSCRIBE
    token = dict(link.params)
    assert "form" in (await app.get(UNSUBSCRIBE, **token)).text
    assert not (await app.get_json(at(schedule)))["recipients"][0]["unsubscribed"]
    for _ in range(2):
        done = await app.client.post(UNSUBSCRIBE, params=token, data={"List-Unsubscribe": "One-Click"})
        assert done.status_code == 200
    assert (await app.get_json(at(schedule)))["recipients"][0]["unsubscribed"]
    report = (await post(app, at(schedule, "/run"))).json()
    assert (await finished(app, report["report_id"]))["deliveries"] == []
    assert len(smtp.mails) == 1
    for bad in ({}, {"token": "x"}, {"token": token["token"][:-1]}):
        for response in (await app.get(UNSUBSCRIBE, **bad), await app.client.post(UNSUBSCRIBE, params=bad)):
            assert list(faults(response)) == ["token"]


@pytest.mark.parametrize("report", ["x", "%00", "0b9d2c6e-6a51-4f0e-9d7c-3f1f6f2f4a10"])
async def test_an_unknown_report_or_schedule_is_a_404(app: App, report: str) -> None:
    for path in (f"/v1/reports/{report}", f"/v1/reports/{report}/file", f"{SCHEDULES}/{report}"):
        problem(await app.get(path), 404)


async def test_without_postgres_all_of_it_is_a_503() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        for response in (
            await instance.get(SCHEDULES),
            await instance.client.post(SCHEDULES, json=body()),
            await instance.get(f"/v1/reports/{uuid4()}"),
        ):
            problem(response, 503)
            assert int(response.headers["Retry-After"]) > 0
