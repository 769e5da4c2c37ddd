"""Streams and questions for analytics: besides the stories of things, the *lives* of users.

A life is a story of one user who does one thing after another, mostly the steps asked about, at distances in time
where a rule may tip over: at once, at the end of the window, at the beginning or the end of the day asked about.
"""

from dataclasses import fields
from datetime import datetime, timedelta
from itertools import chain
from random import Random
from uuid import NAMESPACE_OID, uuid5
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from .periods import (
    DAY,
    MILLISECOND,
    AnalyticsQuestion,
    Metric,
    Question,
    beginning_of,
    first_day,
    local_day,
    period,
    units_later,
)
from .stored import Event
from .streams import (
    CLOCK_CHANGE,
    FOCUS,
    MOST_EVENTS_OF_A_STORY,
    STORIES,
    STORY_TYPES,
    THINGS,
    USERS,
    ZONES,
    Teller,
    questions,
    within_days_of_streams,
)

PEOPLE = (*USERS, *(str(uuid5(NAMESPACE_OID, f"person {number}")) for number in range(7)))
LIVES_ZONES = (*ZONES, "America/St_Johns", "Asia/Beirut")
"""Half-hour offset and clock change together, and a day (29 March) that begins at one o'clock."""

STEPS = tuple(
    sorted({kind for kinds in STORY_TYPES.values() for kind in kinds} - {"driver.location.updated"})
)
WELL_TRODDEN = (
    ("user.registered", "booking.created", "booking.confirmed", "trip.completed"),
    ("booking.created", "booking.created"),
    ("booking.created", "booking.cancelled", "booking.created", "booking.confirmed"),
    ("payment.initiated", "payment.failed", "payment.initiated", "payment.success"),
    ("user.registered", "user.upgraded_to_driver", "route.created", "route.activated"),
    ("route.created", "booking.created"),
    ("trip.started", "trip.completed", "trip.started", "trip.completed", "trip.started"),
)

COMES_BACK = ("user.registered", "booking.created", "trip.completed", "booking.created", "trip.cancelled")
"""The life of those who are followed from their registration."""

METRICS_LIKE: dict[Metric, str] = {
    "bookings": "bookings",
    "revenue": "payments",
    "trips": "trips",
    "users": "users",
    "drivers": "drivers",
    "routes": "routes",
}
"""The endpoint of metrics whose filters each of the geographic metrics takes."""
ON_THE_MAP: dict[Metric, tuple[str, ...]] = {
    "bookings": ("booking.created", "route.created"),
    "revenue": ("booking.created", "payment.success", "route.created"),
    "trips": ("trip.started", "trip.completed", "route.created"),
    "users": ("user.registered",),
    "drivers": ("driver.location.updated",),
    "routes": ("route.created",),
}
"""What happens in the lives told to those who ask for a geographic metric."""
WITH_POINTS = ("bookings", "trips", "drivers")
"""The geographic metrics that can be asked for by hexagon."""


class Life(Teller):
    """Makes the events of one user's life, the same ones for the same integer."""

    def __init__(
        self,
        seed: int,
        number: int,
        anchors: list[datetime],
        steps: tuple[str, ...],
        gaps: list[timedelta],
        *,
        java_gaps: bool,
    ) -> None:
        super().__init__(seed, number, anchors, STORIES, java_gaps=java_gaps)
        self.user_of_this = self.random.choice(PEOPLE)
        self.steps = steps
        self.gaps = gaps

    def next_type(self) -> str:
        if not self.told:
            return self.random.choice(("user.registered", self.steps[0]))
        if self.chance(0.8):
            return self.steps[len(self.told) % len(self.steps)]
        return self.random.choice(STEPS)

    def fields(self, kind: str) -> Event:
        self.which = self.random.randrange(THINGS)
        event = super().fields(kind)
        parties = [party for party in ("user_id", "rider_id", "driver_id") if party in event]
        if self.chance(0.9):
            event[self.random.choice((parties[0], *parties))] = self.user_of_this
        return event

    def time(self) -> datetime:
        if not self.times:
            return super().time()
        since = self.random.choice((self.times[0], self.times[-1], self.times[-1]))
        self.times.append(within_days_of_streams(since + self.random.choice(self.gaps)))
        return self.times[-1]


def telling_gaps(question: AnalyticsQuestion) -> list[timedelta]:
    window = timedelta(hours=question.window_hours)
    days = [day * DAY for day in question.days] + [(day + 1) * DAY for day in question.days]
    return [
        timedelta(0),
        timedelta(0),
        MILLISECOND,
        timedelta(minutes=10),
        timedelta(minutes=10),
        timedelta(hours=-1),
        window / 2,
        *(edge + nudge for edge in (window, *days) for nudge in (timedelta(0), MILLISECOND, -MILLISECOND)),
        -window,
        7 * DAY,
        21 * DAY,
    ]


@st.composite
def analytics_questions(draw: st.DrawFn, name: str) -> AnalyticsQuestion:
    """Questions to the endpoint of this name about the days of the streams, with the filters that it takes."""
    metric = draw(st.sampled_from(sorted(METRICS_LIKE)))
    levels = ("state", "city", "h3", "h3") if metric in WITH_POINTS else ("state", "city")
    like = METRICS_LIKE[metric] if name == "geographic" else "users"
    asked: Question = draw(questions(like, zones=LIVES_ZONES))
    any_steps = st.lists(st.sampled_from(STEPS), min_size=2, max_size=8).map(tuple)
    now = draw(st.sampled_from((asked.end + 45 * DAY, asked.end + 9 * DAY, asked.now)))
    return AnalyticsQuestion(
        **{field.name: getattr(asked, field.name) for field in fields(Question)} | {"now": now},
        steps=draw(st.one_of(st.sampled_from(WELL_TRODDEN), st.sampled_from(WELL_TRODDEN), any_steps)),
        window_hours=draw(st.sampled_from((168, 1, 24, 720))),
        breakdown=draw(st.sampled_from((None, "city", "state"))),
        unit=draw(st.sampled_from(("week", "day", "month"))),
        periods=draw(st.sampled_from((12, 1, 2, 5))),
        activity=draw(st.sampled_from(("booking", "trip", "any"))),
        days=tuple(draw(st.sampled_from(((1, 7, 30), (7, 1), (3,), (1, 2, 3, 14))))),
        mode=draw(st.sampled_from(("exact", "unbounded"))),
        role=draw(st.sampled_from((None, None, "RIDER", "DRIVER"))),
        metric=metric,
        level=draw(st.sampled_from(levels)),
        resolution=draw(st.integers(4, 9)),
    )


def telling_instants(question: AnalyticsQuestion) -> list[datetime]:
    """The instants around which things should happen, most of them in the period."""
    zone = ZoneInfo(question.timezone)
    unit = first_day(question.unit, local_day(question.start, zone))
    # On a whole second, as the milliseconds within are those of the events without an id.
    middle = (question.start + (question.end - question.start) / 2).replace(microsecond=0)
    return [
        *[question.start, middle, middle, max(question.start, question.end - timedelta(hours=1))] * 3,
        question.end,
        period(question, 1).start,
        question.now,
        question.now - timedelta(hours=question.window_hours),
        *(question.now - (day + 1) * DAY for day in question.days),
        *(beginning_of(units_later(question.unit, unit, later), zone) for later in range(3)),
        CLOCK_CHANGE,
    ]


@st.composite
def analytics_cases(
    draw: st.DrawFn, name: str, *, java_gaps: bool = False
) -> tuple[list[Event], AnalyticsQuestion]:
    """A question, and a stream of lives and of other stories around the instants that matter to it."""
    question = draw(analytics_questions(name))
    anchors = telling_instants(question)
    kinds = STORIES + FOCUS[METRICS_LIKE[question.metric]] if name == "geographic" else STORIES
    steps = {"funnel": question.steps, "geographic": ON_THE_MAP[question.metric]}.get(name, COMES_BACK)
    length, seed = st.integers(0, MOST_EVENTS_OF_A_STORY), st.integers(0, 2**20)
    tellers: list[tuple[Teller, int]] = []
    for long, told in draw(st.lists(st.tuples(length, seed), max_size=14)):
        tellers.append((Teller(told, len(tellers), anchors, kinds, java_gaps=java_gaps), long))
    for long, told in draw(st.lists(st.tuples(length, seed), min_size=12, max_size=32)):
        # Another seed than that of any story, so that no id is told twice by chance.
        life = Life(told + 2**21, len(tellers), anchors, steps, telling_gaps(question), java_gaps=java_gaps)
        tellers.append((life, long))
    events = list(chain.from_iterable(teller.tell(long) for teller, long in tellers))
    Random(len(events)).shuffle(events)
    return events, question
