"""The event contract, from both sides: what is accepted in which form, and what is refused with which reason."""

import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openride_analytics.contract import AnyEvent
from openride_analytics.events import Acceptance, BadEvent, Event, decode
from tests.samples import FULL, REQUIRED, Sample, full, minimal

NOW = datetime(2026, 4, 20, tzinfo=UTC)
ACCEPTANCE = Acceptance.at(NOW, currency="NGN", keep_days=730)
ANY_AGE = Acceptance.at(NOW, currency="NGN", keep_days=0)
REASONS = {
    *("invalid_json", "unknown_event_type", "invalid_field"),
    *("timestamp_out_of_range", "expired", "too_large"),
}
TYPES = sorted(FULL)
ENVELOPE = {"event_type", "event_timestamp"}


def encoded(event: Sample) -> bytes:
    return json.dumps(event).encode()


def accepted(event: Sample | bytes, acceptance: Acceptance = ACCEPTANCE) -> Event:
    return decode(event if isinstance(event, bytes) else encoded(event), acceptance)


def stored(event: Sample | bytes, acceptance: Acceptance = ACCEPTANCE) -> dict[str, Any]:
    """The accepted event's line, as data. Numbers with a point stay exact."""
    line: dict[str, Any] = json.loads(accepted(event, acceptance).line, parse_float=Decimal)
    return line


def refused(event: Sample | bytes, acceptance: Acceptance = ACCEPTANCE) -> BadEvent:
    with pytest.raises(BadEvent) as refusal:
        accepted(event, acceptance)
    return refusal.value


def tried(record: bytes) -> Event | BadEvent:
    try:
        return decode(record, ACCEPTANCE)
    except BadEvent as error:
        return error


def outcome(event: Sample | bytes) -> tuple[str, str]:
    error = refused(event)
    return error.reason, error.field


class TestTypes:
    def test_the_contract_names_18_types(self) -> None:
        assert len(FULL) == 18
        assert {struct.__struct_config__.tag for struct in AnyEvent.__args__} == set(FULL) == set(REQUIRED)

    @pytest.mark.parametrize("event_type", TYPES)
    def test_every_field_of_the_contract_is_kept(self, event_type: str) -> None:
        assert set(stored(full(event_type))) == set(FULL[event_type])

    @pytest.mark.parametrize("event_type", TYPES)
    def test_the_required_fields_alone_will_do(self, event_type: str) -> None:
        line = stored(minimal(event_type))
        assert set(line) >= {*REQUIRED[event_type], "event_id"}

    @pytest.mark.parametrize("event_type", TYPES)
    def test_null_is_as_good_as_missing_where_a_field_is_optional(self, event_type: str) -> None:
        nulls = dict.fromkeys(FULL[event_type].keys() - set(REQUIRED[event_type]))
        assert accepted(minimal(event_type, **nulls)) == accepted(minimal(event_type))

    @pytest.mark.parametrize(
        ("event_type", "field"), [(event_type, name) for event_type in TYPES for name in REQUIRED[event_type]]
    )
    def test_a_required_field_that_is_missing_is_named(self, event_type: str, field: str) -> None:
        event = full(event_type)
        del event[field]
        assert outcome(event) == ("invalid_field", field)

    @pytest.mark.parametrize(
        ("event_type", "field"), [(event_type, name) for event_type in TYPES for name in REQUIRED[event_type]]
    )
    def test_a_required_field_that_is_null_is_named(self, event_type: str, field: str) -> None:
        assert outcome(full(event_type, **{field: None})) == ("invalid_field", field)

    @pytest.mark.parametrize(
        ("event_type", "field"),
        [(event_type, name) for event_type in TYPES for name in FULL[event_type] if name != "event_type"],
    )
    def test_no_field_takes_an_object_or_a_truth_value_for_something_else(
        self, event_type: str, field: str
    ) -> None:
        assert outcome(full(event_type, **{field: {"value": 1}})) == ("invalid_field", field)
        wrong: Any = 1 if isinstance(FULL[event_type][field], bool) else True
        assert outcome(full(event_type, **{field: wrong})) == ("invalid_field", field)

    @pytest.mark.parametrize("event_type", TYPES)
    def test_only_positions_of_drivers_are_locations(self, event_type: str) -> None:
        assert accepted(full(event_type)).is_location is (event_type == "driver.location.updated")

    @pytest.mark.parametrize(
        "event_type",
        [
            "booking.create",
            "BOOKING.CREATED",
            "booking.created ",
            "",
            "b\u043e\u043eking.created",
            "booking\u2024created",
        ],
    )
    def test_a_type_that_only_looks_like_one_is_unknown(self, event_type: str) -> None:
        assert outcome(full("booking.created", event_type=event_type)) == ("unknown_event_type", "event_type")

    @pytest.mark.parametrize("event_type", TYPES)
    def test_unknown_fields_are_ignored(self, event_type: str) -> None:
        more = {"schema": 7, "nested": {"a": [1, None]}, "Event_Type": "x", "": 1}
        assert accepted(full(event_type, **more)) == accepted(full(event_type))

    def test_missing_values_take_the_contracts_defaults(self) -> None:
        assert stored(minimal("user.kyc_verified"))["kyc_status"] == "VERIFIED"
        upgraded = stored(minimal("user.upgraded_to_driver"))
        assert (upgraded["previous_role"], upgraded["new_role"]) == ("RIDER", "DRIVER")

    @pytest.mark.parametrize(
        ("event_type", "defaults"),
        [
            ("route.created", {"stops_count": 0, "active_days": []}),
            ("route.cancelled", {"active_bookings_count": 0}),
            ("booking.cancelled", {"refund_initiated": False}),
            ("trip.cancelled", {"was_started": False}),
        ],
    )
    def test_what_is_sent_as_it_would_be_by_default_is_the_same_event(
        self, event_type: str, defaults: dict[str, Any]
    ) -> None:
        assert accepted(minimal(event_type, **defaults)) == accepted(minimal(event_type))

    @pytest.mark.parametrize("event_type", [t for t in TYPES if "currency" in FULL[t]])
    def test_the_currency_is_the_configured_one_unless_it_is_sent(self, event_type: str) -> None:
        in_kenya = Acceptance.at(NOW, currency="KES", keep_days=730)
        assert stored(minimal(event_type), in_kenya)["currency"] == "KES"
        assert stored(full(event_type, currency="GHS"), in_kenya)["currency"] == "GHS"


class TestRanges:
    @pytest.mark.parametrize(
        ("event_type", "field", "good", "bad"),
        [
            ("user.registered", "role", ["RIDER", "DRIVER", "ADMIN"], ["rider", "", "OWNER", 1]),
            ("user.kyc_verified", "kyc_status", ["VERIFIED", "REJECTED"], ["PENDING", ""]),
            ("route.created", "seats_total", [1, 60], [0, 61, -1, 1.5, "4", 2**63, 10**30]),
            ("route.created", "stops_count", [0, 1000], [-1, 0.5, 2**32]),
            (
                "route.created",
                "departure_time",
                ["00:00", "23:59:59"],
                ["24:00", "7:05", "07:60", "07:05:60", "07:05\n"],
            ),
            (
                "route.created",
                "active_days",
                [[], ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]],
                ["MON"],
            ),
            ("route.cancelled", "active_bookings_count", [0], [-1]),
            ("booking.created", "seats_booked", [1, 60], [0, 61, "2"]),
            (
                "booking.created",
                "currency",
                ["NGN", "XOF"],
                ["ngn", "NG", "NGNN", "", "NGN\n", "N\u0413N", 566],
            ),
            ("booking.created", "pickup_lat", [-90, 90, 0, None], [-90.001, 90.001, "6.4"]),
            ("booking.created", "pickup_lon", [-180, 180, None], [-180.001, 181]),
            ("booking.created", "pickup_stop_id", [None], ["", "7"]),
            ("booking.cancelled", "cancelled_by", ["RIDER", "DRIVER", "SYSTEM"], ["ADMIN", "rider"]),
            ("booking.cancelled", "refund_initiated", [True, False, None], ["true", 0]),
            ("booking.completed", "duration_minutes", [0, 0.5, None], [-0.1, "45"]),
            ("payment.success", "processing_time_ms", [0, 4_294_967_295, None], [-1, 1.5, 4_294_967_296]),
            ("payment.initiated", "payment_method", ["card", ""], [5]),
            ("trip.started", "passengers_count", [1, 60], [0, 61]),
            ("trip.started", "start_lat", [-90, 90], [91]),
            ("trip.completed", "distance_km", [0, 12.5], [-1]),
            ("trip.completed", "on_time", [True, False, None], ["yes"]),
            ("trip.cancelled", "partial_distance_km", [0, None], [-1]),
            ("driver.location.updated", "bearing", [0, 359.999, None], [-0.001, 360]),
            ("driver.location.updated", "speed_kmh", [0, 300.5, None], [-1]),
            ("driver.location.updated", "lon", [-180, 180], [180.5, None]),
        ],
    )
    def test_values_are_taken_up_to_their_bounds(
        self, event_type: str, field: str, good: list[Any], bad: list[Any]
    ) -> None:
        for value in good:
            accepted(full(event_type, **{field: value}))
        for value in bad:
            assert outcome(full(event_type, **{field: value})) == ("invalid_field", field), value

    def test_the_path_leads_into_a_list(self) -> None:
        assert refused(full("route.created", active_days=["MON", "FUN"])).field == "active_days[1]"

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400])
    def test_numbers_beyond_all_bounds_are_refused(self, number: str) -> None:
        for event_type, field in (("trip.completed", "distance_km"), ("booking.created", "seats_booked")):
            record = encoded(full(event_type, **{field: "HERE"})).replace(b'"HERE"', number.encode())
            error = refused(record)
            assert error.reason in {"invalid_field", "invalid_json"}

    @pytest.mark.parametrize(
        "text", ["", "7", "a0000000-0000-4000-8000-00000000000", "{a0000000-0000-4000-8000-000000000000}", 5]
    )
    def test_what_is_no_uuid_is_refused(self, text: Any) -> None:
        assert outcome(full("booking.created", rider_id=text)) == ("invalid_field", "rider_id")
        assert outcome(full("booking.created", event_id=text)) == ("invalid_field", "event_id")

    def test_the_nil_uuid_stands_for_none(self) -> None:
        nil = str(UUID(int=0))
        for name in ("rider_id", "booking_id"):
            assert outcome(full("booking.created", **{name: nil})) == ("invalid_field", name)
        without = {name: value for name, value in FULL["booking.created"].items() if name != "pickup_stop_id"}
        assert accepted(full("booking.created", pickup_stop_id=nil)) == accepted(without)
        assert accepted(minimal("booking.created", event_id=nil)) == accepted(minimal("booking.created"))

    @pytest.mark.parametrize("event_type", TYPES)
    def test_upper_case_ids_are_the_same_ids(self, event_type: str) -> None:
        upper = {name: v.upper() for name, v in FULL[event_type].items() if name.endswith(("_id", "_by"))}
        ids = {name: v for name, v in upper.items() if len(v) == 36}
        assert accepted(full(event_type, **ids)) == accepted(full(event_type))


class TestTimes:
    @pytest.mark.parametrize(
        "spelling",
        [
            "2026-03-01T07:05:00.250Z",
            "2026-03-01T08:05:00.250+01:00",
            "2026-02-28T20:05:00.250-11:00",
            "2026-03-01T12:50:00.250+05:45",
            "2026-03-01T07:05:00.250",
            "2026-03-01T07:05:00.250999Z",
            "2026-03-01t07:05:00.25z",
            1772348700.25,
            1772348700.2509,
            1772348700250,
            1772348700250.0,
            1772348700250.9,
        ],
    )
    def test_one_instant_has_many_spellings_and_one_line(self, spelling: Any) -> None:
        event = minimal("booking.created", event_timestamp=spelling, scheduled_departure=spelling)
        assert accepted(event) == accepted(
            minimal("booking.created", event_timestamp=1772348700250, scheduled_departure=1772348700250)
        )
        assert stored(event)["event_timestamp"] == stored(event)["scheduled_departure"] == 1_772_348_700_250

    @given(ms=st.integers(1_700_000_000_000, 1_776_000_000_000))
    def test_an_instant_is_the_same_as_text_and_as_a_number(self, ms: int) -> None:
        instant = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
        spellings: list[Any] = [
            ms,
            ms / 1000,
            instant.isoformat(),
            instant.isoformat(timespec="microseconds").removesuffix("+00:00"),
        ]
        lines = {accepted(minimal("route.activated", event_timestamp=s), ANY_AGE).line for s in spellings}
        assert len(lines) == 1
        assert json.loads(lines.pop())["event_timestamp"] == ms

    @given(
        instant=st.datetimes(datetime(2025, 1, 1), datetime(2026, 4, 1)),  # noqa: DTZ001  # the offset is added
        offset=st.integers(-23 * 60 - 59, 23 * 60 + 59),
    )
    def test_times_are_cut_to_the_millisecond_in_any_offset(self, instant: datetime, offset: int) -> None:
        sign, minutes = ("-" if offset < 0 else "+"), abs(offset)
        text = f"{instant.isoformat(timespec='microseconds')}{sign}{minutes // 60:02}:{minutes % 60:02}"
        exact = instant.replace(tzinfo=UTC) - timedelta(minutes=offset)
        expected = (exact - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        assert stored(minimal("route.activated", event_timestamp=text))["event_timestamp"] == expected

    def test_numbers_are_seconds_below_1e11_and_milliseconds_from_there_on(self) -> None:
        error = refused(minimal("route.activated", event_timestamp=99_999_999_999))
        assert error.reason == "timestamp_out_of_range"  # the year 5138
        error = refused(minimal("route.activated", event_timestamp=100_000_000_000))
        assert error.reason == "timestamp_out_of_range"  # the year 1973

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "now",
                "2026-03-01",
                "07:05:00",
                "1772348700",
                "2026-02-30T07:05:00Z",
                "2026-03-01T25:00:00Z",
            ),
            *(
                "2026-03-01T07:05:00+25:00",
                "2026-03-01T07:05:00Z ",
                "２０２６-03-01T07:05:00Z",
                True,
                [2026, 3, 1],
            ),
        ],
    )
    def test_what_is_no_time_is_an_invalid_field(self, text: Any) -> None:
        assert outcome(minimal("route.activated", event_timestamp=text)) == (
            "invalid_field",
            "event_timestamp",
        )
        error = refused(minimal("booking.created", scheduled_departure=text))
        assert (error.reason, error.field) == ("invalid_field", "scheduled_departure")

    def test_events_are_taken_from_2015_to_a_day_ahead(self) -> None:
        tomorrow = NOW + timedelta(days=1)
        for moment in (datetime(2015, 1, 1, tzinfo=UTC), NOW, tomorrow):
            accepted(minimal("route.activated", event_timestamp=moment.isoformat()), ANY_AGE)
        for moment in (
            datetime(2014, 12, 31, 23, 59, 59, 999_000, UTC),
            tomorrow + timedelta(milliseconds=1),
        ):
            error = refused(minimal("route.activated", event_timestamp=moment.isoformat()), ANY_AGE)
            assert (error.reason, error.field) == ("timestamp_out_of_range", "event_timestamp")

    @pytest.mark.parametrize(
        "beyond",
        [
            0,
            -1,
            -1e300,
            1e300,
            10**400,
            4_294_967_296,
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
        ],
    )
    def test_absurd_times_are_out_of_range(self, beyond: Any) -> None:
        for event, field in (
            (minimal("booking.created", event_timestamp=beyond), "event_timestamp"),
            (minimal("booking.created", scheduled_departure=beyond), "scheduled_departure"),
        ):
            error = refused(event, ANY_AGE)
            assert error.reason in {"timestamp_out_of_range", "invalid_field"}
            assert error.field == field

    def test_a_departure_may_be_planned_long_ahead(self) -> None:
        line = stored(minimal("booking.created", scheduled_departure="2027-12-24T06:00:00Z"))
        assert line["scheduled_departure"] == 1_829_628_000_000

    @pytest.mark.parametrize("field", ["actual_departure", "actual_arrival"])
    def test_what_has_happened_is_at_most_a_day_ahead(self, field: str) -> None:
        accepted(full("trip.completed", **{field: (NOW + timedelta(days=1)).isoformat()}))
        late = full("trip.completed", **{field: (NOW + timedelta(days=1, milliseconds=1)).isoformat()})
        assert outcome(late) == ("timestamp_out_of_range", field)

    def test_events_older_than_the_retention_have_expired(self) -> None:
        oldest = NOW - timedelta(days=730)
        accepted(minimal("route.activated", event_timestamp=oldest.isoformat()))
        late = minimal("route.activated", event_timestamp=(oldest - timedelta(milliseconds=1)).isoformat())
        assert outcome(late) == ("expired", "event_timestamp")
        accepted(late, ANY_AGE)

    def test_what_is_out_of_range_is_not_called_expired(self) -> None:
        assert refused(minimal("route.activated", event_timestamp=0)).reason == "timestamp_out_of_range"


class TestMoney:
    @pytest.mark.parametrize(
        ("spelling", "amount"),
        [
            ('"3000.00"', "3000.0000"),
            ("3000", "3000.0000"),
            ("3000.5", "3000.5000"),
            ("0.1", "0.1000"),
            ('"0.0001"', "0.0001"),
            ("1.00000000", "1.0000"),
            ("3e3", "3000.0000"),
            ("0", "0.0000"),
            ("-0", "0.0000"),
            ('"-0.00"', "0.0000"),
            ('"99999999999999.9999"', "99999999999999.9999"),
        ],
    )
    def test_amounts_are_exact_and_have_four_decimals(self, spelling: str, amount: str) -> None:
        record = encoded(minimal("payment.initiated", amount="HERE")).replace(b'"HERE"', spelling.encode())
        assert stored(record)["amount"] == amount

    @pytest.mark.parametrize(
        "spelling",
        [
            *('"1.00001"', "0.00005", "1e-5", '"99999999999999.99999"', '"100000000000000"', "1e14"),
            *('"-0.01"', "-1", '"NaN"', '"sNaN"', '"-NaN"', '"Infinity"', '"-Infinity"', '"inf"'),
            *('""', '" "', '"1,5"', '"1 000"', '"NGN 5"', '"0x10"', "true", "null", "[]", "{}"),
        ],
    )
    def test_other_amounts_are_refused(self, spelling: str) -> None:
        for event_type in ("payment.initiated", "payment.success"):
            record = encoded(minimal(event_type, amount="HERE")).replace(b'"HERE"', spelling.encode())
            assert outcome(record) == ("invalid_field", "amount")

    @pytest.mark.parametrize(
        "spelling",
        [
            *(
                "1E+400000",
                "1E-400000",
                '"1E+400000"',
                '"1E-400000"',
                '"1E+999999999999999999"',
                '"0E+400000"',
            ),
            pytest.param("9" * 500_000, id="number of 500,000 digits"),
            pytest.param('"' + "9" * 500_000 + '"', id="text of 500,000 digits"),
            pytest.param('"0.' + "0" * 500_000 + '1"', id="500,000 decimals"),
        ],
    )
    def test_huge_numbers_do_not_hold_up_the_stream(self, spelling: str) -> None:
        record = encoded(minimal("payment.initiated", amount="HERE")).replace(b'"HERE"', spelling.encode())
        began = time.perf_counter()
        result = tried(record)
        assert time.perf_counter() - began < 0.25
        if isinstance(result, BadEvent):
            assert (result.reason, result.field) == ("invalid_field", "amount")
            assert len(result.detail) < 200
        else:
            assert json.loads(result.line)["amount"] == "0.0000"

    @given(amount=st.decimals(0, Decimal(10**14 - 1), places=4))
    def test_no_digit_of_an_amount_is_lost(self, amount: Decimal) -> None:
        as_text = stored(minimal("payment.initiated", amount=str(amount)))
        assert Decimal(as_text["amount"]) == amount
        assert as_text["amount"] == f"{amount.copy_abs():.4f}"
        as_number = encoded(minimal("payment.initiated", amount="HERE")).replace(
            b'"HERE"', f"{amount:f}".encode()
        )
        assert stored(as_number) == as_text

    @pytest.mark.parametrize(
        ("event_type", "field"),
        [
            ("route.created", "base_price"),
            ("booking.created", "total_price"),
            ("booking.confirmed", "total_price"),
            ("booking.completed", "total_price"),
            ("payment.success", "amount"),
            ("payment.failed", "amount"),
            ("payment.refunded", "refund_amount"),
            ("payment.refunded", "original_amount"),
            ("trip.completed", "driver_earnings"),
            ("trip.completed", "platform_commission"),
        ],
    )
    def test_every_amount_is_checked(self, event_type: str, field: str) -> None:
        assert stored(full(event_type, **{field: 12.5}))[field] == "12.5000"
        for bad in ("-1", "0.00001", "NaN"):
            assert outcome(full(event_type, **{field: bad})) == ("invalid_field", field)


class TestEventIds:
    @pytest.mark.parametrize("event_type", TYPES)
    def test_the_producers_id_is_kept(self, event_type: str) -> None:
        event = accepted(full(event_type))
        assert event.event_id == FULL[event_type]["event_id"]
        assert json.loads(event.line)["event_id"] == FULL[event_type]["event_id"]

    @pytest.mark.parametrize("event_type", TYPES)
    def test_a_missing_id_is_derived_and_a_valid_uuid(self, event_type: str) -> None:
        event = accepted(minimal(event_type))
        text = event.event_id
        assert json.loads(event.line)["event_id"] == text
        assert str(UUID(text)) == text
        assert UUID(text).version == 8

    @given(data=st.data(), event_type=st.sampled_from(TYPES))
    def test_the_same_content_has_the_same_id_whatever_the_order_and_spelling(
        self, data: st.DataObject, event_type: str
    ) -> None:
        event = full(event_type)
        del event["event_id"]
        respelled = {
            name: value.upper() if name.endswith("_id") and len(value) == 36 else value
            for name, value in data.draw(st.permutations(list(event.items())))
        }
        text = json.dumps(
            {**respelled, "sent_at": data.draw(st.integers()), "event_id": None},
            ensure_ascii=data.draw(st.booleans()),
            indent=data.draw(st.sampled_from([None, 2])),
        )
        assert accepted(text.encode()) == accepted(event)

    @pytest.mark.parametrize("event_type", TYPES)
    def test_every_field_counts_for_the_id(self, event_type: str) -> None:
        event = full(event_type)
        del event["event_id"]
        ids = {stored(event)["event_id"]}
        others = {
            **{name: value.replace("a", "b") for name, value in event.items() if name.endswith("_id")},
            "event_timestamp": "2026-03-01T07:05:00.001Z",
        }
        optional = event.keys() - set(REQUIRED[event_type]) - {"event_type"}
        variants = [{**event, name: value} for name, value in others.items() if value != event[name]]
        variants += [
            {**event, name: None}
            for name in optional
            if name not in {"currency", "previous_role", "new_role"}
        ]
        for variant in variants:
            ids.add(stored(variant)["event_id"])
        assert len(ids) == 1 + len(variants)
