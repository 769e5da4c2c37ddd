"""Raw records into events and dead letters, in slices, so that other tasks get their turn."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from openride_analytics.config import Config
from openride_analytics.events import Acceptance, BadEvent, Decode, Event
from openride_analytics.events import decode as contract_decode

# About 1 to 3 ms of work between two turns of the event loop.
SLICE_RECORDS = 500


def acceptance_now(config: Config) -> Acceptance:
    """What is taken in at this moment."""
    return Acceptance.at(
        datetime.now(UTC), currency=config.analytics.currency, keep_days=config.retention.cold_days
    )


async def decode_records(
    records: Sequence[bytes],
    acceptance: Acceptance,
    decode: Decode = contract_decode,
) -> tuple[list[Event], list[tuple[int, BadEvent]]]:
    """The events among the records, in order, and the refusals by the record's index."""
    events: list[Event] = []
    refused: list[tuple[int, BadEvent]] = []
    for start in range(0, len(records), SLICE_RECORDS):
        for index, record in enumerate(records[start : start + SLICE_RECORDS], start):
            try:
                events.append(decode(record, acceptance))
            except BadEvent as error:
                refused.append((index, error))
        await asyncio.sleep(0)
    return events, refused
