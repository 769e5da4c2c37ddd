"""Dead letters taken in once more, after a fix: decoded, stored and acknowledged as any other record.

A replay goes through its letters in portions of bounded size and writes down the outcome of each portion once its events
are stored. Cut off anywhere, or run twice at once, it leaves nothing wrong: an event that is stored again lands on the
same row, and a letter without an outcome is still open.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from time import monotonic, time
from typing import Annotated, Final
from uuid import uuid4

import structlog
from msgspec import Meta, Struct

from openride_analytics.config import Config
from openride_analytics.events import BadEvent, Decode, Event, Events, decode
from openride_analytics.ingest import dead_letters
from openride_analytics.ingest.dead_letters import Kept, Outcome, Place, Selection
from openride_analytics.ingest.pipeline import UNSTORABLE, Pipeline
from openride_analytics.ingest.records import SLICE_RECORDS, acceptance_now, event_or_refusal
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse import Warehouse, WarehouseUnavailable

log = structlog.get_logger(__name__)

# What one request does at most: then it answers, and the next one goes on.
MAX_LETTERS: Final = 10_000
MAX_SECONDS: Final = 20.0
_PORTION_LETTERS: Final = 2_000
_PORTION_BYTES: Final = 8 * 1_048_576
_STORED_WITHIN_SECONDS: Final = 30.0


class Replayed(Struct, kw_only=True):
    """What one replay did."""

    replay_id: Annotated[
        str,
        Meta(
            description="Stands with each letter's outcome.",
            examples=["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"],
        ),
    ]
    matched: Annotated[
        int, Meta(description="Letters that match (from `cursor` on, where it is given).", examples=[120])
    ]
    accepted: Annotated[int, Meta(description="Letters whose events are stored now.", examples=[117])]
    rejected: Annotated[
        dict[str, int],
        Meta(description="Letters that were rejected again, by reason.", examples=[{"invalid_json": 3}]),
    ]
    remaining: Annotated[
        int,
        Meta(
            description=f"Letters not tried yet: a request ends after {MAX_LETTERS} letters or"
            f" {MAX_SECONDS:g} seconds.",
            examples=[0],
        ),
    ]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="To go on with those: send the same with `cursor` set to it. Null: none remain.",
            examples=["MTc3MjM0ODcwMDEyMC41ZjBjNGJlOGQxYTk0ZTdmYjFmNWE4ZjNmMGY2YTJkMQ"],
        ),
    ]


class Replays:
    """Replays letters on request. `decoder` gives the decoder for a topic (empty: of what came over HTTP)."""

    def __init__(
        self,
        warehouse: Warehouse,
        pipeline: Pipeline,
        metrics: Metrics,
        config: Config,
        decoder: Callable[[str], Decode],
    ) -> None:
        self._warehouse = warehouse
        self._pipeline = pipeline
        self._metrics = metrics
        self._config = config
        self._decoder = decoder

    async def replay(
        self, selection: Selection, after: Place | None, stopping: Callable[[], bool]
    ) -> Replayed:
        """Tries the letters, the newest first, until all are tried, the request has done enough, or `stopping` says so.

        Raises `WarehouseUnavailable` where the events are not stored in time, and what `Warehouse` raises; what was
        done until then stays done.
        """
        deadline = monotonic() + MAX_SECONDS
        replay_id = str(uuid4())
        found = await dead_letters.matching(self._warehouse, selection, after, MAX_LETTERS)
        matched = len(found)
        if matched == MAX_LETTERS:
            matched = max(matched, await dead_letters.count(self._warehouse, selection, after))
        tried = accepted = 0
        rejected: Counter[str] = Counter()
        async with aclosing(self._portions(found)) as portions:
            async for portion in portions:
                for outcome in await self._try(replay_id, portion):
                    if outcome.outcome == "accepted":
                        accepted += 1
                    else:
                        rejected[outcome.reason] += 1
                tried += len(portion)
                if monotonic() > deadline or stopping():
                    break
        log.info(
            "dead_letters_replayed", replay_id=replay_id, matched=matched, accepted=accepted, tried=tried
        )
        remaining = matched - tried
        return Replayed(
            replay_id=replay_id,
            matched=matched,
            accepted=accepted,
            rejected=dict(rejected),
            remaining=remaining,
            next_cursor=found[tried - 1].cursor if remaining else None,
        )

    async def _portions(self, found: Sequence[Place]) -> AsyncGenerator[list[Place], None]:
        """The letters, so many at a time that their records fit into memory (a single large one does)."""
        for start in range(0, len(found), _PORTION_LETTERS):
            some = found[start : start + _PORTION_LETTERS]
            sizes = await dead_letters.record_sizes(self._warehouse, [place.dead_letter_id for place in some])
            portion: list[Place] = []
            size = 0
            for place in some:
                portion.append(place)
                size += sizes.get(place.dead_letter_id, 0)
                if size >= _PORTION_BYTES:
                    yield portion
                    portion, size = [], 0
            if portion:
                yield portion

    async def _try(self, replay_id: str, portion: Sequence[Place]) -> list[Outcome]:
        """Decodes and stores some letters, and writes down what became of each that is still there."""
        letters = await dead_letters.kept(self._warehouse, [place.dead_letter_id for place in portion])
        events, refused = await self._decoded(letters)
        if events:
            try:
                async with asyncio.timeout(_STORED_WITHIN_SECONDS):
                    unstorable = await self._pipeline.put_again(Events.of(list(events.values())), _now_ms())
            except TimeoutError:
                raise WarehouseUnavailable("replayed events were not stored in time") from None
            ids = list(events)
            refused |= {ids[place]: UNSTORABLE for place in unstorable}
        now_ms = _now_ms()
        outcomes = [
            Outcome(
                letter.dead_letter_id,
                replay_id,
                now_ms,
                "rejected",
                error.reason,
                error.field[:1000],
                error.detail[:1000],
            )
            if (error := refused.get(letter.dead_letter_id))
            else Outcome(letter.dead_letter_id, replay_id, now_ms, "accepted")
            for letter in letters
        ]
        if outcomes:
            await dead_letters.store_outcomes(self._warehouse, outcomes)
        for outcome in outcomes:
            self._metrics.replayed.labels(outcome.outcome).inc()
        return outcomes

    async def _decoded(self, letters: Sequence[Kept]) -> tuple[dict[str, Event], dict[str, BadEvent]]:
        """Events and refusals by the letter's id; decoded in slices, so that other tasks get their turn."""
        acceptance = acceptance_now(self._config)
        events: dict[str, Event] = {}
        refused: dict[str, BadEvent] = {}
        for start in range(0, len(letters), SLICE_RECORDS):
            for letter in letters[start : start + SLICE_RECORDS]:
                # What the store could not hold was kept as it should have been stored, whatever its topic's spelling.
                decoder = decode if letter.detail == UNSTORABLE.detail else self._decoder(letter.topic)
                outcome = event_or_refusal(letter.record, acceptance, decoder)
                if isinstance(outcome, BadEvent):
                    refused[letter.dead_letter_id] = outcome
                else:
                    events[letter.dead_letter_id] = outcome
            await asyncio.sleep(0)
        return events, refused


def _now_ms() -> int:
    return int(time() * 1000)
