"""`erase` and `rebuild` as an operator runs them, beside running instances of the service."""

import itertools
import time
from typing import Any
from uuid import uuid4

import msgspec

from openride_analytics.warehouse.server import ServerWarehouse
from tests.component.test_commands import run
from tests.servers.redis import RedisServer
from tests.traces import traces_of

from .running import Sections, ServiceProcess

Event = dict[str, Any]
HOUR_MS = 3_600_000
USERS = 3
BOOKINGS = 5


def happened(user: str, events_of: int = BOOKINGS) -> list[Event]:
    """A user who registers and books, an hour ago."""
    at_ms = int(time.time() * 1000) - HOUR_MS
    route, driver = str(uuid4()), str(uuid4())
    registration: Event = {"event_type": "user.registered", "user_id": user, "role": "RIDER"}
    bookings: list[Event] = [
        {
            "event_type": "booking.created",
            "booking_id": str(uuid4()),
            "rider_id": user.upper(),
            "driver_id": driver,
            "route_id": route,
            "seats_booked": 1,
            "total_price": "100.00",
            "scheduled_departure": at_ms,
        }
        for _ in range(events_of)
    ]
    return [
        {**event, "event_id": str(uuid4()), "event_timestamp": at_ms + number}
        for number, event in enumerate([registration, *bookings])
    ]


def body(events: list[Event]) -> bytes:
    return b"\n".join(msgspec.json.encode(event) for event in events)


def figures(service: ServiceProcess) -> tuple[int, int, int]:
    """Registrations, bookings and riders."""
    users = service.get_json("/v1/metrics/users", granularity="none")["summary"]
    bookings = service.get_json("/v1/metrics/bookings", granularity="none")["summary"]
    return users["registrations"], bookings["created"], bookings["unique_riders"]


def posted(service: ServiceProcess, users: list[str]) -> list[Event]:
    events = list(itertools.chain.from_iterable(happened(user) for user in users))
    service.post_events(body(events), content_type="application/x-ndjson")
    return events


async def test_an_erased_user_is_gone_from_all_instances_at_once(
    clickhouse_url: str, postgres_url: str, redis_server: RedisServer
) -> None:
    config: Sections = {
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "redis": {"url": redis_server.url},
        "cache": {"fresh_seconds": 60.0},
    }
    users = [str(uuid4()) for _ in range(USERS)]
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30)
    with ServiceProcess(config) as one, ServiceProcess(config) as two:
        for service in (one, two):
            service.wait_until_ready()
        events = posted(one, users)
        one.post_events(b'{"user_id": "' + users[0].encode() + b'"}', content_type="application/x-ndjson")
        for service in (one, two):
            assert figures(service) == (USERS, USERS * BOOKINGS, USERS)

        done = await run(one.folder, "erase", "--config", "config.toml", "--user", users[0].upper())
        assert done.returncode == 0, done.stdout + done.stderr
        removed = dict(line.split() for line in done.stdout.splitlines()[:-1])
        count = str(1 + BOOKINGS)
        assert int(removed.pop("active_days")) >= 1  # as many as the hours that the events lie in
        derived = {"histories": str(BOOKINGS), "facts": str(BOOKINGS)}
        assert removed == {"event_ids": count, "events": count, "dead_letters": "1", **derived}
        assert f"user {users[0]} is erased" in done.stdout
        left = (USERS - 1, (USERS - 1) * BOOKINGS, USERS - 1)
        for service in (one, two):
            assert figures(service) == left
        assert await traces_of(warehouse, users[0]) == {}

        two.post_events(body(events), content_type="application/x-ndjson")
        again = await run(one.folder, "erase", "--config", "config.toml", "--user", users[0])
        assert (again.returncode, len(again.stdout.splitlines())) == (0, 1)
        assert "nothing is stored" in again.stdout
        recorded = one.get_json("/v1/audit")["entries"]
        assert [(entry["what"], entry["details"]) for entry in recorded] == [("user.erased", {})] * 2
        assert all(entry["who"].startswith("command:") for entry in recorded)
        for service in (one, two):
            assert figures(service) == left
            assert users[0] not in service.logged().lower()
            assert service.terminate() == 0
        assert await traces_of(warehouse, users[0]) == {}
    await warehouse.close()


async def test_a_rebuild_beside_a_running_service_mends_what_was_lost(
    clickhouse_url: str, postgres_url: str
) -> None:
    config: Sections = {"clickhouse": {"url": clickhouse_url}, "postgres": {"url": postgres_url}}
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30)
    with ServiceProcess(config) as service:
        service.wait_until_ready()
        events = posted(service, [str(uuid4())])
        await warehouse.execute("TRUNCATE TABLE event_ids")
        # Each comes once more as another booking, a minute later: of the two the earlier one counts.
        later = [
            {**event, "event_timestamp": event["event_timestamp"] + 60_000, "booking_id": str(uuid4())}
            for event in events[1:]
        ]
        service.post_events(body(later), content_type="application/x-ndjson")
        service.wait_until(lambda: figures(service)[1] == 2 * BOOKINGS, "show what was not settled")

        done = await run(service.folder, "rebuild", "--config", "config.toml")
        assert (done.returncode, done.stdout) == (0, "rebuilt\n"), done.stdout + done.stderr
        assert "event_ids: from events" in done.stderr
        assert [entry["what"] for entry in service.get_json("/v1/audit")["entries"]] == ["derived.rebuilt"]
        service.post_events(body(later), content_type="application/x-ndjson")
        service.wait_until(lambda: figures(service) == (1, BOOKINGS, 1), "count the earlier ones only")
        assert service.terminate() == 0
    await warehouse.close()


async def test_embedded_stores_in_use_are_refused_and_stay_as_they_are() -> None:
    users = [str(uuid4()) for _ in range(USERS)]
    with ServiceProcess({}) as service:
        service.wait_until_ready()
        events = posted(service, users)
        for command in (["erase", "--user", users[0]], ["rebuild"]):
            refused = await run(service.folder, *command, "--config", "config.toml")
            assert (refused.returncode, refused.stdout) == (1, "")
            (line,) = refused.stderr.splitlines()
            assert line.endswith("is in use by another process: stop it first")
        more = posted(service, [str(uuid4())])
        service.wait_until(lambda: figures(service)[0] == USERS + 1, "go on")
        assert service.terminate() == 0

        done = await run(service.folder, "erase", "--user", users[0], "--config", "config.toml")
        assert done.returncode == 0, done.stdout + done.stderr
        done = await run(service.folder, "rebuild", "--config", "config.toml")
        assert (done.returncode, done.stdout) == (0, "rebuilt\n"), done.stdout + done.stderr

        service.start()
        service.wait_until_ready()
        service.post_events(body([*events, *more]), content_type="application/x-ndjson")
        assert figures(service) == (USERS, USERS * BOOKINGS, USERS)
        assert service.terminate() == 0
