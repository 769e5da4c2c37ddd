"""A stream that goes on for as long as it is asked for, the same for the same seed, and what is true of it.

The stories are the model's; each dozen is about people and things of its own (a *world*), so that every event counts
somewhere. Events come shuffled over hundreds, some of them again much later, ids clash across batches, and between
them are records that must be refused.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import msgspec

from openride_analytics.config import Kafka
from openride_analytics.ingest.topics import topic_for
from tests.model import kept, naive
from tests.model.asked import differences
from tests.model.periods import MILLISECOND, Question, beginning_of, local_day
from tests.model.stored import Event, of, stored
from tests.model.streams import CLOCK_CHANGE, FILTERS, MOST_EVENTS_OF_A_STORY, STORIES, Teller

CURRENCY = "NGN"
STORIES_OF_A_WORLD = 12
EVENTS_MIXED = 300
ANCHORS = [CLOCK_CHANGE, *(datetime(2026, 3, day, 22, 30, tzinfo=UTC) for day in (1, 9, 10, 17, 28))]
AGAIN = 0.08
BAD = 0.04
KINDS = [topic.rpartition(".")[2] for topic in Kafka().topics]

Place = tuple[str, int, int]
"""Topic, partition, offset."""
Stored = tuple[str, str, int]
"""Event id, type, time in Unix milliseconds."""


class Record(NamedTuple):
    """One record to send: an event, or the reason for its refusal."""

    kind: str
    value: bytes
    event: Event | None
    reason: str = ""


class Stream:
    """Records one by one, without an end."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._worlds = 0
        self._told: deque[Event] = deque()
        self._past: list[Event] = []

    def take(self, count: int) -> list[Record]:
        return [self._next() for _ in range(count)]

    def take_events(self, count: int) -> list[Event]:
        """Only good ones."""
        return [self._event() for _ in range(count)]

    def _next(self) -> Record:
        if self._random.random() < BAD:
            return self._bad()
        event = self._event()
        kind = topic_for(event["event_type"], KINDS)
        assert kind is not None
        return Record(kind, msgspec.json.encode(event), event)

    def _event(self) -> Event:
        if self._past and self._random.random() < AGAIN:
            return self._random.choice(self._past)
        if not self._told:
            self._told.extend(self._mixed())
        event = self._told.popleft()
        self._past.append(event)
        return event

    def _mixed(self) -> list[Event]:
        events: list[Event] = []
        while len(events) < EVENTS_MIXED:
            events += self._world()
        self._random.shuffle(events)
        return events

    def _world(self) -> Iterator[Event]:
        self._worlds += 1
        world = uuid5(UUID(int=0), f"world {self._worlds}")
        for number in range(STORIES_OF_A_WORLD):
            seed = self._random.getrandbits(64)
            teller = Teller(seed, number, ANCHORS, STORIES, java_gaps=False)
            for event in teller.tell(MOST_EVENTS_OF_A_STORY):
                yield {name: _of_world(world, name, value) for name, value in event.items()}

    def _bad(self) -> Record:
        random = self._random
        event = {
            "event_type": "user.registered",
            "event_id": str(UUID(int=random.getrandbits(128), version=4)),
            "event_timestamp": "2026-03-09T07:05:00Z",
            "user_id": str(UUID(int=random.getrandbits(128), version=4)),
            "role": "RIDER",
        }
        value, reason = random.choice(
            (
                (b"no JSON \xff", "invalid_json"),
                (b"", "invalid_json"),
                (event | {"event_type": "user.vanished"}, "unknown_event_type"),
                (event | {"role": "PASSENGER"}, "invalid_field"),
                (event | {"event_timestamp": "2014-12-31T23:59:59Z"}, "timestamp_out_of_range"),
            )
        )
        record = value if isinstance(value, bytes) else msgspec.json.encode(value)
        return Record(random.choice(KINDS), record, None, reason)


def _of_world(world: UUID, name: str, value: Any) -> Any:
    """Ids of things, in the case they were written in."""
    if not name.endswith("_id") or name == "event_id" or not isinstance(value, str):
        return value
    own = str(uuid5(world, value.lower()))
    return own.upper() if value.isupper() else own


@dataclass
class Truth:
    """What was sent and acknowledged, and so must be known."""

    log: dict[Place, Record] = field(default_factory=dict)
    """What is on Kafka."""
    posted: list[Event] = field(default_factory=list)
    """What came over HTTP, or was on topics that are no more."""
    refused_before: set[tuple[Place, str]] = field(default_factory=set)
    """Bad records of topics that are no more."""

    @property
    def events(self) -> list[Event]:
        """All good ones, repeats included."""
        return [record.event for record in self.log.values() if record.event is not None] + self.posted

    @property
    def refused(self) -> set[tuple[Place, str]]:
        """The places and reasons of the bad ones: a topic that is made anew has the same places again."""
        now = {(place, record.reason) for place, record in self.log.items() if record.event is None}
        return self.refused_before | now

    @property
    def ends(self) -> dict[tuple[str, int], int]:
        """Where the partitions must end: each record was sent once."""
        ends: dict[tuple[str, int], int] = {}
        for topic, partition, offset in self.log:
            ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
        return ends

    def topics_deleted(self) -> None:
        """What was read of the log stays known; its places are free for other records."""
        self.posted = self.events
        self.refused_before = self.refused
        self.log.clear()

    def lost_before(self, topic: str, partition: int, offset: int, committed: int) -> int:
        """Forgets the records that were gone before anybody read them; how many there were."""
        lost = [(topic, partition, number) for number in range(committed, offset)]
        for place in lost:
            del self.log[place]
        return len(lost)

    def differences(self, rows: list[Stored], letters: set[tuple[Place, str]]) -> list[str]:
        """Where what is stored and refused is not what was sent, event by event."""
        given = {event["event_id"].lower() for event in self.events if "event_id" in event}
        wanted = [
            (event["event_id"], event["event_type"], _unix_ms(event["event_timestamp"]))
            for event in stored(self.events, CURRENCY)
        ]
        # Nobody outside the service knows the ids that it derives: those are told by type and time.
        expected = Counter(row if row[0] in given else ("", *row[1:]) for row in wanted)
        found = Counter(row if row[0] in given else ("", *row[1:]) for row in rows)
        return [
            *_listed("not stored", list((expected - found).elements())),
            *_listed("stored and not sent, or stored twice", list((found - expected).elements())),
            *_listed("refused and not kept", sorted(self.refused - letters)),
            *_listed("kept as refused and good", sorted(letters - self.refused)),
        ]

    def distinct(self) -> int:
        """The events that must be stored."""
        return len(stored(self.events, CURRENCY))


def _listed(what: str, items: list[Any]) -> list[str]:
    return [f"{len(items)} {what}: {items[:5]}"] if items else []


def _unix_ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _days(first: date, after: date, zone: str, **more: Any) -> Question:
    start, end = (beginning_of(day, ZoneInfo(zone)) for day in (first, after))
    return Question(start, end, zone, now=end, **more)


QUESTIONS = (
    _days(date(2026, 2, 19), date(2026, 4, 7), "Africa/Lagos", granularity="week", compare=True),
    _days(
        date(2026, 3, 1),
        date(2026, 4, 1),
        "America/New_York",
        sort="trips",
        limit=1000,
        state="Lagos",
        currency="NGN",
    ),
    Question(
        datetime(2026, 3, 7, 12, tzinfo=UTC),
        datetime(2026, 3, 10, 5, 30, tzinfo=UTC),
        "Asia/Kolkata",
        now=CLOCK_CHANGE,
        granularity="hour",
        kind="instants",
        compare=True,
        limit=1000,
    ),
)
"""About days that are over, so that it does not matter when they are asked. `now` is replaced then."""
ENDPOINTS = ("users", "bookings", "payments", "trips", "drivers", "routes")


def parameters(endpoint: str, question: Question) -> dict[str, str]:
    """The question as a query string says it."""
    if question.kind == "days":
        zone = question.zone
        first, last = (local_day(at, zone) for at in (question.start, question.end - MILLISECOND))
        asked = {"start_date": first.isoformat(), "end_date": last.isoformat()}
    else:
        asked = {"start_date": question.start.isoformat(), "end_date": question.end.isoformat()}
    asked |= {"timezone": question.timezone, "granularity": question.granularity}
    if question.compare:
        asked["compare"] = "previous"
    if endpoint in ("drivers", "routes"):
        asked["limit"] = str(question.limit)
    if endpoint == "drivers":
        asked["sort"] = question.sort
    filters = {name: getattr(question, name) for name in FILTERS[endpoint]}
    return asked | {name: value for name, value in filters.items() if value is not None}


def expected_answers(events: list[Event]) -> dict[tuple[str, int], Any]:
    """The model's answers to all questions, by endpoint and number of the question.

    The model looks at all events again for each thing; here it is spared what it has looked at already.
    """
    now = datetime.now(UTC)
    known = stored(events, CURRENCY)
    seen: dict[tuple[str, ...], list[Event]] = {}

    def seen_before(some: list[Event], *types: str) -> list[Event]:
        if some is not known:
            return of(some, *types)
        if types not in seen:
            seen[types] = of(known, *types)
        return seen[types]

    with (
        patch.object(naive, "stored", return_value=known),
        patch.object(naive, "of", seen_before),
        patch.object(kept, "of", seen_before),
    ):
        return {
            (endpoint, number): getattr(naive, endpoint)(events, replace(question, now=now))
            for endpoint in ENDPOINTS
            for number, question in enumerate(QUESTIONS)
        }


def compared(endpoint: str, number: int, expected: Any, actual: Any) -> list[str]:
    """The differences of one answer, each with its endpoint and question."""
    return [
        f"{endpoint}, question {number}: {difference}" for difference in differences(expected, actual)[:5]
    ]
