"""The model of analytics against figures worked out by hand."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import h3
import pytest

from . import analytics
from .by_hand import MARCH, event, identity, utc
from .periods import AnalyticsQuestion
from .stored import Event


def of_march(**rest: Any) -> AnalyticsQuestion:
    asked: dict[str, Any] = {"timezone": "UTC", "now": MARCH.now, "granularity": "none"} | rest
    return AnalyticsQuestion(MARCH.start, MARCH.end, **asked)


def registered(user: str, when: str, **fields: Any) -> Event:
    return event("user.registered", when, user_id=user, **({"role": "RIDER"} | fields))


def booked(rider: str, when: str, booking: str = "b", **fields: Any) -> Event:
    return event("booking.created", when, rider_id=rider, booking_id=booking, **fields)


def confirmed(rider: str, when: str, booking: str = "b", **fields: Any) -> Event:
    return event("booking.confirmed", when, rider_id=rider, booking_id=booking, **fields)


# Funnel

BOOKED_AND_CONFIRMED = ("user.registered", "booking.created", "booking.confirmed")


def users(answer: dict[str, Any]) -> list[int]:
    return [step["users"] for step in answer["steps"]]


def test_steps_count_users_with_rates_and_minutes_between() -> None:
    sent = [
        registered("a", "2026-03-02T10:00:00Z"),
        booked("a", "2026-03-02T10:10:00Z"),
        confirmed("a", "2026-03-02T11:10:00Z"),
        registered("b", "2026-03-02T10:00:00Z"),
        booked("b", "2026-03-02T10:30:00Z"),
        registered("c", "2026-03-02T10:00:00Z"),
        booked("c", "2026-03-02T10:40:00Z"),
        registered("d", "2026-03-02T10:00:00Z"),
        registered("before the period", "2026-02-28T10:00:00Z"),
        booked("before the period", "2026-03-01T10:00:00Z"),
    ]
    first, second, third = analytics.funnel(sent, of_march(steps=BOOKED_AND_CONFIRMED))["steps"]
    assert first == {
        "event_type": "user.registered",
        "users": 4,
        "rate_from_start": 1.0,
        "rate_from_previous": None,
        "median_minutes_from_previous": None,
        "p90_minutes_from_previous": None,
        "still_open": 0,
    }
    # 10, 30 and 40 minutes: the 90th percentile lies 0.8 of the way from 30 to 40.
    assert second["p90_minutes_from_previous"] == pytest.approx(38)
    assert (second["users"], second["rate_from_start"], second["rate_from_previous"]) == (3, 0.75, 0.75)
    assert second["median_minutes_from_previous"] == 30
    assert (third["users"], third["rate_from_start"], third["rate_from_previous"]) == (1, 0.25, 1 / 3)
    assert (third["median_minutes_from_previous"], third["p90_minutes_from_previous"]) == (60, 60)


def test_a_funnel_that_nobody_enters_has_zeros_and_nulls() -> None:
    answer = analytics.funnel([], of_march(breakdown="city"))
    assert users(answer) == [0, 0, 0, 0]
    assert {step["rate_from_start"] for step in answer["steps"]} == {None}
    assert answer["breakdown"] == []


def test_the_window_counts_from_the_first_step_and_includes_its_end() -> None:
    question = of_march(steps=BOOKED_AND_CONFIRMED, window_hours=24)
    entry = [registered("a", "2026-03-02T10:00:00Z"), booked("a", "2026-03-03T09:00:00Z")]
    assert users(analytics.funnel([*entry, confirmed("a", "2026-03-03T10:00:00Z")], question)) == [1, 1, 1]
    assert users(analytics.funnel([*entry, confirmed("a", "2026-03-03T10:00:00.001Z")], question)) == [
        1,
        1,
        0,
    ]


def test_steps_count_in_their_order_and_also_after_the_period() -> None:
    question = of_march(steps=BOOKED_AND_CONFIRMED)
    late = [
        registered("a", "2026-03-31T23:00:00Z"),
        booked("a", "2026-04-02T09:00:00Z"),
        confirmed("a", "2026-04-02T10:00:00Z"),
    ]
    wrong_way_round = [
        registered("a", "2026-03-02T10:00:00Z"),
        confirmed("a", "2026-03-02T10:05:00Z"),
        booked("a", "2026-03-02T10:10:00Z"),
    ]
    assert users(analytics.funnel(late, question)) == [1, 1, 1]
    assert users(analytics.funnel(wrong_way_round, question)) == [1, 1, 0]


def test_at_one_instant_different_types_are_in_order_either_way() -> None:
    at_once = [registered("a", "2026-03-02T10:00:00Z"), booked("a", "2026-03-02T10:00:00Z")]
    for steps in (("user.registered", "booking.created"), ("booking.created", "user.registered")):
        assert users(analytics.funnel(at_once, of_march(steps=steps))) == [1, 1]


def test_a_repeated_step_wants_another_event() -> None:
    twice = of_march(steps=("booking.created", "booking.created"))
    first, at_once = booked("a", "2026-03-02T10:00:00Z", "1"), booked("a", "2026-03-02T10:00:00Z", "2")
    assert users(analytics.funnel([first, first], twice)) == [1, 0]
    assert users(analytics.funnel([first, at_once], twice)) == [1, 1]
    between = of_march(steps=("booking.created", "user.registered", "booking.created"))
    there = registered("a", "2026-03-02T10:00:00Z")
    assert users(analytics.funnel([first, there], between)) == [1, 1, 0]
    assert users(analytics.funnel([first, there, at_once], between)) == [1, 1, 1]


def test_of_several_attempts_the_one_that_gets_furthest_counts_and_then_the_earliest() -> None:
    question = of_march(steps=("booking.created", "booking.confirmed", "trip.completed"), window_hours=2)
    sent = [
        booked("a", "2026-03-02T10:00:00Z", "1"),
        booked("a", "2026-03-02T11:00:00Z", "2"),
        confirmed("a", "2026-03-02T11:30:00Z"),
        booked("a", "2026-03-05T10:00:00Z", "3"),
    ]
    # 10:00 and 11:00 both reach the second step; the one of 10:00 counts.
    steps = analytics.funnel(sent, question)["steps"]
    assert [step["users"] for step in steps] == [1, 1, 0]
    assert steps[1]["median_minutes_from_previous"] == 90
    # At 12:30 the window of 10:00 is over; only that of 11:00 reaches the trip.
    there = event("trip.completed", "2026-03-02T12:30:00Z", trip_id="t", rider_id="a", driver_id="d")
    steps = analytics.funnel([*sent, there], question)["steps"]
    assert [step["users"] for step in steps] == [1, 1, 1]
    assert [step["median_minutes_from_previous"] for step in steps] == [None, 30, 60]


def test_who_stopped_while_his_window_runs_is_still_open_there() -> None:
    sent = [
        registered("a", "2026-03-10T12:00:00Z"),
        booked("a", "2026-03-10T13:00:00Z"),
        registered("b", "2026-03-10T12:00:00.001Z"),
        registered("c", "2026-03-10T12:00:00.001Z"),
        booked("c", "2026-03-10T13:00:00Z"),
        registered("d", "2026-03-10T13:00:00Z"),
        booked("d", "2026-03-10T13:00:00Z"),
        confirmed("d", "2026-03-10T13:00:00Z"),
    ]
    question = of_march(steps=BOOKED_AND_CONFIRMED, window_hours=24, now=utc("2026-03-11T12:00Z"))
    answer = analytics.funnel(sent, question)
    assert [step["still_open"] for step in answer["steps"]] == [1, 1, 0]


def test_of_attempts_that_got_equally_far_the_latest_may_still_go_on() -> None:
    sent = [booked("a", "2026-03-02T12:00:00Z"), booked("a", "2026-03-11T11:00:00Z")]
    question = of_march(
        steps=("booking.created", "booking.confirmed"), window_hours=24, now=utc("2026-03-11T12:00Z")
    )
    assert [step["still_open"] for step in analytics.funnel(sent, question)["steps"]] == [1, 0]


def test_the_period_before_is_answered_for_as_this_one() -> None:
    sent = [booked("a", "2026-02-03T12:00:00Z"), booked("b", "2026-03-11T11:00:00Z")]
    answer = analytics.funnel(sent, of_march(steps=("booking.created", "booking.confirmed"), compare=True))
    assert answer["previous"]["period"] == {"start": "2026-02-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    assert [step["users"] for step in answer["previous"]["steps"]] == [1, 0]


def test_booking_steps_are_the_riders_and_route_steps_the_drivers() -> None:
    sent = [
        event("route.created", "2026-03-02T10:00:00Z", route_id="r", driver_id="d"),
        booked("a", "2026-03-02T11:00:00Z", driver_id="d"),
    ]
    assert users(analytics.funnel(sent, of_march(steps=("route.created", "booking.created")))) == [1, 0]
    sent.append(booked("d", "2026-03-02T11:00:00Z", "another", driver_id="e"))
    assert users(analytics.funnel(sent, of_march(steps=("route.created", "booking.created")))) == [1, 1]


def test_a_funnel_is_broken_down_by_the_place_of_registration() -> None:
    sent = [
        registered("a", "2026-03-02T10:00:00Z", city="Ikeja"),
        registered("a", "2026-03-03T10:00:00Z", city="Lekki"),
        booked("a", "2026-03-02T10:10:00Z"),
        registered("b", "2026-01-02T10:00:00Z", city="Ikeja"),
        booked("b", "2026-03-02T10:10:00Z"),
        registered("c", "2026-01-02T10:00:00Z", city="Garki"),
        booked("c", "2026-03-02T10:10:00Z"),
        registered("d", "2026-01-02T10:00:00Z", city=""),
        booked("d", "2026-03-02T10:10:00Z"),
        booked("never registered", "2026-03-02T10:10:00Z"),
        confirmed("never registered", "2026-03-02T10:20:00Z"),
    ]
    question = of_march(steps=("booking.created", "booking.confirmed"), breakdown="city")
    answer = analytics.funnel(sent, question)
    assert [(row["value"], users(row)) for row in answer["breakdown"]] == [
        ("Ikeja", [2, 0]),
        (None, [2, 1]),
        ("Garki", [1, 0]),
    ]
    assert users(answer) == [5, 1]
    in_ikeja = analytics.funnel(sent, replace(question, city="Ikeja"))
    assert [row["value"] for row in in_ikeja["breakdown"]] == ["Ikeja"]
    assert users(in_ikeja) == [2, 0]


# Cohort


def test_users_are_followed_by_the_week_of_their_first_registration() -> None:
    sent = [
        registered("a", "2026-03-02T00:00:00Z"),
        registered("a", "2026-03-09T00:00:00Z"),
        registered("b", "2026-03-08T23:59:59.999Z"),
        registered("c", "2026-03-09T00:00:00Z"),
        booked("a", "2026-03-05T10:00:00Z"),
        booked("a", "2026-03-06T10:00:00Z", "another"),
        booked("b", "2026-03-09T00:00:00Z"),
        booked("c", "2026-03-23T00:00:00Z"),
        registered("before the period", "2026-02-28T23:59:59Z"),
    ]
    answer = analytics.cohort(sent, of_march(periods=3, now=utc("2026-03-25T00:00Z")))
    assert [(row["cohort"], row["size"]) for row in answer["cohorts"]] == [
        ("2026-02-23", 0),
        ("2026-03-02", 2),
        ("2026-03-09", 1),
        ("2026-03-16", 0),
        ("2026-03-23", 0),
        ("2026-03-30", 0),
    ]
    cells = [
        [(cell["active"], cell["rate"], cell["partial"]) for cell in row["cells"]]
        for row in answer["cohorts"]
    ]
    assert cells == [
        [(0, None, False)] * 3,
        [(1, 0.5, False), (1, 0.5, False), (0, 0.0, False)],
        [(0, 0.0, False), (0, 0.0, False), (1, 1.0, True)],
        [(0, None, False), (0, None, True)],
        [(0, None, True)],
        [],
    ]
    # The running cells are left out.
    assert answer["average"] == [
        {"period": 0, "active": 1, "size": 3, "rate": 1 / 3},
        {"period": 1, "active": 1, "size": 3, "rate": 1 / 3},
        {"period": 2, "active": 0, "size": 2, "rate": 0.0},
    ]


def test_the_period_has_its_first_instant_and_not_its_last() -> None:
    sent = [
        registered("a", "2026-03-01T00:00:00Z", state="FCT"),
        registered("b", "2026-03-31T23:59:59.999Z", state="FCT"),
        registered("c", "2026-04-01T00:00:00Z", state="FCT"),
    ]
    question = of_march(metric="users", steps=("user.registered", "booking.created"))
    assert users(analytics.funnel(sent, question)) == [2, 0]
    assert sum(row["size"] for row in analytics.cohort(sent, question)["cohorts"]) == 2
    assert analytics.retention(sent, question)["days"][0]["eligible"] == 2
    assert analytics.geographic(sent, question)["places"] == [{"state": "FCT", "value": 2, "share": 1.0}]


def test_a_cell_begins_with_its_first_instant_and_is_over_with_the_next_one() -> None:
    answer = analytics.cohort([], of_march(now=utc("2026-03-16T00:00Z")))
    cells = {row["cohort"]: [cell["partial"] for cell in row["cells"]] for row in answer["cohorts"]}
    assert cells["2026-03-02"] == [False, False, True]
    assert cells["2026-03-16"] == [True]
    assert cells["2026-03-23"] == []


def test_cohorts_are_of_local_days_weeks_and_months() -> None:
    # In Kathmandu (+05:45) it is the 2nd of March already, a Monday; in New York still Sunday the 1st.
    sent = [registered("a", "2026-03-01T18:15:00Z"), registered("b", "2026-03-31T12:00:00Z")]

    def sizes(**rest: Any) -> dict[str, int]:
        cohorts = analytics.cohort(sent, of_march(activity="any", **rest))["cohorts"]
        return {row["cohort"]: row["size"] for row in cohorts if row["size"]}

    assert sizes(timezone="Asia/Kathmandu") == {"2026-03-02": 1, "2026-03-30": 1}
    assert sizes(timezone="America/New_York") == {"2026-02-23": 1, "2026-03-30": 1}
    assert sizes(timezone="Asia/Kathmandu", unit="day") == {"2026-03-02": 1, "2026-03-31": 1}
    assert sizes(unit="month") == {"2026-03-01": 2}


def test_a_week_with_a_clock_change_ends_at_local_midnight() -> None:
    # New York's clocks go forward on Sunday 8 March: the week after begins at 04:00 UTC, not at 05:00.
    sent = [registered("a", "2026-03-02T12:00:00Z"), booked("a", "2026-03-09T04:00:00Z")]
    answer = analytics.cohort(sent, of_march(timezone="America/New_York", periods=2))
    (row,) = [row for row in answer["cohorts"] if row["size"]]
    assert [cell["active"] for cell in row["cells"]] == [0, 1]


@pytest.mark.parametrize(
    ("activity", "active"), [("booking", {"rider"}), ("trip", {"rider", "driver"}), ("any", {"x"})]
)
def test_activity_is_a_booking_a_trip_on_either_side_or_any_act(activity: str, active: set[str]) -> None:
    acts = {
        "booking": [booked("rider", "2026-03-10T10:00:00Z", driver_id="driver")],
        "trip": [
            event(
                "trip.completed", "2026-03-10T10:00:00Z", trip_id="t", rider_id="rider", driver_id="driver"
            ),
            event("trip.started", "2026-03-10T10:00:00Z", trip_id="t", rider_id="x", driver_id="x"),
        ],
        "any": [
            event(
                "trip.cancelled", "2026-03-10T10:00:00Z", trip_id="t", cancelled_by="DRIVER", driver_id="x"
            ),
            event(
                "trip.cancelled", "2026-03-10T10:00:00Z", trip_id="u", cancelled_by="SYSTEM", rider_id="rider"
            ),
            confirmed("driver", "2026-03-10T10:00:00Z"),
        ],
    }
    for user in ("rider", "driver", "x"):
        sent = [registered(user, "2026-03-02T10:00:00Z"), *acts[activity]]
        (row,) = [
            row for row in analytics.cohort(sent, of_march(activity=activity))["cohorts"] if row["size"]
        ]
        assert row["cells"][1]["active"] == (user in active)


# Retention


def test_a_day_is_the_24_hours_that_many_days_after_registration() -> None:
    def seen(user: str, when: str) -> list[Event]:
        return [
            registered(user, "2026-03-02T10:00:00Z"),
            event("driver.location.updated", when, driver_id=user),
        ]

    sent = [
        *seen("too early", "2026-03-03T09:59:59.999Z"),
        *seen("begins", "2026-03-03T10:00:00Z"),
        *seen("ends", "2026-03-04T09:59:59.999Z"),
        *seen("too late", "2026-03-04T10:00:00Z"),
    ]
    exact = of_march(days=(7, 1, 1))
    assert analytics.retention(sent, exact)["days"] == [
        {"day": 1, "eligible": 4, "retained": 2, "rate": 0.5},
        {"day": 7, "eligible": 4, "retained": 0, "rate": 0.0},
    ]
    unbounded = analytics.retention(sent, replace(exact, mode="unbounded"))["days"]
    assert [day["retained"] for day in unbounded] == [3, 0]


def test_only_those_count_for_whom_the_day_is_over() -> None:
    sent = [registered("a", "2026-03-02T10:00:00Z"), booked("a", "2026-03-03T11:00:00Z")]
    over = of_march(days=(1, 7), now=utc("2026-03-04T10:00Z"))
    assert analytics.retention(sent, over)["days"] == [
        {"day": 1, "eligible": 1, "retained": 1, "rate": 1.0},
        {"day": 7, "eligible": 0, "retained": 0, "rate": None},
    ]
    running = replace(over, now=datetime(2026, 3, 4, 9, 59, 59, 999000, tzinfo=UTC))
    assert analytics.retention(sent, running)["days"][0]["eligible"] == 0


def test_the_first_registration_decides_the_role_and_the_time() -> None:
    sent = [
        registered("a", "2026-03-02T10:00:00Z", role="RIDER"),
        registered("a", "2026-03-20T10:00:00Z", role="DRIVER"),
        event("user.upgraded_to_driver", "2026-03-09T10:00:00Z", user_id="a"),
        registered("again", "2026-02-02T10:00:00Z", role="RIDER"),
        registered("again", "2026-03-02T10:00:00Z", role="RIDER"),
        registered("driver", "2026-03-02T10:00:00Z", role="DRIVER"),
    ]

    def day_7(**rest: Any) -> tuple[int, int]:
        (day,) = analytics.retention(sent, of_march(days=(7,), **rest))["days"]
        return day["eligible"], day["retained"]

    assert day_7() == (2, 1)
    assert day_7(role="RIDER") == (1, 1)
    assert day_7(role="DRIVER") == (1, 0)
    assert day_7(city="Ikeja") == (0, 0)


# Geographic

LAGOS = {"lat": 6.5244, "lon": 3.3792}
ABUJA = {"lat": 9.0765, "lon": 7.3986}


def route(name: str, state: str, city: str, when: str = "2026-01-02T10:00:00Z") -> Event:
    return event(
        "route.created",
        when,
        route_id=name,
        driver_id="d",
        origin_state=state,
        origin_city=city,
        seats_total=4,
    )


ROUTES = [route("north", "FCT", "Garki"), route("south", "Lagos", "Ikeja"), route("west", "Lagos", "")]


def places(sent: list[Event], **rest: Any) -> list[tuple[Any, ...]]:
    """The answer's places as tuples of their values."""
    return [tuple(row.values()) for row in analytics.geographic(sent, of_march(**rest))["places"]]


def test_bookings_count_at_the_origin_of_the_route_they_were_first_created_on() -> None:
    sent = [
        *ROUTES,
        booked("a", "2026-03-02T10:00:00Z", "1", route_id="south"),
        booked("a", "2026-03-02T11:00:00Z", "1", route_id="north"),
        booked("a", "2026-03-02T10:00:00Z", "2", route_id="west"),
        booked("a", "2026-03-02T10:00:00Z", "3", route_id="north"),
        booked("a", "2026-03-02T10:00:00Z", "4", route_id="unknown"),
        booked("a", "2026-04-02T10:00:00Z", "after", route_id="north"),
    ]
    assert places(sent) == [("Lagos", 2, 0.5), ("FCT", 1, 0.25), (None, 1, 0.25)]
    assert places(sent, level="city") == [
        ("FCT", "Garki", 1, 0.25),
        ("Lagos", "Ikeja", 1, 0.25),
        ("Lagos", None, 1, 0.25),
        (None, None, 1, 0.25),
    ]
    assert places(sent, state="FCT") == [("FCT", 1, 0.5), ("Lagos", 1, 0.5)]


def test_bookings_by_hexagon_are_at_their_pickup() -> None:
    sent = [
        booked("a", "2026-03-02T10:00:00Z", "1", pickup_lat=6.5244, pickup_lon=3.3792),
        booked("a", "2026-03-02T10:00:00Z", "2", pickup_lat=6.525, pickup_lon=3.375),
        booked("a", "2026-03-02T10:00:00Z", "3", pickup_lat=9.0765, pickup_lon=7.3986),
        booked("a", "2026-03-02T10:00:00Z", "4"),
    ]
    # The first two pickups are 470 m apart: in one cell of resolution 6, in two of resolution 9.
    cells = [(row[0], row[3], row[4]) for row in places(sent, level="h3", resolution=6)]
    assert cells == [("86589c987ffffff", 2, 0.5), ("8658f4697ffffff", 1, 0.25), (None, 1, 0.25)]
    (cell, lat, lon, *_), *_, unknown = places(sent, level="h3", resolution=9)
    assert h3.latlng_to_cell(lat, lon, 9) == cell
    assert unknown[:3] == (None, None, None)
    assert len(places(sent, level="h3", resolution=9)) == 4


def test_revenue_is_by_currency_and_ordered_by_the_default_one() -> None:
    def paid(payment: str, booking: str, amount: str, currency: str) -> Event:
        named = {"payment_id": payment, "booking_id": booking, "amount": amount, "currency": currency}
        return event("payment.success", "2026-03-02T10:00:00Z", **named)

    sent = [
        *ROUTES,
        booked("a", "2026-01-02T10:00:00Z", "of south", route_id="south"),
        booked("a", "2026-01-02T10:00:00Z", "of north", route_id="north"),
        paid("1", "of south", "10.50", "NGN"),
        paid("2", "of south", "19.50", "NGN"),
        paid("2", "of north", "99", "NGN") | {"event_timestamp": "2026-03-03T10:00:00Z"},
        paid("3", "of north", "90", "NGN"),
        paid("4", "of north", "0", "GHS"),
        paid("5", "never created", "0", "GHS"),
        paid("6", "never created", "7", "XOF"),
        event("payment.initiated", "2026-03-02T09:00:00Z", payment_id="7", booking_id="of south", amount="1"),
    ]
    assert places(sent, metric="revenue") == [
        ("FCT", {"GHS": "0.00", "NGN": "90.00"}, {"GHS": None, "NGN": 0.75}),
        ("Lagos", {"NGN": "30.00"}, {"NGN": 0.25}),
        (None, {"GHS": "0.00", "XOF": "7.00"}, {"GHS": None, "XOF": 1.0}),
    ]
    in_lagos = places(sent, metric="revenue", state="Lagos")
    assert in_lagos == [("Lagos", {"NGN": "30.00"}, {"NGN": 1.0})]
    by_xof = places(sent, metric="revenue", default_currency="XOF")
    assert [state for state, *_ in by_xof] == [None, "FCT", "Lagos"]


def test_trips_count_where_completed_and_by_hexagon_where_they_started() -> None:
    sent = [
        *ROUTES,
        event("trip.completed", "2026-03-02T10:00:00Z", trip_id="1", route_id="south"),
        event("trip.completed", "2026-03-02T11:00:00Z", trip_id="1", route_id="south"),
        event("trip.started", "2026-02-28T10:00:00Z", trip_id="1", start_lat=6.5244, start_lon=3.3792),
        event("trip.completed", "2026-03-02T10:00:00Z", trip_id="2", route_id="south"),
        event(
            "trip.started", "2026-03-02T09:00:00Z", trip_id="on its way", start_lat=6.5244, start_lon=3.3792
        ),
    ]
    assert places(sent, metric="trips") == [("Lagos", 2, 1.0)]
    assert places(sent, metric="trips", city="Garki") == []
    by_cell = places(sent, metric="trips", level="h3", resolution=4)
    assert [(row[0], row[3]) for row in by_cell] == [("84589c9ffffffff", 1), (None, 1)]


def test_a_driver_counts_once_in_each_place_he_was_in() -> None:
    def seen(driver: str, state: str | None, where: dict[str, float]) -> Event:
        when = f"2026-03-02T10:00:{len(driver):02}Z"
        return event("driver.location.updated", when, driver_id=driver, state=state, **where)

    sent = [
        seen("a", "Lagos", LAGOS),
        seen("a", "Lagos", LAGOS) | {"event_timestamp": "2026-03-03T10:00:00Z"},
        seen("a", "FCT", ABUJA),
        seen("bb", "Lagos", LAGOS),
        seen("ccc", None, ABUJA),
    ]
    assert places(sent, metric="drivers") == [("Lagos", 2, 0.5), ("FCT", 1, 0.25), (None, 1, 0.25)]
    assert places(sent, metric="drivers", driver_id=identity("bb")) == [("Lagos", 1, 1.0)]
    at_home = [*sent, registered("a", "2026-01-02T10:00:00Z", state="Lagos")]
    assert places(at_home, metric="drivers", state="Lagos") == [("FCT", 1, 0.5), ("Lagos", 1, 0.5)]
    by_cell = places(sent, metric="drivers", level="h3", resolution=4)
    assert [(row[0], row[3]) for row in by_cell] == [("84589c9ffffffff", 2), ("8458f47ffffffff", 2)]


def test_users_count_at_their_registration_and_routes_at_their_origin() -> None:
    sent = [
        *ROUTES,
        route("new", "FCT", "Garki", "2026-03-02T10:00:00Z"),
        registered("a", "2026-03-02T10:00:00Z", state="Lagos", city="Ikeja"),
        registered("a", "2026-03-03T10:00:00Z", state="FCT", city="Garki"),
        registered("b", "2026-02-02T10:00:00Z", state="FCT"),
    ]
    assert places(sent, metric="users", level="city") == [("Lagos", "Ikeja", 1, 1.0)]
    assert places(sent, metric="routes", level="city") == [("FCT", "Garki", 1, 1.0)]
    assert places(sent, metric="users", state="FCT") == places(sent, metric="routes", state="Lagos") == []
