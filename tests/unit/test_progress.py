"""How far the consumer has got with a partition."""

import asyncio

from openride_analytics.ingest.pipeline import Stored
from openride_analytics.ingest.progress import InFlight, Progress


async def test_what_offsets_of_a_former_life_said_counts_no_more() -> None:
    stored: Stored = asyncio.get_running_loop().create_future()
    progress = Progress()
    progress.begins_at(700)
    progress.in_flight.append(InFlight(800, 1_000, stored, None))
    progress.lost_before = 700
    progress.begins_anew()
    stored.set_result([])
    progress.collect_stored()
    assert (progress.stored, progress.uncommitted, progress.lost_before) == (None, None, 0)
