"""Queries: how long each question takes on millions of events, against the bare scan of the same rows.

`python benchmarks/query.py [--events 10000000] [--locations 2000000] [--runs 10] [--only analytics] [--profile] [--json]`.
A real ClickHouse in a temporary folder makes the events itself, from `numbers()`: 90 days, one user for 20 business
events, besides driver locations, one for 5 of them unless `--locations` says how many. Each endpoint's function is then asked
`--runs` times, without the cache, for 30 days (other ones each time) and for almost all 90.

The tables are as they are in production a day later: each month's parts have been merged into one (migration 0004).
With `--unmerged` they stay as they were written: five parts a month that all reach over all of it, which is
worse than a stream leaves them, as that comes in order of time.

- **p50, p95**: of the function's time, from question to answer, one at a time.
- **times_sql**: the median over that of the same statements sent straight to ClickHouse, all at once: what asking one after
  the other, and making the answer, add.
- **times_scan**: the median over that of the bare scan in the same run: one statement without FINAL that reads type, time
  and the ids of the same period and groups by nothing. On a machine that others use too, this tells more than the times.
- With `--profile`, below each question its statements, each alone: the CPU time of ClickHouse and the time it took, the least
  of three.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.servers import cpu_seconds
from openride_analytics.analytics import cohort, funnel, geographic, retention
from openride_analytics.metrics import bookings, drivers, payments, realtime, routes, trips, users
from openride_analytics.metrics.question import Question
from openride_analytics.migrations import load
from openride_analytics.period import Period, milliseconds
from openride_analytics.warehouse import Parameters, Row, Warehouse
from openride_analytics.warehouse.facts import IN_PART, derive_among, parts_of_things
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.clickhouse import ClickHouseServer

NOW: Final = datetime(2026, 3, 31, 23, tzinfo=UTC)
LAGOS: Final = ZoneInfo("Africa/Lagos")
DAYS: Final = 90
LONGEST: Final = 85  # so that the long periods differ too
EVENTS_A_BOOKING: Final = 5.75
THINGS_AT_ONCE: Final = 200_000

# An id is a hash of what it is of and of its number.
_ID: Final = "reinterpretAsUUID(sipHash128({seed:UInt64}, '%s', toUInt64(%s)))"
_TIME: Final = "fromUnixTimestamp64Milli(toInt64({begin:Int64} + sipHash64({seed:UInt64}, '%s', number) %% {length:UInt64}))"
_PLACES: Final = """
    [('Lagos', 'Ikeja'), ('Lagos', 'Lekki'), ('Lagos', 'Yaba'), ('Lagos', 'Ajah'), ('FCT', 'Abuja'), ('FCT', 'Kubwa'),
     ('Oyo', 'Ibadan'), ('Rivers', 'Port Harcourt'), ('Kano', 'Kano'), ('Enugu', 'Enugu')] AS places,
    places[1 + intHash32(number) % 10] AS place
"""

_USERS: Final = f"""
INSERT INTO events (event_type, event_id, event_timestamp, user_id, role, state, city)
WITH {_PLACES}
SELECT
    'user.registered',
    {_ID % ("registration", "number")},
    {_TIME % "registered"},
    {_ID % ("user", "number")},
    if(number % 20 = 0, 'DRIVER', 'RIDER'),
    place.1,
    place.2
FROM numbers({{users:UInt64}})
"""

_ROUTES: Final = f"""
INSERT INTO events
    (event_type, event_id, event_timestamp, route_id, driver_id, route_name, origin_state, origin_city, seats_total)
WITH {_PLACES}
SELECT
    arrayJoin(['route.created', 'route.activated']) AS kind,
    {_ID % ("route event", "number * 2 + (kind = 'route.created')")},
    fromUnixTimestamp64Milli(toInt64({{begin:Int64}})),
    {_ID % ("route", "number")},
    {_ID % ("user", "number * 20 % {users:UInt64}")},
    concat('Route ', toString(number)),
    place.1,
    place.2,
    4
FROM numbers({{routes:UInt64}})
"""

# What becomes of a booking is drawn from its hash, as are the delays between its events.
_BOOKINGS: Final = f"""
INSERT INTO events
(
    event_type, event_id, event_timestamp, booking_id, payment_id, trip_id, rider_id, driver_id, route_id,
    seats_booked, total_price, currency, amount, payment_method, provider, pickup_lat, pickup_lon, start_lat, start_lon,
    scheduled_departure, actual_departure, duration_minutes, distance_km, driver_earnings, platform_commission,
    cancelled_by, content_rank
)
WITH
    sipHash64({{seed:UInt64}}, 'fate', number) AS fate,
    fate % 100 < 90 AS is_paid,
    fate % 100 < 85 AS is_driven,
    sipHash64({{seed:UInt64}}, 'route of', number) % {{routes:UInt64}} AS route,
    {{begin:Int64}} + toInt64(sipHash64({{seed:UInt64}}, 'created', number) % {{length:UInt64}}) AS created_ms,
    created_ms + 3600000 + toInt64(fate % 86400000) AS leaves_ms,
    fromUnixTimestamp64Milli(leaves_ms) AS departure,
    arrayJoin(arrayConcat(
        [('booking.created', created_ms), ('payment.initiated', created_ms + 20000)],
        if(is_paid, [('payment.success', created_ms + 25000), ('booking.confirmed', created_ms + 26000)], []),
        if(is_driven, [('trip.started', leaves_ms), ('trip.completed', leaves_ms + 2400000)], []),
        if(is_paid AND NOT is_driven, [('booking.cancelled', created_ms + 900000)], []),
        if(fate % 5 = 0 AND is_driven, [('booking.completed', leaves_ms + 2500000)], [])
    )) AS told,
    toDecimal64(1000 + fate % 4000, 4) AS price
SELECT
    told.1 AS kind,
    reinterpretAsUUID(sipHash128({{seed:UInt64}}, kind, number)),
    fromUnixTimestamp64Milli(told.2),
    {_ID % ("booking", "number")},
    {_ID % ("payment", "number")},
    {_ID % ("trip", "number")},
    {_ID % ("user", "sipHash64({seed:UInt64}, 'rider of', number) % {users:UInt64}")},
    {_ID % ("user", "route * 20 % {users:UInt64}")},
    {_ID % ("route", "route")},
    if(startsWith(kind, 'booking'), 1 + fate % 3, NULL),
    if(startsWith(kind, 'booking'), price, NULL),
    'NGN',
    if(startsWith(kind, 'payment'), price, NULL),
    if(startsWith(kind, 'payment'), ['card', 'wallet', 'ussd'][1 + fate % 3], ''),
    if(startsWith(kind, 'payment'), ['paystack', 'opay'][1 + fate % 2], ''),
    if(kind = 'booking.created', 6.4 + (fate % 1000) / 2000, NULL),
    if(kind = 'booking.created', 3.2 + (fate % 997) / 2000, NULL),
    if(kind = 'trip.started', 6.4 + (fate % 1000) / 2000, NULL),
    if(kind = 'trip.started', 3.2 + (fate % 997) / 2000, NULL),
    if(kind IN ('booking.created', 'trip.started'), departure, NULL),
    if(startsWith(kind, 'trip'), departure, NULL),
    if(kind = 'trip.completed', 20 + fate % 60, NULL),
    if(kind = 'trip.completed', 5 + fate % 40, NULL),
    if(kind = 'trip.completed', price, NULL),
    if(kind = 'trip.completed', price, NULL),
    if(kind = 'booking.cancelled', ['RIDER', 'DRIVER', 'SYSTEM'][1 + fate % 3], ''),
    fate
FROM numbers({{bookings:UInt64}})
"""

_LOCATIONS: Final = f"""
INSERT INTO driver_locations (event_id, event_timestamp, driver_id, lat, lon, state, city)
SELECT
    {_ID % ("location", "number")},
    fromUnixTimestamp64Milli(toInt64({{begin:Int64}} + intDiv(number * {{length:UInt64}}, {{locations:UInt64}}))),
    {_ID % ("user", "number % {routes:UInt64} * 20 % {users:UInt64}")},
    6.4 + (intHash32(number) % 1000) / 2000,
    3.2 + (intHash32(number + 1) % 1000) / 2000,
    'Lagos',
    'Ikeja'
FROM numbers({{locations:UInt64}})
"""

_SCAN: Final = """
SELECT count(), max(event_type), sum(cityHash64(event_id, user_id, rider_id, booking_id))
FROM events
WHERE event_timestamp >= fromUnixTimestamp64Milli({start:Int64})
  AND event_timestamp < fromUnixTimestamp64Milli({end:Int64})
"""

PROFILE_RUNS: Final = 3


class Recorded(ServerWarehouse):
    """A warehouse that remembers what it was asked."""

    asked: list[tuple[str, Parameters | None]]

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """As without a record."""
        self.asked.append((sql, parameters))
        return await super().query(sql, parameters)


Asking = Callable[[Warehouse, Period], Awaitable[Any]]


def main() -> int:
    """Runs the benchmark and prints its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="business events (default: 10000000)")
    parser.add_argument(
        "--runs",
        type=int,
        default=10,
        choices=range(1, 61),
        metavar="1…60",
        help="times each question is asked (default: 10)",
    )
    parser.add_argument(
        "--locations", type=int, help="driver locations (default: one for five business events)"
    )
    parser.add_argument(
        "--only", default="", help="the questions whose name begins so (analytics, metrics.users)"
    )
    parser.add_argument(
        "--unmerged", action="store_true", help="leave the tables' parts as they were written"
    )
    parser.add_argument("--profile", action="store_true", help="say what each statement of a question costs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if not any(name.startswith(options.only) for name in _askings()):
        parser.error(f"--only: no question's name begins with {options.only!r}")
    with ClickHouseServer() as clickhouse:
        report = asyncio.run(_measure(options, clickhouse))
    if options.json:
        print(json.dumps({"endpoints": report}))
    return 0


async def _measure(options: argparse.Namespace, clickhouse: ClickHouseServer) -> dict[str, dict[str, float]]:
    warehouse = Recorded(clickhouse.url, query_timeout_seconds=120, insert_timeout_seconds=3_600)
    warehouse.asked = []
    try:
        await warehouse.create_database()
        await fill(warehouse, options.events, options.seed, locations=options.locations)
        if not options.unmerged:
            await _merge(warehouse)
        askings = {name: asking for name, asking in _askings().items() if name.startswith(options.only)}
        report: dict[str, dict[str, float]] = {}
        for days in (30, LONGEST):
            scan, _ = await _times(warehouse, _scan, days, options.runs)
            for name, asking in {"scan": _scan, **askings}.items():
                times, straight = await _times(warehouse, asking, days, options.runs)
                figures = {
                    "p50_ms": median(times),
                    "p95_ms": quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0],
                    "times_sql": median(times) / median(straight),
                    "times_scan": median(times) / median(scan),
                }
                report[f"{name}.{days}d"] = figures
                shown = "  ".join(f"{figure} {value:9,.1f}" for figure, value in figures.items())
                print(f"{name + f' {days} d':<28} {shown}", flush=True)
                if options.profile and name != "scan":
                    await _profile(warehouse, asking, days, clickhouse.pid)
        return report
    finally:
        await warehouse.close()


async def fill(warehouse: Warehouse, events: int, seed: int, locations: int | None = None) -> None:
    """Makes the tables, about so many business events, and driver locations (one for five of them)."""
    began = time.perf_counter()
    for migration in load("clickhouse"):
        for statement in migration.statements:
            await warehouse.execute(statement)
    users_count, routes_count = max(20, events // 20), max(1, events // 1_000)
    parameters = {
        "seed": seed,
        "begin": milliseconds(NOW) - DAYS * 86_400_000,
        "length": DAYS * 86_400_000,
        "users": users_count,
        "routes": routes_count,
        "bookings": int((events - users_count - 2 * routes_count) / EVENTS_A_BOOKING),
        "locations": events // 5 if locations is None else locations,
    }
    for statement in (_USERS, _ROUTES, _BOOKINGS, _LOCATIONS):
        await warehouse.execute(statement, parameters)
    async for part in parts_of_things(warehouse, THINGS_AT_ONCE):
        await derive_among(warehouse, IN_PART, part)
    for table in ("events", "facts", "driver_locations"):
        ((stored),) = await warehouse.query(f"SELECT count() AS stored FROM {table}")
        print(f"{table:<28} {stored['stored']:,}")
    print(f"{'made in':<28} {time.perf_counter() - began:,.0f} s", flush=True)


async def _merge(warehouse: Warehouse) -> None:
    began = time.perf_counter()
    for table in ("events", "facts", "driver_locations"):
        await warehouse.execute(f"OPTIMIZE TABLE {table} FINAL")
    print(f"{'merged in':<28} {time.perf_counter() - began:,.0f} s", flush=True)


def _askings() -> dict[str, Asking]:
    askings: dict[str, Asking] = {
        f"metrics.{module.__name__.rpartition('.')[2]}": _metric(module)
        for module in (users, bookings, payments, trips, drivers, routes)
    }
    askings["metrics.realtime"] = lambda warehouse, period: realtime.ask(
        warehouse, realtime.RealtimeQuestion.at(period.end, 60, period)
    )
    for module in (funnel, cohort, retention):
        askings[f"analytics.{module.__name__.rpartition('.')[2]}"] = _analytics(module)
    for metric in ("bookings", "revenue"):
        askings[f"analytics.geographic.{metric}"] = _analytics(geographic, metric=metric)
    askings["analytics.geographic.h3"] = _analytics(geographic, metric="bookings", level="h3")
    return askings


def _metric(module: Any) -> Asking:
    return lambda warehouse, period: module.ask(warehouse, Question(period=period, now=NOW))


def _analytics(module: Any, **more: str) -> Asking:
    return lambda warehouse, period: module.ask(warehouse, module.Question(period=period, now=NOW, **more))


async def _scan(warehouse: Warehouse, period: Period) -> None:
    await warehouse.query(_SCAN, {"start": period.start_ms, "end": period.end_ms})


async def _times(
    warehouse: Recorded, asking: Asking, days: int, runs: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each run but a first one, which nobody counts; and those of its statements alone."""
    times, straight = [], []
    for run in range(runs + 1):
        warehouse.asked.clear()
        began = time.perf_counter()
        await asking(warehouse, _period(days, before_hours=run))
        times.append((time.perf_counter() - began) * 1_000)
        asked = tuple(warehouse.asked)
        began = time.perf_counter()
        await asyncio.gather(*(warehouse.query(sql, parameters) for sql, parameters in asked))
        straight.append((time.perf_counter() - began) * 1_000)
    return times[1:], straight[1:]


async def _profile(warehouse: Recorded, asking: Asking, days: int, pid: int) -> None:
    warehouse.asked.clear()
    await asking(warehouse, _period(days))
    for sql, parameters in tuple(warehouse.asked):
        cpu, took = [], []
        for _ in range(PROFILE_RUNS):
            cpu_before, began = cpu_seconds(pid), time.perf_counter()
            await warehouse.query(sql, parameters)
            cpu.append((cpu_seconds(pid) - cpu_before) * 1_000)
            took.append((time.perf_counter() - began) * 1_000)
        name = re.search(r"-- (\S+)", sql)
        print(f"    {name[1] if name else '':<24} cpu_ms {min(cpu):9,.0f}  ms {min(took):9,.0f}", flush=True)


def _period(days: int, before_hours: int = 0) -> Period:
    end = NOW - timedelta(hours=before_hours)
    return Period(end - timedelta(days=days), end, LAGOS, whole_days=False)


if __name__ == "__main__":
    sys.exit(main())
