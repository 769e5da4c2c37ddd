"""Events from Kafka, at least once: an offset is committed only after its event is stored.

aiokafka may drop good records and still move its position when a fetch fails, so its position is never committed, only
offsets of records that are stored; and after any error the consumer is replaced by a new one, which begins at the
committed offsets. So is one that makes no progress. While the store is behind, partitions are paused but polled, so that
the consumer stays in its group.
"""

import asyncio
import contextlib
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final

import structlog
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from openride_analytics.config import Config, Kafka
from openride_analytics.events import LOCATION_EVENT
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.pipeline import Pipeline
from openride_analytics.ingest.records import acceptance_now, decode_records
from openride_analytics.ops.metrics import Metrics

log = structlog.get_logger(__name__)

_POLL_MS: Final = 100
_MAX_POLL_RECORDS: Final = 10_000
_CALL_TIMEOUT_SECONDS: Final = 10.0
_LAG_EVERY_SECONDS: Final = 5.0
_STUCK_AFTER_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 15.0


class _Stuck(Exception):
    """There are records to read, and none come."""


@dataclass
class _InFlight:
    """Records of one partition on their way into the store."""

    partition: TopicPartition
    next_offset: int
    stored: "asyncio.Future[None]"


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Reads the event topics into the pipeline. Call `run` in a task of its own and `stop` to end it."""

    def __init__(self, config: Config, pipeline: Pipeline, metrics: Metrics) -> None:
        self._config = config
        self._pipeline = pipeline
        self._metrics = metrics
        self._consumer: Any = None
        self._in_flight: deque[_InFlight] = deque()
        self._uncommitted: dict[TopicPartition, int] = {}
        self._stopping = asyncio.Event()
        self._committing = asyncio.Lock()
        self.connected = False

    async def run(self) -> None:
        """Consumes until `stop`, over as many consumers as it takes."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = monotonic()
            try:
                await self._consume()
            except (KafkaError, _Stuck, OSError, TimeoutError) as error:
                if monotonic() - began > _STUCK_AFTER_SECONDS:
                    pause = _FIRST_PAUSE_SECONDS
                log.warning("kafka_away", error=f"{type(error).__name__}: {error}"[:300], retry_seconds=pause)
                with contextlib.suppress(TimeoutError):
                    jitter = random.uniform(0.5, 1.5)  # noqa: S311  # not a secret
                    await asyncio.wait_for(self._stopping.wait(), pause * jitter)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Ends `run` soon: what is in flight is stored and committed first, if that does not take too long."""
        self._stopping.set()

    async def _consume(self) -> None:
        """One consumer's life."""
        settings = self._config.kafka
        consumer = self._consumer = AIOKafkaConsumer(
            **_connection(settings),
            group_id=settings.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            metadata_max_age_ms=30_000,
            max_partition_fetch_bytes=4 * 1_048_576,
            # A fetch waits for a good load, but not long: hundreds of small ones a second cost more than the events.
            fetch_min_bytes=262_144,
            fetch_max_wait_ms=100,
        )
        self._forget()
        consumer.subscribe(list(settings.topics), listener=self)
        try:
            await asyncio.wait_for(consumer.start(), 3 * _CALL_TIMEOUT_SECONDS)
            self.connected = True
            log.info("kafka_connected", group_id=settings.group_id, topics=list(settings.topics))
            await self._poll(consumer)
            await self._settle(_CALL_TIMEOUT_SECONDS)
        finally:
            self.connected = False
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                await asyncio.wait_for(consumer.stop(), _CALL_TIMEOUT_SECONDS)

    async def _poll(self, consumer: Any) -> None:
        measured = progressed = monotonic()
        while not self._stopping.is_set():
            has_room = self._pipeline.has_room
            assigned = consumer.assignment()
            if has_room:
                consumer.resume(*(assigned & consumer.paused()))
            else:
                consumer.pause(*assigned)  # each time: a new assignment comes unpaused
                progressed = monotonic()
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MAX_POLL_RECORDS)
            for partition, records in fetched.items():
                if partition in consumer.assignment():
                    await self._take_in(partition, records)
                    progressed = monotonic()
            await self._commit_stored()
            if monotonic() - measured > _LAG_EVERY_SECONDS:
                measured = monotonic()
                behind = await self._measure_lag(consumer)
                if not behind:
                    progressed = measured
                elif measured - progressed > _STUCK_AFTER_SECONDS:
                    raise _Stuck(f"{behind} records behind, none read for {_STUCK_AFTER_SECONDS:g} s")

    async def _take_in(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        values = [record.value or b"" for record in records]
        events, refused = await decode_records(values, acceptance_now(self._config))
        now_ms = int(time() * 1000)
        # A producer's clock may be anything; nothing arrives after now.
        arrived_ms = min(now_ms, max(0, min(record.timestamp for record in records)))
        letters = [
            DeadLetter.of(
                values[index],
                error,
                rejected_ms=now_ms,
                topic=partition.topic,
                partition=partition.partition,
                offset=records[index].offset,
                key=records[index].key or b"",
            )
            for index, error in refused
        ]
        stored = await self._pipeline.put_at_once(events, letters, arrived_ms)
        self._in_flight.append(_InFlight(partition, records[-1].offset + 1, stored))

    async def _commit_stored(self) -> None:
        """Commits up to the first record that is not stored yet."""
        async with self._committing:
            while self._in_flight and self._in_flight[0].stored.done():
                done = self._in_flight.popleft()
                self._uncommitted[done.partition] = done.next_offset
            if not self._uncommitted or self._consumer is None:
                return
            offsets = {tp: at for tp, at in self._uncommitted.items() if tp in self._consumer.assignment()}
            try:
                if offsets:
                    await asyncio.wait_for(self._consumer.commit(offsets), _CALL_TIMEOUT_SECONDS)
                self._uncommitted.clear()
            except (CommitFailedError, IllegalStateError) as error:
                # No longer ours: the new owner reads these again, which changes nothing.
                log.info("commit_dropped", error=str(error)[:200])
                self._uncommitted.clear()
            except (KafkaError, TimeoutError) as error:
                log.warning("commit_failed", error=f"{type(error).__name__}: {error}"[:200])

    async def _settle(self, timeout_seconds: float) -> None:
        """Waits for what is in flight, so far as that goes, and commits it."""
        waiting = [item.stored for item in self._in_flight]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_seconds)
        await self._commit_stored()

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Before a rebalance: finishes and commits what is in flight; what takes too long is left to the new owner."""
        if revoked:
            await self._settle(_CALL_TIMEOUT_SECONDS)
        self._forget()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """After a rebalance."""
        self._metrics.consumer_lag.clear()
        log.info("partitions_assigned", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))

    def _forget(self) -> None:
        self._in_flight.clear()
        self._uncommitted.clear()

    async def _measure_lag(self, consumer: Any) -> int:
        """Records not yet read, over all partitions of this instance."""
        assigned = list(consumer.assignment())
        if not assigned:
            return 0
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
                ends = await consumer.end_offsets(assigned)
                lags = {tp: max(0, ends[tp] - await consumer.position(tp)) for tp in assigned}
        except (KafkaError, TimeoutError, KeyError):
            return 1  # no answer: not known to be caught up
        for partition, lag in lags.items():
            self._metrics.consumer_lag.labels(partition.topic, partition.partition).set(lag)
        return sum(lags.values())


class DeadLetterTopic:
    """The copy of the dead letters on a Kafka topic. The table is the record: a topic that is away loses no letter."""

    def __init__(self, settings: Kafka) -> None:
        self._settings = settings
        self._producer: Any = None

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Sends letters; gives up after some seconds and says so in the log."""
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
                if self._producer is None:
                    producer = AIOKafkaProducer(
                        **_connection(self._settings),
                        # Not idempotent: after one letter that the topic refuses as too large, an idempotent producer
                        # gets nothing through any more. A letter that comes twice names the same place twice.
                        acks="all",
                        max_request_size=16 * 1_048_576,
                    )
                    try:
                        await producer.start()
                    except BaseException:
                        await producer.stop()
                        raise
                    self._producer = producer
                sent = [
                    await self._producer.send(
                        self._settings.dead_letter_topic,
                        value=letter.record,
                        key=letter.key or None,
                        headers=[
                            ("reason", letter.reason.encode()),
                            ("field", letter.field.encode()),
                            ("topic", letter.topic.encode()),
                            ("partition", str(letter.partition).encode()),
                            ("offset", str(letter.offset).encode()),
                            ("rejected_ms", str(letter.rejected_ms).encode()),
                        ],
                    )
                    for letter in letters
                ]
                outcomes = await asyncio.gather(*sent, return_exceptions=True)
        except (KafkaError, OSError, TimeoutError) as error:
            outcomes = [error] * len(letters)
        if errors := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            log.error(
                "dead_letters_not_published",
                letters=len(errors),
                error=f"{type(errors[0]).__name__}: {errors[0]}"[:300],
            )

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(self._producer.stop(), _CALL_TIMEOUT_SECONDS)


def _connection(settings: Kafka) -> dict[str, Any]:
    """What consumers and producers have in common."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": "openride-analytics",
        "request_timeout_ms": 30_000,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password,
        }
    if settings.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.ssl_ca_file or None)
        if settings.ssl_cert_file:
            context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file or None)
        options["ssl_context"] = context
    return options


async def topics_of(settings: Kafka) -> set[str]:
    """The topics that the cluster has. Raises KafkaError, OSError, TimeoutError."""
    consumer = AIOKafkaConsumer(**_connection(settings))
    try:
        async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
            await consumer.start()
            topics: set[str] = await consumer.topics()
            return topics
    finally:
        with contextlib.suppress(KafkaError, TimeoutError, OSError):
            await asyncio.wait_for(consumer.stop(), _CALL_TIMEOUT_SECONDS)


def topic_for(event_type: str, topics: Sequence[str]) -> str | None:
    """The topic that a producer would send an event to: `driver.location.updated` to the one that ends in `.location`."""
    kind = "location" if event_type == LOCATION_EVENT else event_type.partition(".")[0]
    return next((topic for topic in topics if topic.rpartition(".")[2] == kind), None)


async def produce(settings: Kafka, records: AsyncIterator[tuple[str, bytes]]) -> int:
    """Sends records to their topics and returns how many, each acknowledged by all replicas. Raises KafkaError."""
    producer = AIOKafkaProducer(
        **_connection(settings), enable_idempotence=True, compression_type="lz4", linger_ms=20
    )
    await producer.start()
    sent = 0
    unacknowledged: list[Any] = []
    try:
        async for topic, record in records:
            unacknowledged.append(await producer.send(topic, record))
            sent += 1
            if len(unacknowledged) >= _MAX_POLL_RECORDS:
                await asyncio.gather(*unacknowledged)
                unacknowledged.clear()
        await asyncio.gather(*unacknowledged)
    finally:
        await producer.stop()
    return sent
