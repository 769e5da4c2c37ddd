"""The faults. Each function does one thing to a running stage, at moments that `chance` picks, and undoes it where that
is part of the story; whatever it leaves behind `Stage.heal` mends.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewPartitions
from redis import Redis, RedisError

from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.kafka import admin
from tests.servers.process import Server

from .stage import SESSION_SECONDS, Stage

Fault = Callable[[Stage, Random], None]

BEYOND_SESSION = SESSION_SECONDS + 2.0
POINT_SECONDS = 20.0
POINTS = (
    *("migrate:before:1", "migrate:during:1", "migrate:after:1"),
    *("assigned:before:1", "assigned:after:1", "fetch:after:2"),
    *("insert:before:1", "insert:during:1", "insert:during:2", "insert:after:1", "insert:after:3"),
    *("settle:before:1", "settle:during:2", "settle:after:1"),
    *("bury:before:1", "bury:after:1", "bury:before:2"),
    *("dead_letters:before:1", "dead_letters:during:1", "dead_letters:after:1"),
    *("publish:before:1", "publish:during:1", "publish:after:1"),
    *("data_changed:before:1", "data_changed:after:2"),
    *("commit:before:1", "commit:during:1", "commit:after:1", "commit:before:3", "commit:during:2"),
)


def a_moment(chance: Random, most: float = 1.0) -> None:
    time.sleep(chance.uniform(0.0, most))


# The service


def service_killed(stage: Stage, chance: Random) -> None:
    """One of the two, and started again."""
    service = chance.choice(stage.services[:2])
    stage.kill(service)
    a_moment(chance)
    stage.start(service)
    a_moment(chance)


def all_services_killed(stage: Stage, chance: Random) -> None:
    stage.kill(*stage.services)
    a_moment(chance)
    for service in stage.services:
        stage.start(service)
    a_moment(chance)


def service_killed_at_a_point(stage: Stage, chance: Random, point: str) -> None:
    """A third one, killed just before, in or after a step of its work."""
    service = stage.join(point=point)
    if stage.awaited_death(service, POINT_SECONDS):
        stage.report.killed(f"{service.name} at {point.rpartition(':')[0]}")
    else:
        stage.report.say(f"{point} was not reached")
        stage.kill(service)
    stage.dismiss(service)


def service_killed_while_it_starts(stage: Stage, chance: Random) -> None:
    service = stage.join(kill_after_seconds=round(chance.uniform(0.0, 1.5), 3))
    assert stage.awaited_death(service, POINT_SECONDS)
    stage.report.killed(service.name)
    stage.dismiss(service)


def service_stopped_beyond_its_session(stage: Stage, chance: Random) -> None:
    """It goes on as a member that the group has given up: what it still stores and commits comes late."""
    service = chance.choice(stage.services[:2])
    service.pause()
    time.sleep(BEYOND_SESSION + chance.uniform(0.0, 2.0))
    service.resume()
    a_moment(chance)


def services_join_and_leave(stage: Stage, chance: Random) -> None:
    """A rebalance every second or two, the last of them by SIGTERM in the midst of work."""
    joined = [stage.join() for _ in range(2)]
    a_moment(chance, 2.0)
    for service in joined:
        stage.leave(service)
        a_moment(chance)


def services_told_to_stop(stage: Stage, chance: Random) -> None:
    """One after the other, as when a new version is rolled out; and replaced."""
    for service in stage.services[:2]:
        stage.leave(service)
        stage.join()
        a_moment(chance)


# Kafka


def broker_killed(stage: Stage, chance: Random) -> None:
    stage.kill(stage.kafka)
    a_moment(chance, 3.0)
    stage.start(stage.kafka)
    a_moment(chance, 3.0)


def broker_and_service_killed(stage: Stage, chance: Random) -> None:
    stage.kill(stage.kafka, chance.choice(stage.services))
    a_moment(chance)
    stage.heal()
    a_moment(chance, 3.0)


def broker_stopped(stage: Stage, chance: Random) -> None:
    _stopped(stage.kafka, BEYOND_SESSION + chance.uniform(0.0, 6.0))
    a_moment(chance)


def broker_connections_broken(stage: Stage, chance: Random) -> None:
    _broken(stage, "kafka", chance)


def broker_black_hole(stage: Stage, chance: Random) -> None:
    """Fetches, heartbeats and commits go nowhere, longer than the session lasts."""
    _black_hole(stage, "kafka", BEYOND_SESSION + chance.uniform(0.0, 3.0))


def broker_slow(stage: Stage, chance: Random) -> None:
    _slow(stage, "kafka", chance)


def partitions_added(stage: Stage, chance: Random) -> None:
    """What goes to the new ones must be read from its beginning. Cannot be undone."""
    producing = stage.producing

    async def add() -> None:
        more = {name: NewPartitions(total_count=producing.partitions + 1) for name in stage.topics.names}
        async with admin(stage.addresses) as client:
            await client.create_partitions(more)

    asyncio.run(add())
    producing.partitions += 1
    a_moment(chance, 3.0)


def group_set_back_to_the_beginning(stage: Stage, chance: Random) -> None:
    """All that was ever sent is read once more."""
    stage.kill(*stage.services)

    async def set_back() -> None:
        async with AIOKafkaConsumer(
            bootstrap_servers=stage.kafka.address, group_id=stage.config["kafka"]["group_id"]
        ) as consumer:
            offsets = {TopicPartition(*partition): 0 for partition in list(stage.producing.truth.ends)}
            consumer.assign(list(offsets))
            deadline = time.monotonic() + 3 * BEYOND_SESSION
            while True:  # the killed ones are members until their sessions end
                try:
                    await consumer.commit(offsets)
                    return
                except Exception:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.3)

    asyncio.run(set_back())
    stage.heal()
    a_moment(chance)


# ClickHouse


def clickhouse_killed(stage: Stage, chance: Random) -> None:
    """Inserts come several times a second: most kills meet one."""
    stage.kill(stage.clickhouse)
    a_moment(chance)
    stage.start(stage.clickhouse)
    a_moment(chance)


def clickhouse_and_service_killed(stage: Stage, chance: Random) -> None:
    stage.kill(stage.clickhouse, chance.choice(stage.services))
    a_moment(chance)
    stage.heal()
    a_moment(chance)


def clickhouse_stopped(stage: Stage, chance: Random) -> None:
    """An insert runs out of time and is repeated; when the server goes on it may do the first one as well."""
    _stopped(stage.clickhouse, chance.uniform(4.0, 8.0))
    a_moment(chance)


def clickhouse_connections_broken(stage: Stage, chance: Random) -> None:
    """In the midst of a block, or after the block and before its answer. This server may abort when that happens."""
    _broken(stage, "clickhouse", chance)
    stage.heal()


def clickhouse_black_hole(stage: Stage, chance: Random) -> None:
    _black_hole(stage, "clickhouse", chance.uniform(3.0, 7.0))


def clickhouse_slow(stage: Stage, chance: Random) -> None:
    _slow(stage, "clickhouse", chance)


def table_away(stage: Stage, chance: Random) -> None:
    """A statement that cannot work until somebody mends the schema."""

    async def away() -> None:
        url = stage.clickhouse.url
        warehouse = ServerWarehouse(url, query_timeout_seconds=20, insert_timeout_seconds=20)
        try:
            table = chance.choice(("events", "driver_locations", "dead_letters"))
            await warehouse.execute(f"RENAME TABLE {table} TO {table}_away")
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            await warehouse.execute(f"RENAME TABLE {table}_away TO {table}")
        finally:
            await warehouse.close()

    asyncio.run(away())
    a_moment(chance)


# Redis


def redis_flushed(stage: Stage, chance: Random) -> None:
    with Redis.from_url(stage.redis.url) as client:
        client.flushall()
    a_moment(chance)


def redis_poisoned(stage: Stage, chance: Random) -> None:
    """Entries that are none, and a version that is no number."""
    with Redis.from_url(stage.redis.url) as client:
        for key in client.keys("{openride}:*"):
            client.set(key, chance.choice((b"\xc1", b"[", b"\x93\x01\x02\x03")))
    a_moment(chance)


def redis_full(stage: Stage, chance: Random) -> None:
    """It answers reads and refuses writes."""
    with Redis.from_url(stage.redis.url) as client:
        client.config_set("maxmemory", 1)
        a_moment(chance, 2.0)
        with suppress(RedisError):
            client.config_set("maxmemory", 0)


def redis_killed(stage: Stage, chance: Random) -> None:
    stage.kill(stage.redis)
    a_moment(chance)
    stage.start(stage.redis)
    a_moment(chance)


def redis_stopped(stage: Stage, chance: Random) -> None:
    _stopped(stage.redis, chance.uniform(0.5, 3.0))
    a_moment(chance)


def redis_black_hole(stage: Stage, chance: Random) -> None:
    _black_hole(stage, "redis", chance.uniform(0.5, 3.0))


# PostgreSQL


def postgres_killed(stage: Stage, chance: Random) -> None:
    stage.kill(stage.postgres)
    a_moment(chance)
    stage.start(stage.postgres)
    a_moment(chance)


def postgres_and_service_killed(stage: Stage, chance: Random) -> None:
    """The service starts while its database recovers."""
    stage.kill(stage.postgres, chance.choice(stage.services))
    stage.start(stage.services[0])
    stage.start(stage.services[1])
    stage.start(stage.postgres)


def postgres_restarted(stage: Stage, chance: Random) -> None:
    stage.postgres.restart()
    a_moment(chance)


# All of it


def everything_killed(stage: Stage, chance: Random) -> None:
    stage.kill(*stage.servers, *stage.services)
    a_moment(chance)
    stage.heal()
    a_moment(chance)


def _stopped(server: Server, seconds: float) -> None:
    server.pause()
    time.sleep(seconds)
    server.resume()


def _black_hole(stage: Stage, name: str, seconds: float) -> None:
    proxy = stage.proxies[name]
    proxy.black_hole()
    time.sleep(seconds)
    proxy.heal()


def _slow(stage: Stage, name: str, chance: Random) -> None:
    proxy = stage.proxies[name]
    proxy.delay(chance.uniform(0.05, 0.3))
    a_moment(chance, 5.0)
    proxy.heal()


def _broken(stage: Stage, name: str, chance: Random) -> None:
    """A few times, each in one of the ways in which a connection breaks."""
    proxy = stage.proxies[name]
    for _ in range(4):
        chance.choice(
            (
                proxy.reset,
                proxy.half_close,
                lambda: proxy.cut_after(chance.randint(1, 20_000)),
                lambda: proxy.cut_answer(chance.randint(1, 5)),
            )
        )()
        a_moment(chance, 1.5)
    proxy.heal()


ROUNDS: Mapping[Fault, int] = {
    service_killed: 10,
    all_services_killed: 3,
    service_killed_while_it_starts: 8,
    service_stopped_beyond_its_session: 2,
    services_join_and_leave: 2,
    services_told_to_stop: 1,
    broker_killed: 3,
    broker_and_service_killed: 1,
    broker_stopped: 2,
    broker_connections_broken: 2,
    broker_black_hole: 2,
    broker_slow: 1,
    partitions_added: 1,
    group_set_back_to_the_beginning: 1,
    clickhouse_killed: 6,
    clickhouse_and_service_killed: 2,
    clickhouse_stopped: 2,
    clickhouse_connections_broken: 3,
    clickhouse_black_hole: 2,
    clickhouse_slow: 1,
    table_away: 2,
    redis_flushed: 2,
    redis_poisoned: 2,
    redis_full: 1,
    redis_killed: 8,
    redis_stopped: 2,
    redis_black_hole: 2,
    postgres_killed: 4,
    postgres_and_service_killed: 1,
    postgres_restarted: 1,
    everything_killed: 2,
}
"""How often each fault strikes in the long run, before everything is compared."""

SHORT: Mapping[Fault, int] = {
    service_killed: 2,
    broker_stopped: 1,
    clickhouse_killed: 2,
    redis_flushed: 1,
    redis_killed: 2,
    postgres_killed: 1,
}
SHORT_POINTS = ("insert:after:1", "commit:before:1", "dead_letters:during:1")

MIXED: Mapping[Fault, int] = {
    service_killed: 4,
    service_killed_while_it_starts: 2,
    service_stopped_beyond_its_session: 1,
    broker_killed: 1,
    broker_connections_broken: 1,
    clickhouse_killed: 3,
    clickhouse_connections_broken: 1,
    redis_killed: 2,
    postgres_killed: 2,
    everything_killed: 1,
}
"""What is drawn from, with these weights, when faults of all kinds follow each other."""
