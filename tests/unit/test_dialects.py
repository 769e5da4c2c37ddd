"""The dialect of OpenRide's Java services, and dialects as configuration: the same event gives the same line."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openride_analytics.config import Config, ConfigError, Dialect, DialectTopic, Kafka, load
from openride_analytics.dialects import MAY_BE_UNKNOWN, Dialects
from openride_analytics.events import Acceptance, BadEvent, decode
from openride_analytics.ingest.dead_letters import DeadLetter
from tests import java
from tests.model import streams
from tests.samples import FULL, full

ACCEPTANCE = Acceptance.at(datetime(2026, 4, 20, tzinfo=UTC), currency="NGN", keep_days=0)
SHIPPED = Dialects(Config().kafka)
IDS = {
    "eventId": "a0000000-0000-4000-8000-000000000000",
    "bookingId": "a0000000-0000-4000-8000-000000000005",
    "riderId": "a0000000-0000-4000-8000-000000000006",
    "routeId": "a0000000-0000-4000-8000-000000000003",
}


def content(topic: str, record: str | bytes, dialects: Dialects = SHIPPED) -> dict[str, Any]:
    """What is stored of a record."""
    raw = record.encode() if isinstance(record, str) else record
    line: dict[str, Any] = json.loads(dialects.decoder(topic)(raw, ACCEPTANCE).line)
    return line


def refusal(topic: str, record: str | bytes, dialects: Dialects = SHIPPED) -> tuple[str, str]:
    """The reason and the field."""
    raw = record.encode() if isinstance(record, str) else record
    with pytest.raises(BadEvent) as refused:
        dialects.decoder(topic)(raw, ACCEPTANCE)
    return refused.value.reason, refused.value.field


def written(**fields: Any) -> str:
    return json.dumps({**IDS, **fields})


# As Spring's JsonSerializer writes them: WRITE_DATES_AS_TIMESTAMPS on (numbers and lists) and off (text).
EXAMPLES = {
    "booking.created": [
        """{"eventId":"a0000000-0000-4000-8000-000000000000","eventType":"BOOKING_CREATED","eventTimestamp":1772348701.250000000,
        "bookingId":"a0000000-0000-4000-8000-000000000005","riderId":"a0000000-0000-4000-8000-000000000006",
        "routeId":"a0000000-0000-4000-8000-000000000003","travelDate":[2026,3,2],"departureTime":[7,5],"numberOfSeats":2,
        "totalAmount":3000.00,"pickupStopId":null,"dropoffStopId":null,"createdAt":1772348700.123456789}""",
        """{"eventId":"A0000000-0000-4000-8000-000000000000","eventTimestamp":"2026-03-01T07:05:01.25Z",
        "bookingId":"a0000000-0000-4000-8000-000000000005","riderId":"a0000000-0000-4000-8000-000000000006",
        "routeId":"a0000000-0000-4000-8000-000000000003","travelDate":"2026-03-02","departureTime":"07:05:00","numberOfSeats":2,
        "totalAmount":3000.0,"createdAt":"2026-03-01T07:05:00.123456789Z","driverId":null,"riderFullName":"Ada Obi"}""",
    ],
    "booking.confirmed": [
        written(eventTimestamp=1772348799.5, confirmedAt=1772348700.123, createdAt=1772300000.0)[:-1]
        + ',"numberOfSeats":2,"totalAmount":3000.00,"paymentId":"a0000000-0000-4000-8000-000000000009"}',
        written(
            eventTimestamp="2026-03-01T07:06:39.500Z",
            confirmedAt="2026-03-01T08:05:00.123+01:00",
            numberOfSeats=2,
            totalAmount="3000",
            paymentId="a0000000-0000-4000-8000-000000000009",
        ),
    ],
    "booking.cancelled": [
        written(eventTimestamp=1772348799, cancelledAt=1772348700.123, cancellationReason="ill"),
        written(
            eventTimestamp="2026-03-01T07:06:39Z",
            cancelledAt="2026-03-01T07:05:00.123Z",
            cancellationReason="ill",
            cancelledBy=None,
        ),
    ],
    "booking.completed": [
        written(eventTimestamp=1772348799, completedAt=1772348700.123, totalAmount=3000.5),
        written(completedAt="2026-03-01T07:05:00.123Z", totalAmount="3000.50", confirmedAt="2026-03-01T06:00:00Z"),
    ],
    "trip.completed": [
        written(
            tripId="a0000000-0000-4000-8000-00000000000a",
            completedAt=1772348700.123,
            tripStartedAt=1772346600,
            totalPrice=3000.0,
            seatsBooked=2,
        ),
        written(
            tripId="a0000000-0000-4000-8000-00000000000a",
            eventTimestamp="2026-03-01T09:00:00Z",
            completedAt="2026-03-01T07:05:00.123Z",
            tripStartedAt="2026-03-01T06:30:00Z",
            totalPrice="3000.00",
            seatsBooked=2,
        ),
    ],
}  # fmt: skip

AT_MS = 1_772_348_700_123
KEPT = {
    "event_timestamp": AT_MS,
    "event_id": "a0000000-0000-4000-8000-000000000000",
    "booking_id": "a0000000-0000-4000-8000-000000000005",
    "rider_id": "a0000000-0000-4000-8000-000000000006",
    "route_id": "a0000000-0000-4000-8000-000000000003",
}
EXPECTED: dict[str, dict[str, Any]] = {
    "booking.created": {
        "seats_booked": 2,
        "total_price": "3000.0000",
        "currency": "NGN",
        "scheduled_departure": 1_772_431_500_000,
    },
    "booking.confirmed": {
        "seats_booked": 2,
        "total_price": "3000.0000",
        "currency": "NGN",
        "payment_id": "a0000000-0000-4000-8000-000000000009",
    },
    "booking.cancelled": {"cancellation_reason": "ill", "refund_initiated": False},
    "booking.completed": {"total_price": "3000.5000", "currency": "NGN", "actual_arrival": AT_MS},
    "trip.completed": {
        "trip_id": "a0000000-0000-4000-8000-00000000000a",
        "actual_departure": 1_772_346_600_000,
        "actual_arrival": AT_MS,
        "total_price": "3000.0000",
        "seats_booked": 2,
        "currency": "NGN",
    },
}


@pytest.mark.parametrize(("topic", "which"), [(topic, which) for topic in EXAMPLES for which in (0, 1)])
def test_what_the_java_services_send_is_understood(topic: str, which: int) -> None:
    assert content(topic, EXAMPLES[topic][which]) == {"event_type": topic, **KEPT, **EXPECTED[topic]}


@given(event_type=st.sampled_from(java.TYPES), seed=st.integers(0, 2**32))
def test_both_spellings_of_a_full_event_give_the_same_line(event_type: str, seed: int) -> None:
    event = full(event_type)
    ours = decode(msgspec.json.encode(event), ACCEPTANCE)
    assert SHIPPED.decoder(event_type)(java.spelled(event, Random(seed)), ACCEPTANCE) == ours


@given(events=streams.streams(), seed=st.integers(0, 2**32))
def test_both_spellings_of_any_event_give_the_same_line(events: list[dict[str, Any]], seed: int) -> None:
    chance = Random(seed)
    for event in events:
        topic = event["event_type"]
        if topic in java.TYPES:
            ours = decode(msgspec.json.encode(event), ACCEPTANCE)
            assert SHIPPED.decoder(topic)(java.spelled(event, chance), ACCEPTANCE) == ours


def test_an_event_without_an_id_gets_the_same_one_in_both_spellings() -> None:
    event = full("booking.confirmed")
    del event["event_id"]
    ours = decode(msgspec.json.encode(event), ACCEPTANCE)
    assert SHIPPED.decoder("booking.confirmed")(java.spelled(event, Random(1)), ACCEPTANCE) == ours


def test_other_topics_and_none_speak_as_the_contract_does() -> None:
    for topic in ("openride.events.booking", ""):
        assert SHIPPED.decoder(topic) is decode
    assert SHIPPED.topics == (*Kafka().topics, *java.TYPES)


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"totalAmount": -1}, "invalid_field", "totalAmount"),
        ({"totalAmount": 1.00001}, "invalid_field", "totalAmount"),
        ({"numberOfSeats": 0}, "invalid_field", "numberOfSeats"),
        ({"numberOfSeats": [1]}, "invalid_field", "numberOfSeats"),
        ({"riderId": None}, "invalid_field", "riderId"),
        ({"riderId": "a0000000000040008000000000000006"}, "invalid_field", "riderId"),
        ({"routeId": "road"}, "invalid_field", "routeId"),
        ({"travelDate": [2026, 2, 30]}, "invalid_field", "travelDate"),
        ({"travelDate": "tomorrow"}, "invalid_field", "travelDate"),
        ({"travelDate": {"year": 2026}}, "invalid_field", "travelDate"),
        ({"travelDate": [10**20, 1, 1]}, "invalid_field", "travelDate"),
        ({"travelDate": "20260302"}, "invalid_field", "travelDate"),
        ({"travelDate": "2026-W10-1"}, "invalid_field", "travelDate"),
        ({"travelDate": None}, "invalid_field", "travelDate"),
        ({"travelDate": None, "departureTime": None}, "invalid_field", "travelDate+departureTime"),
        ({"travelDate": [1, 1, 1], "departureTime": [0, 0]}, "timestamp_out_of_range", "travelDate+departureTime"),
        ({"departureTime": None}, "invalid_field", "departureTime"),
        ({"departureTime": [10**20, 1]}, "invalid_field", "departureTime"),
        ({"departureTime": [7, 5, 0, -1]}, "invalid_field", "departureTime"),
        ({"departureTime": [True, 5]}, "invalid_field", "departureTime"),
        ({"departureTime": "07:05+05:00"}, "invalid_field", "departureTime"),
        ({"departureTime": "0705"}, "invalid_field", "departureTime"),
        ({"departureTime": "07"}, "invalid_field", "departureTime"),
        ({"departureTime": [24, 0]}, "invalid_field", "departureTime"),
        ({"departureTime": [7]}, "invalid_field", "departureTime"),
        ({"departureTime": [7, 5, 0, 0, 0]}, "invalid_field", "departureTime"),
        ({"departureTime": 705}, "invalid_field", "departureTime"),
        ({"createdAt": "soon"}, "invalid_field", "createdAt"),
        ({"createdAt": "2014-12-31T23:59:59Z"}, "timestamp_out_of_range", "createdAt"),
        ({"createdAt": None, "eventTimestamp": None}, "invalid_field", "completedAt"),
        ({"createdAt": None, "eventTimestamp": "2014-12-31T23:59:59Z"}, "timestamp_out_of_range", "eventTimestamp"),
        ({"pickupLat": 91}, "invalid_field", "pickupLat"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_as_the_producer_wrote_it(
    change: dict[str, Any], reason: str, field: str
) -> None:
    record = {
        **IDS,
        "numberOfSeats": 2,
        "totalAmount": 3000,
        "travelDate": [2026, 3, 2],
        "departureTime": [7, 5],
        "createdAt": 1772348700,
        **change,
    }
    assert refusal("booking.created", json.dumps(record)) == (reason, field)


@pytest.mark.parametrize("number", ["1e99999999999999999999", "-1e-99999999999999999999", "9" * 4_000])
def test_a_number_beyond_all_bounds_is_refused_where_it_means_something_and_passed_over_elsewhere(
    number: str,
) -> None:
    record = EXAMPLES["booking.created"][0][:-1]
    for name in ("totalAmount", "numberOfSeats", "createdAt", "travelDate", "departureTime"):
        reason, field = refusal("booking.created", f'{record},"{name}":{number}}}')
        assert (reason, field) in {("invalid_field", name), ("timestamp_out_of_range", name)}
    assert content("booking.created", f'{record},"odometer":{number}}}')["seats_booked"] == 2


@given(
    name=st.sampled_from(("createdAt", "travelDate", "departureTime", "totalAmount", "riderId", "extra")),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
)  # fmt: skip
def test_whatever_stands_in_a_field_the_record_is_taken_or_refused(name: str, value: Any) -> None:
    record = json.dumps({**json.loads(EXAMPLES["booking.created"][0]), name: value}).encode()
    with suppress(BadEvent):
        SHIPPED.decoder("booking.created")(record, ACCEPTANCE)


@pytest.mark.parametrize("at", ["1772953200.000999999", '"2026-03-08T07:00:00.000999999Z"'])
def test_nanoseconds_are_cut_and_never_rounded_into_the_next_millisecond(at: str) -> None:
    record = written()[:-1] + f',"cancelledAt":{at}}}'
    assert content("booking.cancelled", record)["event_timestamp"] == 1_772_953_200_000


@pytest.mark.parametrize(
    ("clock", "milliseconds"),
    [
        ("07:05", 0),
        ("07:05:30", 30_000),
        ("07:05:30.5", 30_500),
        ("07:05:30.123456789", 30_123),
        ([7, 5], 0),
        ([7, 5, 30], 30_000),
        ([7, 5, 30, 123_000_000], 30_123),
        ([7, 5, 30, 999_999_999], 30_999),
    ],
)
@pytest.mark.parametrize("day", ["2026-03-02", [2026, 3, 2]])
def test_each_spelling_of_a_local_date_and_time_is_understood(
    day: Any, clock: Any, milliseconds: int
) -> None:
    record = {**json.loads(EXAMPLES["booking.created"][0]), "travelDate": day, "departureTime": clock}
    stored = content("booking.created", json.dumps(record))
    assert stored["scheduled_departure"] == 1_772_431_500_000 + milliseconds


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'{"bookingId":"\xff"}', "invalid_json"),
        (b'{"a":' * 5_000, "invalid_json"),
        (b"{" + b" " * 1_048_576 + b"}", "too_large"),
    ],
)
def test_what_is_no_record_is_refused_as_everywhere(record: bytes, reason: str) -> None:
    assert refusal("booking.created", record) == (reason, "")


def test_what_only_these_services_may_lack_is_required_of_others() -> None:
    for topic in java.TYPES:
        lacking = json.loads(EXAMPLES[topic][0])
        assert content(topic, json.dumps(lacking)).get("driver_id") is None
        event = {name: value for name, value in FULL[topic].items() if name != "driver_id"}
        assert refusal("openride.events.booking", json.dumps(event)) == ("invalid_field", "driver_id")


def test_only_what_the_model_of_the_metrics_is_tried_without_may_be_optional() -> None:
    assert {kind: set(fields) for kind, fields in streams.NOT_IN_JAVA.items()} == MAY_BE_UNKNOWN


def test_what_a_service_begins_to_send_is_stored() -> None:
    record = {**json.loads(EXAMPLES["trip.completed"][0]), "driverId": IDS["riderId"], "distanceKm": 12.5}
    stored = content("trip.completed", json.dumps(record))
    assert (stored["driver_id"], stored["distance_km"]) == (IDS["riderId"], 12.5)


def test_local_times_are_those_of_the_dialects_zone_across_its_clock_changes() -> None:
    paris = msgspec.structs.replace(Config().kafka.dialects["booking-service"], timezone="Europe/Paris")
    dialects = Dialects(Kafka(dialects={"booking-service": paris}))
    record = json.loads(EXAMPLES["booking.created"][0])
    for day, hour_utc in (([2026, 3, 28], 6), ([2026, 3, 29], 5)):
        at = content("booking.created", json.dumps({**record, "travelDate": day}), dialects)
        departure = datetime.fromtimestamp(at["scheduled_departure"] / 1000, UTC)
        assert (departure.day, departure.hour, departure.minute) == (day[2], hour_utc, 5)


def test_defaults_stand_in_for_what_is_not_sent() -> None:
    dialect = Dialect(
        topics={"cancellations": DialectTopic(event_type="booking.cancelled", optional=("driver_id",))},
        names={"event_timestamp": ("at",), "booking_id": ("reservation",)},
        defaults={"cancelled_by": "SYSTEM"},
    )
    dialects = Dialects(Kafka(dialects={"own": dialect}))
    record = written(reservation="a0000000-0000-4000-8000-000000000077", at=1772348700)
    stored = content("cancellations", record, dialects)
    assert (stored["cancelled_by"], stored["booking_id"][-2:]) == ("SYSTEM", "77")
    sent = content("cancellations", record[:-1] + ',"cancelledBy":"RIDER"}', dialects)
    assert sent["cancelled_by"] == "RIDER"


@pytest.mark.parametrize(
    ("dialects", "complaint"),
    [
        ({"a": Dialect(timezone="Lagos")}, "kafka.dialects.a.timezone: there is no time zone 'Lagos'"),
        ({"a": Dialect(topics={"t": DialectTopic(event_type="booking.made")})}, "there is no event type 'booking.made'"),
        (
            {"a": Dialect(topics={"t": DialectTopic(event_type="booking.created", optional=("seats",))})},
            "'seats' is no field that booking.created can do without",
        ),
        (
            {"a": Dialect(topics={"t": DialectTopic(event_type="trip.started", optional=("passengers_count",))})},
            "'passengers_count' is no field that trip.started can do without",
        ),
        (
            {"a": Dialect(topics={"t": DialectTopic(event_type="user.registered")}, names={"seats_booked": ("n",)})},
            "none of its events has a field 'seats_booked'",
        ),
        (
            {"a": Dialect(topics={"openride.events.user": DialectTopic(event_type="user.registered")})},
            "'openride.events.user' is listed elsewhere already",
        ),
    ],
)  # fmt: skip
def test_a_dialect_that_makes_no_sense_stops_the_start_with_one_line(
    dialects: dict[str, Dialect], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as told:
        Dialects(Kafka(dialects=dialects))
    assert "\n" not in str(told.value)


def test_a_file_replaces_the_dialects_that_it_names_and_no_other(tmp_path: Any) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[kafka.dialects.booking-service]\ntopics = {}\n")
    assert Dialects(load(file, {}).kafka).topics == (*Kafka().topics, "trip.completed")


def test_dead_letters_of_a_dialect_name_the_type_of_their_topic_and_hold_no_personal_data() -> None:
    record = b'{"fullName":"Ada Obi","phoneNumber":"+2348000000000","emailAddress":"a@b.ng","cardLast4":"4081","bookingId":1}'
    assert SHIPPED.event_type("booking.created", record) == "booking.created"
    assert SHIPPED.event_type("openride.events.user", b'{"event_type":"x.y"}') == "x.y"
    kept = DeadLetter.of(
        record, BadEvent("invalid_field", "…"), rejected_ms=0, topic="booking.created"
    ).record
    assert kept == (b'{"fullName":"-","phoneNumber":"-","emailAddress":"-","cardLast4":"-","bookingId":1}')
