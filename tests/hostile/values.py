"""Hostile values: ids, amounts, times and numbers that are none, or only just."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from .making import Case, Maker, ms_of


class Values(Maker):
    """Cases of one field each."""

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
        self.value("nil id", "booking.created", "rider_id", f'"{UUID(int=0)}"')
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
                event_timestamp=str(ms_of(moment)),
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
