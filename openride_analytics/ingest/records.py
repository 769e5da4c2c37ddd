"""Raw records into events and dead letters, in slices, so that other tasks get their turn."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import perf_counter

import structlog

from openride_analytics.config import Config
from openride_analytics.events import Acceptance, BadEvent, Decode, Event, Events, decode_all
from openride_analytics.events import decode as contract_decode

log = structlog.get_logger(__name__)

# Half a millisecond's work between two turns of the event loop.
SLICE_RECORDS = 250
_TURN_BYTES = 262_144
_BYTES_OF_A_LETTER = 4_096  # what making one costs besides, in bytes looked through


class Turns:
    """Gives others their turn between letters, of which one may be as long as a thousand."""

    def __init__(self) -> None:
        self._done = 0

    async def after(self, record: bytes) -> None:
        """Called for each letter that has been made or looked through."""
        self._done += len(record) + _BYTES_OF_A_LETTER
        if self._done >= _TURN_BYTES:
            self._done = 0
            await asyncio.sleep(0)


def acceptance_now(config: Config) -> Acceptance:
    """What is taken in at this moment."""
    return Acceptance.at(
        datetime.now(UTC), currency=config.analytics.currency, keep_days=config.retention.cold_days
    )


def event_or_refusal(record: bytes, acceptance: Acceptance, decode: Decode) -> Event | BadEvent:
    """What `decode` makes of a record, whatever it raises: a mistake of ours must not stop the stream at this record."""
    try:
        return decode(record, acceptance)
    except BadEvent as refusal:
        return refusal
    except Exception as error:
        log.exception("record_not_understood")
        return BadEvent("invalid_json", f"The record cannot be read ({type(error).__name__}).")


async def decode_records(
    records: Sequence[bytes],
    acceptance: Acceptance,
    decode: Decode = contract_decode,
    *,
    took: Callable[[float], None] = lambda _: None,
) -> tuple[Events, list[tuple[int, BadEvent]]]:
    """The events among the records, in order, and the refusals by the record's index.

    `took` is told the seconds of decoding, without the turns of others.
    """
    events = Events()
    refused: list[tuple[int, BadEvent]] = []
    seconds = 0.0
    for start in range(0, len(records), SLICE_RECORDS):
        await asyncio.sleep(0)  # before the first one, too: the records have just been unpacked
        began = perf_counter()
        part = records[start : start + SLICE_RECORDS]
        # Dialects have no such way, and where it ends each record says what it has to say.
        decoded = decode_all(part, acceptance) if decode is contract_decode else None
        if decoded is None:
            accepted: list[Event] = []
            for index, record in enumerate(part, start):
                outcome = event_or_refusal(record, acceptance, decode)
                if isinstance(outcome, BadEvent):
                    refused.append((index, outcome))
                else:
                    accepted.append(outcome)
            decoded = Events.of(accepted)
        events.extend(decoded)
        seconds += perf_counter() - began
    took(seconds)
    return events, refused
