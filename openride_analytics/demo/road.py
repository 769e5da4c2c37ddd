"""Cars on the road of the made-up platform: where they are, and the locations they send.

A car's past positions are written when its first rider is sure to travel; those after the start of the
demo are sent live, at the rate the demo asks for.
"""

from collections import deque
from heapq import heappop, heappush
from typing import Final

from openride_analytics.demo.cast import HOUR, Departure, Driver
from openride_analytics.demo.journal import Journal
from openride_analytics.demo.places import CORRIDORS, offset

_COMMUTERS_SEND_EVERY_MS: Final = 170_000
_TRAVELLERS_SEND_EVERY_MS: Final = 600_000
# Drivers waiting for riders send too; so many keep the map alive while few cars drive.
_IDLE_DRIVERS_ONLINE: Final = 40


class Road:
    def __init__(self, journal: Journal, now_ms: int, live_locations_per_second: float) -> None:
        self._journal = journal
        self._rng = journal.rng
        self._now_ms = now_ms
        self._locations_a_ms = live_locations_per_second / 1000
        self._owed = 0.0
        self._driving: deque[Departure] = deque()
        self._leaving: list[tuple[int, str, Departure]] = []

    def drive(self, departure: Departure, trip_id: str) -> None:
        """Sends the car off with its first rider's trip."""
        departure.trip_id = trip_id
        if departure.arrival_ms > self._now_ms:
            heappush(self._leaving, (departure.actual_ms, trip_id, departure))
        commutes = departure.route.corridor.kind == "commuter"
        every_ms = _COMMUTERS_SEND_EVERY_MS if commutes else _TRAVELLERS_SEND_EVERY_MS
        at_ms = departure.actual_ms + self._rng.randrange(every_ms)
        while at_ms < min(departure.arrival_ms, self._now_ms):
            self._send(departure, at_ms)
            at_ms += every_ms

    def send_live(self, start_ms: int, end_ms: int, drivers: list[Driver]) -> None:
        """Positions of the cars that drive now, in turn; while these are few, of idle drivers as well."""
        self._owed += (end_ms - start_ms) * self._locations_a_ms
        count = int(self._owed)
        self._owed -= count
        while self._leaving and self._leaving[0][0] <= start_ms:
            self._driving.append(heappop(self._leaving)[2])
        driving = self._driving
        for n in range(count):
            at_ms = start_ms + (end_ms - start_ms) * (n + 1) // count
            while driving and driving[0].arrival_ms <= at_ms:
                driving.popleft()
            if driving and self._rng.random() * _IDLE_DRIVERS_ONLINE < len(driving):
                self._send(driving[0], at_ms)
                driving.rotate(-1)
            elif drivers:
                online = min(_IDLE_DRIVERS_ONLINE, len(drivers))
                self._send_idle(drivers[self._rng.randrange(online)], at_ms)

    def _send(self, departure: Departure, at_ms: int) -> None:
        rng = self._rng
        way = departure.route.corridor
        a, b = way.origin, way.destination
        length_ms = departure.arrival_ms - departure.actual_ms
        done = (at_ms - departure.actual_ms) / length_ms
        # Roads bend: the middle of the way lies a tenth of its length off the straight line.
        bend = 0.4 * done * (1 - done)
        north, east = b.lat - a.lat, b.lon - a.lon
        nearest = a if done < 0.5 else b
        fields = {
            "driver_id": departure.route.driver.driver_id,
            "trip_id": departure.trip_id,
            "lat": round(a.lat + north * done + east * bend, 5),
            "lon": round(a.lon + east * done - north * bend, 5),
            "speed_kmh": round(way.km / length_ms * HOUR * rng.uniform(0.4, 1.6), 1),
            "bearing": round(way.bearing + rng.random() * 50 - 25) % 360,
            "accuracy_meters": rng.randrange(3, 25),
            "city": nearest.city,
            "state": nearest.state,
        }
        self._journal.write("driver.location.updated", at_ms, fields)

    def _send_idle(self, driver: Driver, at_ms: int) -> None:
        home = CORRIDORS[driver.corridor].origin
        lat, lon = offset(home, self._rng.random() * 1500, self._rng.random() * 360)
        fields = {
            "driver_id": driver.driver_id,
            "lat": lat,
            "lon": lon,
            "speed_kmh": 0,
            "accuracy_meters": self._rng.randrange(3, 25),
            "city": home.city,
            "state": home.state,
        }
        self._journal.write("driver.location.updated", at_ms, fields)
