"""The real taxi trips by way of Kafka into a service on real servers, against the truth."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from openride_analytics.config import Kafka
from openride_analytics.ingest.topics import produce, topic_for
from tests.model.asked import differences
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.databases import drop_database, fresh_database
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.taxi import truth
from tests.taxi.events import events

from .running import Sections, ServiceProcess
from .streaming import EventTopics, committed_and_end_offsets
from .taxi_questions import CONFIG, QUESTIONS, Asked, differences_from_truth

ALL_MARCH = Asked("2019-03-01", "2019-03-31")


class Stream(NamedTuple):
    """The topics that hold all trips, and a configuration for services that read them into one pair of databases."""

    topics: EventTopics
    config: Sections
    sent: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stream(
    kafka: KafkaServer, clickhouse: ClickHouseServer, postgres: PostgresServer, redis_server: RedisServer
) -> AsyncIterator[Stream]:
    for server in (kafka, clickhouse, postgres, redis_server):
        server.ensure_running()
    topics = EventTopics.fresh(kafka)
    made = events()

    async def records() -> AsyncIterator[tuple[str, bytes]]:
        for event in made:
            topic = topic_for(event["event_type"], topics.names)
            assert topic is not None
            yield topic, msgspec.json.encode(event)

    sent = await produce(Kafka(bootstrap_servers=kafka.address), records())
    assert sent == len(made)
    async with Redis.from_url(redis_server.url) as cache:
        await cache.flushdb()
    clickhouse_url, postgres_url = await fresh_database(clickhouse.url), await fresh_database(postgres.url)
    config = {
        **CONFIG,
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "redis": {"url": redis_server.url},
    }
    yield Stream(topics, config, sent)
    await drop_database(clickhouse_url)
    await drop_database(postgres_url)


@pytest.fixture(scope="module")
def service(stream: Stream) -> Iterator[ServiceProcess]:
    """It has stored all trips."""
    with ServiceProcess({**stream.config, "kafka": stream.topics.config()}) as service:
        service.wait_until_stored(stream.sent)
        yield service
        assert service.terminate() == 0


@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
def test_every_answer_is_the_truth(asked: Asked, service: ServiceProcess) -> None:
    found = differences_from_truth(service, asked)
    assert not found, "\n".join(found)


def test_trips_of_years_ago_are_nothing_of_just_now(service: ServiceProcess) -> None:
    summary = service.get_json("/v1/metrics/realtime", window_minutes="1440")["summary"]
    expected: dict[str, Any] = truth.realtime()["summary"]
    assert not differences(expected, {name: summary[name] for name in expected})


def test_no_record_became_a_dead_letter(service: ServiceProcess) -> None:
    assert service.metric("openride_events_rejected_total") == 0


def test_the_lag_goes_to_nothing_on_every_topic(service: ServiceProcess, stream: Stream) -> None:
    service.wait_until(
        lambda: 'openride_consumer_lag_events{partition="0"' in service.get("/metrics").text,
        "measure its lag",
    )
    service.wait_until(lambda: service.metric("openride_consumer_lag_events") == 0, "catch up")


def test_every_part_is_well(service: ServiceProcess) -> None:
    health = service.get_json("/health/ready")
    assert health["status"] == "ok"
    assert set(health["parts"].values()) == {"ok"}


async def test_another_group_reads_all_again_changes_nothing_and_leaves_in_good_order(
    service: ServiceProcess, stream: Stream
) -> None:
    config: Sections = {**stream.config, "kafka": stream.topics.config()}
    with ServiceProcess(config) as second:
        second.wait_until_stored(stream.sent)
        for each in (service, second):
            assert not differences_from_truth(each, ALL_MARCH)

        assert second.terminate() == 0

    committed, end = await committed_and_end_offsets(stream.topics, str(config["kafka"]["group_id"]))
    assert sum(end.values()) == stream.sent
    assert committed == end
