"""The truth about the taxi trips, held to figures that were added up from the CSV without it.

If one of these fails, the file or `truth` changed; no answer of the service is worth comparing until it is
clear which.
"""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from . import events, periods, truth

NEW_YORK = ZoneInfo("America/New_York")


def day(month: int, day_of_month: int) -> datetime:
    return datetime(2019, month, day_of_month, tzinfo=NEW_YORK)


MARCH = (day(3, 1), day(4, 1))
CLOCK_CHANGE = (day(3, 10), day(3, 11))
EVERYTHING = (day(2, 1), day(5, 1))


def added_up(series: list[dict[str, Any]], field: str) -> Decimal:
    return sum((Decimal(bucket[field].get("USD", "0")) for bucket in series), Decimal())


def test_every_trip_of_the_file_is_there_with_its_money_to_the_cent() -> None:
    everything = truth.payments(*EVERYTHING)["summary"]
    rides = truth.trips(*EVERYTHING)["summary"]

    assert everything["succeeded"] == 6433
    assert everything["revenue"] == {"USD": "119124.97"}
    # Fares of 84214.87 and tips of 12732.32 are the drivers', the rest is the platform's.
    assert rides["driver_earnings"] == {"USD": "96947.19"}
    assert rides["platform_commission"] == {"USD": "22177.78"}
    # 19457.36 miles.
    assert rides["average_distance_km"] * 6433 == pytest.approx(19457.36 * 1.609344)
    # A trip without passengers has one seat all the same.
    assert truth.bookings(*EVERYTHING)["summary"]["seats_booked"] == 9998


def test_each_event_of_a_trip_falls_into_the_period_by_its_own_time() -> None:
    bookings, rides = truth.bookings(*MARCH)["summary"], truth.trips(*MARCH)["summary"]

    # Three trips were booked on 28 February: one driven that evening, two soon after midnight.
    assert (bookings["created"], bookings["confirmed"]) == (6430, 6430)
    assert rides["started"] == 6432
    # One more ends on 1 April.
    assert (rides["completed"], bookings["completed"]) == (6431, 6431)


def test_the_day_of_the_clock_change_has_23_hours_and_none_of_its_trips_is_lost() -> None:
    hours = truth.trips(*CLOCK_CHANGE, granularity="hour")

    assert hours["period"]["start"] == "2019-03-10T05:00:00Z"
    assert hours["period"]["end"] == "2019-03-11T04:00:00Z"
    assert len(hours["series"]) == 23
    assert hours["summary"]["started"] == sum(hour["started"] for hour in hours["series"]) == 185
    assert hours["summary"]["completed"] == 186
    assert hours["summary"]["driver_earnings"] == {"USD": "2577.12"}
    assert hours["summary"]["platform_commission"] == {"USD": "586.89"}
    # From 00:00, 01:00 and 03:00 on local clocks.
    assert [hour["started"] for hour in hours["series"][:3]] == [11, 7, 6]
    # Booked from 01:00 on are five picked up before 02:00 and, 15 minutes earlier, the one of 03:07.
    created = truth.bookings(*CLOCK_CHANGE, granularity="hour")["series"]
    assert [hour["created"] for hour in created[1:3]] == [6, 7]


def test_a_day_with_a_clock_change_is_one_day_of_booking_frequency() -> None:
    summary = truth.bookings(*CLOCK_CHANGE)["summary"]

    assert summary["booking_frequency"] == pytest.approx(summary["created"] / summary["unique_riders"] * 30)


def test_a_month_of_riders_and_drivers_acted_and_nobody_registered() -> None:
    summary = truth.users(*MARCH)["summary"]

    assert summary["active_users"] == 1500 + 200
    # All of them within the last 30 days of March, too.
    assert summary["mau"] == 1700
    assert summary["registrations"] == summary["total_users"] == summary["drivers"] == 0
    assert (
        summary["growth_rate"] is summary["kyc_completion_rate"] is summary["driver_activation_rate"] is None
    )


def test_only_the_creation_of_routes_and_the_first_trips_bring_users_on_28_february() -> None:
    # 200 drivers by their routes; 3 riders, who booked that evening.
    assert truth.users(day(2, 28), day(3, 1))["summary"]["dau"] == 203


def test_payment_methods_and_providers_share_out_all_payments() -> None:
    breakdowns = truth.payments(*EVERYTHING)["breakdowns"]

    def counts(name: str) -> dict[str, int]:
        return {line["value"]: line["succeeded"] for line in breakdowns[name]}

    assert counts("payment_method") == {"credit card": 4577, "cash": 1812, "unknown": 44}
    assert counts("provider") == {"yellow": 5451, "green": 982}
    assert breakdowns["error_code"] == []


def test_routes_are_the_pairs_of_zones() -> None:
    before, after = truth.routes(day(2, 27), day(2, 28)), truth.routes(*MARCH)
    of_the_day = truth.routes(day(2, 28), day(3, 1))["summary"]

    assert before["summary"]["active_routes"] == 0
    assert before["breakdowns"] == {"by_city": [], "by_state": []}
    assert (of_the_day["created"], of_the_day["activated"]) == (2761, 2761)
    assert (after["summary"]["created"], after["summary"]["active_routes"]) == (0, 2761)
    assert [(line["value"], line["routes"]) for line in after["breakdowns"]["by_state"]] == [
        ("Manhattan", 1972),
        ("Queens", 373),
        ("Brooklyn", 316),
        ("Bronx", 94),
        ("Unknown", 6),
    ]
    assert after["breakdowns"]["by_city"][0] == {
        "value": "JFK Airport",
        "state": "Queens",
        "routes": 85,
        "active": 85,
    }
    assert [(line["route_name"], line["bookings"]) for line in after["popular"][:4]] == [
        ("Upper East Side North > Upper East Side North", 38),
        ("Upper East Side South > Upper East Side North", 30),
        ("Astoria > Astoria", 24),
        ("Upper East Side North > Upper East Side South", 23),
    ]


def test_bookings_of_one_route_in_the_same_five_minutes_are_one_departure() -> None:
    # Six departures have two bookings; so many departures have so many seats taken.
    departures = {1: 4768, 2: 874, 3: 242, 4: 112, 5: 278, 6: 153}
    taken = sum(seats * number for seats, number in departures.items())

    assert truth.routes(*EVERYTHING)["summary"]["utilization"] == pytest.approx(taken / 6 / 6427)


def test_drivers_are_ranked_by_dollars_only_if_dollars_are_asked_for_or_configured() -> None:
    asked = truth.drivers(*MARCH, currency="USD")["top"]
    configured = truth.drivers(*MARCH, configured_currency="USD")["top"]
    neither = truth.drivers(*MARCH, limit=1000)["top"]

    assert asked == configured
    assert asked[0]["earnings"] == {"USD": "1436.65"}
    assert [line["driver_id"] for line in neither] == sorted(line["driver_id"] for line in neither)
    assert len(neither) == 200
    # Without the two trips that end outside March: 5.00 on 28 February, 37.00 on 1 April.
    assert sum(Decimal(line["earnings"]["USD"]) for line in neither) == Decimal("96947.19") - 42


def test_the_distribution_of_one_driver_is_that_driver() -> None:
    (usd,) = truth.drivers(day(2, 28), day(3, 1))["summary"]["earnings"].values()

    assert set(usd.values()) == {"5.00"}


def test_no_driver_comes_back_after_90_days() -> None:
    retention = truth.drivers(*EVERYTHING)["summary"]["retention"]

    assert [line["day"] for line in retention] == [7, 30, 90]
    assert [line["eligible"] for line in retention] == [200, 200, 200]
    assert retention[2]["rate"] == 0.0


@pytest.mark.parametrize("granularity", ["hour", "day", "week", "month"])
def test_buckets_add_up_to_the_period(granularity: periods.Granularity) -> None:
    bookings = truth.bookings(*MARCH, granularity=granularity)

    assert len(bookings["series"]) == {"hour": 743, "day": 31, "week": 5, "month": 1}[granularity]
    assert sum(bucket["created"] for bucket in bookings["series"]) == 6430
    assert added_up(bookings["series"], "gross_booking_value") == Decimal("119075.57")


def test_weeks_begin_on_monday_and_the_first_is_cut() -> None:
    weeks = truth.trips(*MARCH, granularity="week")["series"]

    assert [week["start"] for week in weeks] == [
        "2019-03-01T05:00:00Z",
        "2019-03-04T05:00:00Z",
        "2019-03-11T04:00:00Z",
        "2019-03-18T04:00:00Z",
        "2019-03-25T04:00:00Z",
    ]


def test_the_period_before_is_a_month_for_a_month_and_days_for_days() -> None:
    assert periods.previous_period(*MARCH) == (day(2, 1), day(3, 1))
    assert periods.previous_period(day(3, 10), day(3, 12)) == (day(3, 8), day(3, 10))
    # Between instants it is as much time: 47 hours, for days of 23 and 24.
    assert periods.previous_period(day(3, 10), day(3, 12), calendar=False)[0] == datetime(
        2019, 3, 8, 6, tzinfo=UTC
    )


def test_an_empty_period_has_zeros_and_nulls() -> None:
    quiet = truth.bookings(day(5, 1), day(5, 2))

    assert quiet["summary"]["created"] == 0
    assert quiet["summary"]["conversion_rate"] is None
    assert quiet["summary"]["gross_booking_value"] == {}
    assert quiet["series"][0]["median_minutes_to_confirm"] is None
    assert quiet["data_through"] == "2019-04-01T04:13:58Z"


def test_a_period_that_is_not_over_has_no_truth() -> None:
    with pytest.raises(ValueError, match="not over"):
        truth.bookings(day(3, 1), datetime(9999, 1, 1, tzinfo=UTC))


def test_the_events_are_two_for_each_route_and_seven_for_each_trip() -> None:
    made = events.events()

    assert Counter(event["event_type"] for event in made) == {
        "route.created": 2761,
        "route.activated": 2761,
        "booking.created": 6433,
        "payment.initiated": 6433,
        "payment.success": 6433,
        "booking.confirmed": 6433,
        "trip.started": 6433,
        "trip.completed": 6433,
        "booking.completed": 6433,
    }
    assert max(event["event_timestamp"] for event in made) == truth.trips(*MARCH)["data_through"]


def test_the_first_trip_of_the_file_became_these_events() -> None:
    first = events.events()[2 * 2761 : 2 * 2761 + 7]

    # Picked up at 20:21:09 and dropped off at 20:27:24 on 23 March, four hours behind UTC.
    assert [(event["event_type"], event["event_timestamp"]) for event in first] == [
        ("booking.created", "2019-03-24T00:06:09Z"),
        ("payment.initiated", "2019-03-24T00:07:09Z"),
        ("payment.success", "2019-03-24T00:07:11.500Z"),
        ("booking.confirmed", "2019-03-24T00:08:09Z"),
        ("trip.started", "2019-03-24T00:21:09Z"),
        ("trip.completed", "2019-03-24T00:27:24Z"),
        ("booking.completed", "2019-03-24T00:27:24Z"),
    ]
    assert first[0]["scheduled_departure"] == "2019-03-24T00:20:00Z"
    assert UUID(first[0]["booking_id"]).version == 5
    assert (first[2]["amount"], first[2]["payment_method"], first[2]["provider"]) == (
        "12.95",
        "credit card",
        "yellow",
    )
    assert first[5]["duration_minutes"] == 6.25
    assert (first[5]["driver_earnings"], first[5]["platform_commission"]) == ("9.15", "3.80")
