"""The made-up carpooling platform whose events `openride-analytics demo` shows.

`Platform` is a small simulation of Nigerian commuters, travellers and drivers that writes contract
events: first a history, then, from the same state, what happens while somebody looks on. The demo
alone uses it. It does no input or output, never reads the clock and knows nothing else of the
service: the same seed and the same times give the same events.

Whenever someone registers or books, the rest of that story (verification; payment, confirmation, ride
or cancellation) is written at once, with its future times, and waits until its time has come. So a
live stream begun in the middle of a day finishes what the history started.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final

from openride_analytics.demo.bookings import Bookings
from openride_analytics.demo.cast import (
    DAY,
    FIRST_NAMES,
    HABITS,
    HOUR,
    LAST_NAMES,
    MINUTE,
    NEVER,
    PAYMENT_METHODS,
    ROUTE_REASONS,
    Departure,
    Driver,
    Rider,
    Route,
    money,
)
from openride_analytics.demo.journal import Event, Journal
from openride_analytics.demo.places import CORRIDORS, Corridor
from openride_analytics.demo.road import Road

# Lagos has no summer time, so local days are plain arithmetic.
_LAGOS_MS: Final = HOUR
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAY_NAMES: Final = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
# Of the rides people would take on the busiest day.
_COMMUTERS_BY_WEEKDAY: Final = (0.92, 0.95, 0.94, 0.92, 0.98, 0.5, 0.35)
_TRAVELLERS_BY_WEEKDAY: Final = (0.37, 0.24, 0.26, 0.42, 1.0, 0.58, 0.9)
_SIGN_UPS_BY_WEEKDAY: Final = (1.15, 1.1, 1.05, 1.0, 1.0, 0.9, 0.8)
_SIGN_UPS_BY_HOUR: Final = tuple(
    accumulate((1, 0, 0, 0, 0, 2, 5, 8, 8, 7, 6, 6, 7, 6, 5, 5, 6, 8, 9, 9, 9, 8, 5, 2))
)
_TRAFFIC_BY_HOUR: Final = (
    *(0.75, 0.72, 0.7, 0.7, 0.75, 0.9, 1.15, 1.35, 1.35, 1.15, 1.0, 1.0),
    *(1.0, 1.0, 1.05, 1.15, 1.3, 1.45, 1.4, 1.2, 1.0, 0.9, 0.8, 0.75),
)

# The launch brings those who had waited for it; from then on sign-ups double over the history.
_LAUNCH_RIDERS: Final = (520, 330, 200, 120, 80)
_LAUNCH_DRIVERS: Final = (240, 70, 40, 25, 20)
_RIDERS_A_DAY: Final = 36
_DRIVERS_A_DAY: Final = 6.5

# After a pause (a suspended laptop) the stream goes on from here instead of making up for it.
_LONGEST_CATCH_UP_MS: Final = MINUTE
_EVENTS_A_BOOKING: Final = 6.6
_LIVE_SIGN_UPS: Final = 0.02
_WARM_UP_MS: Final = 40 * MINUTE


class Platform:
    """Events of `days` days up to `now`, then live ones.

    The live rates are what a demo should show, not what the history leads to: with the default share of
    locations an hour brings about as many bookings as a week of history, with 0.97 as one or two days.
    """

    def __init__(
        self,
        *,
        seed: int,
        now: datetime,
        days: int = 90,
        live_events_per_second: float = 50.0,
        live_location_share: float = 0.8,
    ) -> None:
        self._days = days
        self._now_ms = _milliseconds(now)
        self._first_day_ms = (self._now_ms + _LAGOS_MS) // DAY * DAY - _LAGOS_MS - days * DAY
        self._planned_days = 0
        self._clock_ms = self._now_ms

        self._journal = Journal(seed)
        self._rng = self._journal.rng
        self._staff_ids = [self._journal.new_id() for _ in range(3)]
        self._road = Road(self._journal, self._now_ms, live_events_per_second * live_location_share)
        self._bookings = Bookings(self._journal, self._road, self._staff_ids)
        others_a_ms = live_events_per_second * (1 - live_location_share) / 1000
        self._bookings_a_ms = others_a_ms * (1 - _LIVE_SIGN_UPS) / _EVENTS_A_BOOKING
        self._sign_ups_a_ms = others_a_ms * _LIVE_SIGN_UPS

        self._riders: list[Rider] = []
        self._rates = {habit: habit.by_age() for habit in HABITS}
        self._drivers: list[Driver] = []
        # By corridor; the popular routes stand in front.
        self._supply: list[list[Route]] = [[] for _ in CORRIDORS]
        self._departures: dict[int, dict[Route, Departure]] = {}
        # By corridor, the car that fills up to leave in a few minutes.
        self._gathering: dict[Corridor, Departure] = {}
        self._out_weights = list(accumulate(c.weight for c in CORRIDORS))
        commuter = [c.weight if c.kind == "commuter" else 0.0 for c in CORRIDORS]
        self._commuter_weights = list(accumulate(commuter))
        self._travel_weights = list(
            accumulate(c.weight - w for c, w in zip(CORRIDORS, commuter, strict=True))
        )

    @property
    def expected_events(self) -> int:
        """About how many events `history` will give, good to a tenth; for a progress bar."""
        today = (self._now_ms - self._first_day_ms) / DAY - self._days
        # A fit to what came out: about 555,000 in 90 days.
        return round(sum(4300 + 43 * day for day in range(self._days)) + today * (4300 + 43 * self._days))

    def history(self) -> Iterator[Event]:
        """The events up to `now`, as they arrived: in time order but for the few that come late."""
        for day in range(1, self._days + 2):
            end_ms = self._first_day_ms + day * DAY
            self._plan_days(min(end_ms, self._now_ms))
            if end_ms > self._now_ms:
                # A few rides for now, so that at any hour some cars are on the road.
                self._book_now(self._now_ms - _WARM_UP_MS, self._now_ms, 4 / MINUTE)
            yield from self._journal.take(min(end_ms, self._now_ms))

    def live(self, now: datetime) -> list[Event]:
        """What arrived since the last call (or since the history, once that is read to its end).

        Bookings come at a steady rate at any hour, far above the history's, because a demo is watched for
        minutes; as many as there are free cars for. Nothing is from the future of `now`; a clock
        that stands or runs backwards gives nothing.
        """
        now_ms = _milliseconds(now)
        if now_ms <= self._clock_ms:
            return []
        self._plan_days(now_ms)
        start_ms = max(self._clock_ms, now_ms - _LONGEST_CATCH_UP_MS)
        self._book_now(start_ms, now_ms, self._bookings_a_ms)
        for at_ms in self._poisson(start_ms, now_ms, self._sign_ups_a_ms):
            self._register(at_ms, "DRIVER" if self._rng.random() < 0.15 else "RIDER")
        self._road.send_live(start_ms, now_ms, self._drivers)
        self._clock_ms = now_ms
        return list(self._journal.take(now_ms))

    def _plan_days(self, until_ms: int) -> None:
        """Writes the stories that begin on each local day up to the one that holds `until_ms`."""
        while (day_ms := self._first_day_ms + self._planned_days * DAY) < until_ms:
            day = self._planned_days
            self._planned_days += 1
            self._departures.pop(day - 1, None)
            self._sign_ups(day, day_ms)
            self._riders = [rider for rider in self._riders if rider.leaves_ms > day_ms]
            for rider in self._riders:
                self._plan_rider(rider, day, day_ms)

    def _weekday(self, day: int) -> int:
        # 1970-01-01 was a Thursday.
        return ((self._first_day_ms + _LAGOS_MS) // DAY + day + 3) % 7

    def _sign_ups(self, day: int, day_ms: int) -> None:
        rng = self._rng
        if day == 0:
            for staff_id in self._staff_ids:
                fields = {"user_id": staff_id, "role": "ADMIN", "city": "Ikeja", "state": "Lagos"}
                self._journal.write("user.registered", day_ms + MINUTE, fields)
        swing = (
            (1 + min(day, self._days) / max(self._days, 1))
            * _SIGN_UPS_BY_WEEKDAY[self._weekday(day)]
            * rng.uniform(0.85, 1.15)
        )
        riders = drivers = 0
        if day < len(_LAUNCH_RIDERS):
            riders, drivers = _LAUNCH_RIDERS[day], _LAUNCH_DRIVERS[day]
        riders += int(_RIDERS_A_DAY * swing + rng.random())
        drivers += int(_DRIVERS_A_DAY * swing + rng.random())
        for role, count in (("DRIVER", drivers), ("RIDER", riders)):
            for _ in range(count):
                (hour,) = rng.choices(range(24), cum_weights=_SIGN_UPS_BY_HOUR)
                at_ms = day_ms + hour * HOUR + rng.randrange(HOUR)
                # Drivers of the first day were signed up beforehand, so that the first riders find rides.
                self._register(at_ms if day or role == "RIDER" else day_ms + rng.randrange(HOUR), role)

    def _register(self, at_ms: int, role: str) -> None:
        rng = self._rng
        user_id = self._journal.new_id()
        (habit,) = rng.choices(HABITS, weights=[habit.share for habit in HABITS])
        rides = self._travel_weights if habit.travels else self._commuter_weights
        weights = self._out_weights if role == "DRIVER" else rides
        # Even numbers lead from home to work.
        (corridor,) = rng.choices(range(len(CORRIDORS)), cum_weights=weights)
        corridor -= corridor % 2
        first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
        number = rng.randrange(10**8)
        fields: Event = {
            "user_id": user_id,
            "role": role,
            "city": CORRIDORS[corridor].origin.city,
            "state": CORRIDORS[corridor].origin.state,
            "full_name": f"{first} {last}",
            "email": f"{first}.{last}{number % 1000}@example.com".lower(),
            "phone": f"+23480{number:08d}",
        }
        if rng.random() < 0.18:
            fields["referral_code"] = f"{first[:4].upper()}{number % 9000 + 1000}"
        self._journal.write("user.registered", at_ms, fields)
        if role == "DRIVER":
            self._start_driving(user_id, corridor, at_ms)
            return

        (method,) = rng.choices(PAYMENT_METHODS, weights=[method.share for method in PAYMENT_METHODS])
        leaves_ms = at_ms + int(rng.expovariate(1 / 110) * DAY) + 7 * DAY if habit.regular else NEVER
        rates = self._rates[habit]
        self._riders.append(Rider(user_id, corridor, habit, rates, at_ms, leaves_ms, method))
        if rng.random() < 0.3:
            self._verify(user_id, at_ms)
        if rng.random() < 0.03:
            upgraded_ms = self._office_hour(at_ms, 10, 60)
            roles = {"user_id": user_id, "previous_role": "RIDER", "new_role": "DRIVER"}
            self._journal.write("user.upgraded_to_driver", upgraded_ms, roles)
            self._start_driving(user_id, corridor, upgraded_ms)

    def _office_hour(self, after_ms: int, least_days: int, most_days: int) -> int:
        local_day_ms = (after_ms + _LAGOS_MS) // DAY * DAY - _LAGOS_MS
        days = self._rng.randint(least_days, most_days)
        return local_day_ms + days * DAY + self._rng.randrange(8 * HOUR, 18 * HOUR)

    def _verify(self, user_id: str, at_ms: int) -> int | None:
        """Writes the decisions on someone's papers; when they were found good, or None."""
        rng = self._rng
        if at_ms < self._first_day_ms + HOUR:
            decided_ms = at_ms + rng.randrange(5 * MINUTE, 40 * MINUTE)
        else:
            decided_ms = self._office_hour(at_ms, 1, 4)
        rejected = rng.random() < 0.09
        for status in ("REJECTED", "VERIFIED") if rejected else ("VERIFIED",):
            if rejected and status == "VERIFIED":
                if rng.random() < 0.45:
                    return None
                decided_ms = self._office_hour(decided_ms, 2, 9)
            fields = {"user_id": user_id, "kyc_status": status, "verified_by": rng.choice(self._staff_ids)}
            self._journal.write("user.kyc_verified", decided_ms, fields)
        return decided_ms

    def _start_driving(self, user_id: str, corridor: int, at_ms: int) -> None:
        rng = self._rng
        driver = Driver(user_id, corridor, tardiness=rng.betavariate(1.3, 7.5))
        self._drivers.append(driver)
        if rng.random() < 0.04:
            return
        verified_ms = self._verify(user_id, at_ms)
        if verified_ms is None:
            return
        at_launch = at_ms < self._first_day_ms + HOUR
        created_ms = verified_ms + rng.randrange(5 * MINUTE, 40 * MINUTE if at_launch else 20 * HOUR)
        self._open_route(driver, corridor, created_ms)
        if rng.random() < 0.8:
            self._open_route(driver, corridor + 1, created_ms + rng.randrange(MINUTE, 30 * MINUTE))
        if rng.random() < 0.12:
            self._open_route(driver, corridor, self._office_hour(created_ms, 3, 30), off_peak=True)

    def _open_route(self, driver: Driver, corridor: int, at_ms: int, *, off_peak: bool = False) -> None:
        rng = self._rng
        way = CORRIDORS[corridor]
        departs_ms = self._departure_time(corridor, off_peak=off_peak)
        weekdays: tuple[int, ...] = (0, 1, 2, 3, 4)
        chance = rng.random()
        if way.kind == "intercity":
            weekdays = (4, 6) if chance < 0.25 else (0, 3, 4, 5, 6) if chance < 0.6 else tuple(range(7))
        elif chance < 0.3:
            weekdays = (0, 1, 2, 3, 4, 5) if chance < 0.17 else tuple(range(7))
        step = 50 if way.currency == "NGN" else 5
        route = Route(
            self._journal.new_id(),
            driver,
            way,
            (self._journal.new_id(), self._journal.new_id()),
            rng.choice((3, 4, 4, 4, 6) if way.kind == "commuter" else (4, 4, 6, 7, 14)),
            round(way.price * rng.uniform(0.85, 1.2) / step) * step * 100,
            departs_ms,
            weekdays,
            [],
        )
        ids = {"route_id": route.route_id, "driver_id": driver.driver_id, "route_name": way.name}
        created = {
            **ids,
            "origin_city": way.origin.city,
            "origin_state": way.origin.state,
            "destination_city": way.destination.city,
            "destination_state": way.destination.state,
            "stops_count": rng.randrange(6),
            "seats_total": route.seats,
            "base_price": money(route.price_cents),
            "departure_time": f"{departs_ms // HOUR:02d}:{departs_ms // MINUTE % 60:02d}",
            "active_days": [_WEEKDAY_NAMES[day] for day in weekdays],
        }
        self._journal.write("route.created", at_ms, created)
        if rng.random() < 0.07:
            return
        driver.routes.append(route)
        self._supply[corridor].insert(rng.randrange(len(self._supply[corridor]) + 1), route)

        opens_ms = at_ms + rng.randrange(2 * MINUTE, 2 * HOUR)
        for _ in range(3):
            self._journal.write("route.activated", opens_ms, ids)
            closes_ms = self._office_hour(opens_ms, 5, 60) if rng.random() < 0.25 else NEVER
            route.open_spans.append((opens_ms, closes_ms))
            if closes_ms == NEVER:
                return
            cancelled = {**ids, "cancellation_reason": rng.choice(ROUTE_REASONS), "active_bookings_count": 0}
            self._journal.write("route.cancelled", closes_ms, cancelled)
            if rng.random() < 0.55:
                return
            opens_ms = self._office_hour(closes_ms, 2, 12)

    def _departure_time(self, corridor: int, *, off_peak: bool) -> int:
        """After local midnight, on the quarter of an hour: to work in the morning, home in the evening."""
        rng = self._rng
        if CORRIDORS[corridor].kind == "intercity":
            hours = rng.gauss(8.2, 1.5) if rng.random() < 0.75 else rng.gauss(14.0, 1.2)
        elif off_peak or rng.random() < 0.1:
            hours = rng.uniform(9.5, 21.0)
        else:
            hours = rng.gauss(17.8, 0.9) if corridor % 2 else rng.gauss(6.9, 0.7)
        return round(min(max(hours, 5.0), 21.5) * 4) * 15 * MINUTE

    def _departure(self, route: Route, day: int) -> Departure | None:
        """The route's car on that day, if it runs."""
        cars = self._departures.setdefault(day, {})
        departure = cars.get(route)
        if departure is None:
            scheduled_ms = self._first_day_ms + day * DAY + route.departs_after_midnight_ms
            if self._weekday(day) not in route.active_weekdays or not route.is_open(scheduled_ms):
                return None
            departure = cars[route] = self._new_departure(route, scheduled_ms)
            if self._rng.random() < 0.022:
                departure.called_off_ms = scheduled_ms - self._rng.randrange(10 * MINUTE, 4 * HOUR)
        return departure

    def _new_departure(self, route: Route, scheduled_ms: int) -> Departure:
        rng = self._rng
        if rng.random() < route.driver.tardiness:
            late_minutes = rng.uniform(10.5, 20) + rng.expovariate(1 / 8)
        else:
            late_minutes = min(max(rng.gauss(2, 3), -4), 8)
        actual_ms = scheduled_ms + int(late_minutes * MINUTE)
        minutes = route.corridor.minutes * rng.lognormvariate(0, 0.12)
        if route.corridor.kind == "commuter":
            minutes *= _TRAFFIC_BY_HOUR[(actual_ms + _LAGOS_MS) // HOUR % 24]
        return Departure(route, scheduled_ms, actual_ms, actual_ms + int(minutes * MINUTE), route.seats)

    def _plan_rider(self, rider: Rider, day: int, day_ms: int) -> None:
        """What one rider books on that day; a regular both ways, others the way they need."""
        age = (day_ms + DAY - 1 - rider.registered_ms) // DAY
        if age < 0:
            return
        rates = rider.booking_rates
        rate = rates[min(age, len(rates) - 1)]
        if rate < 0.004:
            # Faded away; keeps the list short.
            rider.leaves_ms = day_ms
            return
        chance = self._rng.random
        if rider.habit.regular:
            for way in (rider.corridor, rider.corridor + 1):
                if chance() < rate:
                    self._look_for_ride(rider, way, day, day_ms)
        elif chance() < rate:
            way = rider.corridor + (chance() < 0.45)
            self._look_for_ride(rider, way, day, day_ms)
            if chance() < 0.35:
                self._look_for_ride(rider, way ^ 1, day, day_ms)

    def _look_for_ride(self, rider: Rider, way: int, day: int, day_ms: int) -> None:
        """Books ahead (travellers days, commuters the evening before) or on the day; may find no seat."""
        rng = self._rng
        travels = rider.habit.travels
        ahead = rng.random() < (0.6 if travels else 0.35)
        travel_day = day + (rng.randint(1, 4 if travels else 1) if ahead else 0)
        by_weekday = _TRAVELLERS_BY_WEEKDAY if travels else _COMMUTERS_BY_WEEKDAY
        if rng.random() > by_weekday[self._weekday(travel_day)]:
            return
        chance = rng.random()
        seats = 1 if chance < 0.8 else 2 if chance < 0.95 else 3
        departure = self._find_departure(rider, way, travel_day, seats)
        if departure is None:
            return
        if ahead:
            booked_ms = day_ms + int(rng.triangular(16, 23.9, 20) * HOUR)
        else:
            lead_ms = 15 * MINUTE + int(rng.expovariate(1 / 70) * MINUTE)
            booked_ms = max(departure.scheduled_ms - lead_ms, day_ms + rng.randrange(4 * HOUR))
        known_ms = max(rider.registered_ms + 2 * MINUTE, departure.route.open_spans[0][0])
        if known_ms < booked_ms < departure.called_off_ms - 10 * MINUTE:
            self._bookings.book(rider, departure, booked_ms, seats)

    def _find_departure(self, rider: Rider, way: int, day: int, seats: int) -> Departure | None:
        routes = self._supply[way]
        if not routes:
            return None
        favourite = rider.favourites.get(way)
        found: Departure | None = None
        for attempt in range(6):
            if attempt == 0 and favourite is not None:
                route = favourite
            else:
                # Squared: the front of the list is popular, so a few drivers get most of the riders.
                route = routes[int(len(routes) * self._rng.random() ** 2.2)]
            departure = self._departure(route, day)
            if departure is None or departure.free_seats < seats:
                continue
            if route is favourite or departure.trip_id is not None:
                found = departure
                break
            # An empty car is taken only if no fuller one turns up.
            found = found or departure
        if found is not None and rider.habit.regular:
            rider.favourites[way] = found.route
        return found

    def _poisson(self, start_ms: int, end_ms: int, rate_a_ms: float) -> Iterator[int]:
        """Times of events that come independently of each other, in (start, end]."""
        if rate_a_ms <= 0:
            return
        at = start_ms + self._rng.expovariate(rate_a_ms)
        while at < end_ms:
            yield int(at) + 1
            at += self._rng.expovariate(rate_a_ms)

    def _book_now(self, start_ms: int, end_ms: int, rate_a_ms: float) -> None:
        """Bookings for a car that leaves at once; none where nobody is free."""
        for at_ms in self._poisson(start_ms, end_ms, rate_a_ms):
            for _ in range(5 if self._riders else 0):
                rider = self._rng.choice(self._riders)
                if rider.registered_ms < at_ms > rider.busy_until_ms and not rider.habit.travels:
                    departure = self._car_for_now(rider.corridor + self._rng.randrange(2), at_ms)
                    if departure is not None:
                        self._bookings.book(rider, departure, at_ms, 1 if self._rng.random() < 0.85 else 2)
                        break

    def _car_for_now(self, way: int, at_ms: int) -> Departure | None:
        """A car that leaves in minutes: one still filling up, or the next free driver of that corridor."""
        corridor = CORRIDORS[way]
        departure = self._gathering.get(corridor)
        if departure and departure.free_seats >= 2 and departure.scheduled_ms > at_ms + 3 * MINUTE:
            return departure
        routes = self._supply[way]
        for _ in range(4 if routes else 0):
            route = self._rng.choice(routes)
            if route.is_open(at_ms) and self._is_free(route.driver, at_ms, corridor.minutes):
                scheduled_ms = (at_ms // MINUTE + self._rng.randint(4, 12)) * MINUTE
                departure = self._new_departure(route, scheduled_ms)
                route.driver.busy_until_ms = departure.arrival_ms
                self._gathering[corridor] = departure
                return departure
        return None

    def _is_free(self, driver: Driver, at_ms: int, minutes: float) -> bool:
        """True if neither an earlier ride for now nor one planned for the day is in the way."""
        if driver.busy_until_ms > at_ms:
            return False
        planned = self._departures.get((at_ms - self._first_day_ms) // DAY, {})
        until_ms = at_ms + int(2 * minutes * MINUTE)
        cars = (planned.get(route) for route in driver.routes)
        return not any(car and car.actual_ms < until_ms and car.arrival_ms > at_ms for car in cars)


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
