"""Events of ill will: personal data, broken bytes, and whatever Hypothesis thinks of."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openride_analytics.events import (
    MAX_RECORD_BYTES,
    BadEvent,
    Event,
    claimed_type,
    decode,
)
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.personal_data import without_personal_data
from tests.samples import FULL, full
from tests.unit.test_events import (
    ACCEPTANCE,
    REASONS,
    TYPES,
    accepted,
    encoded,
    outcome,
    refused,
    stored,
    tried,
)

PERSONAL = {
    "phone": "+2348030000001",
    "email": "ada@example.org",
    "full_name": "Ada Obi-SECRET",
    "card_last4": "4242",
    "fullName": "Ada Obi-SECRET",
    "cardLast4": "4242",
    "Phone": "+2348030000001",
}
SECRETS = (b"2348030000001", b"ada@example.org", b"SECRET", b"4242")


class TestPersonalData:
    @pytest.mark.parametrize("event_type", TYPES)
    def test_nothing_of_it_is_stored(self, event_type: str) -> None:
        line = accepted(full(event_type, **PERSONAL)).line
        assert not [secret for secret in SECRETS if secret in line]

    def test_nothing_of_it_is_in_a_dead_letter(self) -> None:
        record = encoded({**PERSONAL, **full("user.registered", role="?"), **PERSONAL})
        error = refused(record)
        letter = DeadLetter.of(record, error, rejected_ms=0)
        told = repr(letter).encode()
        assert not [secret for secret in SECRETS if secret in told]
        assert json.loads(letter.record) == {
            **full("user.registered", role="?"),
            **dict.fromkeys(PERSONAL, "-"),
        }


class TestHostileBytes:
    GOOD = encoded(full("payment.initiated"))

    @pytest.mark.parametrize(
        "record",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b" ", id="blank"),
            pytest.param(b"\x00", id="NUL"),
            pytest.param(b"\xff\xfe", id="no text"),
            pytest.param(b"null", id="null"),
            pytest.param(b"17", id="number"),
            pytest.param(b'"text"', id="text"),
            pytest.param(b"[]", id="empty array"),
            pytest.param(b"[" + GOOD + b"]", id="array"),
            pytest.param(b"{", id="open"),
            pytest.param(GOOD[:-1], id="cut off"),
            pytest.param(GOOD + GOOD, id="twice"),
            pytest.param(GOOD + b"\x00", id="NUL after"),
            pytest.param(b"\xef\xbb\xbf" + GOOD, id="BOM"),
            pytest.param(GOOD.decode().encode("utf-16"), id="UTF-16"),
            pytest.param(GOOD.replace(b'"', b"'"), id="single quotes"),
            pytest.param(GOOD.replace(b"paystack", b"pay\xffstack"), id="invalid UTF-8"),
            pytest.param(GOOD.replace(b"paystack", b"\xc0\xaf"), id="overlong UTF-8"),
            pytest.param(GOOD.replace(b"paystack", b"\xed\xa0\x80"), id="surrogate in UTF-8"),
            pytest.param(GOOD.replace(b"paystack", b"\\ud800"), id="lone surrogate"),
            pytest.param(GOOD.replace(b"paystack", b"\\ud800\\u0041"), id="half a pair"),
            pytest.param(GOOD.replace(b"paystack", b"\x00"), id="NUL in text"),
            pytest.param(GOOD.replace(b"paystack", b"line\nbreak"), id="line break in text"),
            pytest.param(GOOD.replace(b'"3000.00"', b"NaN"), id="NaN"),
            pytest.param(GOOD.replace(b'"3000.00"', b"01"), id="leading zero"),
            pytest.param(b"[" * 5_000, id="deep array"),
            pytest.param(b'{"a":' * 5_000, id="deep object"),
            pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="very deep object"),
            pytest.param(
                GOOD[:-1] + b',"deep":' + b"[" * 50_000 + b"]" * 50_000 + b"}", id="deep unknown field"
            ),
        ],
    )
    def test_what_is_no_json_object_in_utf8_is_invalid_json(self, record: bytes) -> None:
        assert outcome(record) == ("invalid_json", "")
        assert isinstance(claimed_type(record), str)

    def test_a_record_over_one_mebibyte_is_too_large(self) -> None:
        padding = MAX_RECORD_BYTES - len(encoded(full("route.activated", padding="")))
        accepted(full("route.activated", padding="x" * padding))
        assert outcome(full("route.activated", padding="x" * (padding + 1))) == ("too_large", "")

    def test_text_may_hold_any_character(self) -> None:
        for text in ("a\0b", "Ìkẹjà 🚌", "line\nbreak", 'tab\t"quote"\\', "\u2028", "x" * 100_000):
            event = accepted(full("payment.initiated", provider=text))
            assert json.loads(event.line)["provider"] == text
            assert b"\n" not in event.line

    def test_a_key_that_comes_twice_is_no_accident(self) -> None:
        assert stored(self.GOOD[:-1] + b',"amount":"1.00"}')["amount"] == "1.0000"
        other_type = self.GOOD[:-1] + b',"event_type":"trip.started"}'
        assert refused(other_type).reason in {"unknown_event_type", "invalid_field"}

    @pytest.mark.parametrize("record", [b'{"event_type":"x.y"}', b'{"event_type":"x.y","a":[1,{}]}'])
    def test_the_claimed_type_of_a_refused_record_can_be_told(self, record: bytes) -> None:
        assert claimed_type(record) == "x.y"

    @pytest.mark.parametrize("field", ["role", "event_type"])
    @pytest.mark.parametrize("value", ["+2348030000001", "ada@example.org", "Ada' x - at `$.SECRET`"])
    def test_what_is_told_of_a_refusal_does_not_repeat_what_was_sent(self, field: str, value: str) -> None:
        record = encoded(full("user.registered") | {field: value})
        error = refused(record)
        told = (error.detail, claimed_type(record))
        assert error.field == field
        assert not [secret for secret in SECRETS if secret in repr(told).encode()]

    def test_a_claimed_type_is_cut_short(self) -> None:
        assert len(claimed_type(encoded({"event_type": "x" * 5_000}))) == 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def is_event_or_bad_event(record: bytes) -> None:
    event = tried(record)
    if isinstance(event, BadEvent):
        assert event.reason in REASONS
        assert isinstance(event.field, str)
        assert event.detail
        DeadLetter.of(record, event, rejected_ms=0)
        return
    line = json.loads(event.line)
    assert b"\n" not in event.line
    assert line["event_type"] in FULL
    assert set(line) <= FULL[line["event_type"]].keys()
    assert isinstance(line["event_timestamp"], int)
    UUID(line["event_id"])
    # What is stored is an event of the contract itself, and a fixed point: decoding it again changes nothing.
    assert decode(event.line, ACCEPTANCE).line in {event.line, _with_id_in_place(event.line)}


FREE_TEXTS = ("city", "route_name", "cancellation_reason", "refund_reason", "error_message")


def _with_id_in_place(line: bytes) -> bytes:
    """A line with a derived id begins with it; a given one follows the time."""
    event_id, rest = line[: len('{"event_id":"') + 36 + 2], line[len('{"event_id":"') + 36 + 2 :]
    head, _, tail = rest.partition(b',"event_timestamp":')
    time_text, comma, tail = tail.partition(b",")
    return b"{" + head + b',"event_timestamp":' + time_text + b"," + event_id[1:-1] + comma + tail


class TestWhatEverComes:
    @settings(max_examples=400, deadline=None)
    @given(
        event_type=st.sampled_from(TYPES),
        personal=st.dictionaries(st.sampled_from(list(PERSONAL)), JSON, min_size=1),
        place=st.integers(0, 20),
        has_id=st.booleans(),
        indent=st.sampled_from((None, 1)),
        texts=st.text(),
    )
    def test_a_blanked_record_is_the_same_event(
        self,
        event_type: str,
        personal: dict[str, Any],
        place: int,
        has_id: bool,  # noqa: FBT001  # drawn
        indent: int | None,
        texts: str,
    ) -> None:
        """So a dead letter that is replayed lands on the row, and under the derived id, of the record itself."""
        own = {name: texts if name in FREE_TEXTS else value for name, value in full(event_type).items()}
        fields = [(name, value) for name, value in own.items() if has_id or name != "event_id"]
        fields[place:place] = personal.items()
        record = json.dumps(dict(fields), indent=indent).encode()
        event = tried(record)
        assume(isinstance(event, Event))
        assert tried(without_personal_data(record)) == event

    @settings(max_examples=300)
    @given(record=st.binary(max_size=300))
    def test_any_bytes_are_an_event_or_a_bad_event(self, record: bytes) -> None:
        is_event_or_bad_event(record)

    @settings(max_examples=200)
    @given(value=JSON)
    def test_any_json_is_an_event_or_a_bad_event(self, value: Any) -> None:
        is_event_or_bad_event(json.dumps(value).encode())

    @settings(max_examples=600, deadline=None)
    @given(data=st.data(), event_type=st.sampled_from(TYPES))
    def test_any_value_in_any_field_is_an_event_or_a_bad_event(
        self, data: st.DataObject, event_type: str
    ) -> None:
        fields = st.sampled_from([*FULL[event_type], "unheard_of"])
        changes = data.draw(st.dictionaries(fields, JSON, max_size=3))
        is_event_or_bad_event(encoded(full(event_type, **changes)))

    @settings(max_examples=400)
    @given(
        event_type=st.sampled_from(TYPES),
        at=st.floats(0, 1, exclude_max=True),
        removed=st.integers(0, 20),
        inserted=st.binary(max_size=5),
    )
    def test_any_damage_to_a_record_leaves_an_event_or_a_bad_event(
        self, event_type: str, at: float, removed: int, inserted: bytes
    ) -> None:
        record = encoded(full(event_type))
        place = int(at * len(record))
        is_event_or_bad_event(record[:place] + inserted + record[place + removed :])
