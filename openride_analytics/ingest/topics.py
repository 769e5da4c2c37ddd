"""What else is done with Kafka: connecting, producing, the topic of the dead letters."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from time import monotonic
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from openride_analytics.config import Kafka
from openride_analytics.contract import LOCATION_EVENT
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ops.metrics import Metrics

log = structlog.get_logger(__name__)

_CALL_TIMEOUT_SECONDS: Final = 10.0
_PUBLISH_SECONDS: Final = 10.0
_PUBLISH_REST_SECONDS: Final = 30.0
_LETTERS_AT_ONCE: Final = 50
_MOST_UNACKNOWLEDGED: Final = 10_000


class DeadLetterTopic:
    """The copy of the dead letters on a Kafka topic. The table is the record: a topic that is away loses no letter."""

    def __init__(self, settings: Kafka, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._producer: Any = None
        self._rest_until = 0.0

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Sends letters; gives up after some seconds, says so, and leaves the topic alone for a while.

        Bad records must not hold up the good ones, so neither may a topic that takes none.
        """
        outcomes: list[Any]
        if monotonic() < self._rest_until:
            outcomes = [TimeoutError("the topic did not take the last ones")] * len(letters)
        else:
            try:
                async with asyncio.timeout(_PUBLISH_SECONDS):
                    outcomes = await self._send(letters)
            except (KafkaError, OSError, TimeoutError) as error:
                self._rest_until = monotonic() + _PUBLISH_REST_SECONDS
                outcomes = [error] * len(letters)
        if errors := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            self._metrics.letters_not_published.inc(len(errors))
            log.error(
                "dead_letters_not_published",
                letters=len(errors),
                error=f"{type(errors[0]).__name__}: {errors[0]}"[:300],
            )

    async def _send(self, letters: Sequence[DeadLetter]) -> list[Any]:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **connection(self._settings),
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
        sent: list[Any] = []
        too_large: list[Any] = []  # for the producer, which says so at once; only these are not sent
        for number, letter in enumerate(letters, 1):
            try:
                sent.append(
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
                )
            except MessageSizeTooLargeError as error:
                too_large.append(error)
            if number % _LETTERS_AT_ONCE == 0:
                await asyncio.sleep(0)  # others get their turn
        return [*too_large, *await asyncio.gather(*sent, return_exceptions=True)]

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(self._producer.stop(), _CALL_TIMEOUT_SECONDS)


def connection(settings: Kafka) -> dict[str, Any]:
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
    consumer = AIOKafkaConsumer(**connection(settings))
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
        **connection(settings), enable_idempotence=True, compression_type="lz4", linger_ms=20
    )
    sent = 0
    unacknowledged: list[Any] = []
    try:
        await producer.start()
        async for topic, record in records:
            unacknowledged.append(await producer.send(topic, record))
            sent += 1
            if len(unacknowledged) >= _MOST_UNACKNOWLEDGED:
                await asyncio.gather(*unacknowledged)
                unacknowledged.clear()
        await asyncio.gather(*unacknowledged)
    finally:
        await producer.stop()
    return sent
