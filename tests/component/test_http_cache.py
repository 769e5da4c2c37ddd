"""Answers from the cache over HTTP: what their headers say, and when they are computed anew."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest

from openride_analytics.answers import Answers
from tests.component.test_http import App, anywhere, app, lines, users
from tests.samples import minimal

__all__ = ["app"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_second_answer_is_a_hit_with_its_age(app: App) -> None:
    city = anywhere()
    first = await app.get("/v1/metrics/users", city=city)
    second = await app.get("/v1/metrics/users", city=city)
    assert [answer.headers["X-Cache"] for answer in (first, second)] == ["miss", "hit"]
    assert 0 <= int(first.headers["Age"]) <= 30  # of the time it took itself
    assert 0 <= int(second.headers["Age"]) <= 60
    assert second.content == first.content
    assert "max-age=0" in second.headers["Cache-Control"]


async def test_the_same_question_in_other_words_is_a_hit(app: App) -> None:
    route = str(uuid4())
    day = {"start_date": "2026-03-01", "end_date": "2026-03-01"}
    await app.get("/v1/metrics/bookings", route_id=route, **day)
    again = await app.get("/v1/metrics/bookings", **day, timezone="Africa/Lagos", route_id=route.upper())
    assert again.headers["X-Cache"] == "hit"


async def test_stored_events_make_kept_answers_old(app: App) -> None:
    city = anywhere()
    await app.get("/v1/metrics/users", city=city)
    await app.post(lines(users(city, 1)))
    assert (await app.get("/v1/metrics/users", city=city)).headers["X-Cache"] == "miss"


async def test_a_stale_answer_says_so_and_is_fresh_the_next_time(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifetimes = msgspec.structs.replace(app.service.config.cache, stale_seconds=30.0)
    monkeypatch.setattr(app.service, "answers", Answers(app.service.cache, lifetimes))
    city = anywhere()
    first = await app.get("/v1/metrics/users", city=city)
    await app.post(lines(users(city, 1)))
    stale = await app.get("/v1/metrics/users", city=city)
    assert stale.headers["X-Cache"] == "stale"
    assert int(stale.headers["Age"]) >= 0
    assert stale.content == first.content
    assert counted(app, "stale") > 0
    async with asyncio.timeout(30):
        while (fresh := await app.get("/v1/metrics/users", city=city)).headers["X-Cache"] != "hit":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert fresh.json()["summary"]["registrations"] == 1


def counted(app: App, result: str) -> float:
    return (
        app.service.metrics.registry.get_sample_value("openride_cache_requests_total", {"result": result})
        or 0
    )


async def test_the_schema_says_what_the_headers_mean(app: App) -> None:
    schema = await app.get_json("/schema")
    for path in ("/v1/metrics/users", "/v1/metrics/realtime", "/v1/analytics/cohort"):
        responses = schema["paths"][path]["get"]["responses"]
        assert {"ETag", "Age", "X-Cache", "Cache-Control"} <= set(responses["200"]["headers"])
        assert "If-None-Match" in responses["304"]["description"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"other",{}', "*"])
async def test_an_answer_that_has_not_changed_is_a_304(app: App, form: str) -> None:
    question = {"start_date": "2026-03-01", "end_date": "2026-03-02", "city": anywhere()}
    etag = (await app.get("/v1/metrics/users", **question)).headers["ETag"]
    unchanged = await app.client.get(
        "/v1/metrics/users", params=question, headers={"If-None-Match": form.format(etag)}
    )
    assert unchanged.status_code == 304
    assert unchanged.content == b""
    assert unchanged.headers["ETag"] == etag


async def test_known_tags_may_stand_in_several_headers(app: App) -> None:
    for path in ("/v1/metrics/users", "/docs"):
        etag = (await app.get(path)).headers["ETag"]
        known = [("If-None-Match", '"other"'), ("If-None-Match", etag)]
        assert (await app.client.get(path, headers=known)).status_code == 304
        assert (await app.client.get(path, headers={"If-None-Match": "*"})).status_code == 304


async def test_city_and_state_are_those_of_one_route(app: App) -> None:
    there, elsewhere = anywhere(), anywhere()
    routes = [str(uuid4()), str(uuid4())]
    at = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    places = (("Ikeja", there), ("Garki", elsewhere))
    booking = str(uuid4())
    events = [
        minimal("route.created", route_id=route, origin_city=city, origin_state=state, event_timestamp=at)
        for route, (city, state) in zip(routes, places, strict=True)
    ] + [
        minimal(name, booking_id=booking, route_id=route, event_timestamp=at)
        for name, route in zip(("booking.created", "booking.confirmed"), routes, strict=True)
    ]
    assert (await app.post(lines(events))).json()["accepted"] == 4
    for city, state, created in (("Ikeja", there, 1), ("Garki", elsewhere, 1), ("Ikeja", elsewhere, 0)):
        answer = await app.get_json("/v1/metrics/bookings", city=city, state=state)
        assert answer["summary"]["created"] == created


async def test_an_answer_that_has_changed_is_sent_again(app: App) -> None:
    city = anywhere()
    etag = (await app.get("/v1/metrics/users", city=city)).headers["ETag"]
    await app.post(lines(users(city, 1)))
    changed = await app.client.get(
        "/v1/metrics/users", params={"city": city}, headers={"If-None-Match": etag}
    )
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag


async def test_equal_questions_at_the_same_time_get_equal_answers(app: App) -> None:
    city = anywhere()
    answers = await asyncio.gather(*(app.get("/v1/metrics/users", city=city) for _ in range(10)))
    assert len({answer.content for answer in answers}) == 1
