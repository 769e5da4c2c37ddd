"""The made-up platform must speak the contract, look like a platform, and repeat itself for a seed."""

import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import msgspec
import pytest

from openride_analytics.contract import AnyEvent
from openride_analytics.demo.platform import Platform
from openride_analytics.events import Acceptance, decode

Event = dict[str, Any]

NOW = datetime(2026, 4, 15, 13, 20, tzinfo=UTC)
ALL_TYPES = {struct.__struct_config__.tag for struct in AnyEvent.__args__}
TICK = timedelta(milliseconds=200)


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


@pytest.fixture(scope="module")
def month() -> list[Event]:
    return list(Platform(seed=7, now=NOW, days=30).history())


@pytest.fixture(scope="module")
def by_type(month: list[Event]) -> dict[str, list[Event]]:
    """Each event once, whatever was sent twice."""
    once = {event["event_id"]: event for event in month}
    types = defaultdict(list)
    for event in once.values():
        types[event["event_type"]].append(event)
    return types


def test_every_event_is_accepted_and_every_type_is_there(month: list[Event]) -> None:
    acceptance = Acceptance.at(NOW, currency="NGN", keep_days=0)
    for event in month:
        decode(msgspec.json.encode(event), acceptance)
    assert {event["event_type"] for event in month} == ALL_TYPES


def test_money_is_text_with_two_decimals(month: list[Event]) -> None:
    names = {
        "total_price",
        "amount",
        "base_price",
        "refund_amount",
        "original_amount",
        "driver_earnings",
        "platform_commission",
    }
    amounts = [value for event in month for name, value in event.items() if name in names]
    assert amounts
    assert all(re.fullmatch(r"\d+\.\d\d", amount) for amount in amounts)
    assert {event["currency"] for event in month if "currency" in event} == {"NGN", "XOF", "GHS"}


def test_history_lies_in_its_days_and_is_in_order_but_for_few(month: list[Event]) -> None:
    times = [event["event_timestamp"] for event in month]
    assert max(times) <= milliseconds(NOW)
    assert min(times) >= milliseconds(datetime(2026, 3, 15, 23, tzinfo=UTC))
    backwards = sum(later < earlier for earlier, later in pairwise(times))
    assert 0 < backwards < 0.02 * len(times)


def test_some_events_come_twice_and_unchanged(month: list[Event]) -> None:
    seen: dict[str, Event] = {}
    twice = 0
    for event in month:
        twice += event["event_id"] in seen
        assert seen.setdefault(event["event_id"], event) == event
    assert 0 < twice < 0.01 * len(month)


def test_stories_are_told_in_order(by_type: dict[str, list[Event]]) -> None:
    def first_times(event_type: str, thing: str = "booking_id") -> dict[str, int]:
        times: dict[str, int] = {}
        for event in by_type[event_type]:
            at_ms = event["event_timestamp"]
            times[event[thing]] = min(at_ms, times.get(event[thing], at_ms))
        return times

    steps = [
        first_times(step)
        for step in (
            "booking.created",
            "payment.success",
            "booking.confirmed",
            "trip.started",
            "trip.completed",
        )
    ]
    for before, after in pairwise(steps):
        both = before.keys() & after.keys()
        # What is missing is late and has not arrived yet.
        assert len(both) > 0.99 * len(after)
        assert all(before[booking] <= after[booking] for booking in both)
    assert not first_times("trip.completed").keys() & first_times("booking.cancelled").keys()

    opened = first_times("route.activated", "route_id")
    for event in by_type["booking.created"]:
        assert opened.get(event["route_id"], 0) <= event["event_timestamp"] < event["scheduled_departure"]


def test_cars_are_never_overfull(by_type: dict[str, list[Event]]) -> None:
    seats = {event["route_id"]: event["seats_total"] for event in by_type["route.created"]}
    started = {event["booking_id"] for event in by_type["trip.started"]}
    taken: Counter[tuple[str, int]] = Counter()
    for event in by_type["booking.created"]:
        if event["booking_id"] in started and event["route_id"] in seats:
            taken[event["route_id"], event["scheduled_departure"]] += event["seats_booked"]
    assert all(count <= seats[route] for (route, _), count in taken.items())


def test_the_figures_are_plausible(by_type: dict[str, list[Event]]) -> None:
    def ids(event_type: str, thing: str) -> set[str]:
        return {event[thing] for event in by_type[event_type]}

    created = ids("booking.created", "booking_id")
    assert 0.88 < len(ids("booking.confirmed", "booking_id") & created) / len(created) < 0.97
    assert 0.06 < len(ids("booking.cancelled", "booking_id") & created) / len(created) < 0.13
    succeeded, failed = ids("payment.success", "payment_id"), ids("payment.failed", "payment_id")
    assert 0.89 < len(succeeded) / len(succeeded | failed) < 0.95
    on_time = [
        event["actual_departure"] <= event["scheduled_departure"] + 600_000
        for event in by_type["trip.started"]
    ]
    assert 0.8 < sum(on_time) / len(on_time) < 0.9


def test_ninety_days_have_the_size_of_a_demo_and_grow() -> None:
    platform = Platform(seed=1, now=NOW)
    locations = others = 0
    bookings: Counter[int] = Counter()
    start_ms = milliseconds(NOW - timedelta(days=90))
    for event in platform.history():
        if event["event_type"] == "driver.location.updated":
            locations += 1
        else:
            others += 1
            if event["event_type"] == "booking.created":
                bookings[(event["event_timestamp"] - start_ms) // (7 * 86_400_000)] += 1
    assert 150_000 < others < 250_000
    assert 250_000 < locations < 350_000
    assert platform.expected_events == pytest.approx(locations + others, rel=0.1)
    assert 1.5 < bookings[11] / bookings[1] < 2.5


def test_the_same_seed_gives_the_same_events_and_another_gives_others() -> None:
    def some(seed: int) -> list[Event]:
        platform = Platform(seed=seed, now=NOW, days=3)
        history = list(platform.history())
        return history + [event for tick in range(1, 50) for event in platform.live(NOW + tick * TICK)]

    assert some(5) == some(5)
    assert list(islice(some(5), 100)) != list(islice(some(6), 100))


@pytest.mark.parametrize("hour", [2, 13], ids=["at night", "by day"])
def test_live_events_flow_at_any_hour_and_never_come_from_the_future(hour: int) -> None:
    start = NOW.replace(hour=hour)
    platform = Platform(seed=3, now=start, days=10)
    known = {event["event_id"] for event in platform.history()}
    now, counts = start, Counter[str]()
    for _ in range(5 * 60 * 10):
        before, now = now, now + TICK
        events = platform.live(now)
        counts.update(event["event_type"] for event in events)
        assert all(event["event_timestamp"] <= milliseconds(now) for event in events)
        fresh = [event for event in events if event["event_id"] not in known]
        punctual = sum(event["event_timestamp"] > milliseconds(before) for event in fresh)
        assert punctual >= len(fresh) - 3
        known.update(event["event_id"] for event in events)
    assert 35 < counts.total() / 600 < 60
    assert 0.7 < counts["driver.location.updated"] / counts.total() < 0.95
    assert counts.keys() >= {"booking.created", "booking.confirmed", "payment.success", "trip.started"}


def test_live_bookings_end_as_trips() -> None:
    platform = Platform(seed=3, now=NOW, days=10)
    for _ in platform.history():
        pass
    created, completed = set(), set()
    for second in range(1, 3600):
        for event in platform.live(NOW + timedelta(seconds=second)):
            if event["event_type"] == "booking.created":
                created.add(event["booking_id"])
            elif event["event_type"] == "trip.completed":
                completed.add(event["booking_id"])
    assert len(created & completed) > 50


def test_a_clock_that_stands_gives_nothing_and_a_pause_is_not_made_up_for() -> None:
    platform = Platform(seed=3, now=NOW, days=3)
    for _ in platform.history():
        pass
    assert platform.live(NOW) == []
    assert platform.live(NOW - timedelta(hours=1)) == []
    after_a_night = platform.live(NOW + timedelta(hours=9))
    locations = [event for event in after_a_night if event["event_type"] == "driver.location.updated"]
    assert 0 < len(locations) < 3000
    assert max(event["event_timestamp"] for event in after_a_night) <= milliseconds(NOW + timedelta(hours=9))
