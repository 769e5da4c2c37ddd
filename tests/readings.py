"""Kafka sources at work, each on a topic of its own and into a real store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from openride_analytics.config import Config, Kafka, Retention
from openride_analytics.dialects import Dialects
from openride_analytics.ingest.kafka import KafkaSource
from openride_analytics.ingest.pipeline import Pipeline
from openride_analytics.ingest.progress import PartitionState
from openride_analytics.ops.metrics import Metrics
from openride_analytics.ops.tracing import OFF, Tracing
from openride_analytics.warehouse import Warehouse
from tests.integration.streaming import EventTopics
from tests.samples import full
from tests.servers.kafka import KafkaServer, admin

PATIENCE_SECONDS = 90.0


class Reading:
    """A source at work on one topic, into a real store."""

    def __init__(
        self, settings: Kafka, warehouse: Warehouse, tracing: Tracing = OFF, max_batch_events: int = 10_000
    ) -> None:
        config = Config(kafka=settings, retention=Retention(hot_days=0, cold_days=0))
        self.metrics = Metrics()
        self.warehouse = warehouse
        self.pipeline = Pipeline(
            warehouse,
            self.metrics,
            max_batch_events=max_batch_events,
            max_delay_seconds=0.02,
            on_stored=_nothing,
            tracing=tracing,
        )
        self.source = KafkaSource(config, Dialects(settings), self.pipeline, self.metrics, tracing)

    async def stored(self) -> set[str]:
        rows = await self.warehouse.query("SELECT toString(event_id) AS id FROM events FINAL")
        return {row["id"] for row in rows}

    async def letters(self) -> list[tuple[str, int, int, str]]:
        rows = await self.warehouse.query(
            "SELECT topic, partition, offset, reason FROM dead_letters FINAL ORDER BY topic, partition, offset"
        )
        return [(row["topic"], row["partition"], row["offset"], row["reason"]) for row in rows]

    async def until_stored(self, ids: set[str]) -> None:
        async def all_there() -> bool:
            return await self.stored() >= ids

        await until(all_there, "store everything")

    async def until_caught_up(self) -> list[PartitionState]:
        async def caught_up() -> bool:
            states = self.source.partitions()
            return bool(states) and all(state.lag_events == 0 for state in states)

        await until(caught_up, "catch up")
        return self.source.partitions()

    async def until_committed(self, ends: dict[int, int]) -> None:
        async def committed() -> bool:
            return {state.partition: state.committed_offset for state in self.source.partitions()} == ends

        await until(committed, f"commit {ends}")

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


async def _nothing(earliest_ms: int) -> None:
    pass


@contextlib.asynccontextmanager
async def reading(
    settings: Kafka, warehouse: Warehouse, tracing: Tracing = OFF, max_batch_events: int = 10_000
) -> AsyncIterator[Reading]:
    work = Reading(settings, warehouse, tracing, max_batch_events)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work.pipeline.run())
        source = tasks.create_task(work.source.run())
        try:
            yield work
        finally:
            work.source.stop()
            await source
            await work.pipeline.close()


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"it did not {what} in time")


class Topic:
    """A topic of one test, and the group that reads it."""

    def __init__(self, kafka: KafkaServer) -> None:
        topics = EventTopics.fresh(kafka)
        self.address = kafka.address
        self.name = topics.names[2]
        self.settings = Kafka(
            bootstrap_servers=kafka.address,
            group_id=f"{topics.prefix}-group",
            topics=(self.name,),
            dialects={},
        )
        self._made = 0

    def partition(self, number: int = 0) -> TopicPartition:
        return TopicPartition(self.name, number)

    def record(self) -> tuple[str, bytes]:
        """The id and the bytes of an event that was not made before."""
        self._made += 1
        event_id = f"b0000000-0000-4000-8000-{self._made:012}"
        return event_id, msgspec.json.encode(full("booking.created", event_id=event_id))

    async def create(self, partitions: int = 1) -> None:
        async with admin(self.address) as client:
            await client.create_topics([NewTopic(self.name, partitions, 1)])

    async def send(
        self, count: int, *, partition: int = 0, timestamp_ms: int | None = None, **options: Any
    ) -> set[str]:
        """So many events; returns their ids. The records' time is now, or -1 for none."""
        records = [self.record() for _ in range(count)]
        async with AIOKafkaProducer(bootstrap_servers=self.address, **options) as producer:
            for _, value in records:
                await producer.send(self.name, value, partition=partition, timestamp_ms=timestamp_ms)
        return {event_id for event_id, _ in records}

    async def send_raw(self, *values: bytes | None, partition: int = 0) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.address) as producer:
            for value in values:
                await producer.send_and_wait(
                    self.name, value, key=None if value is not None else b"key", partition=partition
                )
