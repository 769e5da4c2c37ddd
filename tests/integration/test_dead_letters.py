"""Bad records between good ones on a real Kafka: the good ones are stored, the bad ones kept with all that is known."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from openride_analytics.config import Kafka
from openride_analytics.events import MAX_RECORD_BYTES, BadEvent
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.topics import DeadLetterTopic
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.kafka import KafkaServer

from .running import Sections, ServiceProcess
from .streaming import EventTopics

PARTITIONS = 3
GOOD = 200
LARGE = 2 * MAX_RECORD_BYTES
HOUR_MS = 3_600_000
PERSONAL = ("+2348031234567", "ada@example.com", "Ada Obi")

Place = tuple[str, int, int]
"""Topic, partition and offset."""


class Bad(NamedTuple):
    """A record that must be refused, and what must be known of it then."""

    value: bytes | None
    reason: str
    field: str
    event_type: str = ""
    kept: bytes | None = None
    """The bytes that are kept where they are not the record's own: personal fields are blanked."""

    @property
    def record(self) -> bytes:
        return self.kept if self.kept is not None else self.value or b""


def registration(**fields: Any) -> bytes:
    event = {
        "event_type": "user.registered",
        "event_id": str(uuid4()),
        "event_timestamp": int(time.time() * 1000) - HOUR_MS,
        "user_id": str(uuid4()),
        "role": "RIDER",
    }
    return msgspec.json.encode({name: value for name, value in (event | fields).items() if value is not ...})


def bad_records() -> list[Bad]:
    known = "user.registered"
    now_ms = int(time.time() * 1000)
    return [
        Bad(b"no JSON", "invalid_json", ""),
        Bad(b'["an", "array"]', "invalid_json", ""),
        Bad(b'{"event_type": "user.registered", "city": "Ibad\xe0n \xff\xfe"}', "invalid_json", "", known),
        Bad(b"\x00\x01\x02\xff", "invalid_json", ""),
        Bad(b"", "invalid_json", ""),
        Bad(None, "invalid_json", ""),
        Bad(b"[" * 5_000, "invalid_json", ""),
        Bad(registration(event_type="user.vanished"), "unknown_event_type", "event_type", "user.vanished"),
        Bad(registration(user_id=...), "invalid_field", "user_id", known),
        Bad(registration(role="PASSENGER"), "invalid_field", "role", known),
        Bad(registration(user_id="42"), "invalid_field", "user_id", known),
        Bad(
            registration(event_timestamp=now_ms + 25 * HOUR_MS),
            "timestamp_out_of_range",
            "event_timestamp",
            known,
        ),
        Bad(
            registration(event_timestamp="2014-12-31T23:59:59Z"),
            "timestamp_out_of_range",
            "event_timestamp",
            known,
        ),
        Bad(registration(event_timestamp="2019-03-01T00:00:00Z"), "expired", "event_timestamp", known),
        Bad(
            b'{"event_type":"user.registered","phone":"+2348031234567","email" : "ada@example.com",'
            b'"full_name":"Ada Obi","card_last4":4242,"role":"NOBODY"}',
            "invalid_field",
            "role",
            known,
            b'{"event_type":"user.registered","phone":"-","email" : "-","full_name":"-","card_last4":"-","role":"NOBODY"}',
        ),
        Bad(
            b'\xff{"event_type":"user.registered","phone":"+2348031234567","fullName":"Ada Obi"',
            "invalid_json",
            "",
            "",
            b'\xff{"event_type":"user.registered","phone":"-","fullName":"-"',
        ),
        Bad(registration(city="x" * LARGE), "too_large", ""),
    ]


@pytest_asyncio.fixture
async def topics(kafka: KafkaServer) -> EventTopics:
    """Those for events take large records."""
    kafka.ensure_running()
    topics = EventTopics.fresh(kafka)
    await topics.create(*topics.names, partitions=PARTITIONS, largest_bytes=2 * LARGE)
    return topics


@pytest_asyncio.fixture
async def producer(kafka: KafkaServer) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=kafka.address, max_request_size=2 * LARGE) as producer:
        yield producer


@pytest_asyncio.fixture
async def warehouse(clickhouse_url: str) -> AsyncIterator[ServerWarehouse]:
    """The services' database, without any tables before the first service."""
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=10, insert_timeout_seconds=10)
    yield warehouse
    await warehouse.close()


@pytest.fixture
def config(clickhouse_url: str, postgres_url: str) -> Sections:
    return {"clickhouse": {"url": clickhouse_url}, "postgres": {"url": postgres_url}}


LETTERS = """
SELECT topic, partition, offset, source, reason, field, detail, event_type,
       hex(key) AS key, hex(record) AS record, rejected_ms
FROM dead_letters FINAL
ORDER BY topic, partition, offset
"""


async def test_bad_records_are_kept_with_their_bytes_and_the_good_ones_stored(
    topics: EventTopics, producer: AIOKafkaProducer, warehouse: ServerWarehouse, config: Sections
) -> None:
    await topics.create(topics.dead_letters, partitions=PARTITIONS, largest_bytes=2 * LARGE)
    bad = await _mixed(producer, topics.names[0])
    with ServiceProcess({**config, "kafka": topics.config()}) as service:
        service.wait_until_stored(GOOD, refused=len(bad))
        assert service.get_json("/v1/metrics/users")["summary"]["total_users"] == GOOD
        published = await _published(topics, len(bad))
        # Another group reads all of it again.
        with ServiceProcess({**config, "kafka": topics.config()}) as second:
            second.wait_until_stored(GOOD, refused=len(bad))
            assert second.terminate() == 0
        assert service.get_json("/v1/metrics/users")["summary"]["total_users"] == GOOD
        assert not [text for text in PERSONAL if text in service.logged()]
        assert service.terminate() == 0

    letters = await warehouse.query(LETTERS)
    assert [_place(letter) for letter in letters] == sorted(bad)
    for letter in letters:
        wanted = bad[_place(letter)]
        assert bytes.fromhex(letter["record"]) == wanted.record
        assert (letter["reason"], letter["field"]) == (wanted.reason, wanted.field), letter["detail"]
        assert (letter["event_type"], letter["source"]) == (wanted.event_type, "kafka")
        assert letter["detail"]
        assert bytes.fromhex(letter["key"]).startswith(b"key ")
        assert abs(letter["rejected_ms"] / 1000 - time.time()) < 600

    assert published.keys() == bad.keys()
    for place, letter in published.items():
        wanted = bad[place]
        assert letter.value == wanted.record
        assert letter.key.startswith(b"key ")
        headers = dict(letter.headers)
        assert (headers["reason"].decode(), headers["field"].decode()) == (wanted.reason, wanted.field)


async def test_a_letter_too_large_for_its_topic_is_in_the_table_and_holds_up_no_other(
    topics: EventTopics, producer: AIOKafkaProducer, warehouse: ServerWarehouse, config: Sections
) -> None:
    records = [b"before", b"x" * LARGE, b"after", b"long after"]
    with ServiceProcess({**config, "kafka": topics.config()}) as service:
        for count, record in enumerate(records, 1):
            await producer.send_and_wait(topics.names[0], record, partition=0)
            service.wait_until_stored(0, refused=count)
        published = await _published(topics, len(records) - 1)
        assert service.terminate() == 0

    assert [letter.value for _, letter in sorted(published.items())] == [b"before", b"after", b"long after"]
    letters = await warehouse.query(LETTERS)
    assert [bytes.fromhex(letter["record"]) for letter in letters] == records


async def test_a_letter_too_large_to_be_sent_holds_up_no_other(topics: EventTopics) -> None:
    metrics = Metrics()
    topic = DeadLetterTopic(msgspec.convert(topics.config(), Kafka), metrics)
    error = BadEvent("too_large", "It is too large.")
    records = [b"before", b"x" * (17 * 1_048_576), b"after"]
    await topic.publish(
        [
            DeadLetter.of(record, error, rejected_ms=0, topic="t", partition=0, offset=offset)
            for offset, record in enumerate(records)
        ]
    )
    await topic.publish([DeadLetter.of(b"later", error, rejected_ms=0, topic="t", partition=0, offset=3)])
    published = await _published(topics, 3)
    await topic.close()
    assert [letter.value for _, letter in sorted(published.items())] == [b"before", b"after", b"later"]
    assert metrics.registry.get_sample_value("openride_dead_letters_not_published_total") == 1


async def _mixed(producer: AIOKafkaProducer, topic: str) -> dict[Place, Bad]:
    """Produces good and bad records on all partitions; the bad ones by their place."""
    bad, records = {}, bad_records()
    for number in range(GOOD):
        await producer.send(topic, registration(), partition=number % PARTITIONS)
        if number % 10 == 0 and records:
            record = records.pop()
            sent = await producer.send_and_wait(
                topic, record.value, key=f"key {number}".encode(), partition=number // 10 % PARTITIONS
            )
            bad[topic, sent.partition, sent.offset] = record
    await producer.flush()
    assert not records
    return bad


async def _published(topics: EventTopics, count: int) -> dict[Place, Any]:
    """So many records from the topic for dead letters, by the place that their headers name."""
    async with AIOKafkaConsumer(
        topics.dead_letters, bootstrap_servers=topics.address, auto_offset_reset="earliest"
    ) as consumer:
        letters = [await consumer.getone() for _ in range(count)]
    return {_place({name: value.decode() for name, value in letter.headers}): letter for letter in letters}


def _place(letter: Mapping[str, Any]) -> Place:
    return letter["topic"], int(letter["partition"]), int(letter["offset"])
