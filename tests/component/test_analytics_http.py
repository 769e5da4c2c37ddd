"""The endpoints of analytics as their clients see them: examples counted by hand, parameters, GeoJSON."""

from itertools import pairwise
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

import h3
import pytest

from openride_analytics.analytics import geographic
from tests.component.test_http import App, anywhere, app, faults, lines
from tests.samples import minimal

__all__ = ["app"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("funnel", "cohort", "retention", "geographic")
MARCH = {"start_date": "2026-03-01", "end_date": "2026-03-31", "timezone": "Africa/Lagos"}
PICKUP = (6.6018, 3.3515)


class City:
    """A city that no other test knows, and what happens there."""

    def __init__(self) -> None:
        self.name = anywhere()
        self.events: list[dict[str, Any]] = []

    def id(self, name: str) -> str:
        """The same for the same name in this city."""
        return str(uuid5(NAMESPACE_OID, f"{self.name} {name}"))

    def add(self, event_type: str, time: str, **fields: Any) -> None:
        """An event of March; the names of things are made ids."""
        ids = {name: self.id(value) for name, value in fields.items() if name.endswith("_id")}
        when = {"event_id": str(uuid4()), "event_timestamp": f"2026-03-{time}Z"}
        self.events.append(minimal(event_type, **when, **(fields | ids)))

    def register(self, user: str, time: str, **fields: Any) -> None:
        """A rider of this city."""
        self.add("user.registered", time, **({"role": "RIDER", "city": self.name} | fields), user_id=user)

    async def ask(self, app: App, name: str, **parameters: str) -> Any:
        """The answer about this city."""
        if self.events:
            assert (await app.post(lines(self.events))).status_code == 202
            self.events.clear()
        return await app.get_json(f"/v1/analytics/{name}", **(MARCH | {"city": self.name} | parameters))


def by_hand(city: City) -> None:
    """Ada goes all the way, at her second attempt; Bola books too late; Chi never does."""
    for user in ("ada", "bola", "chi"):
        city.register(user, "02T08:00:00")
    city.add("booking.created", "02T08:30:00", booking_id="b1", rider_id="ada")
    city.add("booking.created", "02T10:00:00", booking_id="b2", rider_id="ada")
    city.add("booking.confirmed", "02T10:30:00", booking_id="b2", rider_id="ada")
    city.add("trip.completed", "03T09:00:00", trip_id="t1", rider_id="ada", driver_id="dele")
    city.add("booking.created", "09T08:00:00.001", booking_id="b3", rider_id="bola")


async def test_a_funnel_counts_who_took_the_steps_in_order_within_the_window(app: App) -> None:
    city = City()
    by_hand(city)
    answer = await city.ask(app, "funnel")
    steps = {step["event_type"]: step for step in answer["steps"]}
    assert list(steps) == ["user.registered", "booking.created", "booking.confirmed", "trip.completed"]
    assert [step["users"] for step in answer["steps"]] == [3, 1, 1, 1]
    assert steps["user.registered"] == {
        "event_type": "user.registered",
        "users": 3,
        "rate_from_start": 1.0,
        "rate_from_previous": None,
        "median_minutes_from_previous": None,
        "p90_minutes_from_previous": None,
        "still_open": 0,
    }
    # From her first booking on; the confirmation is the first one after it.
    assert steps["booking.created"]["median_minutes_from_previous"] == 30.0
    assert steps["booking.confirmed"]["median_minutes_from_previous"] == 120.0
    assert steps["booking.confirmed"]["rate_from_previous"] == 1.0
    assert answer["breakdown"] == []
    assert answer["period"]["start"] == "2026-02-28T23:00:00Z"
    assert answer["definition"]["text"]
    assert answer["definition"]["parameters"] == {
        "steps": list(steps),
        "window_hours": 168,
        "breakdown": None,
        "city": city.name,
    }


@pytest.mark.parametrize("endpoint", ["funnel", "cohort", "retention", "geographic"])
async def test_the_period_before_comes_with_compare(app: App, endpoint: str) -> None:
    city = City()
    by_hand(city)
    march = await city.ask(app, endpoint)
    april = await city.ask(
        app, endpoint, start_date="2026-04-01", end_date="2026-04-30", compare="previous", granularity="week"
    )
    assert march["previous"] is None
    assert april["period"]["granularity"] == "none"
    before = april["previous"]
    assert before.pop("period") == {"start": march["period"]["start"], "end": april["period"]["start"]}
    assert before == {name: march[name] for name in before}
    assert before


async def test_a_longer_window_lets_those_in_who_are_a_millisecond_late(app: App) -> None:
    city = City()
    by_hand(city)
    asked = {"steps": "user.registered,booking.created", "breakdown": "city"}
    assert [step["users"] for step in (await city.ask(app, "funnel", **asked))["steps"]] == [3, 1]
    longer = await city.ask(app, "funnel", **asked, window_hours="169")
    assert [step["users"] for step in longer["steps"]] == [3, 2]
    assert longer["breakdown"] == [{"value": city.name, "steps": longer["steps"]}]


async def test_a_step_asked_for_twice_takes_two_events(app: App) -> None:
    city = City()
    by_hand(city)
    twice = await city.ask(app, "funnel", steps="booking.created,booking.created")
    assert [step["users"] for step in twice["steps"]] == [2, 1]
    assert twice["steps"][1]["median_minutes_from_previous"] == 90.0


async def test_a_cohort_is_followed_week_by_week(app: App) -> None:
    city = City()
    by_hand(city)
    answer = await city.ask(app, "cohort", periods="3")
    cohorts = {cohort["cohort"]: cohort for cohort in answer["cohorts"]}
    # 1 March was a Sunday, and 31 March a Tuesday.
    assert list(cohorts) == [f"2026-{day}" for day in ("02-23", "03-02", "03-09", "03-16", "03-23", "03-30")]
    assert cohorts["2026-03-02"] == {
        "cohort": "2026-03-02",
        "size": 3,
        "cells": [
            {"period": 0, "active": 1, "rate": 1 / 3, "partial": False},
            {"period": 1, "active": 1, "rate": 1 / 3, "partial": False},
            {"period": 2, "active": 0, "rate": 0.0, "partial": False},
        ],
    }
    assert cohorts["2026-03-09"]["cells"][0]["rate"] is None
    assert answer["average"][0] == {"period": 0, "active": 1, "size": 3, "rate": 1 / 3}
    # In the second week only Bola booked, and nobody completed a trip.
    trips = await city.ask(app, "cohort", periods="2", activity="trip", unit="day", end_date="2026-03-02")
    assert [cell["active"] for cell in trips["cohorts"][1]["cells"]] == [0, 1]


async def test_retention_tells_day_n_from_any_later_day(app: App) -> None:
    city = City()
    by_hand(city)
    exact = await city.ask(app, "retention", days="7,1,0,1")
    assert exact["days"] == [
        {"day": 0, "eligible": 3, "retained": 3, "rate": 1.0},  # registering is an act
        {"day": 1, "eligible": 3, "retained": 1, "rate": 1 / 3},
        {"day": 7, "eligible": 3, "retained": 1, "rate": 1 / 3},
    ]
    unbounded = await city.ask(app, "retention", days="1", mode="unbounded")
    assert unbounded["days"] == [{"day": 1, "eligible": 3, "retained": 2, "rate": 2 / 3}]
    drivers = await city.ask(app, "retention", days="1", role="DRIVER")
    assert drivers["days"] == [{"day": 1, "eligible": 0, "retained": 0, "rate": None}]


def on_the_map(city: City) -> None:
    """Two bookings from here, one of them paid; the second has no pickup."""
    city.add("route.created", "02T06:00:00", route_id="r1", origin_city=city.name, origin_state="Lagos")
    lat, lon = PICKUP
    city.add("booking.created", "02T08:00:00", booking_id="b1", route_id="r1", pickup_lat=lat, pickup_lon=lon)
    city.add("booking.created", "02T09:00:00", booking_id="b2", route_id="r1")
    city.add(
        "payment.success", "02T09:05:00", payment_id="p1", booking_id="b1", amount="3000.10", currency="NGN"
    )


async def test_a_map_by_city_gives_values_and_shares(app: App) -> None:
    city = City()
    on_the_map(city)
    bookings = await city.ask(app, "geographic", level="city")
    assert bookings["places"] == [{"state": "Lagos", "city": city.name, "value": 2, "share": 1.0}]
    revenue = await city.ask(app, "geographic", metric="revenue")
    assert revenue["places"] == [{"state": "Lagos", "value": {"NGN": "3000.10"}, "share": {"NGN": 1.0}}]


async def test_hexagons_are_those_of_h3_and_unknown_places_are_null(app: App) -> None:
    city = City()
    on_the_map(city)
    hexagon = h3.latlng_to_cell(*PICKUP, 8)
    lat, lon = h3.cell_to_latlng(hexagon)
    answer = await city.ask(app, "geographic", level="h3", resolution="8")
    assert answer["places"] == [
        {"h3": hexagon, "lat": pytest.approx(lat), "lon": pytest.approx(lon), "value": 1, "share": 0.5},
        {"h3": None, "lat": None, "lon": None, "value": 1, "share": 0.5},
    ]


async def test_who_registers_again_counts_among_the_users_of_that_period_at_the_first_place(app: App) -> None:
    city = City()
    city.register("ada", "02T08:00:00", state="Lagos")
    city.register("ada", "20T08:00:00", state="FCT")
    city.register("bola", "20T09:00:00", state="Lagos")
    again = {"metric": "users", "start_date": "2026-03-15"}
    places = (await city.ask(app, "geographic", **again))["places"]
    assert [(place["state"], place["value"]) for place in places] == [("Lagos", 2)]


async def test_an_answer_of_too_many_hexagons_is_refused(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    city = City()
    for number in range(3):
        city.add(
            "booking.created",
            "02T08:30:00",
            booking_id=f"b{number}",
            route_id="r",
            pickup_lat=6.0 + number,
            pickup_lon=3.0,
        )
    city.add("route.created", "01T08:00:00", route_id="r", origin_city=city.name)
    monkeypatch.setattr(geographic, "MOST_HEXAGONS", 3)
    assert len((await city.ask(app, "geographic", level="h3"))["places"]) == 3
    monkeypatch.setattr(geographic, "MOST_HEXAGONS", 2)
    for more in ({}, {"format": "geojson"}):
        asked = MARCH | {"city": city.name, "level": "h3", "resolution": "8"} | more
        assert list(faults(await app.get("/v1/analytics/geographic", **asked))) == ["resolution"]


async def test_geojson_has_a_closed_counterclockwise_ring_around_each_hexagon(app: App) -> None:
    city = City()
    on_the_map(city)
    await city.ask(app, "geographic")
    asked = MARCH | {"city": city.name, "level": "h3", "format": "geojson"}
    response = await app.get("/v1/analytics/geographic", **asked)
    assert response.headers["Content-Type"] == "application/geo+json"
    collection = response.json()
    assert collection["type"] == "FeatureCollection"
    assert {"period", "data_through", "definition"} < set(collection)
    known, unknown = collection["features"]
    assert unknown == {
        "type": "Feature",
        "geometry": None,
        "properties": {"h3": None, "value": 1, "share": 0.5},
    }
    assert known["type"] == "Feature"
    assert known["geometry"]["type"] == "Polygon"
    (ring,) = known["geometry"]["coordinates"]
    outline = h3.cell_to_boundary(known["properties"]["h3"])
    assert ring[0] == ring[-1]
    assert sorted(ring[:-1]) == [
        pytest.approx([lon, lat]) for lon, lat in sorted(point[::-1] for point in outline)
    ]
    turns = [one[0] * other[1] - other[0] * one[1] for one, other in pairwise(ring)]
    assert sum(turns) > 0


async def test_a_ring_across_the_antimeridian_stays_small(app: App) -> None:
    city = City()
    on_the_map(city)
    city.add(
        "booking.created", "03T08:00:00", booking_id="b9", route_id="r1", pickup_lat=-17.0, pickup_lon=179.999
    )
    await city.ask(app, "geographic")
    asked = MARCH | {"city": city.name, "level": "h3", "format": "geojson", "resolution": "4"}
    features = (await app.get("/v1/analytics/geographic", **asked)).json()["features"]
    for feature in features:
        if feature["geometry"]:
            longitudes = [lon for lon, _ in feature["geometry"]["coordinates"][0]]
            assert max(longitudes) - min(longitudes) < 1


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("funnel", "steps", "user.registered"),
        ("funnel", "steps", ",".join(["booking.created"] * 9)),
        ("funnel", "steps", "user.registered,driver.location.updated"),
        ("funnel", "steps", "user.registered,"),
        ("funnel", "steps", ""),
        ("funnel", "window_hours", "0"),
        ("funnel", "window_hours", "8761"),
        ("funnel", "breakdown", "role"),
        ("funnel", "granularity", "minute"),
        ("funnel", "currency", "NGN"),
        ("cohort", "unit", "hour"),
        ("cohort", "periods", "0"),
        ("cohort", "periods", "53"),
        ("cohort", "activity", "login"),
        ("cohort", "compare", "next"),
        ("cohort", "timezone", "Nowhere"),
        ("retention", "days", "366"),
        ("retention", "days", "-1"),
        ("retention", "days", "1,,2"),
        ("retention", "days", ",".join(map(str, range(61)))),
        ("retention", "mode", "loose"),
        ("retention", "role", "rider"),
        ("retention", "start_date", "2026-02-30"),
        ("geographic", "metric", "payments"),
        ("geographic", "level", "country"),
        ("geographic", "resolution", "3"),
        ("geographic", "resolution", "10"),
        ("geographic", "format", "geojson"),  # by state
        ("geographic", "format", "csv"),
        ("geographic", "payment_method", "card"),  # of bookings
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(
    app: App, name: str, parameter: str, value: str
) -> None:
    found = faults(await app.get(f"/v1/analytics/{name}", **{parameter: value}))
    assert list(found) == [parameter]


@pytest.mark.parametrize("metric", ["users", "revenue", "routes"])
async def test_what_has_no_coordinates_is_not_on_hexagons(app: App, metric: str) -> None:
    asked = {"metric": metric, "level": "h3", "format": "geojson"}
    assert "level" in faults(await app.get("/v1/analytics/geographic", **asked))


async def test_each_metric_of_the_map_takes_its_own_filters(app: App) -> None:
    taken = {"metric": "revenue", "payment_method": "card", "provider": "paystack"}
    await app.get_json("/v1/analytics/geographic", **taken)
    refused = await app.get("/v1/analytics/geographic", **(taken | {"metric": "drivers", "currency": "NGN"}))
    assert set(faults(refused)) == {"payment_method", "provider", "currency"}


@pytest.mark.parametrize("name", NAMES)
async def test_equal_questions_are_answered_from_the_cache(app: App, name: str) -> None:
    asked = MARCH | {"city": anywhere()}
    first = await app.get(f"/v1/analytics/{name}", **asked)
    again = await app.get(f"/v1/analytics/{name}", **asked)
    assert [first.headers["X-Cache"], again.headers["X-Cache"]] == ["miss", "hit"]
    assert again.headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("funnel", {"window_hours": "1"}, {"window_hours": "2"}),
        ("funnel", {"steps": "trip.started,trip.completed"}, {"steps": "trip.completed,trip.started"}),
        ("cohort", {"unit": "day"}, {"unit": "month"}),
        ("retention", {"mode": "exact"}, {"mode": "unbounded"}),
        ("geographic", {"level": "h3"}, {"level": "h3", "format": "geojson"}),
    ],
)
async def test_other_questions_are_not(
    app: App, name: str, one: dict[str, str], other: dict[str, str]
) -> None:
    asked = MARCH | {"city": anywhere()}
    await app.get_json(f"/v1/analytics/{name}", **asked, **one)
    response = await app.get(f"/v1/analytics/{name}", **asked, **other)
    assert response.headers["X-Cache"] == "miss"


@pytest.mark.parametrize("name", NAMES)
async def test_the_schema_lists_parameters_and_fields(app: App, name: str) -> None:
    schema = await app.get_json("/schema")
    operation = schema["paths"][f"/v1/analytics/{name}"]["get"]
    listed = {one["name"] for one in operation["parameters"]}
    told = faults(await app.get(f"/v1/analytics/{name}", nothing="1"))["nothing"]
    assert f"There are: {', '.join(sorted(listed))}." in told
    reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    documented = schema["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]
    assert set(documented) == set(await app.get_json(f"/v1/analytics/{name}", **MARCH))


async def test_the_catalogue_says_what_the_schema_says(app: App) -> None:
    schema = await app.get_json("/schema")
    schemas = schema["components"]["schemas"]

    def at(described: Any, path: list[str]) -> Any:
        """The property at the path, through references, lists, alternatives and maps."""
        if "$ref" in described:
            return at(schemas[described["$ref"].rsplit("/", 1)[1]], path)
        if path and path[0] in described.get("properties", {}):
            return (
                at(described["properties"][path[0]], path[1:])
                if path[1:]
                else described["properties"][path[0]]
            )
        inner = [described.get("items"), described.get("additionalProperties")]
        inner += [*described.get("allOf", []), *described.get("oneOf", [])]
        found = [at(one, path) for one in inner if isinstance(one, dict)]
        return next((one for one in found if one), None)

    metrics = (await app.get_json("/v1/metrics/definitions"))["metrics"]
    assert len(metrics) > 90
    for metric in metrics:
        operation = schema["paths"][metric["endpoint"]]["get"]
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        path = metric["name"].split(".")
        described = at(answer, path) or at(answer, ["summary", *path])
        assert described, metric
        assert described["description"] == metric["formula"], metric
