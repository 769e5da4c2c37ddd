"""`GET /v1/ingest/status` of a service process: true while all is well, and when something is wrong."""

import asyncio
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from openride_analytics.config import Kafka
from openride_analytics.ingest.topics import produce
from openride_analytics.period import instant_text
from tests.samples import full
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, lent

from .running import Sections, ServiceProcess
from .streaming import EventTopics


class _Babbler(socketserver.BaseRequestHandler):
    """Answers whatever it is told with noise."""

    def handle(self) -> None:
        self.request.settimeout(10)
        try:
            while self.request.recv(4096):
                self.request.sendall(os.urandom(64) + b"\x00\x00\x00\x10HTTP/1.1 200 OK\r\n\r\n")
        except OSError:
            return


@contextmanager
def babbling() -> Iterator[str]:
    """The address of a server that answers garbage."""
    with socketserver.ThreadingTCPServer((HOST, 0), _Babbler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{HOST}:{server.server_address[1]}"
        server.shutdown()


def test_servers_that_answer_garbage_are_away_and_the_service_lives() -> None:
    with babbling() as stranger:
        config: Sections = {
            "clickhouse": {"url": f"clickhouse://{stranger}/openride"},
            "postgres": {"url": f"postgresql://postgres@{stranger}/postgres"},
            "kafka": {"bootstrap_servers": stranger},
            "redis": {"url": f"redis://{stranger}/0"},
        }
        with ServiceProcess(config) as service:
            service.wait_until(lambda: len(service.log_lines("not_ready_yet")) > 2, "try several times")
            parts = service.get("/health/ready").json()["parts"]
            assert parts["clickhouse"] == parts["redis"] == parts["kafka"] == "away"
            status = service.get_json("/v1/ingest/status")
            assert (status["state"], status["kafka"]) == ("starting", "away")
            assert status["lag_events"] is None
            assert status["lag_unknown_since"] < instant_text(datetime.now(UTC))
            assert "openride_consumer_lag_events{" not in service.get("/metrics").text
            assert service.terminate() == 0
            assert not service.log_lines("task_died")


@pytest.fixture(scope="module")
def own_clickhouse() -> Iterator[ClickHouseServer]:
    """To be stopped in the middle."""
    with lent(ClickHouseServer()) as server:
        yield server


def _send(topics: EventTopics, count: int, first: int, *, bad: int = 0) -> None:
    async def all_of_them() -> None:
        async def records() -> Any:
            for number in range(first, first + count):
                event = full("booking.created", event_id=f"b0000000-0000-4000-8000-{number:012}")
                yield topics.names[2], msgspec.json.encode(event)
            for _ in range(bad):
                yield topics.names[2], b"{"

        await produce(Kafka(bootstrap_servers=topics.address), records())

    asyncio.run(all_of_them())


def test_it_says_how_far_the_stream_is_stored_and_what_was_refused_and_failed(
    kafka: KafkaServer, own_clickhouse: ClickHouseServer, postgres: PostgresServer, postgres_url: str
) -> None:
    kafka.ensure_running()
    topics = EventTopics.fresh(kafka)
    _send(topics, 40, 0, bad=2)
    config: Sections = {
        "clickhouse": {"url": own_clickhouse.url},
        "postgres": {"url": postgres_url},
        "kafka": topics.config(),
        "ingest": {"max_batch_events": 100},
    }
    with ServiceProcess(config) as service:

        def status() -> Any:
            return service.get_json("/v1/ingest/status")

        def of_topic() -> dict[str, Any]:
            states = [state for state in status()["partitions"] if state["topic"] == topics.names[2]]
            return states[0] if states else {}

        service.wait_until_stored(40, 2)
        service.wait_until(lambda: of_topic().get("committed_offset") == 42, "commit")
        service.wait_until(lambda: of_topic().get("lag_events") == 0, "measure the lag")
        assert of_topic() == {
            "topic": topics.names[2],
            "partition": 0,
            "assigned": True,
            "committed_offset": 42,
            "end_offset": 42,
            "lag_events": 0,
            "lag_seconds": 0.0,
            "error": "",
        }
        well = status()
        assert (well["state"], well["kafka"], well["stored"]) == ("ok", "ok", 40)
        assert well["rejected"] == {"invalid_json": 2}
        assert well["lost"] == []
        assert well["last_error"] is None
        assert (well["lag_events"], well["lag_unknown_since"]) == (0, None)
        service.wait_until(lambda: status()["stored_per_second"]["last_minute"] > 0, "see a rate")

        own_clickhouse.stop()
        rounds = 0
        # Until more came than two batches that are being stored, each a fetch larger than it may be, and what may wait.
        while rounds < 20 or (rounds < 50 and status()["state"] != "paused"):
            rounds += 1
            _send(topics, 100, 1000 * rounds)
        service.wait_until(lambda: status()["state"] == "paused", "pause")
        service.wait_until(lambda: (of_topic()["lag_events"] or 0) > 0, "fall behind")
        service.wait_until(lambda: (of_topic()["lag_seconds"] or 0) > 0, "say for how long")
        assert service.metric("openride_consumer_lag_events") > 0
        assert service.metric("openride_consumer_lag_seconds") > 0
        assert status()["last_error"]["part"] == "store"
        assert status()["last_error"]["error"] == "WarehouseUnavailable"
        parts = service.get("/health").json()["parts"]
        assert (parts["ingest"], parts["kafka"], parts["clickhouse"]) == ("retrying", "ok", "away")
        assert 'openride_part_ok{part="ingest"} 0.0' in service.get("/metrics").text

        own_clickhouse.start()
        service.wait_until_stored(40 + 100 * rounds, 2)
        service.wait_until(lambda: of_topic()["committed_offset"] == 42 + 100 * rounds, "commit the rest")
        service.wait_until(lambda: of_topic()["lag_events"] == 0, "catch up")
        assert status()["state"] == "ok"
        assert service.terminate() == 0
