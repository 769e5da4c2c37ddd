"""Topics and consumer groups of one test, on a broker that many share."""

import secrets
from typing import Any, NamedTuple, Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic

from openride_analytics.config import SHIPPED_DIALECTS, Kafka
from tests.servers.kafka import KafkaServer, admin


class EventTopics(NamedTuple):
    """The default topics under a prefix that nobody else uses."""

    address: str
    prefix: str

    @classmethod
    def fresh(cls, kafka: KafkaServer) -> Self:
        return cls(kafka.address, f"test-{secrets.token_hex(6)}")

    @property
    def names(self) -> list[str]:
        return [f"{self.prefix}.{topic}" for topic in Kafka().topics]

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}.{Kafka().dead_letter_topic}"

    def config(self) -> dict[str, Any]:
        """The section `[kafka]`, with a consumer group that begins at the beginning."""
        return {
            "bootstrap_servers": self.address,
            "group_id": f"{self.prefix}-{secrets.token_hex(4)}",
            "topics": self.names,
            "dead_letter_topic": self.dead_letters,
            "dialects": {
                name: {
                    **dialect,
                    "topics": {
                        f"{self.prefix}.{topic}": spoken for topic, spoken in dialect["topics"].items()
                    },
                }
                for name, dialect in msgspec.to_builtins(SHIPPED_DIALECTS).items()
            },
        }

    async def create(self, *names: str, partitions: int, largest_bytes: int) -> None:
        """Makes topics that take larger records than a broker's own limit of 1 MiB."""
        settings = {"max.message.bytes": str(largest_bytes)}
        async with admin(self.address) as client:
            await client.create_topics(
                [
                    NewTopic(name, num_partitions=partitions, replication_factor=1, topic_configs=settings)
                    for name in names
                ]
            )


async def committed_and_end_offsets(
    topics: EventTopics, group_id: str
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Of every partition that has records: where the group would go on, and where the log ends."""
    async with admin(topics.address) as client:
        described = await client.describe_topics(topics.names)
        offsets = await client.list_consumer_group_offsets(group_id)
    partitions = [
        TopicPartition(topic["topic"], partition["partition"])
        for topic in described
        for partition in topic["partitions"]
    ]
    async with AIOKafkaConsumer(bootstrap_servers=topics.address) as consumer:
        ends = {partition: end for partition, end in (await consumer.end_offsets(partitions)).items() if end}
    committed = {partition: offsets[partition].offset for partition in ends if partition in offsets}
    return committed, ends
