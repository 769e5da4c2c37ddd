"""The decoder under mutated events: for seconds here, for as long as one likes with `make fuzz`."""

import asyncio
import json
import os
import struct
import time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from openride_analytics.contract import LOCATION_EVENT
from openride_analytics.events import (
    MAX_RECORD_BYTES,
    Acceptance,
    BadEvent,
    Event,
    Events,
    claimed_type,
    decode,
    decode_all,
)
from openride_analytics.ingest.pipeline import store_events
from openride_analytics.personal_data import without_personal_data
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.samples import FULL
from tests.stores import NOW, empty

from .records import PERSONAL

SECONDS = float(os.environ.get("OPENRIDE_FUZZ_SECONDS", "4"))
EXAMPLES = 400
ACCEPTANCE = Acceptance.at(NOW, currency="NGN", keep_days=0)
# Ids, defaults, amounts and times may be longer in canonical form than they came; texts may not.
GROWN_BYTES = 500
# A personal field with more lists inside each other takes the rest of the record with it.
DEEPEST_KEPT = 5
# An idle machine needs a tenth of this for the worst mebibyte.
LONGEST_SECONDS = 4.0

TOKENS = (
    *(
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1",
        "1",
        "60",
        "61",
        "0.5",
        "1e3",
        "1e-5",
        "1E+400000",
        "1E-400000",
    ),
    *(
        "1e400",
        '"abcdef0123456789abcdef0123456789abcdef"',
        "1e38",
        "1e39",
        "1e300",
        "5e-324",
        "3.4028236e38",
        "99999999999",
        "1e11",
        "1e15",
        "1772348700.123",
    ),
    *(
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "9" * 400,
    ),
    *(
        "99999999999999.9999",
        "90.0000001",
        "-180",
        "359.9999999999",
        "NaN",
        "Infinity",
        "[]",
        "{}",
        '[["MON"]]',
    ),
    *(
        '["MON","SUN"]',
        '"1_000"',
        '" 1"',
        '"+1"',
        '"\u0663"',
        '"-0.00"',
        '"0.0001"',
        '"00012.5"',
        '"NaN"',
        '"1e3"',
    ),
    *(
        '"0f8c2d1e5b1b4f4e8f637a9d2c3b4a5f"',
        '"0F8C2D1E-5B1B-4F4E-8F63-7A9D2C3B4A5F"',
        '"2026-03-01T07:05:00.9999Z"',
    ),
    *(
        '"2026-03-01T07:05:00+23:59"',
        '"1969-12-31T23:59:59Z"',
        '"2026-06-30T23:59:60Z"',
        '"07:05"',
        '"23:59:59"',
    ),
    *(
        '"RIDER"',
        '"NGN"',
        '"trip.started"',
        '"driver.location.updated"',
        '"\\ud83d\\ude8c"',
        '"\\ud800"',
        '"\\u0000"',
    ),
    *(
        '"a\\nb"',
        '"\u2028\u202e\u200b"',
        '"\\/\\"\\\\"',
        '""',
        '"' + "x" * 5_000 + '"',
        "[" * 200 + "]" * 200,
    ),
)
BYTES = st.sampled_from(
    [*(bytes([byte]) for byte in b'"\\{}[]:,0-eE+.\x00\n\r\x7f \xff\xc0\xed'), b"\\u", b"\\ud800"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
).map(json.dumps)


@st.composite
def mutated_events(draw: st.DrawFn) -> bytes:
    """A valid event with other values, other fields, other spelling; then perhaps with other bytes."""
    event_type = draw(st.sampled_from(sorted(FULL)))
    fields = {name: json.dumps(value) for name, value in (PERSONAL | FULL[event_type]).items()}
    fields["event_id"] = f'"{draw(st.uuids())}"'
    names = st.sampled_from([*fields, "unheard_of", "eventType", "ph\\u006fne"])
    values = st.sampled_from(TOKENS) | st.sampled_from(list(fields.values())) | JSON
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        fields[draw(names)] = draw(values)
    if draw(st.integers(0, 3)) == 0:
        del fields[draw(st.sampled_from(sorted(fields)))]
    pairs = list(fields.items())
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    if draw(st.integers(0, 5)) == 0:
        pairs.append((draw(names), draw(values)))  # which may be there already
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), ("\r\n,\t", " : ")]))
    text = comma.join(f'"{name}"{colon}{value}' for name, value in pairs)
    record = ("{" + text + "}").encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(record)))
        removed = draw(st.integers(0, 6))
        record = record[:place] + draw(BYTES | st.binary(max_size=3)) + record[place + removed :]
    if draw(st.integers(0, 30)) == 0:
        record = record[: draw(st.integers(0, len(record)))]
    return record


class Hunt:
    """Decodes whatever Hypothesis thinks of, and keeps what was accepted, one event an id."""

    def __init__(self) -> None:
        self.accepted: dict[str, Event] = {}
        self.tried = 0

    def go(self) -> None:
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(record=mutated_events())
        def each(record: bytes) -> None:
            self.tried += 1
            event = checked(record)
            if event is not None:
                self.accepted[json.loads(event.line)["event_id"]] = event

        each()


def checked(record: bytes) -> Event | None:
    """The event, if it is one: everything that must hold for any bytes."""
    blanked = without_personal_data(record)
    assert without_personal_data(blanked) == blanked
    assert len(claimed_type(record)) <= 100
    together = decode_all([record, record], ACCEPTANCE)
    try:
        event = decode(record, ACCEPTANCE)
    except BadEvent:
        assert together is None
        return None
    assert together in (None, Events.of([event, event]))
    line = json.loads(event.line)
    assert b"\n" not in event.line
    assert len(event.line) <= len(record) + GROWN_BYTES
    assert set(line) <= FULL[line["event_type"]].keys()
    assert line["event_id"] == str(UUID(line["event_id"]))
    again = decode(event.line, ACCEPTANCE).line
    assert again == event.line or json.loads(again) == line  # a derived id changes its place
    assert decode(again, ACCEPTANCE).line == again
    # Also of what comes twice.
    values = json.loads(record, object_pairs_hook=lambda pairs: [value for _, value in pairs])
    if depth(values) <= DEEPEST_KEPT:
        # Blanking the personal fields of a sound record changes nothing else of it.
        assert decode(blanked, ACCEPTANCE).line == event.line
        kept = json.loads(blanked)
        assert {kept.get(name, "-") for name in PERSONAL} == {"-"}
    return event


def depth(value: Any) -> int:
    """How many lists are inside each other."""
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


async def test_mutated_events_are_stored_as_decoded_or_refused(embedded_warehouse: EmbeddedWarehouse) -> None:
    ends = time.monotonic() + SECONDS
    tried = stored = 0
    while tried == 0 or time.monotonic() < ends:
        hunt = Hunt()
        await asyncio.to_thread(hunt.go)
        await empty(embedded_warehouse)
        accepted = Events.of([*hunt.accepted.values()])
        assert not await store_events(embedded_warehouse, [(accepted, 0)])
        found = await rows(embedded_warehouse)
        assert found.keys() == hunt.accepted.keys()
        for event_id, event in hunt.accepted.items():
            assert found[event_id] == expected(json.loads(event.line, parse_float=Decimal), found[event_id])
        tried, stored = tried + hunt.tried, stored + len(hunt.accepted)
    print(f"{tried} records tried, {stored} stored")  # noqa: T201  # with -s
    assert stored > tried / 20


MONEY = {
    *("base_price", "total_price", "amount", "refund_amount", "original_amount"),
    *("driver_earnings", "platform_commission"),
}
TIMES = {"event_timestamp", "scheduled_departure", "actual_departure", "actual_arrival"}
SINGLE_PRECISION = {"speed_kmh", "bearing", "accuracy_meters"}
NIL = str(UUID(int=0))


async def rows(warehouse: EmbeddedWarehouse) -> dict[str, dict[str, Any]]:
    """All that is stored, by id."""
    found = {}
    for table in ("events", "driver_locations"):
        columns = await warehouse.query(
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String}",
            {"table": table},
        )
        names = [row["name"] for row in columns if row["name"] not in {"content_rank", "is_deleted"}]
        shown = [
            f"toUnixTimestamp64Milli({name}) AS {name}_"
            if name in TIMES
            else f"toString({name}) AS {name}_"
            if name in MONEY
            else f"{name} AS {name}_"
            for name in names
        ]
        for row in await warehouse.query(f"SELECT {', '.join(shown)} FROM {table} FINAL"):
            values = {name.removesuffix("_"): value for name, value in row.items()}
            found[values["event_id"]] = values
    return found


def expected(line: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The columns that a line should become; what it does not hold stands as its column's "not sent"."""
    return {name: _column(line, name, value) for name, value in like.items()}


def _column(line: dict[str, Any], name: str, found: Any) -> Any:
    value = line.get(name)
    if value is None:
        assert name != "event_type" or line["event_type"] == LOCATION_EVENT
        return found if found in (None, "", NIL, 0, False, []) else "not sent"
    if name in MONEY:
        return f"{Decimal(value).normalize():f}"
    if name in SINGLE_PRECISION:
        return pytest.approx(struct.unpack("f", struct.pack("f", value))[0], rel=1e-6)
    if isinstance(value, Decimal):
        # A whole number above 2^53 comes back in the digits that say which float it is.
        return found if float(found) == float(value) else float(value)
    return value


def adversarial() -> list[bytes]:
    """A mebibyte each of what makes patterns and parsers slow."""
    parts = (
        *(
            b'"phone":',
            b'"phone"',
            b'"phone" ',
            b'"phone":"',
            b'"phone":"\\',
            b'"phone":[',
            b'"phone":{"',
            b'"ph\\u006fne":',
        ),
        *(
            b'"phone":[[[[[',
            b'"phone":[[[["',
            b'"phone":{"phone":',
            b'"phone":[]',
            b'"phone":"",',
            b"\\u0070",
            b'"\\u0070',
        ),
        *(
            b'"phone":\n',
            b'"full_name',
            b'"card_last',
            b'"',
            b"\\",
            b"[",
            b"{",
            b"]",
            b":",
            b" ",
            b"\xff",
            b"-",
            b"9",
            b"e",
        ),
        *(
            b'{"a":',
            b'"event_type":',
            b'{"event_type":"',
            b"abcdef01",
            b"\\u0061",
            b'"a":1,',
            b'["phone":',
            b"}{",
            b'""',
        ),
    )
    starts = (
        b"",
        b'{"phone":',
        b'{"phone":"',
        b'{"event_type":"route.activated","route_name":"',
        b'{"event_timestamp":',
    )
    return [(start + part * MAX_RECORD_BYTES)[:MAX_RECORD_BYTES] for part in parts for start in starts]


def test_no_mebibyte_takes_long() -> None:
    slow = []
    for record in adversarial():
        began = time.perf_counter()
        without_personal_data(record)
        claimed_type(record)
        with pytest.raises(BadEvent):
            decode(record, ACCEPTANCE)
        if time.perf_counter() - began > LONGEST_SECONDS:
            slow.append((record[:30], time.perf_counter() - began))
    assert slow == []
