"""Hostile records, as a table: what is sent, and what the contract says becomes of it.

Each record carries personal data where it can, so that whatever is kept of it must have been blanked.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from openride_analytics.events import MAX_RECORD_BYTES
from tests.samples import FULL

from .making import DEEP, PERSONAL, SECRETS, TEN_MEGABYTES, Case, encoded
from .values import Values

__all__ = ["PERSONAL", "SECRETS", "TEN_MEGABYTES", "Case", "Table", "encoded", "hand_written", "wrong_types"]


class Table(Values):
    """All cases for a moment; `run` keeps the ids of several runs apart."""

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
