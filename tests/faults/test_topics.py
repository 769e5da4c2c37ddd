"""Topics that are not there, on a cluster where none is made by being asked for."""

from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from tests.integration.running import Sections, ServiceProcess
from tests.integration.streaming import EventTopics
from tests.integration.test_dead_letters import registration
from tests.servers.kafka import KafkaServer, admin
from tests.servers.process import lent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def topics() -> Iterator[EventTopics]:
    with lent(KafkaServer(properties={"auto.create.topics.enable": "false"})) as kafka:
        yield EventTopics.fresh(kafka)


@pytest.fixture
def config(topics: EventTopics, clickhouse_url: str, postgres_url: str) -> Sections:
    return {
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "kafka": topics.config(),
    }


async def create(topics: EventTopics, name: str) -> None:
    async with admin(topics.address) as client:
        await client.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])


async def test_topics_that_are_not_there_hold_up_no_other(topics: EventTopics, config: Sections) -> None:
    users = topics.names[0]
    await create(topics, users)
    async with AIOKafkaProducer(bootstrap_servers=topics.address) as producer:
        await producer.send_and_wait(users, registration())
    with ServiceProcess(config) as service:
        service.wait_until_stored(1)
        assert service.terminate() == 0


@pytest.mark.faults
async def test_a_topic_that_comes_later_is_read_from_its_beginning(
    topics: EventTopics, config: Sections
) -> None:
    users, routes, *_ = topics.names
    await create(topics, users)
    async with AIOKafkaProducer(bootstrap_servers=topics.address) as producer:
        with ServiceProcess(config) as service:
            await producer.send_and_wait(users, registration())
            service.wait_until_stored(1)
            await create(topics, routes)
            await producer.send_and_wait(routes, registration())
            service.wait_until_stored(2)
            assert service.terminate() == 0
