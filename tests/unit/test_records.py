"""Records on their way to becoming events: each ends as one or as a refusal, whatever it does to the decoder."""

import asyncio
from datetime import UTC, datetime

import msgspec

from openride_analytics.events import Acceptance, Event, decode
from openride_analytics.ingest.records import SLICE_RECORDS, decode_records
from tests.samples import full

ACCEPTANCE = Acceptance.at(datetime(2026, 4, 20, tzinfo=UTC), currency="NGN", keep_days=0)
GOOD = msgspec.json.encode(full("booking.created"))


def stumbles(record: bytes, acceptance: Acceptance) -> Event:
    """A decoder with a mistake in it."""
    if record == b"poison":
        raise OverflowError("too large for our own code")
    return decode(record, acceptance)


async def test_a_record_that_the_decoder_stumbles_over_is_refused_and_the_others_go_on() -> None:
    events, refused = await decode_records([GOOD, b"poison", b"{", GOOD], ACCEPTANCE, stumbles)
    assert [event.line for event in events] == [decode(GOOD, ACCEPTANCE).line] * 2
    assert [(index, bad.reason) for index, bad in refused] == [(1, "invalid_json"), (2, "invalid_json")]
    assert "OverflowError" in refused[0][1].detail


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
