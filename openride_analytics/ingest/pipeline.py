"""From checked events to stored ones: gathered into batches, inserted, and only then acknowledged.

Sources hand over what they decoded with `put` and wait for the returned future: it is done when the events are stored
to the end and their dead letters too. Two batches may be stored at a time while the next is gathered; beyond that `put`
waits, so memory stays bounded whatever happens behind. Storing is tried for ever (a source may stop waiting earlier).

Nothing depends on the order in which batches are stored: several instances store side by side, too.
"""

import asyncio
import contextlib
import random
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from time import monotonic
from typing import Final, NamedTuple

import structlog

from openride_analytics.contract import TYPES
from openride_analytics.events import BadEvent, Events, type_of_line
from openride_analytics.ingest.clashes import settle_clashes
from openride_analytics.ingest.dead_letters import OVER_HTTP, DeadLetter, store_dead_letters
from openride_analytics.ops.metrics import UNKNOWN, Metrics
from openride_analytics.ops.tracing import OFF, Span, Tracing
from openride_analytics.warehouse import (
    FOR_INGEST,
    ContentRefused,
    Ids,
    StatementRefused,
    Warehouse,
    WarehouseError,
)
from openride_analytics.warehouse.facts import derive

log = structlog.get_logger(__name__)

# Big enough that the client's cost per event is a byte copy, small enough that the server parses in parallel.
CHUNK_EVENTS: Final = 1_000
# Enough to get down to one event of the largest batch and to its neighbours; then it is not the content.
REFUSALS_TRIED: Final = 40
# The ids of a batch in one query: scattered as they are, a few thousand of them lie in as many granules as all.
_SETTLED_AT_ONCE: Final = 50_000
_ID_LENGTH: Final = len("00000000-0000-0000-0000-000000000000 ")
MAX_BATCH_BYTES: Final = 64 * 1_048_576
# Storing waits for one step after another, here as in the server: a second batch takes the cores that they leave.
_STORED_AT_ONCE: Final = 2
_BYTES_STORED_AT_ONCE: Final = 36 * 1_048_576  # of more than one: 350 bytes an event are usual
_SMALL_BYTES: Final = 1_048_576
# Half a millisecond's work between two turns of the event loop.
_SLICE_LETTERS: Final = 500
_SUBMISSIONS_FREED: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 15.0

_REPLAYED: Final = "replay"

UNSTORABLE: Final = BadEvent("invalid_field", "The store cannot hold one of its values.")


@dataclass(frozen=True)
class Failure:
    """What went wrong, for operators: the kind of error, without texts that may hold SQL or addresses."""

    at: datetime
    error: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Of an error that happened just now."""
        return cls(datetime.now(UTC), type(error).__name__)


@dataclass(frozen=True)
class Origin:
    """Where events came from in Kafka: a partition, and the offset of each."""

    topic: str
    partition: int
    offsets: Sequence[int]


@dataclass
class Traced:
    """For the trace of a batch: when some records of it were decoded (Unix nanoseconds), and later the batch's span."""

    decode_began_ns: int
    decode_ended_ns: int
    batch: Span | None = None


Stored = asyncio.Future[Sequence[int]]
"""Done when all of some events are stored; with the places, among them, of those that the store cannot hold."""


@dataclass
class Submission:
    """What one source handed over at once. `arrived_ms`: when the first of it arrived, Unix milliseconds.

    `refused`: the places of those of its events that the store cannot hold, once it is `stored`, which has the same for a
    result. They become dead letters, unless they come from such (`are_letters`).
    """

    events: Events
    dead_letters: Sequence[DeadLetter]
    arrived_ms: int
    origin: Origin | None = None
    are_letters: bool = False
    refused: Sequence[int] = ()
    traced: Traced | None = None
    stored: "Stored" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def size(self) -> int:
        """The bytes of it that wait to be stored."""
        return self.events.size + sum([len(letter.record) + len(letter.key) for letter in self.dead_letters])

    @property
    def topic(self) -> str:
        """Where it comes from, for the metrics."""
        if self.are_letters:
            return _REPLAYED
        return self.origin.topic if self.origin else OVER_HTTP

    def refused_by_type(self) -> Tally[str]:
        """How many of each type the store cannot hold."""
        if not self.refused:
            return Tally()
        lines = list(self.events.lines())
        return Tally([type_of_line(lines[place]) for place in self.refused])

    def refuse(self, lines: Collection[bytes]) -> list[DeadLetter]:
        """Takes note of its events among those that the store cannot hold, and returns the letters that they become."""
        places = (
            [(index, line) for index, line in enumerate(self.events.lines()) if line in lines]
            if lines
            else []
        )
        self.refused = [index for index, _ in places]
        if self.are_letters:
            return []
        return [
            DeadLetter.of(
                line,
                UNSTORABLE,
                rejected_ms=self.arrived_ms,
                topic=self.origin.topic if self.origin else "",
                partition=self.origin.partition if self.origin else -1,
                offset=self.origin.offsets[index] if self.origin else -1,
            )
            for index, line in places
        ]


class Pipeline:
    """Gathers submissions into batches and stores them. Call `run` in a task of its own.

    `on_stored` is called after each batch of events with the earliest of their times (Unix milliseconds); `publish` sends
    dead letters wherever else they shall go.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        metrics: Metrics,
        *,
        max_batch_events: int,
        max_delay_seconds: float,
        on_stored: Callable[[int], Awaitable[None]],
        publish: Callable[[Sequence[DeadLetter]], Awaitable[None]] | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._warehouse = warehouse
        self._tracing = tracing
        self._metrics = metrics
        self._max_batch_events = max_batch_events
        self._max_delay_seconds = max_delay_seconds
        self._on_stored = on_stored
        self._publish = publish
        self._waiting: list[Submission] = []
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._delay_ends = 0.0
        self._changed = asyncio.Condition()
        self._closing = False
        self._storing = 0
        self._storing_bytes = 0
        self._failing = 0
        self._witness = Witness()
        self.is_behind = (
            False  # whether the last batch was full, so that more may wait than is stored in time
        )
        self.last_failure: Failure | None = None
        metrics.waiting_events.set_function(lambda: self._waiting_events)

    @property
    def waiting_events(self) -> int:
        """Events and dead letters that wait for the next batch."""
        return self._waiting_events

    @property
    def retrying(self) -> bool:
        """Whether some batch could not be stored yet and is tried again."""
        return self._failing > 0

    @property
    def has_room(self) -> bool:
        """Whether less than a full batch is waiting."""
        return self._waiting_events < self._max_batch_events and self._waiting_bytes < MAX_BATCH_BYTES

    async def put(self, events: Events, dead_letters: Sequence[DeadLetter], arrived_ms: int) -> Stored:
        """Hands over events as soon as there is room."""
        return await self._put(Submission(events, dead_letters, arrived_ms))

    async def put_again(self, events: Events, arrived_ms: int) -> Sequence[int]:
        """Events out of dead letters: waits until they are stored, and returns the places of those that the store cannot
        hold.

        No new letters are made of these. May be cancelled; the events are stored all the same, or not at all.
        """
        return await (await self._put(Submission(events, [], arrived_ms, are_letters=True)))

    async def put_at_once(
        self,
        events: Events,
        dead_letters: Sequence[DeadLetter],
        arrived_ms: int,
        origin: Origin | None = None,
        traced: Traced | None = None,
    ) -> Stored:
        """The same as `put` without waiting: for a source that looks at `has_room` itself before it fetches more."""
        async with self._changed:
            return self._add(Submission(events, dead_letters, arrived_ms, origin, traced=traced))

    async def _put(self, submission: Submission) -> Stored:
        async with self._changed:
            await self._changed.wait_for(lambda: self.has_room)
            return self._add(submission)

    def _add(self, submission: Submission) -> Stored:
        if not self._waiting:
            self._delay_ends = monotonic() + self._max_delay_seconds
        self._waiting.append(submission)
        self._waiting_events += len(submission.events) + len(submission.dead_letters)
        self._waiting_bytes += submission.size
        self._metrics.consumed(
            submission.topic, submission.events.by_type + Tally(map(_type_of, submission.dead_letters))
        )
        if len(self._waiting) == 1 or not self.has_room:  # else nobody waits for it
            self._changed.notify_all()
        return submission.stored

    async def run(self) -> None:
        """Stores batch after batch until `close`, and then what is left."""
        FOR_INGEST.set(True)  # of this task and those that it starts
        async with asyncio.TaskGroup() as stores:
            while batch := await self._gather():
                self._storing += 1
                size = sum(submission.size for submission in batch)
                self._storing_bytes += size
                stores.create_task(self._store_to_the_end(batch, size))
                del batch

    async def close(self) -> None:
        """No more waiting for full batches: `run` stores what it has and returns."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()

    async def _gather(self) -> list[Submission]:
        """The next batch, as soon as it is due; empty at the end."""
        async with self._changed:
            while not self._is_due:
                left = self._delay_ends - monotonic() if self._waits_for_time else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
            self.is_behind = not self.has_room
            batch, self._waiting, self._waiting_events, self._waiting_bytes = self._waiting, [], 0, 0
            self._changed.notify_all()
            return batch

    @property
    def _may_begin(self) -> bool:
        """Whether one more batch may be stored. Two of large events are not at once: each is held several times on its way.

        Where all rest that are under way, a small one may: if it gets through, it tells what is wrong with them.
        """
        all_rest = self._storing == self._failing
        return (
            not self._storing
            or (
                self._storing < _STORED_AT_ONCE
                and self._storing_bytes + self._waiting_bytes <= _BYTES_STORED_AT_ONCE
            )
            or (all_rest and self._storing <= _STORED_AT_ONCE and self._waiting_bytes <= _SMALL_BYTES)
        )

    @property
    def _is_due(self) -> bool:
        """Whether what waits is to be stored now: when it is full or its first event has waited long enough.

        Beside a batch at work only a full one is: smaller ones would cost the server more, and wait for its cores. One that
        rests until it is tried again holds up nobody.
        """
        if not self._may_begin:
            return False
        if self._closing or not self.has_room:
            return True
        return self._waits_for_time and monotonic() >= self._delay_ends

    @property
    def _waits_for_time(self) -> bool:
        """Whether nothing but its delay keeps what waits from being stored."""
        return bool(self._waiting) and self._may_begin and self._storing == self._failing

    async def _store_to_the_end(self, batch: list[Submission], size: int) -> None:
        await self._store_traced(batch)
        for submission in batch:
            if not submission.stored.done():
                submission.stored.set_result(submission.refused)
        async with self._changed:
            self._storing -= 1
            self._storing_bytes -= size
            self._changed.notify_all()
        while batch:  # bit by bit: to free all of it takes 10 ms
            del batch[-_SUBMISSIONS_FREED:]
            await asyncio.sleep(0)

    async def _store_traced(self, batch: Sequence[Submission]) -> None:
        traced = [submission.traced for submission in batch if submission.traced is not None]
        began = min((part.decode_began_ns for part in traced), default=None)
        sizes = {
            "openride.events": sum(len(submission.events) for submission in batch),
            "openride.dead_letters": sum(len(submission.dead_letters) for submission in batch),
        }
        with self._tracing.span("ingest.batch", kind="consumer", attributes=sizes, start_ns=began) as span:
            if began is not None:
                ended = max(part.decode_ended_ns for part in traced)
                self._tracing.past("ingest.decode", span, began, ended, {"openride.parts": len(traced)})
            for part in traced:
                part.batch = span
            await self._store(batch)

    async def _store(self, batch: Sequence[Submission]) -> None:
        """Stores a batch, however long it takes: repeating it changes nothing."""
        events = sum(len(submission.events) for submission in batch)
        pause = _FIRST_PAUSE_SECONDS
        started = monotonic()
        failed = False
        letters: list[DeadLetter] | None = None
        while letters is None:
            try:
                letters = await self._try(batch)
            except WarehouseError as error:
                if not failed:
                    async with self._changed:
                        self._failing += 1
                        self._changed.notify_all()
                failed = True
                self.last_failure = Failure.of(error)
                self._metrics.insert_failures.inc()
                log.warning(
                    "batch_not_stored",
                    error=str(error)[:500],
                    events=events,
                    retry_seconds=round(pause, 1),
                )
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, not a secret
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self._failing -= failed
        if self._publish is not None and letters:
            with self._tracing.span("ingest.publish"):
                await self._publish(letters)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        by_type = Tally[str]()
        for submission in batch:
            by_type += submission.events.by_type - submission.refused_by_type()
        self._metrics.stored(
            by_type=by_type,
            seconds=monotonic() - started,
            lags_seconds=[(now_ms - s.arrived_ms) / 1000 for s in batch if s.events],
        )
        for start in range(0, len(letters), _SLICE_LETTERS):
            self._metrics.rejected_letters(
                [
                    (_type_of(letter), letter.reason, letter.topic or OVER_HTTP)
                    for letter in letters[start : start + _SLICE_LETTERS]
                ]
            )
            await asyncio.sleep(0)
        # Where ids clash, a later event may be gone as well: the earliest time covers it.
        if events:
            await self._on_stored(min(s.events.earliest_ms for s in batch if s.events))

    async def _try(self, batch: Sequence[Submission]) -> list[DeadLetter]:
        """Stores a batch and returns its dead letters, those included of what the store cannot hold."""
        arrivals = [(submission.events, submission.arrived_ms) for submission in batch if submission.events]
        refused = await store_events(self._warehouse, arrivals, self._tracing, self._witness)
        letters = [letter for submission in batch for letter in submission.dead_letters]
        for submission in batch:
            letters += submission.refuse(refused)
        return await store_dead_letters(self._warehouse, letters)


def _type_of(letter: DeadLetter) -> str:
    """What a refused record claims to be, if there is such an event: of other texts there are too many to count."""
    return letter.event_type if letter.event_type in TYPES else UNKNOWN


Arrival = tuple[Events, int]
"""Events that arrived together, at least one, and when the first of them did (Unix milliseconds)."""


class _Row(NamedTuple):
    """One of `incoming`: lines of one kind with a newline between two."""

    kind: str
    arrived_ms: int
    lines: bytes


@dataclass
class Witness:
    """An event that got through earlier: it tells an event's fault from the store's where the whole batch is refused."""

    row: _Row | None = None


async def store_events(
    warehouse: Warehouse,
    arrivals: Sequence[Arrival],
    tracing: Tracing = OFF,
    witness: Witness | None = None,
) -> Collection[bytes]:
    """Stores events, settles ids that came with different contents, and derives their facts.

    Events that the engine cannot take are found by halving the batch; their lines are returned, and the rest is stored.
    Raises `WarehouseError` where nothing can be said about the content.
    """
    if not arrivals:
        return ()
    with tracing.span("ingest.insert"):
        refused = await _Insertion(warehouse, witness or Witness()).insert(await _rows(arrivals))
    try:
        # Side by side: where an id clashes, settling derives the facts of its things once more.
        async with asyncio.TaskGroup() as both:
            both.create_task(_settle(warehouse, arrivals, tracing))
            both.create_task(_derive(warehouse, arrivals, tracing))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return refused


async def _settle(warehouse: Warehouse, arrivals: Sequence[Arrival], tracing: Tracing) -> None:
    ids = " ".join([run.ids for events, _ in arrivals for run in events.runs])
    with tracing.span("ingest.settle"):
        for start in range(0, len(ids), _SETTLED_AT_ONCE * _ID_LENGTH):
            some = ids[start : start + _SETTLED_AT_ONCE * _ID_LENGTH]
            await settle_clashes(warehouse, Ids(some.rstrip()))


async def _derive(warehouse: Warehouse, arrivals: Sequence[Arrival], tracing: Tracing) -> None:
    with tracing.span("ingest.derive"):
        await derive(
            warehouse, list(dict.fromkeys(chain.from_iterable([events.things for events, _ in arrivals])))
        )


class _Insertion:
    """One batch on its way in, in parts where it is refused as a whole.

    A refusal whose code does not speak of the content may still be one event's fault, or everybody's (a table is gone, a quota
    is used up). It is one event's when another one gets through (of this batch, or the `witness` once more) and this one is
    refused again.
    """

    def __init__(self, warehouse: Warehouse, witness: Witness) -> None:
        self._warehouse = warehouse
        self._witness = witness
        self._refusals = 0
        self._refused: set[bytes] = set()
        self._stored: _Row | None = None  # of what got through, one event
        self._doubtful: list[tuple[_Row, StatementRefused]] = []  # one event each

    async def insert(self, rows: Sequence[_Row]) -> Collection[bytes]:
        """Stores what can be stored and returns the other lines. Raises `StatementRefused` where it is everybody's fault."""
        await self._insert(rows)
        for row, refusal in self._doubtful:
            await self._judge(row, refusal)
        self._witness.row = self._stored or self._witness.row
        return self._refused

    async def _insert(self, rows: Sequence[_Row]) -> None:
        try:
            await self._put(rows)
        except StatementRefused as refusal:
            lines = rows[0].lines.split(b"\n")
            if len(rows) == len(lines) == 1:
                await self._refuse(rows[0], refusal)
                return
            self._refusals += 1
            if (
                self._refusals > REFUSALS_TRIED
                and not self._stored
                and not isinstance(refusal, ContentRefused)
            ):
                raise
        else:
            self._stored = rows[0]._replace(lines=rows[0].lines.partition(b"\n")[0])
            return
        if len(rows) == 1:
            middle = len(lines) // 2
            rows = [rows[0]._replace(lines=b"\n".join(half)) for half in (lines[:middle], lines[middle:])]
        middle = len(rows) // 2
        await self._insert(rows[:middle])
        await self._insert(rows[middle:])

    async def _refuse(self, row: _Row, refusal: StatementRefused) -> None:
        """Of one event that was refused alone."""
        if isinstance(refusal, ContentRefused):
            self._refused.add(row.lines)
        elif self._stored is not None:
            await self._judge(row, refusal)
        else:
            self._refusals += 1
            self._doubtful.append((row, refusal))
            if self._refusals > REFUSALS_TRIED:
                raise refusal

    async def _judge(self, row: _Row, refusal: StatementRefused) -> None:
        """Tries what got through once more (it lands on its own row), and then this one."""
        through = self._stored or self._witness.row
        if through is None:
            raise refusal
        await self._put([through])
        try:
            await self._put([row])
        except StatementRefused:
            self._refused.add(row.lines)

    async def _put(self, rows: Sequence[_Row]) -> None:
        await self._warehouse.insert("incoming", _Row._fields, rows)


async def _rows(arrivals: Sequence[Arrival]) -> list[_Row]:
    """The rows for some events: those of one kind together, many in one. In slices, so that others get their turn."""
    rows: list[_Row] = []
    gathered: dict[str, tuple[int, int, list[bytes]]] = {}

    def add_row(kind: str) -> None:
        _, arrived_ms, lines = gathered.pop(kind)
        rows.append(_Row(kind, arrived_ms, b"\n".join(lines)))

    for events, arrived_ms in arrivals:
        for run in events.runs:
            kind = "location" if run.is_location else "event"
            count, earliest_ms, lines = gathered.setdefault(kind, (0, arrived_ms, []))
            lines.append(run.lines)
            gathered[kind] = count + run.count, min(earliest_ms, arrived_ms), lines
            if count + run.count >= CHUNK_EVENTS:
                add_row(kind)
        await asyncio.sleep(0)
    for kind in list(gathered):
        add_row(kind)
    return rows
