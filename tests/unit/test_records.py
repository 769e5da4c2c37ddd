"""Records on their way to becoming events: each ends as one or as a refusal, whatever it does to the decoder."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openride_analytics import events as events_module
from openride_analytics.events import MAX_RECORD_BYTES, Acceptance, Event, Events, decode, decode_all
from openride_analytics.ingest.records import SLICE_RECORDS, decode_records
from tests.samples import FULL, full, minimal

ACCEPTANCE = Acceptance.at(datetime(2026, 4, 20, tzinfo=UTC), currency="NGN", keep_days=0)
GOOD = msgspec.json.encode(full("booking.created"))


def stumbles(record: bytes, acceptance: Acceptance) -> Event:
    """A decoder with a mistake in it."""
    if record == b"poison":
        raise OverflowError("too large for our own code")
    return decode(record, acceptance)


async def test_a_record_that_the_decoder_stumbles_over_is_refused_and_the_others_go_on() -> None:
    events, refused = await decode_records([GOOD, b"poison", b"{", GOOD], ACCEPTANCE, stumbles)
    assert events == Events.of([decode(GOOD, ACCEPTANCE)] * 2)
    assert [(index, bad.reason) for index, bad in refused] == [(1, "invalid_json"), (2, "invalid_json")]
    assert "OverflowError" in refused[0][1].detail


async def test_also_where_many_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = events_module._content_id

    def stumbling(line: bytes) -> str:
        if b"poison" in line:
            raise OverflowError("too large for our own code")
        return shape(line)

    monkeypatch.setattr(events_module, "_content_id", stumbling)
    without_id = {name: value for name, value in full("route.cancelled").items() if name != "event_id"}
    poison = msgspec.json.encode(without_id | {"cancellation_reason": "poison"})
    events, refused = await decode_records([GOOD, poison, GOOD], ACCEPTANCE)
    assert events == Events.of([decode(GOOD, ACCEPTANCE)] * 2)
    assert [(index, bad.reason) for index, bad in refused] == [(1, "invalid_json")]


async def test_others_get_their_turn_between_slices() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await decode_records([GOOD] * (3 * SLICE_RECORDS), ACCEPTANCE)
    counting.cancel()
    assert turns >= 3


class TestDecodingManyAtOnce:
    @given(
        chosen=st.lists(
            st.tuples(st.sampled_from([full, minimal]), st.sampled_from(sorted(FULL)), st.booleans()),
            max_size=30,
        )
    )
    def test_it_gives_the_same_events(self, chosen: list[tuple[Any, str, bool]]) -> None:
        records = [
            json.dumps(sample(event_type, ignored="Ìbàdàn"), ensure_ascii=plain).encode()
            for sample, event_type, plain in chosen
        ]
        assert decode_all(records, ACCEPTANCE) == Events.of(
            [decode(record, ACCEPTANCE) for record in records]
        )

    @pytest.mark.parametrize(
        "record",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"{", id="no JSON"),
            pytest.param(GOOD + b"," + GOOD, id="two"),
            pytest.param(GOOD[:-1] + b',"ignored":"\xc3"}', id="half a character"),
            pytest.param(GOOD + b" " * MAX_RECORD_BYTES, id="too long"),
            pytest.param(msgspec.json.encode(full("booking.created", seats_booked=0)), id="no seat"),
            pytest.param(msgspec.json.encode(full("booking.created", total_price="1e3")), id="no amount"),
            pytest.param(
                msgspec.json.encode(full("booking.created", event_timestamp=1)), id="a time of long ago"
            ),
            *(
                pytest.param(
                    msgspec.json.encode(full("booking.created", rider_id=text)), id=f"{name} for an id"
                )
                for name, text in {
                    "letters": "x" * 36,
                    "the shape": "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
                    "35 characters": "a0000000-0000-4000-8000-00000000000",
                    "37 characters": "a0000000-0000-4000-8000-0000000000000",
                    "hyphens elsewhere": "a000000-00000-4000-8000-000000000000",
                    "no hyphens": "a" * 36,
                    "other digits": "a0000000-0000-4000-8000-00000000000\u0663",
                }.items()
            ),
        ],
    )
    async def test_a_bad_one_among_them_is_refused_alone(self, record: bytes) -> None:
        assert decode_all([GOOD, record, GOOD], ACCEPTANCE) is None
        events, refused = await decode_records([GOOD, record, GOOD], ACCEPTANCE)
        assert events == Events.of([decode(GOOD, ACCEPTANCE)] * 2)
        assert [index for index, _ in refused] == [1]

    async def test_ids_in_upper_case_are_the_same_ids(self) -> None:
        upper = msgspec.json.encode(
            full("booking.created", rider_id=full("booking.created")["rider_id"].upper())
        )
        events, refused = await decode_records([GOOD, upper], ACCEPTANCE)
        assert events == Events.of([decode(GOOD, ACCEPTANCE)] * 2)
        assert refused == []
