"""The model against figures worked out by hand, and against the promises that hold for any stream."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import naive
from .by_hand import MARCH, asked, event, identity, utc
from .figures import averages, money_texts, percentile
from .periods import DAY, Question, buckets, period, time_text
from .stored import Event
from .streams import FILTERS, cases

Endpoint = Callable[[list[Event], Question], dict[str, Any]]

ENDPOINTS: dict[str, Endpoint] = {name: getattr(naive, name) for name in FILTERS}


# Events


def test_a_booking_confirmed_by_two_events_counts_once_at_the_price_of_the_first() -> None:
    sent = [
        event("booking.confirmed", "2026-03-02T12:00:00Z", booking_id="b", total_price="900", seats_booked=3),
        event(
            "booking.confirmed", "2026-03-01T12:00:00Z", booking_id="b", total_price="1000.5", seats_booked=2
        ),
    ]
    summary = naive.bookings(sent, MARCH)["summary"]
    assert (summary["confirmed"], summary["seats_booked"]) == (1, 2)
    assert summary["gross_booking_value"] == {"NGN": "1000.50"}


def test_under_one_id_the_earliest_payload_wins_whatever_came_first() -> None:
    early = event("payment.success", "2026-03-01T12:00:00Z", payment_id="p", amount="1.00")
    late = early | {"event_timestamp": "2026-03-05T12:00:00Z", "amount": "2.00"}
    for sent in ([early, late], [late, early], [late, early, late]):
        answer = naive.payments(sent, MARCH)
        assert answer["summary"]["revenue"] == {"NGN": "1.00"}
        assert answer["data_through"] == "2026-03-01T12:00:00Z"


def test_events_without_an_id_are_the_same_if_their_content_is() -> None:
    refund = event("payment.refunded", "2026-03-01T12:00:00Z", payment_id="p", refund_amount="5")
    del refund["event_id"]
    other = refund | {"refund_amount": "7"}
    assert naive.payments([refund, dict(refund), other], MARCH)["summary"]["refunded_amount"] == {
        "NGN": "12.00"
    }


@pytest.mark.parametrize(
    "spelling",
    [
        "2026-03-01T07:05:00.250Z",
        "2026-03-01T08:05:00.250+01:00",
        "2026-03-01T07:05:00.250",
        1772348700.25,
        1772348700250,
    ],
)
def test_every_spelling_of_a_time_is_read_to_the_millisecond(spelling: str | float) -> None:
    answer = naive.bookings([event("booking.created", spelling, booking_id="b", rider_id="r")], MARCH)
    assert answer["data_through"] == "2026-03-01T07:05:00.250Z"


# Periods and buckets


def test_a_day_begins_at_local_midnight() -> None:
    sent = [
        event("booking.created", "2026-03-01T22:59:59.999Z", booking_id="late on the 1st", rider_id="r"),
        event("booking.created", "2026-03-01T23:00:00Z", booking_id="first of the 2nd", rider_id="r"),
    ]
    question = asked(
        "2026-02-28T23:00Z", "2026-03-02T23:00Z", "Africa/Lagos", kind="days", now="2026-03-02T23:00Z"
    )
    series = naive.bookings(sent, question)["series"]
    assert [(row["start"], row["created"], row["partial"]) for row in series] == [
        ("2026-02-28T23:00:00Z", 1, False),
        ("2026-03-01T23:00:00Z", 1, False),
    ]


def test_the_day_of_a_clock_change_has_23_hours_and_indian_hours_begin_at_half_past() -> None:
    new_york = asked("2026-03-08T05:00Z", "2026-03-09T04:00Z", "America/New_York", granularity="hour")
    assert len(buckets(new_york)) == 23
    kolkata = asked(
        "2026-03-08T05:10Z", "2026-03-08T06:40Z", "Asia/Kolkata", granularity="hour", kind="instants"
    )
    assert [time_text(span.start) for span in buckets(kolkata)] == [
        "2026-03-08T05:10:00Z",
        "2026-03-08T05:30:00Z",
        "2026-03-08T06:30:00Z",
    ]


def test_weeks_begin_on_monday_and_are_clipped_to_the_period() -> None:
    question = asked("2026-03-01T00:00Z", "2026-03-10T00:00Z", granularity="week")
    starts = [time_text(span.start)[:10] for span in buckets(question)]
    assert starts == ["2026-03-01", "2026-03-02", "2026-03-09"]


def test_before_a_whole_month_comes_a_whole_month_and_before_days_as_many_days() -> None:
    assert period(MARCH, 1).start == utc("2026-02-01T00:00Z")
    assert period(asked("2026-03-02T00:00Z", "2026-03-09T00:00Z"), 1).start == utc("2026-02-23T00:00Z")
    instants = asked("2026-03-02T01:00Z", "2026-03-02T01:30Z", kind="instants")
    assert period(instants, 1).start == utc("2026-03-02T00:30Z")


def test_a_running_period_is_compared_with_as_much_local_time_also_across_a_clock_change() -> None:
    # Noon of 8 March in New York is 11 hours after midnight; noon of the day before is 12 hours after it.
    question = asked(
        "2026-03-08T05:00Z", "2026-03-09T04:00Z", "America/New_York", now="2026-03-08T16:00Z", compare=True
    )
    assert naive.trips([], question)["previous"]["period"] == {
        "start": "2026-03-07T05:00:00Z",
        "end": "2026-03-07T17:00:00Z",
    }


# Figures


def test_percentiles_are_numpys_and_money_has_two_to_four_decimals() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([10, 20, 40], 95) == pytest.approx(38)
    assert percentile([], 50) is None
    amounts = [Decimal("0.5"), Decimal("10.125"), Decimal(1) / 3]
    assert [money_texts(averages([("NGN", amount)])) for amount in amounts] == [
        {"NGN": "0.50"},
        {"NGN": "10.125"},
        {"NGN": "0.3333"},
    ]


def test_nothing_gives_zeros_nulls_and_no_money() -> None:
    summary = naive.payments([], MARCH)["summary"]
    assert summary["initiated"] == 0
    assert summary["success_rate"] is None
    assert summary["average_processing_time_ms"] is None
    assert summary["revenue"] == {}
    assert naive.payments([], MARCH)["data_through"] is None


# Users


def test_the_last_day_the_last_week_and_the_last_month_end_with_the_last_local_day() -> None:
    def seen(user: str, when: str) -> Event:
        return event("driver.location.updated", when, driver_id=user)

    sent = [
        seen("a", "2026-03-31T10:00:00Z"),
        seen("a", "2026-03-25T00:00:00Z"),
        seen("b", "2026-03-25T00:00:00Z"),
        seen("c", "2026-03-24T23:59:59Z"),
        seen("c", "2026-03-02T00:00:00Z"),
        seen("d", "2026-03-01T23:59:59Z"),
        seen("e", "2026-04-01T00:00:00Z"),
    ]
    summary = naive.users(sent, MARCH)["summary"]
    assert (summary["dau"], summary["wau"], summary["mau"], summary["active_users"]) == (1, 2, 3, 4)
    assert summary["stickiness"] == pytest.approx(5 / 30 / 3)


def test_a_driver_is_verified_by_the_latest_check_and_activated_by_a_standing_route() -> None:
    sent = [
        event("user.registered", "2026-02-10T00:00:00Z", user_id="a", role="DRIVER"),
        event("user.registered", "2026-03-10T00:00:00Z", user_id="b", role="RIDER"),
        event("user.upgraded_to_driver", "2026-03-11T00:00:00Z", user_id="b"),
        event("user.kyc_verified", "2026-03-12T00:00:00Z", user_id="a", kyc_status="REJECTED"),
        event("user.kyc_verified", "2026-03-11T00:00:00Z", user_id="a", kyc_status="VERIFIED"),
        event("user.kyc_verified", "2026-03-11T00:00:00Z", user_id="b"),
        event("route.activated", "2026-03-01T00:00:00Z", route_id="1", driver_id="a"),
        event("route.cancelled", "2026-03-02T00:00:00Z", route_id="1", driver_id="a"),
        event("route.activated", "2026-03-03T00:00:00Z", route_id="2", driver_id="a"),
    ]
    summary = naive.users(sent, MARCH)["summary"]
    assert (summary["drivers"], summary["verified_drivers"], summary["activated_drivers"]) == (2, 1, 1)
    assert (summary["registrations"], summary["total_users"], summary["growth_rate"]) == (1, 2, 0.0)


# Bookings


def test_cohort_rates_follow_a_booking_beyond_the_period() -> None:
    sent = [
        event("booking.created", "2026-03-31T23:00:00Z", booking_id="1", rider_id="r"),
        event("booking.confirmed", "2026-04-01T00:30:00Z", booking_id="1", total_price="10"),
        event("booking.created", "2026-03-10T23:00:00Z", booking_id="2", rider_id="s"),
        event("booking.cancelled", "2026-04-02T00:30:00Z", booking_id="2", cancelled_by="RIDER"),
    ]
    summary = naive.bookings(sent, MARCH)["summary"]
    assert (summary["created"], summary["confirmed"], summary["cancelled"]) == (2, 0, 0)
    assert (summary["conversion_rate"], summary["cancellation_rate"]) == (0.5, 0.5)
    assert summary["median_minutes_to_confirm"] == 90
    assert summary["booking_frequency"] == pytest.approx(2 / 2 / (31 / 30))
    assert summary["cancelled_by"] == {"RIDER": 0, "DRIVER": 0, "SYSTEM": 0}


def test_bookings_of_a_place_are_those_on_routes_that_begin_there() -> None:
    sent = [
        event("route.created", "2026-01-01T00:00:00Z", route_id="here", origin_city="Ikeja", origin_state=""),
        event("booking.created", "2026-03-10T00:00:00Z", booking_id="1", rider_id="r", route_id="here"),
        event("booking.created", "2026-03-10T00:00:00Z", booking_id="2", rider_id="r", route_id="elsewhere"),
    ]
    assert naive.bookings(sent, replace(MARCH, city="Ikeja"))["summary"]["created"] == 1
    assert naive.bookings(sent, replace(MARCH, state="Lagos"))["summary"]["created"] == 0


# Payments


def test_a_payment_that_failed_and_then_succeeded_succeeded() -> None:
    sent = [
        event(
            "payment.initiated", "2026-03-10T00:00:00Z", payment_id="1", payment_method="card", provider="x"
        ),
        event(
            "payment.failed", "2026-03-10T00:00:01Z", payment_id="1", payment_method="card", error_code="E"
        ),
        event(
            "payment.success", "2026-03-10T00:00:02Z", payment_id="1", payment_method="card", amount="10.125"
        ),
        event("payment.initiated", "2026-03-10T00:00:00Z", payment_id="2", payment_method="", provider="x"),
        event("payment.failed", "2026-03-10T00:00:01Z", payment_id="2", payment_method="", error_code=""),
        event("payment.initiated", "2026-03-10T00:00:00Z", payment_id="no outcome", payment_method="card"),
        event("payment.refunded", "2026-03-11T00:00:00Z", payment_id="1", refund_amount="3", currency="GHS"),
        event("payment.refunded", "2026-03-12T00:00:00Z", payment_id="1", refund_amount="0.125"),
    ]
    answer = naive.payments(sent, MARCH)
    summary = answer["summary"]
    assert (summary["initiated"], summary["succeeded"], summary["failed"], summary["refunded"]) == (
        3,
        1,
        2,
        1,
    )
    assert (summary["success_rate"], summary["refund_rate"]) == (0.5, 1.0)
    assert summary["average_processing_time_ms"] == 2000
    assert summary["net_revenue"] == {"GHS": "-3.00", "NGN": "10.00"}
    assert [(row["value"], row["initiated"]) for row in answer["breakdowns"]["payment_method"]] == [
        ("card", 2),
        (None, 1),
    ]
    assert answer["breakdowns"]["error_code"] == [{"value": "E", "failed": 1}, {"value": None, "failed": 1}]


# Trips


def test_ten_minutes_late_is_on_time_and_a_millisecond_more_is_not() -> None:
    def started(trip: str, actual: str | None) -> Event:
        return event(
            "trip.started",
            "2026-03-10T00:00:00Z",
            trip_id=trip,
            scheduled_departure="2026-03-10T08:00:00Z",
            actual_departure=actual,
        )

    sent = [
        started("1", "2026-03-10T08:10:00Z"),
        started("2", "2026-03-10T08:10:00.001Z"),
        started("3", None),
        event("trip.completed", "2026-03-10T00:00:00Z", trip_id="1", duration_minutes=30, distance_km=10),
        event("trip.cancelled", "2026-03-11T00:00:00Z", trip_id="1"),
        event("trip.cancelled", "2026-03-11T00:00:00Z", trip_id="2"),
    ]
    summary = naive.trips(sent, MARCH)["summary"]
    assert (summary["started"], summary["on_time_rate"], summary["completion_rate"]) == (3, 0.5, 0.5)
    assert (summary["average_distance_km"], summary["p95_duration_minutes"]) == (10, 30)


# Drivers


def completed(driver: str, trip: str, when: str, **fields: Any) -> Event:
    return event("trip.completed", when, driver_id=driver, trip_id=trip, **fields)


def test_earnings_are_spread_over_drivers_and_the_top_is_ranked_before_it_is_cut() -> None:
    sent = [
        completed("a", "1", "2026-03-10T00:00:00Z", driver_earnings="100", distance_km=1.5),
        completed("a", "2", "2026-03-11T00:00:00Z", driver_earnings="200", distance_km=1),
        completed("b", "3", "2026-03-11T00:00:00Z", driver_earnings="100", distance_km=9),
        completed("c", "4", "2026-03-11T00:00:00Z", driver_earnings="900", currency="GHS"),
    ]
    answer = naive.drivers(sent, replace(MARCH, limit=1))
    earnings = answer["summary"]["earnings"]["NGN"]
    assert (earnings["min"], earnings["p25"], earnings["mean"], earnings["max"]) == (
        "100.00",
        "150.00",
        "200.00",
        "300.00",
    )
    assert answer["summary"]["average_earnings_per_trip"] == {"GHS": "900.00", "NGN": "133.3333"}
    assert answer["top"] == [
        {"driver_id": identity("a"), "trips": 2, "distance_km": 2.5, "earnings": {"NGN": "300.00"}}
    ]
    by_distance = naive.drivers(sent, replace(MARCH, sort="distance", currency="GHS"))["top"]
    assert [(row["distance_km"], row["earnings"]) for row in by_distance] == [
        (9.0, {}),
        (2.5, {}),
        (0.0, {"GHS": "900.00"}),
    ]


def test_a_driver_is_retained_by_another_trip_once_the_days_are_over() -> None:
    sent = [
        completed("back", "1", "2026-03-01T00:00:00Z"),
        completed("back", "2", "2026-03-08T00:00:00Z"),
        completed("too early", "3", "2026-03-01T00:00:00Z"),
        completed("too early", "4", "2026-03-07T23:59:59.999Z"),
        completed("same trip", "5", "2026-03-01T00:00:00Z"),
        completed("same trip", "5", "2026-03-20T00:00:00Z"),
        completed("began before", "6", "2026-02-27T00:00:00Z"),
    ]
    question = replace(MARCH, now=utc("2026-03-31T00:00Z"))
    assert naive.drivers(sent, question)["summary"]["retention"] == [
        {"day": 7, "eligible": 3, "retained": 1, "rate": 1 / 3},
        {"day": 30, "eligible": 3, "retained": 0, "rate": 0.0},
        {"day": 90, "eligible": 0, "retained": 0, "rate": None},
    ]


# Routes


def test_utilization_is_of_departures_with_a_booking_that_stands_and_at_most_one() -> None:
    def booked(booking: str, route: str, leaves: str, seats: int) -> list[Event]:
        created = {"rider_id": "r", "route_id": route, "scheduled_departure": leaves, "seats_booked": seats}
        return [
            event("booking.created", "2026-03-01T00:00:00Z", booking_id=booking, **created),
            event("booking.confirmed", "2026-03-01T01:00:00Z", booking_id=booking, seats_booked=seats),
        ]

    sent = [
        event(
            "route.created",
            "2026-02-01T00:00:00Z",
            route_id="1",
            seats_total=4,
            route_name="A",
            origin_city="X",
        ),
        event("route.activated", "2026-03-01T00:00:00Z", route_id="1"),
        event("route.activated", "2026-03-01T00:00:00Z", route_id="unknown", route_name="B"),
        *booked("a", "1", "2026-03-05T08:00:00Z", 1),
        *booked("b", "1", "2026-03-05T08:00:00Z", 1),
        *booked("cancelled", "1", "2026-03-05T08:00:00Z", 1),
        event("booking.cancelled", "2026-05-01T00:00:00Z", booking_id="cancelled"),
        *booked("full", "1", "2026-03-06T08:00:00Z", 9),
        *booked("after the end", "1", "2026-04-01T00:00:00Z", 1),
        *booked("on an unknown route", "unknown", "2026-03-06T08:00:00Z", 1),
        event("payment.success", "2026-06-01T00:00:00Z", payment_id="p", booking_id="a", amount="5"),
    ]
    answer = naive.routes(sent, MARCH)
    assert answer["summary"] == {
        "created": 0,
        "activated": 2,
        "cancelled": 0,
        "active_routes": 2,
        "utilization": (0.5 + 1.0) / 2,
    }
    first, second = answer["popular"]
    assert (first["route_name"], first["bookings"], first["confirmed"], first["seats_booked"]) == (
        "A",
        5,
        5,
        13,
    )
    assert (first["revenue"], first["utilization"]) == ({"NGN": "5.00"}, 0.75)
    assert (second["route_name"], second["origin_city"], second["utilization"]) == ("B", None, None)
    assert answer["breakdowns"]["by_city"] == [{"value": "X", "state": None, "routes": 1, "active": 1}]
    assert answer["breakdowns"]["by_state"] == [{"value": None, "routes": 1, "active": 1}]


# Realtime


def test_the_window_is_half_open_as_all_periods_are() -> None:
    sent = [
        event("booking.created", when, booking_id=when, rider_id="r")
        for when in (
            "2026-03-10T10:59:59.999Z",
            "2026-03-10T11:00:00Z",
            "2026-03-10T12:00:00Z",
            "2026-03-10T12:00:00.001Z",
        )
    ] + [
        event("trip.started", "2026-03-09T12:00:00Z", trip_id="on the way", driver_id="d"),
        event("trip.started", "2026-03-10T11:45:00Z", trip_id="arrived", driver_id="d"),
        event("trip.completed", "2026-03-10T12:30:00Z", trip_id="arrived", driver_id="e"),
    ]
    summary = naive.realtime(sent, replace(MARCH, now=utc("2026-03-10T12:00Z")))["summary"]
    assert (summary["bookings_created"], summary["active_riders"]) == (1, 1)
    assert (summary["active_trips"], summary["active_drivers"]) == (1, 1)


# Any stream


@pytest.mark.parametrize("name", ENDPOINTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 999))
def test_order_and_repetition_change_nothing(name: str, data: st.DataObject, seed: int) -> None:
    events, question = data.draw(cases(name, java_gaps=True))
    again = [*events, *events[::2]]
    Random(seed).shuffle(again)
    assert ENDPOINTS[name](again, question) == ENDPOINTS[name](events, question)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases("bookings"))
def test_buckets_cover_the_period_without_a_gap(case: tuple[list[Event], Question]) -> None:
    events, question = case
    series = naive.bookings(events, question)["series"]
    if question.granularity != "none":
        assert series[0]["start"] == time_text(question.start)
        assert (
            sum(row["cancelled"] for row in series)
            >= naive.bookings(events, question)["summary"]["cancelled"]
        )
        assert buckets(question)[-1].end == question.end
        assert all(span.end - span.start <= 32 * DAY for span in buckets(question))
        assert all(span.end - span.start > timedelta(0) for span in buckets(question))
