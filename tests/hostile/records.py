"""Hostile records, as a table: what is sent, and what the contract says becomes of it.

Each record carries personal data where it can, so that whatever is kept of it must have been blanked.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from openride_analytics.events import MAX_RECORD_BYTES
from tests.samples import FULL, Sample

PERSONAL = {
    "phone": "+2348030009911",
    "email": "ada.hostile@example.org",
    "full_name": "Ada Hostile-Obi",
    "card_last4": "9911-4242",
}
SECRETS = tuple(PERSONAL.values())
TEN_MEGABYTES = 10_000_000
DEEP = 5_000

_NAMES = UUID("5d7e8c1e-0000-4000-8000-000000000001")


class Case(NamedTuple):
    """One record. Without a reason it is accepted, and `row` says what some columns hold then, as text."""

    name: str
    record: bytes | None
    reason: str = ""
    field: str = ""
    row: Mapping[str, str] = MappingProxyType({})
    event_id: str = ""
    """Of an accepted record."""
    at_once: bool = False
    """True only at the very moment for which the table was made."""

    @property
    def kept(self) -> bytes:
        """The bytes that a dead letter keeps: as they came, personal fields blanked."""
        record = self.record or b""
        for secret in SECRETS:
            record = record.replace(json.dumps(secret).encode(), b'"-"')
        return record

    @property
    def is_a_line(self) -> bool:
        """Whether NDJSON can carry it as one record."""
        return bool(self.record) and b"\n" not in self.record and bool(self.record.strip())  # type: ignore[operator,union-attr]


class Table:
    """Makes the cases for a moment; `run` keeps the ids of several runs apart."""

    def __init__(self, now: datetime, run: str = "") -> None:
        self.now = now
        self.run = run
        self.cases: list[Case] = []

    # What cases are made of

    def event(self, name: str, event_type: str, /, **changes: Any) -> Sample:
        """A complete event of an hour ago with personal data in front and an id of its own; `...` takes a field away."""
        event = {
            **PERSONAL,
            **FULL[event_type],
            "event_id": str(uuid5(_NAMES, f"{self.run} {name}")),
            "event_timestamp": (self.now - timedelta(hours=1)).isoformat(),
            **changes,
        }
        return {field: value for field, value in event.items() if value is not ...}

    def good(self, name: str, event_type: str = "booking.created", /, **changes: Any) -> bytes:
        """The same as bytes, compact and in UTF-8."""
        return encoded(self.event(name, event_type, **changes))

    def add(self, name: str, record: bytes | None, reason: str, field: str = "") -> None:
        """A record that is refused."""
        self.cases.append(Case(name, record, reason, field))

    def accept(self, name: str, record: bytes, **row: str) -> None:
        """A record made with this name that is accepted."""
        self.cases.append(Case(name, record, row=row, event_id=str(uuid5(_NAMES, f"{self.run} {name}"))))

    def value(
        self, name: str, event_type: str, field: str, json_text: str, *, stored: str | None = None
    ) -> None:
        """A field with a value as JSON spells it: invalid, unless it says what is stored."""
        record = self.good(name, event_type, **{field: "HERE"}).replace(b'"HERE"', json_text.encode())
        if stored is None:
            self.add(name, record, "invalid_field", field)
        else:
            self.accept(name, record, **{field: stored})

    # The table

    def no_object(self) -> None:
        """What is no JSON object in UTF-8."""
        good = self.good("whole")
        for name, record in {
            "nothing": b"",
            "a blank": b" ",
            "a NUL": b"\x00",
            "many NULs": b"\x00" * 1_000,
            "random bytes": bytes(range(128, 256)),
            "UTF-16 mark alone": b"\xff\xfe",
            "UTF-16": json.dumps(FULL["route.activated"]).encode("utf-16"),
            "BOM": b"\xef\xbb\xbf" + self.good("BOM"),
            "null": b"null",
            "true": b"true",
            "a number": b"17",
            "a text": b'"booking.created"',
            "an empty array": b"[]",
            "an empty object in an array": b"[{}]",
            "an event in an array": b"[" + self.good("in an array") + b"]",
            "two events, one behind the other": self.good("first") + self.good("second"),
            "two events with a comma": self.good("first, comma") + b"," + self.good("second, comma"),
            "an event and a brace": self.good("brace") + b"}",
            "an event and a NUL": self.good("NUL behind") + b"\x00",
            "a NUL and an event": b"\x00" + self.good("NUL before"),
            "an event and a comment": self.good("comment") + b" // late",
            "a comment inside": self.good("comment inside").replace(b"{", b"{/* hello */", 1),
            "a comma at the end": self.good("trailing comma")[:-1] + b",}",
            "a comma at the beginning": self.good("leading comma").replace(b"{", b"{,", 1),
            "single quotes": b"{'event_type':'booking.created'}",
            "no quotes": b"{event_type:booking.created}",
            "a semicolon for a comma": self.good("semicolon").replace(b',"event_type"', b';"event_type"'),
            "an equals sign for a colon": b'{"event_type"="booking.created"}',
            "XML": b"<event type='booking.created'/>",
            "a Java object": b"\xac\xed\x00\x05sr\x00\x17com.openride.BookingEvent",
            "Avro's magic byte": b"\x00\x00\x00\x00\x07" + self.good("avro"),
            "Protobuf": b"\n\x0fbooking.created\x12\x04\x08\x01",
            "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff",
            "an HTTP request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "invalid UTF-8": self.good("invalid UTF-8", city="HERE").replace(b"HERE", b"Ibad\xe0n \xff"),
            "overlong UTF-8": self.good("overlong", route_id="HERE").replace(b"HERE", b"\xc0\xaf"),
            "a surrogate in UTF-8": self.good("surrogate", "route.activated", route_name="HERE").replace(
                b"HERE", b"\xed\xa0\x80"
            ),
            "a cut UTF-8 character": self.good("cut character", "route.activated", route_name="HERE").replace(
                b"HERE", b"\xf0\x9f\x9a"
            ),
            "a lone surrogate, escaped": self.good("escape", "route.activated", route_name="HERE").replace(
                b"HERE", b"\\ud800"
            ),
            "a low surrogate, escaped": self.good("low escape", "route.activated", route_name="HERE").replace(
                b"HERE", b"\\udc00x"
            ),
            "two high surrogates, escaped": self.good("high", "route.activated", route_name="HERE").replace(
                b"HERE", b"\\ud83d\\ud83d"
            ),
            "an unknown escape": self.good("unknown escape", "route.activated", route_name="HERE").replace(
                b"HERE", b"\\x41"
            ),
            "a raw NUL in a text": self.good("raw NUL", "route.activated", route_name="HERE").replace(
                b"HERE", b"a\x00b"
            ),
            "a raw tab in a text": self.good("raw tab", "route.activated", route_name="HERE").replace(
                b"HERE", b"a\tb"
            ),
            "a raw line break in a text": self.good("break", "route.activated", route_name="HERE").replace(
                b"HERE", b"a\nb"
            ),
            "NaN": self.good("NaN", pickup_lat="HERE").replace(b'"HERE"', b"NaN"),
            "Infinity": self.good("Infinity", pickup_lat="HERE").replace(b'"HERE"', b"Infinity"),
            "-Infinity": self.good("-Infinity", pickup_lat="HERE").replace(b'"HERE"', b"-Infinity"),
            "undefined": self.good("undefined", pickup_lat="HERE").replace(b'"HERE"', b"undefined"),
            "a leading zero": self.good("zero", seats_booked="HERE").replace(b'"HERE"', b"02"),
            "a leading plus": self.good("plus", seats_booked="HERE").replace(b'"HERE"', b"+2"),
            "a hexadecimal number": self.good("hex", pickup_lat="HERE").replace(b'"HERE"', b"0x2"),
            "a point without digits": self.good("point", pickup_lat="HERE").replace(b'"HERE"', b"6."),
            "a point before digits": self.good("before", pickup_lat="HERE").replace(b'"HERE"', b".6"),
            "an exponent without digits": self.good("e", pickup_lat="HERE").replace(b'"HERE"', b"6e"),
            "True, as Python has it": self.good("True", "booking.cancelled", refund_initiated="HERE").replace(
                b'"HERE"', b"True"
            ),
            "open arrays, deep": b"[" * DEEP,
            "open objects, deep": b'{"a":' * DEEP,
            "closed arrays, deep": b"[" * DEEP + b"]" * DEEP,
            "closed objects, deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
            "an unknown field, deep": self.good("deep")[:-1] + b',"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
            "a known field, deep": self.good("deep known", total_price="HERE").replace(
                b'"HERE"', b"[" * DEEP + b"]" * DEEP
            ),
            "closing brackets": b"]" * DEEP,
            "a million quotes": b'"' * 1_000_000,
            "a million backslashes": b'{"a":"' + b"\\" * 1_000_000,
            "a million open strings": (b'{"trace":"' * 100_000)[:1_000_000],
            "a key alone": b'{"event_type"}',
            "a key that is a number": b'{1:"booking.created"}',
            "a carriage return alone": b"\r",
        }.items():
            self.add(name, record, "invalid_json")
        for name, mark in {
            "after the brace": '{"',
            "in a key": "ent_type",
            "after a key": ':"booking.created"',
            "after a colon": '"booking.created"',
            "in a text": "ing.created",
            "after a text": ',"event_timestamp"',
            "in an id": "0000-4000",
            "in a number": ".44",
            "in an escape": None,
            "in a universal escape": None,
            "in a character": None,
            "in a literal": None,
            "before the last brace": None,
        }.items():
            record = good[: good.index(mark.encode()) + (1 if mark == '{"' else 0)] if mark else good[:-1]
            special = {
                "in an escape": b'{"event_type":"route.activated","route_name":"a\\',
                "in a universal escape": b'{"event_type":"route.activated","route_name":"a\\u12',
                "in a character": b'{"event_type":"route.activated","route_name":"\xe2\x82',
                "in a literal": b'{"event_type":"booking.cancelled","refund_initiated":tru',
            }
            self.add(f"cut off {name}", special.get(name, record), "invalid_json")

    def types(self) -> None:
        """Event types that are none."""
        for name, event_type in {
            "upper case": "BOOKING.CREATED",
            "one upper letter": "booking.Created",
            "a space behind": "booking.created ",
            "a space before": " booking.created",
            "a tab behind": "booking.created\t",
            "a line break behind": "booking.created\n",
            "a NUL behind": "booking.created\0",
            "a zero-width space": "booking.created\u200b",
            "a BOM": "\ufeffbooking.created",
            "Cyrillic o": "b\u043e\u043eking.created",
            "full-width letters": "\uff42ooking.created",
            "a one-dot leader": "booking\u2024created",
            "an accent": "booking.cre\u0301ated",
            "right-to-left override": "\u202ebooking.created",
            "an underscore": "booking_created",
            "a plural": "bookings.created",
            "a prefix": "openride.booking.created",
            "the first half": "booking",
            "nothing": "",
            "a very long one": "x" * 100_000,
            "SQL": "booking.created'; DROP TABLE events; --",
            "a template": "${jndi:ldap://127.0.0.1/a}",
            "a path": "../../etc/passwd",
        }.items():
            record = self.good(f"type: {name}", event_type=event_type)
            self.add(f"type: {name}", record, "unknown_event_type", "event_type")
        self.add("type: missing", self.good("no type", event_type=...), "invalid_field", "event_type")
        for json_text in ("null", "7", "true", "[]", "{}", '["booking.created"]'):
            self.value(f"type: {json_text}", "booking.created", "event_type", json_text)
        self.add("an empty object", b"{}", "invalid_field", "event_type")
        self.add(
            "another type's name the second time",
            self.good("two types")[:-1] + b',"event_type":"no.such"}',
            "unknown_event_type",
            "event_type",
        )
        self.accept(
            "type: escaped",
            self.good("type: escaped").replace(b"booking.c", b"\\u0062ooking.c"),
            event_type="booking.created",
        )

    def ids(self) -> None:
        """Spellings of ids."""
        canonical = "0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"
        for name, text in {
            "without hyphens": canonical.replace("-", ""),
            "without hyphens, upper case": canonical.replace("-", "").upper(),
            "without hyphens, escaped": canonical.replace("-", ""),
            "without hyphens, all letters": "abcdefab" * 4,
            "one hyphen": "0f8c2d1e-5b1b4f4e8f637a9d2c3b4a5f",
            "hyphens elsewhere": "0f8c2d1e5-b1b-4f4e-8f63-7a9d2c3b4a5f",
            "in braces": "{" + canonical + "}",
            "as a URN": "urn:uuid:" + canonical,
            "a digit short": canonical[:-1],
            "a digit long": canonical + "0",
            "a letter g": canonical.replace("f", "g"),
            "a space behind": canonical + " ",
            "a space before": " " + canonical,
            "a line break behind": canonical + "\n",
            "full-width digits": canonical.replace("0", "\uff10"),
            "Arabic digits": canonical.replace("0", "\u0660"),
            "dashes": canonical.replace("-", "\u2010"),
            "underscores": canonical.replace("-", "_"),
            "a NUL behind": canonical + "\0",
            "empty": "",
            "a number as text": "42",
            "a hundred kilobytes": "a" * 100_000,
        }.items():
            json_text = json.dumps(text)
            if "escaped" in name:
                json_text = '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'
            for field in ("rider_id", "pickup_stop_id"):
                self.value(f"id {name} in {field}", "booking.created", field, json_text)
            self.value(f"event id {name}", "driver.location.updated", "event_id", json_text)
        self.value(
            "id of upper case", "booking.created", "rider_id", f'"{canonical.upper()}"', stored=canonical
        )
        self.value(
            "id of mixed case", "trip.cancelled", "route_id", f'"{canonical.title()}"', stored=canonical
        )
        escaped = '"' + "".join(f"\\u{ord(letter):04X}" for letter in canonical) + '"'
        self.value("id escaped", "booking.created", "rider_id", escaped, stored=canonical)
        self.value("nil id", "booking.created", "rider_id", f'"{UUID(int=0)}"', stored=str(UUID(int=0)))
        self.value(
            "greatest id",
            "booking.created",
            "rider_id",
            f'"{UUID(int=2**128 - 1)}"',
            stored=str(UUID(int=2**128 - 1)),
        )
        absurd = {
            "1e400": b"1e400",
            "-1E+400000": b"-1E+400000",
            "400 digits": b"9" * 400,
            "5,000 digits": b"9" * 5_000,
        }
        for name, number in absurd.items():
            # Looking at ids again must not trip over what is ignored.
            record = self.good(f"no hyphens and {name}", rider_id=canonical.replace("-", ""))
            self.add(
                f"no hyphens and {name}", record[:-1] + b',"x":' + number + b"}", "invalid_field", "rider_id"
            )
            record = self.good(f"hexadecimal and {name}", "user.registered", referral_code="abcdef01" * 8)
            self.accept(f"hexadecimal and {name}", record[:-1] + b',"x":' + number + b"}", role="DRIVER")
        hex_text = "abcdef0123456789" * 4
        self.value(
            "hexadecimal text elsewhere", "user.registered", "referral_code", f'"{hex_text}"', stored=hex_text
        )

    def money(self) -> None:
        """Spellings of amounts."""
        for json_text in (
            *(
                '"1_000"',
                '" 1"',
                '"1 "',
                '"1e3"',
                '"1E3"',
                '"+1"',
                '"\u0663"',
                '"\u0663.00"',
                '"1,000.00"',
                '"1.000,00"',
            ),
            *(
                '"NGN 5"',
                '"$5"',
                '"0x10"',
                '""',
                '" "',
                '"."',
                '".5"',
                '"5."',
                '"1.2.3"',
                '"--1"',
                '"1\\n"',
                '"1\\u0000"',
            ),
            *(
                '"NaN"',
                '"sNaN"',
                '"Infinity"',
                '"-Infinity"',
                '"inf"',
                '"nan123"',
                '"1/3"',
                '"\uff11"',
                '"\u2460"',
            ),
            *(
                '"-0.01"',
                "-1",
                "-0.0001",
                '"1.00001"',
                "1.00001",
                "1e-5",
                "0.00001",
                "1e14",
                "100000000000000",
            ),
            *(
                '"100000000000000"',
                '"99999999999999.99999"',
                "1E+400000",
                "1E-400000",
                "-1E+400000",
                "1e999999999999999999999",
            ),
            *(
                '"1E+400000"',
                '"0E+400000"',
                "9223372036854775807",
                "18446744073709551616",
                "1e15",
                "null",
                "true",
                "[]",
                "{}",
            ),
            *(
                '["1"]',
                '{"value":1}',
                '"1' + "0" * 500_000 + '"',
                "1" + "0" * 500_000,
                '"0.' + "0" * 500_000 + '1"',
            ),
        ):
            for event_type, field in (("booking.created", "total_price"), ("payment.success", "amount")):
                self.value(f"{field} {json_text[:40]}", event_type, field, json_text)
        for json_text, stored in {
            '"0"': "0",
            '"-0.00"': "0",
            "-0": "0",
            "-0.0": "0",
            "0e400000": "0",
            '"3000.0000"': "3000",
            '"0003000.00"': "3000",
            '"3000.00000000"': "3000",
            "3000.5": "3000.5",
            "0.1": "0.1",
            "0.0001": "0.0001",
            "1e-4": "0.0001",
            "3e3": "3000",
            "3.0005E3": "3000.5",
            "1e13": "10000000000000",
            '"99999999999999.9999"': "99999999999999.9999",
            "99999999999999.9999": "99999999999999.9999",
            "99999999999999": "99999999999999",
            "1.00000000": "1",
        }.items():
            self.value(f"amount {json_text}", "payment.initiated", "amount", json_text, stored=stored)
        for text in (
            "ngn",
            "NG",
            "NGNN",
            "",
            " NGN",
            "NGN ",
            "NGN\n",
            "N\u0413N",
            "\uff2e\uff27\uff2e",
            "566",
            "N1N",
            "\u20a6",
        ):
            self.value(f"currency {text!r}", "booking.created", "currency", json.dumps(text))
        self.value("a currency that is a number", "booking.created", "currency", "566")
        self.value("a currency nobody uses", "booking.created", "currency", '"XXX"', stored="XXX")

    def times(self) -> None:
        """Times and moments."""
        for name, json_text in {
            "year 0": '"0000-01-01T00:00:00Z"',
            "a day alone": '"2026-03-01"',
            "a time alone": '"07:05:00"',
            "no seconds": '"2026-03-01T07:05Z"',
            "a number as text": '"1772348700"',
            "Sunday": '"Sun, 01 Mar 2026 07:05:00 GMT"',
            "slashes": '"2026/03/01 07:05:00"',
            "30 February": '"2026-02-30T07:05:00Z"',
            "29 February of no leap year": '"2026-02-29T07:05:00Z"',
            "month 13": '"2026-13-01T07:05:00Z"',
            "month 0": '"2026-00-01T07:05:00Z"',
            "day 0": '"2026-03-00T07:05:00Z"',
            "hour 24": '"2026-03-01T24:00:00Z"',
            "hour 25": '"2026-03-01T25:00:00Z"',
            "minute 60": '"2026-03-01T07:60:00Z"',
            "a leap second": '"2026-06-30T23:59:60Z"',
            "second 61": '"2026-06-30T23:59:61Z"',
            "offset +24:00": '"2026-03-01T07:05:00+24:00"',
            "offset +25:00": '"2026-03-01T07:05:00+25:00"',
            "offset -99:99": '"2026-03-01T07:05:00-99:99"',
            "offset +01:60": '"2026-03-01T07:05:00+01:60"',
            "offset +1": '"2026-03-01T07:05:00+1"',
            "a zone by name": '"2026-03-01T07:05:00 Africa/Lagos"',
            "a space behind": '"2026-03-01T07:05:00Z "',
            "a space before": '" 2026-03-01T07:05:00Z"',
            "full-width digits": '"\uff12026-03-01T07:05:00Z"',
            "Arabic digits": '"\u0662\u0660\u0662\u0666-03-01T07:05:00Z"',
            "year of five digits": '"12026-03-01T07:05:00Z"',
            "a year before Christ": '"-2026-03-01T07:05:00Z"',
            "empty": '""',
            "now": '"now"',
            "an array": "[2026,3,1,7,5]",
            "an object": '{"$date":1772348700000}',
            "true": "true",
        }.items():
            self.value(f"time: {name}", "route.activated", "event_timestamp", json_text)
            self.value(f"departure: {name}", "booking.created", "scheduled_departure", json_text)
        for name, json_text in {
            "year 1": '"0001-01-01T00:00:00Z"',
            "year 1 and an offset": '"0001-01-01T00:00:00+23:59"',
            "1969": '"1969-12-31T23:59:59Z"',
            "1970": '"1970-01-01T00:00:00Z"',
            "2014": '"2014-12-31T23:59:59.999Z"',
            "2014 with an offset": '"2015-01-01T00:59:59+01:00"',
            "2106": '"2106-02-07T06:28:16Z"',
            "9999": '"9999-12-31T23:59:59Z"',
            "9999 and an offset": '"9999-12-31T23:59:59-23:59"',
            "0": "0",
            "-1": "-1",
            "2^32 milliseconds": "4294967296000",
            "2^63": "9223372036854775808",
            "2^64": "18446744073709551616",
            "1e300": "1e300",
            "-1e300": "-1e300",
            "microseconds": "1772348700000000",
            "nanoseconds": "1772348700000000000",
            "just below 1e11 seconds": "99999999999",
            "1e11 milliseconds": "100000000000",
        }.items():
            for event_type, field in (
                ("route.activated", "event_timestamp"),
                ("booking.created", "scheduled_departure"),
            ):
                record = self.good(name, event_type, **{field: "HERE"}).replace(b'"HERE"', json_text.encode())
                self.add(f"{field} {name}", record, "timestamp_out_of_range", field)
        day = timedelta(days=1)
        for name, moment, reason in (
            ("24 h ahead and 1 s", self.now + day + timedelta(seconds=1), "timestamp_out_of_range"),
            ("25 h ahead", self.now + timedelta(hours=25), "timestamp_out_of_range"),
            ("older than the retention", self.now - 730 * day - timedelta(seconds=1), "expired"),
            ("the first moment of 2015", datetime(2015, 1, 1, tzinfo=UTC), "expired"),
        ):
            record = self.good(name, "route.activated", event_timestamp=moment.isoformat())
            at_once = name == "24 h ahead and 1 s"
            self.cases.append(Case(name, record, reason, "event_timestamp", at_once=at_once))
        for name, moment in (
            ("24 h ahead less 1 s", self.now + day - timedelta(seconds=1)),
            ("as old as the retention less an hour", self.now - 730 * day + timedelta(hours=1)),
        ):
            self.accept(
                name,
                self.good(name, "route.activated", event_timestamp=moment.isoformat()),
                event_timestamp=str(_ms(moment)),
            )
        for name, spelling in {
            "in another offset": "2026-03-01T08:05:00+01:00",
            "in an extreme offset": "2026-03-02T07:04:00+23:59",
            "lower case": "2026-03-01t07:05:00z",
            "with a space": "2026-03-01 07:05:00Z",
            "without an offset": "2026-03-01T07:05:00",
            "with nanoseconds": "2026-03-01T07:05:00.000999400Z",
            "as seconds": 1_772_348_700,
            "as seconds with decimals": 1_772_348_700.0009,
            "as milliseconds": 1_772_348_700_000,
            "as milliseconds with decimals": 1_772_348_700_000.5,
        }.items():
            record = self.good(f"departure {name}", scheduled_departure=spelling)
            self.accept(f"departure {name}", record, scheduled_departure="1772348700000")
        for text in (
            *(
                "7:05",
                "24:00",
                "07:60",
                "07:05:60",
                "07:05 ",
                " 07:05",
                "07:05\n",
                "0705",
                "07.05",
                "07:05:30.5",
            ),
            *("07:05Z", "07:05+01:00", "7 am", "", "-1:00", "0\u0667:05", "\uff10\uff17:05", "07:05:3", "07"),
        ):
            self.value(f"clock {text!r}", "route.created", "departure_time", json.dumps(text))
        self.value("midnight", "route.created", "departure_time", '"00:00"', stored="00:00")
        self.value("before midnight", "route.created", "departure_time", '"23:59:59"', stored="23:59:59")

    def numbers(self) -> None:
        """Numbers at and beyond their bounds."""
        for event_type, field, texts in (
            (
                "booking.created",
                "pickup_lat",
                ("90.0000001", "-90.0000001", "91", '"6.44"', "1e308", "1e999", "2e1000000"),
            ),
            (
                "booking.created",
                "pickup_lon",
                ("180.0000001", "-180.0000001", "1e999", "9" * 400, "[6.44,3.47]"),
            ),
            (
                "booking.created",
                "seats_booked",
                ("0", "61", "-1", "1.5", '"2"', "2e3", "9223372036854775808"),
            ),
            (
                "booking.confirmed",
                "seats_booked",
                ("-1", "4294967296", "18446744073709551616", "9" * 400, "1e999"),
            ),
            ("route.created", "seats_total", ("0", "61", "1e2", "4.5", "true")),
            ("route.created", "stops_count", ("-1", "0.5", "4294967296", "9223372036854775808", "1E+400000")),
            (
                "payment.success",
                "processing_time_ms",
                ("-1", "0.5", "4294967296", "18446744073709551616", '"740"'),
            ),
            ("trip.completed", "distance_km", ("-0.0001", "-1e308", "1e999", '"12"', "9" * 400)),
            ("trip.completed", "duration_minutes", ("-1", "1e999", "null", '"PT45M"')),
            ("trip.started", "passengers_count", ("0", "61", "255", "256", "-255")),
            ("driver.location.updated", "bearing", ("360", "-0.0001", "1e999", '"N"')),
            ("driver.location.updated", "speed_kmh", ("-1", "1e999", "1e39", '"fast"')),
            ("driver.location.updated", "lat", ("null", "90.0000001", '"6,44"')),
        ):
            for json_text in texts:
                self.value(f"{event_type} {field} {json_text[:30]}", event_type, field, json_text)
        for event_type, field, json_text, stored in (
            ("booking.created", "pickup_lat", "90", "90"),
            ("booking.created", "pickup_lat", "-90.0", "-90"),
            ("booking.created", "pickup_lat", "-0", "0"),
            ("booking.created", "pickup_lat", "1e-400", "0"),
            ("booking.created", "pickup_lon", "180.000000000000001", "180"),
            ("booking.created", "seats_booked", "60", "60"),
            ("booking.confirmed", "seats_booked", "4294967295", "4294967295"),
            ("booking.confirmed", "seats_booked", "0", "0"),
            ("route.created", "stops_count", "-0", "0"),
            ("trip.completed", "distance_km", "1e300", "1e300"),
            ("trip.completed", "duration_minutes", "5e-324", "5e-324"),
            ("driver.location.updated", "bearing", "359.99997", "359.99997"),
            ("driver.location.updated", "speed_kmh", "0.000", "0"),
        ):
            self.value(f"{event_type} {field} = {json_text}", event_type, field, json_text, stored=stored)

    def texts(self) -> None:
        """Texts that are texts, however odd; and what is none."""
        for name, text in {
            "empty": "",
            "blank": "   ",
            "NUL": "a\0b",
            "control characters": "".join(map(chr, range(1, 32))),
            "delete and C1": "\x7f\x80\x9f",
            "emoji": "\U0001f68c\U0001f1f3\U0001f1ec\U0001f469\u200d\U0001f4bb",
            "right-to-left marks": "\u202eexample\u200f\u2066x\u2069",
            "zero width": "\u200b\u200c\u200d\ufeff",
            "combining": "e" + "\u0301" * 500,
            "line separators": "a\u2028b\u2029c\u0085d",
            "line breaks": "a\nb\r\nc",
            "noncharacters": "\ufffe\uffff\U0010ffff",
            "replacement": "\ufffd",
            "quotes": "'\"`\\'\\\"",
            "SQL": "'); DROP TABLE events; --",
            "a placeholder": "{ids:Array(UUID)} %s %(x)s ? $1",
            "HTML": "<script>alert(1)</script>",
            "a tab-separated line": "a\tb\\N\t\\t",
            "Yoruba": "\u00ccb\u00e0d\u00e0n \u1eb9k\u00fa",
            "half a megabyte": "\u1eb9" * 170_000,
            "JSON": '{"event_type":"trip.started"}',
        }.items():
            record = self.good(f"text: {name}", "payment.failed", error_message=text)
            self.accept(f"text: {name}", record, error_message=text)
        self.accept(
            "text: escaped",
            self.good("text: escaped", "payment.failed", error_message="HERE").replace(
                b"HERE", b"\\ud83d\\ude8c\\u0000\\/\\b\\f"
            ),
            error_message="\U0001f68c\0/\b\f",
        )
        for event_type, field, texts in (
            ("user.registered", "role", ("rider", "RIDER ", "", "PASSENGER", "R\u0406DER")),
            ("user.kyc_verified", "kyc_status", ("verified", "PENDING", "")),
            ("booking.cancelled", "cancelled_by", ("rider", "ADMIN", "")),
            ("booking.cancelled", "refund_initiated", ("true", "yes", "1", "")),
            ("trip.completed", "on_time", ("false", "0")),
        ):
            for text in texts:
                self.value(f"{field} {text!r}", event_type, field, json.dumps(text))
        for json_text, field in {
            '["MON","FUN"]': "active_days[1]",
            '["mon"]': "active_days[0]",
            '["MON",null]': "active_days[1]",
            "[1]": "active_days[0]",
            '[["MON"]]': "active_days[0]",
            '"MON"': "active_days",
            '"MON,TUE"': "active_days",
            '{"MON":true}': "active_days",
            "127": "active_days",
        }.items():
            record = self.good(json_text, "route.created", active_days="HERE").replace(
                b'"HERE"', json_text.encode()
            )
            self.add(f"active_days {json_text}", record, "invalid_field", field)
        self.value("active_days empty", "route.created", "active_days", "[]", stored="[]")
        self.value(
            "active_days twice", "route.created", "active_days", '["MON","MON"]', stored="['MON','MON']"
        )

    def shapes(self) -> None:
        """Sizes, keys and repetitions."""
        for name, size in {"a byte too many": MAX_RECORD_BYTES + 1, "ten megabytes": TEN_MEGABYTES}.items():
            padding = size - len(self.good(name, padding=""))
            self.add(name, self.good(name, padding="x" * padding), "too_large")
        self.add("ten megabytes of nothing", b"\x00" * TEN_MEGABYTES, "too_large")
        self.add("ten megabytes of brackets", b"[" * TEN_MEGABYTES, "too_large")
        size = MAX_RECORD_BYTES - len(self.good("just small enough", padding=""))
        self.accept("just small enough", self.good("just small enough", padding="x" * size), seats_booked="2")
        many = {f"field_{number}": number for number in range(20_000)}
        self.accept("20,000 unknown fields", self.good("20,000 unknown fields", **many), seats_booked="2")
        record = self.good("nested unknown field", x=[[[{"event_type": "trip.started", "seats_booked": 99}]]])
        self.accept("nested unknown field", record, seats_booked="2", event_type="booking.created")
        record = self.good("a field twice")[:-1] + b',"seats_booked":7}'
        self.accept("a field twice", record, seats_booked="7")
        self.add(
            "a field twice, the first one wrong",
            self.good("twice wrong", seats_booked=0)[:-1] + b',"seats_booked":7}',
            "invalid_field",
            "seats_booked",
        )
        self.add(
            "an id twice, the last one null",
            self.good("twice null")[:-1] + b',"rider_id":null}',
            "invalid_field",
            "rider_id",
        )
        self.accept(
            "an escaped key",
            self.good("an escaped key").replace(b'"seats_booked"', b'"seats\\u005fbooked"'),
            seats_booked="2",
        )
        self.accept(
            "keys that look alike",
            self.good(
                "keys that look alike",
                **{
                    "Seats_booked": 0,
                    "seats_booked ": 0,
                    "seatsBooked": 0,
                    "": 0,
                    "seats_\u0062ooked\u200b": 0,
                },
            ),
            seats_booked="2",
        )
        self.accept(
            "a Java class",
            self.good("a Java class", **{"@class": "java.lang.Runtime", "__proto__": {"x": 1}}),
            seats_booked="2",
        )
        self.accept(
            "white space everywhere",
            b"\r \t"
            + json.dumps(
                self.event("white space everywhere", "booking.created"), separators=(" ,\t", " : ")
            ).encode()
            + b" \r",
            seats_booked="2",
        )
        pretty = json.dumps(self.event("pretty", "booking.created"), indent=4).encode()
        self.accept("pretty", pretty, seats_booked="2")
        self.add(
            "missing time", self.good("no time", event_timestamp=...), "invalid_field", "event_timestamp"
        )
        self.add(
            "null time", self.good("null time", event_timestamp=None), "invalid_field", "event_timestamp"
        )
        self.add(
            "camel case",
            encoded({"eventType": "booking.created", "eventTimestamp": "2026-03-01T07:05:00Z"}),
            "invalid_field",
            "event_type",
        )
        self.cases.append(Case("a null value", None, "invalid_json"))


def hand_written(now: datetime, run: str = "") -> list[Case]:
    """All cases that somebody thought of."""
    table = Table(now, run)
    for section in (
        table.no_object,
        table.types,
        table.ids,
        table.money,
        table.times,
        table.numbers,
        table.texts,
        table.shapes,
    ):
        section()
    return table.cases


def wrong_types(now: datetime, run: str = "") -> Iterator[Case]:
    """In each field of each of the 18 types values of every JSON type that it does not take."""
    table = Table(now, f"types {run}")
    for event_type, sample in FULL.items():
        for field, value in sample.items():
            for wrong in _of_other_types(field, value):
                name = f"{event_type} {field} {wrong!r}"
                yield Case(name, table.good(name, event_type, **{field: wrong}), "invalid_field", field)


def _of_other_types(field: str, value: Any) -> list[Any]:
    # A number is a time or an amount as well, and a text may be anything but what it should be.
    takes_numbers = isinstance(value, int | float) or "T" in str(value)[10:11] or _is_amount(value)
    others: list[Any] = [{}, {"value": value}]
    if not isinstance(value, bool):
        others.append(True)
    if not isinstance(value, list):
        others.append([value])
    if isinstance(value, bool) or not takes_numbers:
        others += [7, 1.5]
    if not isinstance(value, str):
        others.append(str(value))
    return others


def _is_amount(value: Any) -> bool:
    return isinstance(value, str) and value.replace(".", "").isdigit()


def encoded(event: Sample) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
