"""Dead letters over HTTP: what a caller may ask, what is refused, and what an answer looks like."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from openride_analytics.events import BadEvent
from openride_analytics.http import dead_letters as handlers
from openride_analytics.ingest.dead_letters import DeadLetter, Letter, store_dead_letters
from tests.component.test_http import App, app, faults, lines, problem, without_stores
from tests.samples import minimal
from tests.servers.process import HOST, free_port

__all__ = ["app"]  # the fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")

LETTERS = "/v1/ingest/dead-letters"
REPLAY = f"{LETTERS}/replay"


def claimed() -> str:
    """A type of event that no other test's record claims."""
    return f"user.vanished.{uuid4()}"


def unheard_of(event_type: str, count: int) -> list[dict[str, Any]]:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    return [
        minimal("user.registered", user_id=str(uuid4()), event_timestamp=yesterday)
        | {"event_type": event_type}
        for _ in range(count)
    ]


async def replay(app: App, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await app.client.post(REPLAY, content=content, headers={"Content-Type": "application/json"})


async def test_what_was_rejected_is_listed_with_its_numbers_and_is_not_cached(app: App) -> None:
    event_type = claimed()
    await app.post(lines(unheard_of(event_type, 3)))
    response = await app.get(LETTERS, event_type=event_type)
    assert response.headers["Cache-Control"] == "no-store"
    answer = response.json()
    assert answer["counts"] == {
        "total": 3,
        "by_reason": {"unknown_event_type": 3},
        "by_topic": {"http": 3},
    }
    assert answer["next_cursor"] is None
    for letter in answer["letters"]:
        assert letter["source"] == letter["topic"] == "http"
        assert letter["event_type"] == json.loads(letter["record"])["event_type"] == event_type
        assert await app.get_json(f"{LETTERS}/{letter['dead_letter_id']}") == letter


async def test_pages_follow_each_other_by_their_cursor(app: App) -> None:
    event_type = claimed()
    await app.post(lines(unheard_of(event_type, 5)))
    found: list[str] = []
    asked = {"event_type": event_type, "limit": "2"}
    while True:
        answer = await app.get_json(LETTERS, **asked)
        assert answer["counts"]["total"] == 5
        found += [letter["dead_letter_id"] for letter in answer["letters"]]
        if answer["next_cursor"] is None:
            break
        asked["cursor"] = answer["next_cursor"]
    whole = await app.get_json(LETTERS, event_type=event_type)
    assert found == [letter["dead_letter_id"] for letter in whole["letters"]]


async def test_a_period_is_given_in_days_or_instants_and_may_be_open(app: App) -> None:
    event_type = claimed()
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    for days in range(3):
        at = int((noon + timedelta(days=days)).timestamp() * 1000)
        error = BadEvent("unknown_event_type", "Invalid value.", "event_type")
        letter = DeadLetter.of(lines(unheard_of(event_type, 1)), error, rejected_ms=at)
        await store_dead_letters(app.service.warehouse, [letter])

    async def found(**bounds: str) -> int:
        return int((await app.get_json(LETTERS, event_type=event_type, **bounds))["counts"]["total"])

    assert await found() == 3
    assert await found(start_date="2026-03-11") == 2
    assert await found(end_date="2026-03-11") == 2
    assert await found(start_date="2026-03-11", end_date="2026-03-11") == 1
    assert await found(end_date="2026-03-11T12:00:00Z") == 1
    assert await found(start_date="2026-03-11T13:00:00+01:00") == 2
    assert await found(start_date="2015-01-01", end_date="2090-01-01") == 3
    assert await found(start_date="2026-03-13", timezone="Pacific/Auckland") == 1
    assert await found(start_date="2026-03-13", timezone="America/New_York") == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reason", "boring"),
        ("reason", "expired' OR '1' = '1"),
        ("source", "file"),
        ("status", "closed"),
        ("topic", ""),
        ("topic", "a\0b"),
        ("event_type", " "),
        ("start_date", "yesterday"),
        ("start_date", "2026-02-30"),
        ("end_date", "2026-03-01T07:05:00"),
        ("timezone", "Mars/Olympus"),
        ("cursor", "x"),
        ("cursor", "MTIz"),
    ],
)
async def test_a_bad_value_is_refused_by_its_name(app: App, name: str, value: str) -> None:
    assert list(faults(await app.get(LETTERS, **{name: value}))) == [name]
    if name != "status":
        details = problem(await replay(app, {name: value}), 422)
        assert [error["field"] for error in details["errors"]] == [name]


@pytest.mark.parametrize(
    ("name", "value"), [("limit", "0"), ("limit", "1001"), ("ids", "x"), ("city", "Ikeja")]
)
async def test_a_parameter_that_does_not_fit_is_refused(app: App, name: str, value: str) -> None:
    assert list(faults(await app.get(LETTERS, **{name: value}))) == [name]


async def test_a_period_that_ends_before_it_begins_is_refused(app: App) -> None:
    asked = {"start_date": "2026-03-02", "end_date": "2026-03-01"}
    assert "after the start" in faults(await app.get(LETTERS, **asked))["end_date"]


@pytest.mark.parametrize("letter", ["0" * 32, "x", "' OR 1", "%00", "%2e%2e", "é"])
async def test_an_unknown_letter_is_a_404(app: App, letter: str) -> None:
    problem(await app.get(f"{LETTERS}/{letter}"), 404)


async def test_a_letter_takes_no_parameters(app: App) -> None:
    assert list(faults(await app.get(f"{LETTERS}/{'0' * 32}", limit="1"))) == ["limit"]


async def test_a_replay_says_what_became_of_the_letters_and_so_does_each_of_them(app: App) -> None:
    event_type = claimed()
    await app.post(lines(unheard_of(event_type, 2)))
    response = await replay(app, {"event_type": event_type, "reason": "unknown_event_type"})
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    answer = response.json()
    assert answer | {"replay_id": ""} == {
        "replay_id": "",
        "matched": 2,
        "accepted": 0,
        "rejected": {"unknown_event_type": 2},
        "remaining": 0,
        "next_cursor": None,
    }
    for letter in (await app.get_json(LETTERS, event_type=event_type, status="open"))["letters"]:
        assert letter["last_replay"]["replay_id"] == answer["replay_id"]
        assert letter["last_replay"]["reason"] == "unknown_event_type"
        assert letter["last_replay"]["field"] == "event_type"
    assert (await app.get_json(LETTERS, event_type=event_type, status="replayed"))["letters"] == []


async def test_letters_are_replayed_by_their_ids(app: App) -> None:
    event_type = claimed()
    await app.post(lines(unheard_of(event_type, 3)))
    listed = (await app.get_json(LETTERS, event_type=event_type))["letters"]
    ids = [letter["dead_letter_id"] for letter in listed[:2]]
    assert (await replay(app, {"ids": ids})).json()["matched"] == 2
    assert (await replay(app, {"ids": ids, "event_type": claimed()})).json()["matched"] == 0


async def test_an_accepted_letter_is_replayed_again_only_when_that_is_asked_for(app: App) -> None:
    city = f"City {uuid4()}"
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    event = minimal("user.registered", user_id=str(uuid4()), event_timestamp=yesterday, city=city)
    letter = DeadLetter.of(
        msgspec.json.encode(event), BadEvent("expired", "It was, before the fix."), rejected_ms=0
    )
    await store_dead_letters(app.service.warehouse, [letter])
    body = {"ids": [letter.dead_letter_id]}
    assert (await replay(app, body)).json()["accepted"] == 1
    assert await app.registered(city) == 1
    assert (await replay(app, body)).json()["matched"] == 0
    assert (await replay(app, body | {"again": False})).json()["matched"] == 0
    assert (await replay(app, body | {"again": True})).json()["accepted"] == 1
    assert await app.registered(city) == 1
    assert (await app.get_json(f"{LETTERS}/{letter.dead_letter_id}"))["status"] == "replayed"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 10_000])
async def test_a_body_that_is_no_json_is_a_400(app: App, body: bytes) -> None:
    assert "not JSON" in problem(await replay(app, body), 400)["detail"]


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"all"'])
async def test_a_body_that_is_no_object_is_a_422(app: App, body: bytes) -> None:
    assert problem(await replay(app, body), 422)["errors"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", []),
        ("ids", "0" * 32),
        ("ids", ["0" * 31]),
        ("ids", ["0" * 32 + "\n"]),
        ("ids", ["') OR true --"]),
        ("ids", ["0" * 32] * 1_001),
        ("again", "yes"),
        ("again", 1),
        ("topic", 7),
        ("reason", ["expired"]),
        ("limit", 1),
        ("status", "open"),
        ("planet", "Mars"),
        ("x" * 5_000, "Mars"),
    ],
)
async def test_a_bad_field_of_a_body_is_a_422_that_names_it(app: App, name: str, value: Any) -> None:
    details = problem(await replay(app, {name: value}), 422)
    assert [error["field"] for error in details["errors"]] == [name[:200]]
    assert details["detail"] == "1 field cannot be used."


async def test_a_bad_body_names_all_fields_at_fault_at_once(app: App) -> None:
    body = {"planet": "Mars", "again": "no", "reason": "boring", "topic": 7, "timezone": "Nowhere"}
    details = problem(await replay(app, body), 422)
    assert {error["field"] for error in details["errors"]} == set(body)
    assert details["detail"] == "5 fields cannot be used."


async def test_a_replay_takes_no_parameters(app: App) -> None:
    response = await app.client.post(REPLAY, params={"reason": "expired"}, content=b"{}")
    assert list(faults(response)) == ["reason"]


async def test_without_clickhouse_all_of_it_is_a_503_that_says_when_to_try_again() -> None:
    async with without_stores(f"clickhouse://{HOST}:{free_port()}/openride") as instance:
        for response in (
            await instance.get(LETTERS),
            await instance.get(f"{LETTERS}/{'0' * 32}"),
            await replay(instance, {}),
        ):
            problem(response, 503)
            assert int(response.headers["Retry-After"]) > 0
            assert response.headers["Cache-Control"] == "no-store"


async def test_prometheus_gets_rejects_by_reason_and_topic_and_replays_by_outcome(app: App) -> None:
    event_type = claimed()
    await app.post(lines(unheard_of(event_type, 2)))
    await replay(app, {"event_type": event_type})
    text = (await app.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    rejected = [sample for sample in samples if sample.name == "openride_events_rejected_total"]
    labels = {"event_type": "unknown", "reason": "unknown_event_type", "topic": "http"}
    assert labels in [sample.labels for sample in rejected]
    replayed = [sample for sample in samples if sample.name == "openride_dead_letters_replayed_total"]
    assert {"outcome": "rejected"} in [sample.labels for sample in replayed]


async def test_the_schema_lists_what_may_be_asked(app: App) -> None:
    schema = await app.get_json("/schema")
    listing, replaying = schema["paths"][LETTERS]["get"], schema["paths"][REPLAY]["post"]
    assert {one["name"] for one in listing["parameters"]} == set(handlers._PARAMETERS)
    body = replaying["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"ids", "again", *handlers._IN_BODY}
    assert all(field["description"] and field["examples"] for field in body["properties"].values())
    assert {"200", "400", "422", "503"} <= set(replaying["responses"])
    letter = next(each for name, each in schema["components"]["schemas"].items() if name.endswith("Letter"))
    assert set(letter["properties"]) == {field.name for field in msgspec.structs.fields(Letter)}
