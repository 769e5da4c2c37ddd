"""The embedded engine and a real server answer alike, and as the naive model says."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from openride_analytics.contract import LOCATION_EVENT
from openride_analytics.demo.platform import Platform
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.model import analytics, naive
from tests.model.asked import analytics_answer, answer, differences
from tests.model.lives import METRICS_LIKE, WITH_POINTS
from tests.model.periods import AnalyticsQuestion, Question, beginning_of
from tests.model.streams import FILTER_VALUES, FILTERS
from tests.model.test_metrics import DEPENDS_ON_ARRIVAL, ENDPOINTS
from tests.stores import NOW as ACCEPTED
from tests.stores import disordered, store

LAGOS = "Africa/Lagos"
NOW = ACCEPTED + timedelta(hours=15, minutes=30)
DAYS = 3
LOCATIONS_KEPT = 40
EIGHTH = frozenset("01")

Event = dict[str, Any]


def platform_events() -> list[Event]:
    """An eighth of what the demo platform did in its first days, and few of its many locations.

    Whole bookings, users and routes are left out, so some bookings are on routes that nobody has heard of. Some ids
    come a second time with another time and price, of which the earlier must win.
    """
    made = list(Platform(seed=11, now=NOW, days=DAYS).history())
    locations = [event for event in made if event["event_type"] == LOCATION_EVENT]
    business = [
        event
        for event in made
        if event["event_type"] != LOCATION_EVENT
        and (event.get("booking_id") or event.get("route_id") or event["user_id"])[0] in EIGHTH
    ]
    chance = Random(11)
    clashing = [
        event | {"event_timestamp": event["event_timestamp"] + chance.choice((-7_200_000, -1, 1, 3_600_000))}
        for event in chance.sample(business, 60)
    ]
    for event in clashing:
        if "total_price" in event:
            event["total_price"] = "1.0001"
    return [*business, *clashing, *locations[::LOCATIONS_KEPT]]


def questions(events: list[Event]) -> dict[str, Question]:
    """Several about these days, among them one for each filter, with values that are in the stream."""

    def days(first: int, last: int, timezone: str = LAGOS, **more: Any) -> Question:
        start, after = (datetime(2026, 4, day, tzinfo=UTC).date() for day in (first, last + 1))
        zone = Question(NOW, NOW, timezone, now=NOW).zone
        return Question(
            beginning_of(start, zone), beginning_of(after, zone), timezone, **({"now": NOW} | more)
        )

    def common(field: str, event_type: str) -> Any:
        return Counter(event[field] for event in events if event["event_type"] == event_type).most_common(1)[
            0
        ][0]

    city, state = common("origin_city", "route.created"), common("origin_state", "route.created")
    route, driver = common("route_id", "booking.created"), common("driver_id", "booking.created")
    return {
        "running, compared": days(18, 20, compare=True),
        "weeks": days(13, 26, granularity="week", limit=1000, sort="trips"),
        "a month, compared": days(1, 25, granularity="month", compare=True, sort="distance"),
        "hours at half past": days(18, 19, "Asia/Kolkata", granularity="hour", compare=True),
        "asked later": days(16, 20, "America/New_York", now=NOW + timedelta(days=40), on_time_minutes=0),
        "instants": Question(
            NOW - timedelta(days=2, hours=3, milliseconds=1),
            NOW - timedelta(minutes=7, milliseconds=123),
            "UTC",
            now=NOW,
            kind="instants",
            compare=True,
            window_minutes=1440,
        ),
        "without a series": days(16, 20, granularity="none", limit=3),
        "a city": days(16, 20, city=city, compare=True),
        "a state": days(16, 20, state=state),
        "a city of another state": days(16, 20, city=city, state="Nowhere"),
        "another currency": days(16, 20, currency="XOF", compare=True),
        "a route": days(16, 20, route_id=route),
        "a driver": days(16, 20, driver_id=driver, compare=True),
        "a payment method": days(16, 20, payment_method="card"),
        "a provider in a state": days(16, 20, provider="paystack", state=state),
    }


async def test_both_warehouses_answer_alike_and_as_the_model(
    embedded_warehouse: EmbeddedWarehouse, server_warehouse: ServerWarehouse, subtests: pytest.Subtests
) -> None:
    events = platform_events()
    await store(embedded_warehouse, disordered(events, seed=1), batches=3)
    await store(server_warehouse, disordered(events, seed=2), batches=7)

    for name, question in questions(events).items():
        for endpoint in ENDPOINTS:
            if any(getattr(question, name) for name in FILTER_VALUES if name not in FILTERS[endpoint]):
                continue
            with subtests.test(question=name, endpoint=endpoint):
                embedded, server = [
                    await answer(warehouse, endpoint, question)
                    for warehouse in (embedded_warehouse, server_warehouse)
                ]
                for each in (embedded, server):
                    for field in DEPENDS_ON_ARRIVAL:
                        each["summary"].pop(field, None)
                assert not differences(embedded, server)
                assert not differences(getattr(naive, endpoint)(events, question), server)


def analytics_questions(events: list[Event]) -> dict[tuple[str, str], AnalyticsQuestion]:
    """Each endpoint of analytics by name, in several ways."""
    zone = Question(NOW, NOW, LAGOS, now=NOW).zone
    start, end = (beginning_of(datetime(2026, 4, day, tzinfo=UTC).date(), zone) for day in (16, 21))
    state = Counter(event["state"] for event in events if event["event_type"] == "user.registered")

    def asked(**more: Any) -> AnalyticsQuestion:
        settings: dict[str, Any] = {"now": NOW, "granularity": "none"} | more
        return AnalyticsQuestion(start, end, LAGOS, **settings)

    return {
        ("funnel", "as it is"): asked(),
        ("funnel", "by state"): asked(breakdown="state", window_hours=30),
        ("funnel", "by city, a step twice"): asked(
            breakdown="city", steps=("booking.created", "booking.confirmed", "booking.created")
        ),
        ("funnel", "of drivers, in a state"): asked(
            steps=("route.created", "route.activated"), state=state.most_common(1)[0][0]
        ),
        ("cohort", "weeks"): asked(),
        ("cohort", "days"): asked(unit="day", activity="any", now=NOW + timedelta(days=20)),
        ("cohort", "months, trips"): asked(unit="month", activity="trip", periods=2),
        ("retention", "exact"): asked(days=(0, 1, 2)),
        ("retention", "unbounded"): asked(days=(0, 1, 2), mode="unbounded", role="RIDER"),
        **{
            ("geographic", f"{metric} by {level}"): asked(metric=metric, level=level)
            for metric in METRICS_LIKE
            for level in (("state", "city", "h3") if metric in WITH_POINTS else ("state", "city"))
        },
    }


async def test_both_warehouses_answer_analytics_alike_and_as_the_model(
    embedded_warehouse: EmbeddedWarehouse, server_warehouse: ServerWarehouse, subtests: pytest.Subtests
) -> None:
    events = platform_events()
    await store(embedded_warehouse, disordered(events, seed=1), batches=3)
    await store(server_warehouse, disordered(events, seed=2), batches=7)

    for (name, way), question in analytics_questions(events).items():
        with subtests.test(endpoint=name, question=way):
            embedded, server = [
                await analytics_answer(warehouse, name, question)
                for warehouse in (embedded_warehouse, server_warehouse)
            ]
            assert not differences(embedded, server)
            assert not differences(getattr(analytics, name)(events, question), server)
