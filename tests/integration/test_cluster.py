"""The service on two shards, one of which is killed while events come in: nothing is lost, and nothing counts twice."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any, Self

import httpx
import msgspec
import pytest

from tests.integration.running import ServiceProcess
from tests.samples import Sample, full
from tests.servers.clickhouse_cluster import CLUSTER, ClickHouseCluster
from tests.servers.process import lent

pytestmark = pytest.mark.shards

BATCH = 500
QUESTION = {"start_date": "2026-03-01", "end_date": "2026-03-31", "timezone": "UTC"}


class Sending:
    """Batch after batch over HTTP, each again until it is accepted."""

    def __init__(self, service: ServiceProcess, cluster: ClickHouseCluster) -> None:
        self.accepted = 0
        self._service = service
        self._cluster = cluster
        self._stop = threading.Event()
        self._give_up = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends with the batch that is on its way, which has to be accepted; unless the test has failed already."""
        self._give_up = kind is not None
        self._stop.set()
        self._thread.join()

    def wait_for(self, batches: int) -> None:
        """Until so many more are accepted, by servers that are all there."""
        goal = self.accepted + batches * BATCH

        def are_accepted() -> bool:
            # The shard that was killed was a client of the other one, which may not survive that.
            self._cluster.bring_back()
            return self.accepted >= goal

        self._service.wait_until(are_accepted, f"accept {batches} more batches", 120)

    def _run(self) -> None:
        with httpx.Client(base_url=self._service.url, timeout=60, trust_env=False) as client:
            for number in itertools.count():
                body = b"\n".join(msgspec.json.encode(event) for event in batch(number))
                while not self._give_up:
                    sent = client.post(
                        "/v1/events", content=body, headers={"Content-Type": "application/x-ndjson"}
                    )
                    if sent.status_code == httpx.codes.ACCEPTED:
                        assert sent.json()["rejected"] == []
                        self.accepted += BATCH
                        break
                    assert sent.status_code == httpx.codes.SERVICE_UNAVAILABLE
                if self._stop.is_set():
                    return


def batch(number: int) -> list[Sample]:
    """Bookings of their own, half of which come with an id."""
    events = []
    for place in range(number * BATCH, (number + 1) * BATCH):
        booking = full(
            "booking.created",
            event_id=f"e0000000-0000-4000-8000-{place:012}",
            booking_id=f"b0000000-0000-4000-8000-{place:012}",
            event_timestamp=f"2026-03-{place % 28 + 1:02}T12:00:00Z",
        )
        if place % 2:
            del booking["event_id"]
        events.append(booking)
    return events


def parts(service: ServiceProcess) -> dict[str, str]:
    """What the service's health says of each server."""
    found: dict[str, str] = service.get("/health/ready").json()["parts"]
    return found


@pytest.fixture
def service(
    clickhouse_cluster: ClickHouseCluster, cluster_database: str, postgres_url: str
) -> Iterator[ServiceProcess]:
    config: dict[str, dict[str, Any]] = {
        "clickhouse": {"url": clickhouse_cluster.url(cluster_database), "cluster": CLUSTER},
        "postgres": {"url": postgres_url},
        "ingest": {"max_delay_seconds": 0.05},
        "retention": {"hot_days": 0, "cold_days": 0},
    }
    with lent(ServiceProcess(config)) as service:
        service.wait_until_ready()
        yield service


def test_shards_that_are_killed_and_come_back_cost_nothing(
    service: ServiceProcess, clickhouse_cluster: ClickHouseCluster
) -> None:
    """First another one, then the one that the service is connected to; and it recovers by itself."""
    with Sending(service, clickhouse_cluster) as sending:
        for killed in reversed(clickhouse_cluster.servers):
            sending.wait_for(3)
            failures = service.metric("openride_insert_failures_total")

            def has_met_the_gap(before: float = failures) -> bool:
                return service.metric("openride_insert_failures_total") >= before + 2

            killed.kill()
            service.wait_until(has_met_the_gap, "meet the gap")
            service.wait_until(lambda: parts(service)["clickhouse"] == "away", "say that it cannot serve", 20)
            # Half an answer would be a wrong one.
            assert (
                service.get("/v1/metrics/bookings", **QUESTION).status_code == httpx.codes.SERVICE_UNAVAILABLE
            )
            killed.start()
        sending.wait_for(3)
    # What it says may be as old as its last look, so a 503 is no failure yet.
    service.wait_until(lambda: service.get("/health/ready").json()["status"] == "ok", "get well")
    assert service.get_json("/v1/metrics/bookings", **QUESTION)["summary"]["created"] == sending.accepted
    assert service.get_json("/v1/ingest/dead-letters")["counts"]["total"] == 0
