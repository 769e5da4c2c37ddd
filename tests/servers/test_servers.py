"""The servers themselves: each answers its real client, and comes back with its data after a kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from asynch.connection import Connection
from asynch.cursors import Cursor
from redis.asyncio import Redis

from tests.servers.clickhouse import ABORTS, ClickHouseServer
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, Server, ServerFailedError, ServerUnavailableError, lent
from tests.servers.redis import RedisServer

REPOSITORY = Path(__file__).parents[2]
GONE_SECONDS = 10.0


async def produce(server: KafkaServer, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=server.address, compression_type="lz4") as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def consume(server: KafkaServer, topic: str, count: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=server.address,
        group_id=f"group-{uuid4()}",
        auto_offset_reset="earliest",
    ) as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


@asynccontextmanager
async def clickhouse_cursor(url: str) -> AsyncIterator[Cursor]:
    async with Connection(dsn=url) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.mark.timeout(60)
async def test_kafka_returns_what_was_produced_with_lz4(kafka: KafkaServer) -> None:
    topic = f"topic-{uuid4()}"
    await produce(kafka, topic, b"one" * 100, b"two")
    assert await consume(kafka, topic, 2) == [b"one" * 100, b"two"]


@pytest.mark.timeout(60)
async def test_kafka_keeps_its_log_when_killed(kafka: KafkaServer) -> None:
    topic = f"topic-{uuid4()}"
    await produce(kafka, topic, b"before")
    kafka.kill()
    kafka.start()
    await produce(kafka, topic, b"after")
    assert await consume(kafka, topic, 2) == [b"before", b"after"]


async def test_clickhouse_returns_what_was_inserted(clickhouse_url: str) -> None:
    async with clickhouse_cursor(clickhouse_url) as cursor:
        await cursor.execute("CREATE TABLE cities (id UInt64, name String) ENGINE = MergeTree ORDER BY id")
        await cursor.execute("INSERT INTO cities (id, name) VALUES", [(1, "Ikeja"), (2, "Lekki")])
        await cursor.execute("SELECT id, name FROM cities ORDER BY id")
        assert await cursor.fetchall() == [(1, "Ikeja"), (2, "Lekki")]


async def test_clickhouse_keeps_acknowledged_rows_when_killed(
    clickhouse: ClickHouseServer, clickhouse_url: str
) -> None:
    async with clickhouse_cursor(clickhouse_url) as cursor:
        await cursor.execute("CREATE TABLE cities (id UInt64, name String) ENGINE = MergeTree ORDER BY id")
        await cursor.execute("INSERT INTO cities (id, name) VALUES", [(1, "Ikeja")])
    clickhouse.kill()
    clickhouse.start()
    async with clickhouse_cursor(clickhouse_url) as cursor:
        await cursor.execute("SELECT name FROM cities")
        assert await cursor.fetchall() == [("Ikeja",)]


async def test_clickhouse_has_an_atomic_database_of_the_url(clickhouse: ClickHouseServer) -> None:
    clickhouse.must_be_ours()
    async with clickhouse_cursor(clickhouse.url) as cursor:
        await cursor.execute("SELECT name, engine FROM system.databases WHERE name = currentDatabase()")
        assert await cursor.fetchall() == [("openride", "Atomic")]


def test_clickhouse_that_a_client_broke_is_brought_back(clickhouse: ClickHouseServer) -> None:
    clickhouse.must_be_ours()
    with socket.create_connection((HOST, clickhouse.port)) as client:
        client.sendall(b"\x00\x10a client that breaks off")
    broken = clickhouse.pid
    while ABORTS not in clickhouse.logged():
        time.sleep(0.02)
    clickhouse.ensure_running()
    assert clickhouse.pid != broken
    assert clickhouse.ready()


async def test_postgres_answers_over_tcp(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT 6 * $1::int", 7) == 42
    finally:
        await connection.close()


async def test_postgres_keeps_commits_when_killed(postgres: PostgresServer, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE TABLE cities AS SELECT 'Ikeja' AS name")
    postgres.kill()
    connection.terminate()
    postgres.start()
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT name FROM cities") == "Ikeja"
    finally:
        await connection.close()


async def test_redis_returns_what_was_set(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        key = f"key-{uuid4()}"
        await client.set(key, "value")
        assert await client.get(key) == b"value"


async def test_redis_comes_back_empty_when_killed(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.set("key", "value")
    redis_server.kill()
    redis_server.start()
    async with Redis.from_url(redis_server.url) as client:
        assert await client.get("key") is None


def test_a_paused_server_accepts_connections_and_answers_nothing(redis_server: RedisServer) -> None:
    redis_server.pause()
    try:
        assert redis_server.running
        with socket.create_connection((HOST, redis_server.port), timeout=0.2) as client:
            client.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                client.recv(1)
            redis_server.resume()
            assert client.recv(64) == b"+PONG\r\n"
    finally:
        redis_server.ensure_running()


STARTS_A_SERVER_AND_WAITS = """
import sys, time
from tests.servers.{module} import {server}
server = {server}()
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("fixture", "module", "server"),
    [
        ("redis_server", "redis", RedisServer),
        ("postgres", "postgres", PostgresServer),
        ("clickhouse", "clickhouse", ClickHouseServer),
    ],
)
def test_a_server_ends_with_its_test_process(
    fixture: str, module: str, server: type[Server], request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(fixture)  # so that this is skipped where it can't be had
    program = STARTS_A_SERVER_AND_WAITS.format(module=module, server=server.__name__)
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + GONE_SECONDS
    while Path(folder).exists() or Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_cannot_start_shows_its_log() -> None:
    server = RedisServer()
    with (
        socket.create_server((HOST, server.port)),
        pytest.raises(ServerFailedError, match=r"ended while starting(?s:.)*Address already in use"),
    ):
        server.start()
    server.close()


@pytest.mark.parametrize("server", [KafkaServer, ClickHouseServer])
def test_a_server_that_cannot_be_had_is_skipped_but_fails_a_pipeline(
    server: type[KafkaServer | ClickHouseServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setenv("OPENRIDE_TEST_CACHE", os.fspath(tmp_path / "cache"))
    with pytest.raises(ServerUnavailableError, match="on the PATH"), server():
        pass
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"no {server.name} to be had"), lent(server()):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"no {server.name} to be had"), lent(server()):
        pass


def test_a_server_from_the_environment_is_left_alone() -> None:
    with lent(RedisServer("redis://cache.example:6379/0")) as server:
        assert server.url == "redis://cache.example:6379/0"
        with pytest.raises(pytest.skip.Exception):
            server.kill()
