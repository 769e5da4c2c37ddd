"""Topics that are not there: a cluster where nothing is made by being asked for."""

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from tests.integration.running import ServiceProcess
from tests.integration.streaming import EventTopics
from tests.integration.test_dead_letters import registration
from tests.servers.kafka import KafkaServer
from tests.servers.process import lent

from .stage import admin


@pytest.mark.timeout(300)
async def test_a_topic_that_is_not_there_holds_up_no_other(clickhouse_url: str, postgres_url: str) -> None:
    """As on most clusters in earnest; and a topic that comes later is read from its beginning."""
    with lent(KafkaServer(properties={"auto.create.topics.enable": "false"})) as kafka:
        topics = EventTopics.fresh(kafka)
        config = {
            "clickhouse": {"url": clickhouse_url},
            "postgres": {"url": postgres_url},
            "kafka": topics.config(),
        }
        users, *_ = topics.names
        later = f"{topics.prefix}.openride.events.route"
        async with admin(kafka.address) as client:
            await client.create_topics([NewTopic(users, num_partitions=2, replication_factor=1)])
            async with AIOKafkaProducer(bootstrap_servers=kafka.address) as producer:
                with ServiceProcess(config) as service:
                    await producer.send_and_wait(users, registration())
                    service.wait_until_stored(1)
                    await client.create_topics([NewTopic(later, num_partitions=2, replication_factor=1)])
                    await producer.send_and_wait(later, registration())
                    service.wait_until_stored(2)
                    assert service.terminate() == 0
