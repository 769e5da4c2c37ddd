"""What an orchestrator such as Kubernetes does to a service: starts it before its servers, replaces it under load, ends it.

`Balanced` stands for Kubernetes' Service: one address, behind which new connections go to the instances that are ready.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from openride_analytics.warehouse.server import ServerWarehouse
from tests.samples import full
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, free_port, lent
from tests.servers.redis import RedisServer

from .running import READY_SECONDS, Sections, ServiceProcess
from .streaming import EventTopics, committed_and_end_offsets

INSTANCES = 3
DRAIN_SECONDS = 1.5
PROBE_SECONDS = 0.1
# What Kubernetes grants by default.
GRACE_SECONDS = 30.0
QUESTION = "/v1/metrics/bookings"
STORED = "SELECT count() AS rows, uniqExact(event_id) AS ids FROM events FINAL"


def booking() -> dict[str, Any]:
    return full("booking.created", event_id=str(uuid4()), event_timestamp=int(time.time() * 1000))


class Balanced:
    """One address for several instances. Each new connection goes to the next that was ready when last asked."""

    def __init__(self, instances: Sequence[ServiceProcess]) -> None:
        self._instances = instances
        self._ready: list[int] = []
        self._turn = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, free_port())
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        self._spawn(self._probe())
        await eventually(self._all_ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all_ready(self) -> bool:
        return len(self._ready) == len(self._instances)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self) -> None:
        async def ready(client: httpx.AsyncClient, port: int) -> bool:
            with suppress(httpx.TransportError):
                return (await client.get(f"http://{HOST}:{port}/health/ready")).is_success
            return False

        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            while True:
                ports = [instance.port for instance in self._instances]
                answers = await asyncio.gather(*(ready(client, port) for port in ports))
                self._ready = [port for port, answer in zip(ports, answers, strict=True) if answer]
                await asyncio.sleep(PROBE_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self._ready[next(self._turn) % len(self._ready)]
        try:
            behind_reader, behind_writer = await asyncio.open_connection(HOST, port)
        except OSError:  # which the client notices, as it would with Kubernetes
            writer.close()
            return
        self._spawn(_pumped(reader, behind_writer))
        self._spawn(_pumped(behind_reader, writer))


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@dataclass
class Load:
    """Clients and producers that go on until they are told to stop, and what became of it."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    posted: int = 0
    produced: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self, *works: Awaitable[None]) -> AsyncIterator[Self]:
        """Ends, with all of them, when the block does; raises what one of them raised."""
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(_awaited(work))
            try:
                yield self
            finally:
                self.over.set()

    async def ask(self, url: str) -> None:
        """One client, with a connection that it keeps."""
        async with httpx.AsyncClient(base_url=url, timeout=READY_SECONDS, trust_env=False) as client:
            while not self.over.is_set():
                self._note(await _outcome(client.get(QUESTION)), 200)
                await asyncio.sleep(0.04)

    async def post(self, url: str) -> None:
        """One that sends events."""
        async with httpx.AsyncClient(base_url=url, timeout=READY_SECONDS, trust_env=False) as client:
            while not self.over.is_set():
                body = b"\n".join(msgspec.json.encode(booking()) for _ in range(3))
                headers = {"Content-Type": "application/x-ndjson"}
                outcome = await _outcome(client.post("/v1/events", content=body, headers=headers))
                self._note(outcome, 202)
                self.posted += 3
                await asyncio.sleep(0.1)

    async def produce(self, topics: EventTopics, at_once: int) -> None:
        """Events on all partitions of a topic, so many every few milliseconds."""
        async with AIOKafkaProducer(bootstrap_servers=topics.address, acks="all") as producer:
            while not self.over.is_set():
                records = [msgspec.json.encode(booking()) for _ in range(at_once)]
                sent = [await producer.send(topics.names[2], record) for record in records]
                await asyncio.gather(*sent)
                self.produced += at_once
                await asyncio.sleep(0.02)

    def _note(self, outcome: int | str, wanted: int) -> None:
        self.answered += 1
        if outcome != wanted:
            self.failed.append(str(outcome))


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _outcome(request: Awaitable[httpx.Response]) -> int | str:
    try:
        return (await request).status_code
    except httpx.HTTPError as error:
        return repr(error)


async def topics_of(kafka: KafkaServer) -> EventTopics:
    kafka.ensure_running()
    topics = EventTopics.fresh(kafka)
    await topics.create(*topics.names, partitions=INSTANCES, largest_bytes=1_048_576)
    return topics


async def stored(clickhouse_url: str) -> tuple[int, int]:
    """Rows of events, and the distinct ids among them."""
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30)
    try:
        (row,) = await warehouse.query(STORED)
    finally:
        await warehouse.close()
    return row["rows"], row["ids"]


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = READY_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # another process has no asyncio.Event
            await asyncio.sleep(0.1)


@pytest.fixture
def absent() -> Iterator[tuple[ClickHouseServer, PostgresServer, RedisServer, KafkaServer]]:
    """Servers that have their ports, and do not run yet."""
    with ExitStack() as stack:
        servers = (ClickHouseServer(), PostgresServer(), RedisServer(), KafkaServer())
        for server in servers:
            stack.callback(server.close)
        yield servers


def test_a_service_that_is_there_before_its_servers_lives_and_gets_ready_when_they_come(
    absent: tuple[ClickHouseServer, PostgresServer, RedisServer, KafkaServer],
) -> None:
    clickhouse, postgres, redis, kafka = absent
    topics = EventTopics.fresh(kafka)
    config: Sections = {
        "clickhouse": {"url": clickhouse.url},
        "postgres": {"url": postgres.url},
        "redis": {"url": redis.url},
        "kafka": topics.config(),
    }

    def parts(status: int) -> dict[str, str] | None:
        answer = service.get("/health/ready")
        return answer.json()["parts"] if answer.status_code == status else None

    with ServiceProcess(config) as service:
        service.wait_until(lambda: service.log_lines("not_ready_yet"), "try to reach its servers")
        assert parts(503) == {
            "clickhouse": "away",
            "postgres": "starting",
            "migrations": "starting",
            "redis": "away",
            "kafka": "away",
            "ingest": "ok",
        }
        assert service.metric("openride_ready") == 0
        refused = service.get(QUESTION)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0

        with lent(postgres), lent(clickhouse):
            ready = service.wait_until(lambda: parts(200), "get ready with its stores")
            assert (ready["redis"], ready["kafka"]) == ("away", "away")
            assert service.get_json("/health")["status"] == "degraded"
            assert service.get(QUESTION).headers["X-Cache"] == "miss"

            with lent(redis), lent(kafka):
                service.wait_until(lambda: service.get_json("/health")["status"] == "ok", "find the others")
                service.wait_until(lambda: service.get(QUESTION).headers["X-Cache"] == "hit", "use its cache")
                asyncio.run(_one_event(topics))
                service.wait_until_stored(1)
                assert service.terminate() == 0
    # Alive all the time: `start` has waited for no server, and nothing has ended in between.


async def _one_event(topics: EventTopics) -> None:
    async with AIOKafkaProducer(bootstrap_servers=topics.address) as producer:
        await producer.send_and_wait(topics.names[2], msgspec.json.encode(booking()))


async def test_a_rolling_restart_under_load_fails_no_request_and_loses_no_event(
    kafka: KafkaServer, redis_server: RedisServer, clickhouse_url: str, postgres_url: str
) -> None:
    topics = await topics_of(kafka)
    config: Sections = {
        "server": {"drain_seconds": DRAIN_SECONDS},
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "redis": {"url": redis_server.url},
        "kafka": topics.config(),
    }
    load = Load()
    async with AsyncExitStack() as stack:
        instances = [stack.enter_context(ServiceProcess(config)) for _ in range(INSTANCES)]
        balanced = await stack.enter_async_context(Balanced(instances))
        clients = [*(load.ask(balanced.url) for _ in range(3)), load.post(balanced.url)]
        async with load.running(load.produce(topics, 5), *clients):
            for instance in instances:
                answered = load.answered
                assert await asyncio.to_thread(instance.terminate, GRACE_SECONDS) == 0
                await asyncio.to_thread(instance.start)
                await asyncio.to_thread(instance.wait_until_ready)
                assert load.answered > answered
        assert load.failed == []
        total = load.posted + load.produced
        assert min(load.posted, load.produced) > 0
        await eventually(lambda: _is(stored(clickhouse_url), (total, total)))
        await eventually(lambda: _all_committed(topics, str(config["kafka"]["group_id"]), load.produced))


async def _is(found: Awaitable[Any], expected: Any) -> bool:
    return bool(await found == expected)


async def _all_committed(topics: EventTopics, group: str, produced: int) -> bool:
    committed, ends = await committed_and_end_offsets(topics, group)
    assert sum(ends.values()) == produced
    return committed == ends


async def test_a_service_told_to_stop_under_load_finishes_what_it_has_begun(
    kafka: KafkaServer, clickhouse_url: str, postgres_url: str
) -> None:
    topics = await topics_of(kafka)
    config: Sections = {
        "server": {"drain_seconds": 3.0},
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "kafka": topics.config(),
        # Always with room, on a busy machine too: else a body is refused before it is read.
        "ingest": {"max_batch_events": 50_000, "max_delay_seconds": 0.1},
    }
    group = str(config["kafka"]["group_id"])
    load = Load()
    with ServiceProcess(config) as service:
        async with (
            load.running(load.produce(topics, 50)),
            _client(service) as client,
            _client(service) as kept,
        ):
            await asyncio.to_thread(service.wait_until_stored, 500)
            await eventually(lambda: _is(_outcome(kept.get("/health/ready")), 200))
            streaming = asyncio.create_task(_events_of_stream(client))
            port_closed = asyncio.Event()
            posting = asyncio.create_task(client.post("/v1/events", content=_slow_body(port_closed)))
            await asyncio.sleep(0.2)

            service.signal_stop()
            await eventually(lambda: _is(_outcome(kept.get("/health/ready")), 503))
            stopping = (await kept.get("/health/ready")).json()
            # It says why, and of each part what was known last: of Kafka perhaps that it was being joined.
            assert stopping["parts"].pop("kafka") in ("ok", "away")
            assert stopping["parts"] == {
                "service": "stopping",
                "clickhouse": "ok",
                "postgres": "ok",
                "migrations": "ok",
                "redis": "off",
                "ingest": "ok",
            }
            # It drains: whoever still asks is still answered, and sent elsewhere for the next request.
            answer = await kept.get(QUESTION)
            assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
            assert await streaming > 0
            await eventually(lambda: _refused(service.port))
            port_closed.set()
            assert (await posting).json()["accepted"] == 2
            assert await asyncio.to_thread(service.wait_for_exit, GRACE_SECONDS) == 0

        committed, _ = await committed_and_end_offsets(topics, group)
        rows, ids = await stored(clickhouse_url)
        assert rows == ids == sum(committed.values()) + 2

        service.start()
        total = load.produced + 2
        await eventually(lambda: _is(stored(clickhouse_url), (total, total)))
        await eventually(lambda: _all_committed(topics, group, load.produced))
        assert await asyncio.to_thread(service.terminate) == 0


def _client(service: ServiceProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service.url, timeout=READY_SECONDS, trust_env=False)


async def _refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return True
    writer.close()
    return False


async def _events_of_stream(client: httpx.AsyncClient) -> int:
    """How many there were before the service ended the stream, which must not break off."""
    async with client.stream("GET", "/v1/metrics/realtime/stream") as stream:
        return len([line async for line in stream.aiter_lines() if line.startswith("data:")])


async def _slow_body(rest: asyncio.Event) -> AsyncIterator[bytes]:
    """Two events, of which the second is sent later."""
    yield msgspec.json.encode(booking()) + b"\n"
    await rest.wait()
    yield msgspec.json.encode(booking())
