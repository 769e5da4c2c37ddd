"""Events over HTTP: every form of a body, what is rejected of it, and what is no body at all."""

import gzip
import json
from uuid import uuid4

import pytest

from tests.component.test_http import (
    BOM,
    GZIP,
    MAX_REQUEST_BYTES,
    NDJSON,
    App,
    anywhere,
    app,
    lines,
    problem,
    users,
)
from tests.samples import minimal

__all__ = ["app"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Events over HTTP


@pytest.mark.parametrize(
    "form", ["ndjson", "array", "crlf", "bom", "bom_array", "empty_lines", "no_last_line_break", "gzip"]
)
async def test_events_are_stored_and_visible_once_they_are_accepted(app: App, form: str) -> None:
    city = anywhere()
    events = users(city, 3)
    headers = GZIP if form == "gzip" else None
    body = {
        "ndjson": lines(events),
        "array": json.dumps(events).encode(),
        "crlf": lines(events, "\r\n"),
        "bom": BOM + lines(events),
        "bom_array": BOM + b"\n " + json.dumps(events).encode(),
        "empty_lines": b"\n\r\n" + lines(events, "\n\n  \n"),
        "no_last_line_break": lines(events).rstrip(),
        "gzip": gzip.compress(lines(events)),
    }[form]
    response = await app.post(body, headers)
    assert response.status_code == 202, response.text
    assert response.json() == {"accepted": 3, "duplicates_possible": True, "rejected": []}
    assert await app.registered(city) == 3


async def test_a_line_of_ndjson_that_begins_like_an_array_is_refused_by_itself(app: App) -> None:
    response = await app.post(b"[1]\n" + lines(users(anywhere(), 1)), NDJSON)
    receipt = response.json()
    assert receipt["accepted"] == 1
    assert [(rejection["line"], rejection["reason"]) for rejection in receipt["rejected"]] == [
        (1, "invalid_json")
    ]


async def test_what_the_store_cannot_hold_is_rejected_by_its_line(app: App) -> None:
    city = anywhere()
    events = users(city, 300)
    events[270]["referral_code"] = "guilty"
    events[271]["role"] = "?"
    warehouse = app.service.warehouse
    await warehouse.execute("CREATE TABLE nowhere (guilty UInt8) ENGINE = Null")
    await warehouse.execute(
        "CREATE MATERIALIZED VIEW incoming_to_nowhere TO nowhere AS"
        " SELECT throwIf(position(lines, 'guilty') > 0) AS guilty FROM incoming"
    )
    try:
        receipt = (await app.post(lines(events))).json()
    finally:
        await warehouse.execute("DROP VIEW incoming_to_nowhere SYNC")
        await warehouse.execute("DROP TABLE nowhere SYNC")
    assert receipt["accepted"] == 298
    assert [(each["line"], each["reason"], each["field"]) for each in receipt["rejected"]] == [
        (271, "invalid_field", ""),
        (272, "invalid_field", "role"),
    ]
    assert await app.registered(city) == 298


async def test_a_gzip_body_of_several_parts_is_stored_whole(app: App) -> None:
    city = anywhere()
    body = b"".join(gzip.compress(lines([event])) for event in users(city, 3))
    assert (await app.post(body, GZIP)).json()["accepted"] == 3
    assert await app.registered(city) == 3


async def test_the_same_events_again_change_nothing(app: App) -> None:
    city = anywhere()
    events = users(city, 5)
    for event in events[:2]:
        event["event_id"] = str(uuid4())
    await app.post(lines(events))
    before = await app.get_json("/v1/metrics/users", city=city)
    again = await app.post(lines([*events, *events]))
    assert again.json()["accepted"] == 10
    assert await app.get_json("/v1/metrics/users", city=city) == before
    assert before["summary"]["registrations"] == 5


async def test_rejections_name_their_line_and_the_rest_is_stored(app: App) -> None:
    city = anywhere()
    good = [json.dumps(event).encode() for event in users(city, 2)]
    unknown = json.dumps(minimal("user.registered") | {"event_type": "user.vanished"}).encode()
    bad_role = json.dumps(minimal("user.registered", role="PILOT")).encode()
    response = await app.post(b"\r\n".join([good[0], b"", b"{not json", unknown, bad_role, good[1]]))
    receipt = response.json()
    assert response.status_code == 202
    assert receipt["accepted"] == 2
    assert [(each["line"], each["field"]) for each in receipt["rejected"]] == [
        (3, ""),
        (4, "event_type"),
        (5, "role"),
    ]
    assert all(each["reason"] and each["detail"] for each in receipt["rejected"])
    assert await app.registered(city) == 2


async def test_rejections_of_an_array_name_their_place(app: App) -> None:
    city = anywhere()
    receipt = (await app.post(json.dumps([*users(city, 1), 7, *users(city, 1)]).encode())).json()
    assert receipt["accepted"] == 2
    assert [each["line"] for each in receipt["rejected"]] == [2]


async def test_a_body_without_events_is_accepted(app: App) -> None:
    for body in (b"", b"\n\n", b"[]", BOM):
        response = await app.post(body)
        assert response.status_code == 202
        assert response.json() == {"accepted": 0, "duplicates_possible": True, "rejected": []}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"not gzip at all", "not gzip"),
        (b"", "cut off"),
        (gzip.compress(b"{}" * 500)[:-10], "cut off"),
        (gzip.compress(b"{}" * 500)[:-8] + b"\0" * 8, "not gzip"),
        (gzip.compress(b"{}") + b"something else", "not gzip"),
    ],
    # Not their bytes, which have the time in them.
    ids=["text", "nothing", "cut off", "a wrong sum", "more behind it"],
)
async def test_a_broken_gzip_body_is_a_400(app: App, body: bytes, detail: str) -> None:
    assert detail in problem(await app.post(body, GZIP), 400)["detail"]


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_gzip_bomb_is_a_413(app: App, parts: int) -> None:
    part = gzip.compress(b" " * (MAX_REQUEST_BYTES // parts + 1))
    assert str(MAX_REQUEST_BYTES) in problem(await app.post(part * parts, GZIP), 413)["detail"]


@pytest.mark.parametrize("body", [b"[", b"[{},", b"[{}] {}", b'[{"a": 1}', b"[" * 10_000])
async def test_a_broken_array_is_a_400(app: App, body: bytes) -> None:
    assert "JSON array" in problem(await app.post(body), 400)["detail"]
