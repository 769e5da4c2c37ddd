"""Dead letters after a fix: the service started again with longer retention takes in what it had refused as too old."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from aiokafka import AIOKafkaProducer

from tests.servers.kafka import KafkaServer

from .running import Sections, ServiceProcess
from .streaming import EventTopics

LETTERS = "/v1/ingest/dead-letters"
REPLAY = f"{LETTERS}/replay"
PARTITIONS = 3
OLD = 20
DAY_MS = 86_400_000
SHORT = {"retention": {"hot_days": 0, "cold_days": 7}}
LONG = {"retention": {"hot_days": 0, "cold_days": 730}}


def registrations(count: int, *, days_ago: int) -> list[bytes]:
    """Without ids, and with personal fields: the letters have these blanked, and the derived ids must not care."""
    at = int(time.time() * 1000) - days_ago * DAY_MS
    return [
        msgspec.json.encode(
            {
                "event_type": "user.registered",
                "event_timestamp": at,
                "user_id": str(uuid4()),
                "role": "RIDER",
                "phone": "+2348031234567",
                "full_name": "Ada Obi",
            }
        )
        for _ in range(count)
    ]


def total_users(service: ServiceProcess) -> int:
    return int(service.get_json("/v1/metrics/users")["summary"]["total_users"])


def told(answer: dict[str, Any]) -> tuple[int, int, dict[str, int], int]:
    return answer["matched"], answer["accepted"], answer["rejected"], answer["remaining"]


def identities(service: ServiceProcess) -> list[tuple[Any, ...]]:
    """What must not change of the letters, in their order."""
    letters = service.get_json(LETTERS, limit="1000")["letters"]
    names = ("dead_letter_id", "rejected_at", "topic", "partition", "offset", "reason", "record")
    return [tuple(letter[name] for name in names) for letter in letters]


async def test_letters_from_kafka(kafka: KafkaServer, clickhouse_url: str, postgres_url: str) -> None:
    kafka.ensure_running()
    topics = EventTopics.fresh(kafka)
    await topics.create(*topics.names, partitions=PARTITIONS, largest_bytes=1_048_576)
    old, bad = registrations(OLD, days_ago=30), [b"no JSON", b"{}"]
    async with AIOKafkaProducer(bootstrap_servers=kafka.address) as producer:
        for number, record in enumerate([*old, *bad, *registrations(OLD, days_ago=1)]):
            await producer.send_and_wait(topics.names[0], record, partition=number % PARTITIONS)
    stores: Sections = {"clickhouse": {"url": clickhouse_url}, "postgres": {"url": postgres_url}}
    group = topics.config()

    with ServiceProcess({**stores, **SHORT, "kafka": group}) as service:
        service.wait_until_stored(OLD, refused=OLD + len(bad))
        counts = service.get_json(LETTERS)["counts"]
        assert counts["by_reason"]["expired"] == OLD
        assert counts["by_topic"] == {topics.names[0]: OLD + len(bad)}
        before = identities(service)
        assert told(service.post_json(REPLAY, {"reason": "expired"})) == (OLD, 0, {"expired": OLD}, 0)
        assert identities(service) == before
        assert total_users(service) == OLD
        assert service.terminate() == 0

    # Another group reads all of it again and refuses it again.
    with ServiceProcess({**stores, **SHORT, "kafka": topics.config()}) as service:
        service.wait_until_stored(OLD, refused=OLD + len(bad))
        assert identities(service) == before
        assert service.terminate() == 0

    with ServiceProcess({**stores, **LONG, "kafka": group}) as service:
        service.wait_until_ready()
        answer = service.post_json(REPLAY, {"topic": topics.names[0]})
        assert (answer["matched"], answer["accepted"]) == (OLD + len(bad), OLD)
        assert sum(answer["rejected"].values()) == len(bad)
        assert total_users(service) == 2 * OLD
        assert service.get_json(LETTERS, status="open")["counts"]["total"] == len(bad)
        assert identities(service) == before
        again = service.post_json(REPLAY, {"reason": "expired", "again": True})
        assert told(again) == (OLD, OLD, {}, 0)
        assert total_users(service) == 2 * OLD
        assert service.terminate() == 0

    # A third group accepts the records themselves: they are the rows that the replay has stored.
    with ServiceProcess({**stores, **LONG, "kafka": topics.config()}) as service:
        service.wait_until_stored(2 * OLD, refused=len(bad))
        assert total_users(service) == 2 * OLD
        assert identities(service) == before
        assert service.terminate() == 0


def test_letters_from_http_in_the_embedded_engine(tmp_path: Path, postgres_url: str) -> None:
    stores: Sections = {"storage": {"data_dir": str(tmp_path / "data")}, "postgres": {"url": postgres_url}}
    body = b"\n".join([*registrations(OLD, days_ago=30), b"no JSON"])
    with ServiceProcess({**stores, **SHORT}) as service:
        service.wait_until_ready()
        for _ in range(2):  # sent again they are the same letters
            receipt = service.post_events(body, content_type="application/x-ndjson")
            assert (receipt["accepted"], len(receipt["rejected"])) == (0, OLD + 1)
        before = identities(service)
        assert len(before) == OLD + 1
        assert service.terminate() == 0

    with ServiceProcess({**stores, **LONG}) as service:
        service.wait_until_ready()
        assert identities(service) == before
        answer = service.post_json(REPLAY, {})
        assert told(answer) == (OLD + 1, OLD, {"invalid_json": 1}, 0)
        assert total_users(service) == OLD
        assert told(service.post_json(REPLAY, {})) == (1, 0, {"invalid_json": 1}, 0)
        assert service.post_events(body, content_type="application/x-ndjson")["accepted"] == OLD
        assert total_users(service) == OLD
        assert identities(service) == before
        assert not [text for text in ("+2348031234567", "Ada Obi") if text in service.logged()]
        assert service.terminate() == 0
