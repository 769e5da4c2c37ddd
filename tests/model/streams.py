"""Made-up streams of events, and questions about them, for Hypothesis.

A stream is a list of *stories*, each told by one small integer: a few events of one thing (a booking, a
payment, a trip, …) of a platform so small that things meet, repeat and contradict each other. Hypothesis
shrinks by leaving out stories and the ends of stories. Times cluster around the instants where a rule may tip
over.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import chain
from random import Random
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from .periods import DAY, MILLISECOND, Question, beginning_of, buckets, period
from .stored import Event

FIRST = datetime(2026, 2, 20, tzinfo=UTC)
LAST = datetime(2026, 4, 5, tzinfo=UTC)

ZONES = ("UTC", "Africa/Lagos", "Asia/Kolkata", "America/New_York", "America/Havana")
CLOCK_CHANGE = datetime(2026, 3, 8, 7, tzinfo=UTC)
"""When New York's clocks go from 01:59:59 to 03:00:00. Two hours before, Havana's go from 23:59:59 to 01:00:00."""


def _ids(kind: str, count: int) -> list[str]:
    return [str(uuid5(NAMESPACE_OID, f"{kind} {number}")) for number in range(count)]


THINGS = 6

RIDERS = _ids("user", 5)
DRIVERS = [*RIDERS[3:], *_ids("driver", 2)]
"""Two of them also ride."""
USERS = sorted({*RIDERS, *DRIVERS})
ROUTES = _ids("route", 3)
BOOKINGS = _ids("booking", THINGS)
PAYMENTS = _ids("payment", THINGS)
TRIPS = _ids("trip", THINGS)

CURRENCIES = ("NGN", "GHS")
METHODS = ("card", "transfer", "wallet")
PROVIDERS = ("paystack", "flutterwave")
PLACES = (("Ikeja", "Lagos"), ("Lekki", "Lagos"), ("Garki", "FCT"), ("Ikeja", "FCT"))
CITIES = sorted({city for city, _ in PLACES})
STATES = sorted({state for _, state in PLACES})
POINTS = (
    (6.5244, 3.3792),
    (6.525, 3.375),
    (6.6018, 3.3515),
    (9.0765, 7.3986),
    (5.6037, -0.187),
    (-26.2, 28.04),
    (0.0, 9.45),
)
"""None is near the border of an H3 cell of any resolution asked for; the first two part at the finer ones."""
PARTIES = ("RIDER", "DRIVER", "SYSTEM")
PRICES = ("3000.00", "1234.5", "10.125", "0.0001", "0.00", 1500, 99.99, 2500.5)

STORY_TYPES: dict[str, tuple[str, ...]] = {
    "user": (*["user.registered"] * 3, *["user.kyc_verified"] * 2, "user.upgraded_to_driver"),
    "route": (*["route.created"] * 2, *["route.activated"] * 2, "route.cancelled"),
    "booking": (
        *["booking.created"] * 3,
        *["booking.confirmed"] * 3,
        *["booking.cancelled"] * 2,
        "booking.completed",
    ),
    "payment": (
        *["payment.initiated"] * 3,
        *["payment.success"] * 3,
        "payment.failed",
        *["payment.refunded"] * 2,
    ),
    "trip": (*["trip.started"] * 2, *["trip.completed"] * 2, "trip.cancelled"),
    "location": ("driver.location.updated",),
}
STORIES = ("user", "route", "booking", "payment", "trip", "location")
FOCUS: dict[str, tuple[str, ...]] = {
    "users": ("user", "user", "user", "route"),
    "bookings": ("booking", "booking", "booking", "route"),
    "payments": ("payment", "payment", "payment", "booking"),
    "trips": ("trip", "trip", "trip", "route"),
    "drivers": ("trip", "trip", "trip", "user"),
    "routes": ("route", "route", "booking", "booking", "payment"),
    "realtime": ("booking", "payment", "trip", "trip"),
}
"""The stories told more often to those who ask an endpoint."""

NOT_IN_JAVA: dict[str, tuple[str, ...]] = {
    "booking.created": ("driver_id",),
    "booking.confirmed": ("driver_id", "seats_booked"),
    "booking.cancelled": ("driver_id", "cancelled_by"),
    "booking.completed": ("driver_id", "seats_booked", "actual_departure"),
    "trip.completed": (
        *("driver_id", "actual_departure", "actual_arrival", "duration_minutes", "distance_km"),
        *("driver_earnings", "platform_commission"),
    ),
}
"""Contract fields that OpenRide's own services leave out, so that they are stored as unknown."""

OFFSETS = (
    timedelta(0),
    timedelta(0),
    -MILLISECOND,
    MILLISECOND,
    timedelta(seconds=1.5),
    timedelta(minutes=-15),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=-1),
    timedelta(hours=1),
    timedelta(hours=-24),
    timedelta(hours=7),
    timedelta(days=7),
    timedelta(days=-7),
    timedelta(days=7, milliseconds=-1),
    timedelta(days=-30),
)

MOST_STORIES = 36
MOST_EVENTS_OF_A_STORY = 8

FILTERS: dict[str, tuple[str, ...]] = {
    "users": ("city", "state"),
    "bookings": ("city", "state", "currency", "route_id", "driver_id"),
    "payments": ("city", "state", "currency", "payment_method", "provider", "route_id", "driver_id"),
    "trips": ("city", "state", "currency", "route_id", "driver_id"),
    "drivers": ("city", "state", "currency", "driver_id"),
    "routes": ("city", "state", "currency", "route_id", "driver_id"),
    "realtime": (),
}
"""The filters that each endpoint takes."""

FILTER_VALUES: dict[str, tuple[str, ...]] = {
    "city": (*CITIES, "Nowhere"),
    "state": tuple(STATES),
    "currency": CURRENCIES,
    "payment_method": METHODS,
    "provider": PROVIDERS,
    "route_id": tuple(ROUTES),
    "driver_id": tuple(DRIVERS),
}


class Teller:
    """Makes the events of one story, the same ones for the same integer."""

    def __init__(
        self, seed: int, number: int, anchors: list[datetime], kinds: tuple[str, ...], *, java_gaps: bool
    ) -> None:
        self.random = Random(seed)
        self.anchors = anchors
        self.java_gaps = java_gaps
        self.told: list[Event] = []
        self.times_of_id: dict[str, set[datetime]] = {}
        # An event without an id gets its millisecond to itself: nobody outside the service knows the id that
        # would break a tie.
        self.own_milliseconds = iter(
            range(100 + number * MOST_EVENTS_OF_A_STORY, 100 + (number + 1) * MOST_EVENTS_OF_A_STORY)
        )
        self.kind = self.random.choice(kinds)
        self.which = self.random.randrange(THINGS)
        self.home = self.random.choice(anchors)
        self.types = [kind for kind in STORY_TYPES[self.kind] if self.happens(kind)]
        self.times: list[datetime] = []

    def tell(self, length: int) -> list[Event]:
        for _ in range(length):
            self.told.append(self.next_event())
        return self.told

    def next_event(self) -> Event:
        if self.told and self.chance(0.1):
            return dict(self.random.choice(self.told))
        kind = self.next_type()
        event: Event = {"event_type": kind} | self.fields(kind)
        if self.chance(0.15):
            own = next(self.own_milliseconds)
            when = self.time().replace(microsecond=own * 1000)
        else:
            when = self.identify(event)
        event["event_timestamp"] = self.spelled(when)
        if self.java_gaps:
            for field in NOT_IN_JAVA.get(kind, ()):
                if self.chance(0.3):
                    del event[field]
        if self.chance(0.1):
            event["app_version"] = "7.1"
        if self.chance(0.1):
            event = {
                name: value.upper()
                if name.endswith("_id") and name in event and isinstance(value, str)
                else value
                for name, value in event.items()
            }
        return event

    def next_type(self) -> str:
        return self.random.choice(self.types)

    def happens(self, kind: str) -> bool:
        """Half of all things are never cancelled, and one trip is on its way for good."""
        if self.kind == "trip" and self.which == 1:
            return kind == "trip.started"
        return self.which % 2 == 0 or not kind.endswith(".cancelled")

    def identify(self, event: Event) -> datetime:
        """Gives the event an id, now and then one that is taken, and its time.

        Payloads under one id never share their time: which of two such ones wins is the service's own affair.
        """
        when = self.time()
        event_id = str(UUID(int=self.random.getrandbits(128), version=4))
        if self.times_of_id and self.chance(0.15):
            taken = self.random.choice(sorted(self.times_of_id))
            if when not in self.times_of_id[taken]:
                event_id = taken
        self.times_of_id.setdefault(event_id, set()).add(when)
        event["event_id"] = event_id
        return when

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def time(self) -> datetime:
        if self.times and self.chance(0.2):
            return self.random.choice(self.times)
        anchor = self.home if self.chance(0.5) else self.random.choice(self.anchors)
        if self.chance(0.75):
            offset = self.random.choice(OFFSETS)
        else:
            offset = timedelta(minutes=self.random.randrange(-4 * 24 * 60, 4 * 24 * 60))
        self.times.append(within_days_of_streams(anchor + offset))
        return self.times[-1]

    def spelled(self, when: datetime) -> str | int | float:
        """One of the ways the contract lets a producer write a time."""
        match self.random.randrange(8):
            case 0:
                return (when - datetime(1970, 1, 1, tzinfo=UTC)) // MILLISECOND
            case 1:
                return when.timestamp()
            case 2:
                return when.replace(tzinfo=None).isoformat(timespec="milliseconds")
            case 3:
                return when.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
            case 4:
                return when.astimezone(timezone(timedelta(hours=-5))).isoformat()
            case _:
                return when.isoformat().replace("+00:00", "Z")

    def fields(self, kind: str) -> Event:
        make: dict[str, Callable[[str], Event]] = {
            "user": self.user,
            "route": self.route,
            "booking": self.booking,
            "payment": self.payment,
            "trip": self.trip,
            "driver": self.location,
        }
        return make[kind.partition(".")[0]](kind)

    # Each thing has its usual partners, and now and then an event names others.

    def usually(self, things: list[str], number: int) -> str:
        return things[number % len(things)] if self.chance(0.9) else self.random.choice(things)

    def optional(self, **values: Any) -> Event:
        """Some of the fields, some of them null."""
        fate = {name: self.random.randrange(4) for name in values}
        return {name: None if fate[name] == 1 else value for name, value in values.items() if fate[name] != 0}

    def money(self) -> str | float:
        return self.random.choice(PRICES)

    def point(self, lat: str, lon: str) -> Event:
        return dict(zip((lat, lon), self.random.choice(POINTS), strict=True))

    def currency(self) -> Event:
        return {} if self.chance(0.25) else {"currency": self.random.choice((CURRENCIES[0], *CURRENCIES))}

    def user(self, kind: str) -> Event:
        event: Event = {"user_id": USERS[self.which % len(USERS)]}
        match kind:
            case "user.registered":
                city, state = self.random.choice(PLACES)
                event["role"] = self.random.choice(("RIDER", "DRIVER", "DRIVER", "ADMIN"))
                event |= self.optional(
                    city=self.or_empty(city), state=self.or_empty(state), referral_code="ABC"
                )
            case "user.kyc_verified":
                if self.chance(0.7):
                    event["kyc_status"] = self.random.choice(("VERIFIED", "REJECTED"))
            case _:
                event |= {"previous_role": "RIDER", "new_role": "DRIVER"} if self.chance(0.5) else {}
        return event

    def or_empty(self, text: str) -> str:
        return "" if self.chance(0.15) else text

    def route(self, kind: str) -> Event:
        event: Event = {
            "route_id": ROUTES[self.which % len(ROUTES)],
            "driver_id": self.usually(DRIVERS, self.which),
        }
        match kind:
            case "route.created":
                (city, state), (to_city, to_state) = self.random.choices(PLACES, k=2)
                event |= {
                    "route_name": f"{city}-{to_city}",
                    "origin_city": self.or_empty(city),
                    "origin_state": self.or_empty(state),
                    "destination_city": to_city,
                    "destination_state": to_state,
                    "seats_total": self.random.choice((1, 3, 4, 14)),
                    "base_price": self.money(),
                    "active_days": ["MON", "FRI"],
                }
                event |= self.optional(departure_time="07:05")
            case "route.activated":
                event |= self.optional(route_name=self.random.choice(("Morning", "Evening")))
            case _:
                event |= self.optional(route_name="Closed", cancellation_reason="no car")
        return event

    def booking_parties(self, booking: int) -> Event:
        return {
            "booking_id": BOOKINGS[booking % len(BOOKINGS)],
            "rider_id": self.usually(RIDERS, booking),
            "driver_id": self.usually(DRIVERS, booking),
            "route_id": self.usually(ROUTES, booking),
        }

    def departure(self) -> datetime:
        """One of a few, so that bookings share departures."""
        hour = self.random.choice(self.anchors[:3]) + self.random.choice((timedelta(0), timedelta(hours=1)))
        return within_days_of_streams(hour)

    def booking(self, kind: str) -> Event:
        event = self.booking_parties(self.which)
        seats_and_price: Event = {"seats_booked": self.random.randint(1, 3), "total_price": self.money()}
        match kind:
            case "booking.created":
                event |= seats_and_price | self.currency()
                event |= self.point("pickup_lat", "pickup_lon") if self.chance(0.85) else {}
                event |= {"scheduled_departure": self.spelled(self.departure())}
                event |= self.optional(dropoff_lat=6.75, dropoff_lon=3.5)
            case "booking.confirmed":
                event |= seats_and_price | self.currency()
                event |= self.optional(payment_id=PAYMENTS[self.which], confirmation_code="XYZ")
            case "booking.cancelled":
                event |= {"cancelled_by": self.random.choice(PARTIES)}
                event |= self.optional(cancellation_reason="late", refund_initiated=True)
            case _:
                left = self.departure()
                event |= seats_and_price | self.currency()
                event |= {
                    "actual_departure": self.spelled(left),
                    "actual_arrival": self.spelled(left + timedelta(minutes=40)),
                }
                event |= self.optional(trip_id=TRIPS[self.which], duration_minutes=40)
        return event

    def payment(self, kind: str) -> Event:
        parties = self.booking_parties(self.which if self.chance(0.95) else self.random.randrange(THINGS))
        event: Event = {"payment_id": PAYMENTS[self.which]} | {
            name: parties[name] for name in ("booking_id", "rider_id")
        }
        event |= self.currency()
        if kind == "payment.refunded":
            event |= {"refund_amount": self.money(), "original_amount": "3000.00"}
            return event | self.optional(refund_reason="cancelled")
        event |= {
            "amount": self.money(),
            "payment_method": self.or_empty(self.random.choice(METHODS)),
            "provider": self.or_empty(self.random.choice(PROVIDERS)),
        }
        if kind != "payment.initiated":
            event |= self.optional(processing_time_ms=self.random.choice((0, 250, 1200, 1201, 30_000)))
        if kind == "payment.failed":
            event |= {"error_code": self.or_empty(self.random.choice(("DECLINED", "TIMEOUT")))}
        return event

    def trip(self, kind: str) -> Event:
        event: Event = {"trip_id": TRIPS[self.which]} | self.booking_parties(self.which)
        left = self.departure()
        match kind:
            case "trip.started":
                late = self.random.choice((-3, 0, 10, 10, 30)) * timedelta(minutes=1)
                late += self.random.choice((timedelta(0), timedelta(0), MILLISECOND))
                event |= {
                    "scheduled_departure": self.spelled(left),
                    "actual_departure": self.spelled(left + late),
                    "passengers_count": self.random.randint(1, 3),
                }
                event |= self.point("start_lat", "start_lon")
            case "trip.completed":
                # Halves and quarters add up exactly in any order.
                event |= {
                    "actual_departure": self.spelled(left),
                    "actual_arrival": self.spelled(left + timedelta(minutes=40)),
                    "duration_minutes": self.random.randrange(0, 240) / 2,
                    "distance_km": self.random.randrange(0, 20) / 10,
                    "driver_earnings": self.money(),
                    "platform_commission": self.money(),
                }
                event |= self.currency() | self.optional(on_time=True)
            case _:
                event |= {"cancelled_by": self.random.choice(PARTIES)}
                event |= self.optional(was_started=True, partial_distance_km=1.5)
        return event

    def location(self, _kind: str) -> Event:
        city, state = self.random.choice(PLACES)
        event: Event = {"driver_id": self.usually(DRIVERS, self.which)} | self.point("lat", "lon")
        return event | self.optional(
            trip_id=TRIPS[self.which], speed_kmh=30.5, city=city, state=self.or_empty(state)
        )


def within_days_of_streams(when: datetime) -> datetime:
    """Times before the first or after the last day come in again at the other side."""
    return FIRST + (when - FIRST) % (LAST - FIRST)


def streams(
    anchors: list[datetime] | None = None,
    *,
    endpoint: str | None = None,
    java_gaps: bool = False,
) -> st.SearchStrategy[list[Event]]:
    """Lists of contract events, mostly 40 to 150, in no order of time.

    Many happen near one of the anchors, and more than others those that the endpoint looks at. With
    `java_gaps` fields are missing that OpenRide's own services do not send, which the contract allows in that
    dialect only.
    """
    near = anchors or [CLOCK_CHANGE, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 10, 23, tzinfo=UTC)]
    kinds = STORIES + (FOCUS[endpoint] if endpoint else ())
    story = st.tuples(st.integers(0, MOST_EVENTS_OF_A_STORY), st.integers(0, 2**20))
    stories = st.lists(story, min_size=12, max_size=MOST_STORIES)

    def tell(seeds: list[tuple[int, int]]) -> list[Event]:
        told = [
            Teller(seed, number, near, kinds, java_gaps=java_gaps).tell(length)
            for number, (length, seed) in enumerate(seeds)
        ]
        events = list(chain.from_iterable(told))
        Random(len(events)).shuffle(events)
        return events

    return stories.map(tell)


def _odd_lengths(most: timedelta) -> st.SearchStrategy[timedelta]:
    """Whole seconds and a few milliseconds, which are never those of the events without an id."""
    seconds = st.integers(0, most // timedelta(seconds=1))
    milliseconds = st.sampled_from((0, 1, 500, 999))
    return st.builds(lambda s, ms: timedelta(seconds=s, milliseconds=ms), seconds, milliseconds)


@st.composite
def questions(draw: st.DrawFn, endpoint: str | None = None, zones: tuple[str, ...] = ZONES) -> Question:
    """Questions about the days of the streams, with the filters that the endpoint, if one is named, takes."""
    zone = draw(st.sampled_from(zones))
    shape = draw(st.sampled_from(("days", "months", "instants")))
    if shape == "instants":
        start = datetime(2026, 3, 2, tzinfo=UTC) + draw(_odd_lengths(12 * DAY))
        least = draw(st.sampled_from((MILLISECOND, timedelta(minutes=1), timedelta(hours=1), DAY, 7 * DAY)))
        end = start + least + draw(_odd_lengths(DAY))
    else:
        first, after = _days(draw) if shape == "days" else _months(draw)
        start, end = (beginning_of(day, ZoneInfo(zone)) for day in (first, after))
    granularities = ["day", "week", "month", "none"] + ["hour"] * (end - start <= 4 * DAY)
    chosen = {}
    for name in FILTERS[endpoint] if endpoint else FILTER_VALUES:
        if draw(st.integers(0, 15)) == 1:
            chosen[name] = draw(st.sampled_from(FILTER_VALUES[name]))
    return Question(
        start,
        end,
        zone,
        now=draw(_times_of_asking(start, end)),
        granularity=draw(st.sampled_from(granularities)),
        kind="instants" if shape == "instants" else "days",
        compare=draw(st.booleans()),
        sort=draw(st.sampled_from(("earnings", "trips", "distance"))),
        limit=draw(st.sampled_from((10, 1, 2, 1000))),
        default_currency=draw(st.sampled_from(("NGN", "NGN", "GHS"))),
        on_time_minutes=draw(st.sampled_from((10, 10, 0))),
        window_minutes=draw(st.sampled_from((60, 1, 15, 1440))),
        **chosen,
    )


def _days(draw: st.DrawFn) -> tuple[date, date]:
    first = date(2026, 2, 25) + draw(st.integers(0, 28)) * DAY
    near_the_change = draw(st.booleans())
    if near_the_change:
        first = date(2026, 3, 8) - draw(st.integers(0, 3)) * DAY
    return first, first + draw(st.sampled_from((1, 2, 3, 7, 10))) * DAY


def _months(draw: st.DrawFn) -> tuple[date, date]:
    february, march, april = (date(2026, month, 1) for month in (2, 3, 4))
    return draw(st.sampled_from(((march, april), (february, march), (february, april))))


def _times_of_asking(start: datetime, end: datetime) -> st.SearchStrategy[datetime]:
    """At the bounds of the period, anywhere in it, or some time after it."""
    inside = _odd_lengths(end - start).map(lambda elapsed: min(start + elapsed, end - MILLISECOND))
    return st.one_of(
        st.sampled_from((end, start, end - MILLISECOND, end + 3 * DAY, end + 45 * DAY)),
        inside,
    )


@st.composite
def cases(
    draw: st.DrawFn, endpoint: str | None = None, *, java_gaps: bool = False
) -> tuple[list[Event], Question]:
    """A question, and a stream whose events cluster around the instants that matter to it."""
    question = draw(questions(endpoint))
    inner = buckets(question)
    anchors = [
        question.start,
        inner[len(inner) // 2].start if inner else question.start + timedelta(hours=2),
        question.end - timedelta(hours=1),
        question.end,
        question.now,
        question.now - timedelta(minutes=question.window_minutes),
        period(question, 1).start,
        CLOCK_CHANGE,
    ]
    return draw(streams(anchors, endpoint=endpoint, java_gaps=java_gaps)), question
