"""What OpenRide's Java services publish, through a real Kafka and into the rows that are stored of it."""

import json
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import msgspec
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from openride_analytics.warehouse.server import ServerWarehouse
from tests import java
from tests.samples import full
from tests.servers.kafka import KafkaServer

from .running import ServiceProcess
from .streaming import EventTopics

HOUR_MS = 3_600_000
NOBODY = "00000000-0000-0000-0000-000000000000"

# All that is known of an event but who told it.
ROWS = """
SELECT
    toString(event_id) AS id,
    formatRowNoNewline('JSONEachRow', * EXCEPT (event_id, content_rank)) AS row
FROM events FINAL
"""

# What the services leave out, and how the table says so.
UNKNOWN: dict[str, dict[str, Any]] = {
    "booking.created": {"driver_id": NOBODY},
    "booking.confirmed": {"driver_id": NOBODY},
    "booking.cancelled": {"driver_id": NOBODY, "cancelled_by": ""},
    "booking.completed": {"driver_id": NOBODY, "seats_booked": None, "actual_departure": None},
    "trip.completed": {
        "driver_id": NOBODY,
        "duration_minutes": None,
        "distance_km": None,
        "driver_earnings": None,
        "platform_commission": None,
    },
}


@pytest_asyncio.fixture
async def topics(kafka: KafkaServer) -> EventTopics:
    kafka.ensure_running()
    return EventTopics.fresh(kafka)


@pytest_asyncio.fixture
async def producer(topics: EventTopics) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=topics.address) as producer:
        yield producer


@pytest_asyncio.fixture
async def warehouse(clickhouse_url: str) -> AsyncIterator[ServerWarehouse]:
    """The service's database."""
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30)
    yield warehouse
    await warehouse.close()


async def test_all_five_events_are_stored_as_the_contracts_own_and_what_is_not_sent_as_unknown(
    topics: EventTopics,
    producer: AIOKafkaProducer,
    warehouse: ServerWarehouse,
    clickhouse_url: str,
    postgres_url: str,
) -> None:
    chance = Random(2026)
    now_ms = int(time.time() * 1000) - HOUR_MS
    as_contract, as_java, with_gaps = ({kind: str(uuid4()) for kind in java.TYPES} for _ in range(3))
    for kind in java.TYPES:
        event = full(kind, event_timestamp=now_ms)
        if kind == "trip.completed":
            event |= {"seats_booked": 2, "total_price": "3000.00"}
        ours = topics.names[2 if kind.startswith("booking.") else 4]
        theirs = f"{topics.prefix}.{kind}"
        await producer.send_and_wait(ours, msgspec.json.encode({**event, "event_id": as_contract[kind]}))
        await producer.send_and_wait(theirs, java.spelled({**event, "event_id": as_java[kind]}, chance))
        known = {name: value for name, value in event.items() if name not in UNKNOWN[kind]}
        await producer.send_and_wait(theirs, java.spelled({**known, "event_id": with_gaps[kind]}, chance))
    bad = java.spelled(full("booking.created", event_timestamp=now_ms, total_price=-5.0), chance)
    await producer.send_and_wait(f"{topics.prefix}.booking.created", bad)

    config = {
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "kafka": topics.config(),
    }
    with ServiceProcess(config) as service:
        service.wait_until_stored(3 * len(java.TYPES), refused=1, seconds=120)
        assert service.terminate() == 0

    rows = {row["id"]: json.loads(row["row"]) for row in await warehouse.query(ROWS)}
    assert len(rows) == 3 * len(java.TYPES)
    for kind in java.TYPES:
        row = rows[as_contract[kind]]
        assert rows[as_java[kind]] == row
        assert rows[with_gaps[kind]] == {**row, **UNKNOWN[kind]}
        assert row["event_type"] == kind
    assert rows[with_gaps["trip.completed"]]["total_price"] == 3000
    assert rows[with_gaps["trip.completed"]]["seats_booked"] == 2

    (letter,) = await warehouse.query("SELECT topic, event_type, reason, field FROM dead_letters FINAL")
    assert letter == {
        "topic": f"{topics.prefix}.booking.created",
        "event_type": "booking.created",
        "reason": "invalid_field",
        "field": "totalAmount",
    }
