"""From checked events to stored ones: gathered into batches, inserted, and only then acknowledged.

Sources hand over what they decoded with `put` and wait for the returned future: it is done when the events are stored
to the end and their dead letters too. One batch is being stored while the next is gathered; beyond that `put` waits, so
memory stays bounded whatever happens behind. Storing is tried for ever (a source may stop waiting earlier).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final
from uuid import UUID

import structlog

from openride_analytics.events import BadEvent, Event
from openride_analytics.ingest.dead_letters import DeadLetter, store_dead_letters
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse import (
    ContentRefused,
    Row,
    StatementRefused,
    Value,
    Warehouse,
    WarehouseError,
)

log = structlog.get_logger(__name__)

# Big enough that the client's cost per event is a byte copy, small enough that the server parses in parallel.
CHUNK_EVENTS: Final = 1_000
IDS_PER_QUERY: Final = 5_000
# Enough to get down to one event of the largest batch and to its neighbours; then it is not the content.
REFUSALS_TRIED: Final = 40
MAX_BATCH_BYTES: Final = 64 * 1_048_576
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Failure:
    """What went wrong, for operators: the kind of error, without texts that may hold SQL or addresses."""

    at: datetime
    error: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Of an error that happened just now."""
        return cls(datetime.now(UTC), type(error).__name__)


@dataclass
class Submission:
    """What one source handed over at once. `arrived_ms`: when the first of it arrived, Unix milliseconds."""

    events: Sequence[Event]
    dead_letters: Sequence[DeadLetter]
    arrived_ms: int
    stored: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Pipeline:
    """Gathers submissions into batches and stores them. Call `run` in a task of its own.

    `on_stored` is called after each batch; `publish` sends dead letters wherever else they shall go.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        metrics: Metrics,
        *,
        max_batch_events: int,
        max_delay_seconds: float,
        on_stored: Callable[[], Awaitable[None]],
        publish: Callable[[Sequence[DeadLetter]], Awaitable[None]] | None = None,
    ) -> None:
        self._warehouse = warehouse
        self._metrics = metrics
        self._max_batch_events = max_batch_events
        self._max_delay_seconds = max_delay_seconds
        self._on_stored = on_stored
        self._publish = publish
        self._waiting: list[Submission] = []
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._first_put = 0.0
        self._changed = asyncio.Condition()
        self._closing = False
        self.retrying = False
        self.last_failure: Failure | None = None

    @property
    def waiting_events(self) -> int:
        """Events and dead letters that wait for the next batch."""
        return self._waiting_events

    @property
    def has_room(self) -> bool:
        """Whether less than a full batch is waiting."""
        return self._waiting_events < self._max_batch_events and self._waiting_bytes < MAX_BATCH_BYTES

    async def put(
        self, events: Sequence[Event], dead_letters: Sequence[DeadLetter], arrived_ms: int
    ) -> "asyncio.Future[None]":
        """Hands over events as soon as there is room. The future is done when all of them are stored."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.has_room)
            return self._add(Submission(events, dead_letters, arrived_ms))

    async def put_at_once(
        self, events: Sequence[Event], dead_letters: Sequence[DeadLetter], arrived_ms: int
    ) -> "asyncio.Future[None]":
        """The same without waiting: for a source that looks at `has_room` itself before it fetches more."""
        async with self._changed:
            return self._add(Submission(events, dead_letters, arrived_ms))

    def _add(self, submission: Submission) -> "asyncio.Future[None]":
        if not self._waiting:
            self._first_put = monotonic()
        self._waiting.append(submission)
        self._waiting_events += len(submission.events) + len(submission.dead_letters)
        self._waiting_bytes += sum(len(event.line) for event in submission.events)
        self._waiting_bytes += sum(len(letter.record) for letter in submission.dead_letters)
        self._changed.notify_all()
        return submission.stored

    async def run(self) -> None:
        """Stores batch after batch until `close`, and then what is left."""
        while batch := await self._gather():
            await self._store(batch)
            for submission in batch:
                if not submission.stored.done():
                    submission.stored.set_result(None)

    async def close(self) -> None:
        """No more waiting for full batches: `run` stores what it has and returns."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()

    async def _gather(self) -> list[Submission]:
        """The next batch: as soon as it is full or its first event has waited long enough; empty at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._closing)
            while self.has_room and not self._closing:
                left = self._first_put + self._max_delay_seconds - monotonic()
                if left <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)
            batch, self._waiting, self._waiting_events, self._waiting_bytes = self._waiting, [], 0, 0
            self._changed.notify_all()
            return batch

    async def _store(self, batch: Sequence[Submission]) -> None:
        """Stores a batch, however long it takes: repeating it changes nothing."""
        events = [(event, submission.arrived_ms) for submission in batch for event in submission.events]
        dead_letters = [letter for submission in batch for letter in submission.dead_letters]
        pause = _FIRST_PAUSE_SECONDS
        started = monotonic()
        refused: list[DeadLetter] | None = None
        while refused is None:
            try:
                refused = await self._try(events, dead_letters)
            except WarehouseError as error:
                self.retrying = True
                self.last_failure = Failure.of(error)
                self._metrics.insert_failures.inc()
                log.warning(
                    "batch_not_stored",
                    error=str(error)[:500],
                    events=len(events),
                    retry_seconds=round(pause, 1),
                )
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, not a secret
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self.retrying = False
        if self._publish is not None and (dead_letters or refused):
            await self._publish([*dead_letters, *refused])
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        self._metrics.stored(
            events=len(events) - len(refused),
            seconds=monotonic() - started,
            lags_seconds=[(now_ms - s.arrived_ms) / 1000 for s in batch if s.events],
        )
        self._metrics.rejected_letters([letter.reason for letter in (*dead_letters, *refused)])
        await self._on_stored()

    async def _try(
        self, events: Sequence[tuple[Event, int]], dead_letters: Sequence[DeadLetter]
    ) -> list[DeadLetter]:
        refused = await store_events(self._warehouse, events)
        await store_dead_letters(self._warehouse, [*dead_letters, *refused])
        return refused


async def store_events(warehouse: Warehouse, events: Sequence[tuple[Event, int]]) -> list[DeadLetter]:
    """Stores events (with their time of arrival), and settles ids that came with different contents.

    Events that the engine cannot take are found by halving the batch; they are returned as dead letters, and the rest
    is stored. Raises `WarehouseError` where nothing can be said about the content.
    """
    if not events:
        return []
    refused = await _Insertion(warehouse).insert(events)
    given = [event.event_id for event, _ in events if event.event_id is not None]
    for start in range(0, len(given), IDS_PER_QUERY):
        await settle_clashes(warehouse, given[start : start + IDS_PER_QUERY])
    return refused


class _Insertion:
    """One batch on its way in, in parts where it is refused as a whole.

    A refusal whose code does not speak of the content may still be one event's fault, or everybody's (a table is gone):
    it is one event's when others of the batch get through.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._stored_some = False
        self._refusals = 0
        self._refused: list[tuple[Event, int]] = []
        self._doubt: StatementRefused | None = None

    async def insert(self, events: Sequence[tuple[Event, int]]) -> list[DeadLetter]:
        """Stores what can be stored and returns the rest."""
        await self._insert(events)
        if self._doubt is not None and not self._stored_some:
            raise self._doubt
        bad = BadEvent("invalid_field", "The store cannot hold one of its values.")
        return [DeadLetter.of(event.line, bad, rejected_ms=arrived_ms) for event, arrived_ms in self._refused]

    async def _insert(self, events: Sequence[tuple[Event, int]]) -> None:
        try:
            await self._warehouse.insert(
                "incoming", ("kind", "ids_given", "arrived_ms", "lines"), list(_chunks(events))
            )
        except StatementRefused as refusal:
            self._refusals += 1
            if not isinstance(refusal, ContentRefused):
                self._doubt = refusal
                if self._refusals > REFUSALS_TRIED and not self._stored_some:
                    raise
            if len(events) == 1:
                self._refused += events
                return
        else:
            self._stored_some = True
            return
        middle = len(events) // 2
        await self._insert(events[:middle])
        await self._insert(events[middle:])


def _chunks(events: Sequence[tuple[Event, int]]) -> Iterable[tuple[Value, ...]]:
    """Rows of `incoming`: events of one kind together, many in one string."""
    kinds: dict[tuple[bool, bool], list[tuple[Event, int]]] = {}
    for pair in events:
        event = pair[0]
        kinds.setdefault((event.is_location, event.event_id is not None), []).append(pair)
    for (is_location, ids_given), pairs in kinds.items():
        for start in range(0, len(pairs), CHUNK_EVENTS):
            chunk = pairs[start : start + CHUNK_EVENTS]
            yield (
                "location" if is_location else "event",
                int(ids_given),
                min(arrived_ms for _, arrived_ms in chunk),
                b"\n".join([event.line for event, _ in chunk]),
            )


async def settle_clashes(warehouse: Warehouse, event_ids: Sequence[UUID]) -> None:
    """Of several contents under one id the earliest wins (then by event type); the others get a tombstone.

    The order is total and does not know arrival, and a key that has lost can never win again: settling is idempotent
    and the order of batches does not matter.
    """
    of_ids = _CLASHING.replace("{among}", "event_id IN {ids:Array(UUID)}")
    await _bury(warehouse, await warehouse.query(of_ids, {"ids": [str(event_id) for event_id in event_ids]}))


async def settle_all_clashes(warehouse: Warehouse) -> None:
    """The same for all ids that are stored, a part of them at a time."""
    of_part = _CLASHING.replace("{among}", f"sipHash64(event_id) % {_PARTS} = {{part:UInt8}}")
    for part in range(_PARTS):
        await _bury(warehouse, await warehouse.query(of_part, {"part": part}))


async def _bury(warehouse: Warehouse, clashing: Sequence[Row]) -> None:
    for start in range(0, len(clashing), IDS_PER_QUERY):
        losers = {"ids": [row["id"] for row in clashing[start : start + IDS_PER_QUERY]]}
        await warehouse.execute(_BURY_EVENTS, losers)
        await warehouse.execute(_BURY_LOCATIONS, losers)


_PARTS: Final = 64

_CLASHING: Final = """
SELECT toString(event_id) AS id
FROM event_ids
WHERE {among}
GROUP BY event_id
HAVING uniqExact(event_timestamp, event_type, driver_id) > 1
"""

_LOSERS: Final = """
FROM event_ids
INNER JOIN
(
    SELECT event_id, min((event_timestamp, event_type, driver_id)) AS winner
    FROM event_ids
    WHERE event_id IN {ids:Array(UUID)}
    GROUP BY event_id
) AS winners USING (event_id)
WHERE event_id IN {ids:Array(UUID)}
  AND (event_timestamp, event_type, driver_id) != winner
"""

_BURY_EVENTS: Final = f"""
INSERT INTO events (event_type, event_id, event_timestamp, content_rank, is_deleted)
SELECT DISTINCT event_type, event_id, event_timestamp, 18446744073709551615, 1
{_LOSERS}
  AND event_type != 'driver.location.updated'
"""

_BURY_LOCATIONS: Final = f"""
INSERT INTO driver_locations (event_id, event_timestamp, driver_id, content_rank, is_deleted)
SELECT DISTINCT event_id, event_timestamp, driver_id, 18446744073709551615, 1
{_LOSERS}
  AND event_type = 'driver.location.updated'
"""
