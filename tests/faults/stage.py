"""Servers, services and producers of one run of faults; and the comparison of everything with the truth."""

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import Sections, ServiceProcess
from tests.integration.streaming import EventTopics, committed_and_end_offsets
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.kafka import KafkaServer, admin
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, Server, ServerFailedError, free_port, lent
from tests.servers.redis import RedisServer

from .producing import Producing
from .proxy import Proxy
from .report import Report
from .stream import QUESTIONS, Place, Stored, Stream, compared, expected_answers, parameters

LAUNCHER = Path(__file__).with_name("launcher.py")
SESSION_SECONDS = 3
CAUGHT_UP_SECONDS = 150.0
AGREED_SECONDS = 20.0
"""An answer may be kept for a second while events come, and Redis is left alone for five after a failure."""
LARGEST_MB = 400
PARTITIONS = 2
LOG_LINES = 30

STORED = """
SELECT toString(event_id) AS id, event_type AS type, toUnixTimestamp64Milli(event_timestamp) AS at
FROM events FINAL
UNION ALL
SELECT toString(event_id), 'driver.location.updated', toUnixTimestamp64Milli(event_timestamp)
FROM driver_locations FINAL
"""
LETTERS = "SELECT topic, partition, offset, reason FROM dead_letters FINAL"


class Instance(ServiceProcess):
    """A service with faults built in by the launcher; one that is meant to die may do so at any time."""

    def __init__(self, config: Sections, **faults: str | float) -> None:
        named = {f"FAULT_{name.upper()}": str(value) for name, value in faults.items()}
        super().__init__(config, {"FAULT_SESSION_SECONDS": str(SESSION_SECONDS)} | named)
        self.doomed = bool(faults.keys() & {"point", "kill_after_seconds"})

    def program(self) -> Sequence[str]:
        return [sys.executable, "-P", str(LAUNCHER)]

    def start(self) -> None:
        try:
            super().start()
        except ServerFailedError:
            if not self.doomed or self.running:
                raise

    def is_dead(self) -> bool:
        """Whether it has died by its own fault; it may die of nothing else."""
        if self._leash is None:  # it had not even started
            return True
        status = self._leash.poll()
        if status is None:
            return False
        if status != 128 + signal.SIGKILL:
            self._fail(f"ended with {status}, not by its fault")
        self._release()
        return True

    def complaints(self) -> list[str]:
        """The end of its log, without what is usual."""
        return [line for line in self.logged().splitlines() if '"level":"info"' not in line][-LOG_LINES:]


class Stage:
    """Everything runs between `__enter__` and `__exit__`; `heal` brings back whatever a fault has taken away.

    The services reach each server through a proxy of the test. Two of them share the topics; the same consumer group.
    """

    def __init__(
        self,
        report: Report,
        *,
        cluster: Sequence[KafkaServer] = (),
        rate: int = 40,
        **faults: str | float,
    ) -> None:
        self.report = report
        self.brokers = list(cluster) or [KafkaServer()]
        self.kafka = self.brokers[0]
        self.clickhouse = ClickHouseServer()
        self.postgres = PostgresServer()
        self.redis = RedisServer()
        inner = free_port()
        self.proxies = {
            "kafka": Proxy(inner),  # where there is one broker
            "clickhouse": Proxy(self.clickhouse.port),
            "postgres": Proxy(self.postgres.port),
            "redis": Proxy(self.redis.port),
        }
        self.addresses = ",".join(broker.address for broker in self.brokers)
        self._services_broker = self.addresses
        if not cluster:
            _behind(self.kafka, inner, self.proxies["kafka"].port)
            self._services_broker = f"{HOST}:{self.proxies['kafka'].port}"
        for broker in self.brokers:
            broker.properties["auto.create.topics.enable"] = "false"
        self.servers: list[Server] = [*self.brokers, self.clickhouse, self.postgres, self.redis]
        self.topics = EventTopics.fresh(self.kafka)._replace(address=self.addresses)
        self.config = self._configuration()
        self.faults = faults
        self.services: list[Instance] = []
        self._killed: set[Server] = set()
        self.producing = Producing(
            self.addresses,
            self.topics.prefix,
            Stream(report.seed),
            seed=report.seed,
            urls=lambda: [service.url for service in self.services],
            rate=rate,
        )
        self._open = ExitStack()

    def _configuration(self) -> dict[str, dict[str, Any]]:
        ports = {name: proxy.port for name, proxy in self.proxies.items()}
        return {
            "clickhouse": {
                "url": f"clickhouse://default:@{HOST}:{ports['clickhouse']}/openride",
                "insert_timeout_seconds": 5,
            },
            "postgres": {"url": f"postgresql://postgres@{HOST}:{ports['postgres']}/postgres"},
            "redis": {"url": f"redis://{HOST}:{ports['redis']}/0"},
            "kafka": {**self.topics.config(), "bootstrap_servers": self._services_broker},
            # Many small batches, and soon too many: every fault meets several of them.
            "ingest": {"max_delay_seconds": 0.1, "max_batch_events": 200},
            "retention": {"hot_days": 0, "cold_days": 0},
            # What became of the bookings of a period that is over is otherwise seen after minutes.
            "cache": {"closed_max_age_seconds": 5},
        }

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # At the same time: the brokers of a cluster wait for each other.
            with ThreadPoolExecutor() as starting:
                list(starting.map(stack.enter_context, [lent(server) for server in self.servers]))
            stack.callback(self._end_servers)
            for proxy in self.proxies.values():
                stack.enter_context(proxy)
            asyncio.run(self.create_topics(*self.all_topics))
            stack.callback(self._end_services)
            for _ in range(2):
                self.join()
            stack.enter_context(self.producing)
            self._open = stack.pop_all()
        self.report.say("all servers and services run")
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def all_topics(self) -> list[str]:
        """All that the services read, and the one for dead letters."""
        dialects = self.config["kafka"]["dialects"].values()
        spoken = [topic for dialect in dialects for topic in dialect["topics"]]
        return [*self.topics.names, *spoken, self.topics.dead_letters]

    async def create_topics(self, *names: str) -> None:
        """As the services would find them in a cluster of which somebody takes care: none is made by being asked for."""
        replicas = len(self.brokers)
        async with admin(self.addresses) as client:
            await client.create_topics(
                [
                    NewTopic(
                        name,
                        num_partitions=PARTITIONS,
                        replication_factor=replicas,
                        topic_configs={"min.insync.replicas": str(max(1, replicas - 1))},
                    )
                    for name in names
                ]
            )

    def _end_services(self) -> None:
        for service in self.services:
            service.kill()
            service.close()

    def _end_servers(self) -> None:
        """Not in good order: the last of a cluster's brokers would wait for the others."""
        for server in self.servers:
            server.kill()

    # What faults are made of.

    def join(self, **faults: str | float) -> Instance:
        """One more service."""
        service = Instance(self.config, **(self.faults | faults))
        self.services.append(service)
        service.start()
        return service

    def leave(self, service: Instance) -> None:
        """By SIGTERM, in good order."""
        code = service.terminate()
        self.dismiss(service)
        if code != 0:
            self.differ([f"a service told to stop ended with {code}"])

    def awaited_death(self, service: Instance, seconds: float = 30.0) -> bool:
        """Whether a doomed service dies within that time."""
        deadline = time.monotonic() + seconds
        while not service.is_dead():
            if time.monotonic() > deadline:
                return False
            self.revive()
            time.sleep(0.02)
        return True

    def dismiss(self, service: Instance) -> None:
        """An ended one is forgotten."""
        self.services.remove(service)
        service.close()

    def kill(self, *servers: Server) -> None:
        """SIGKILL, all at once if there are several."""
        for server in servers:
            if server.running:
                server.kill()
                self.report.killed(server.name)
                self._killed.add(server)
            elif server not in self._killed:
                self._note_abort(server)

    def start(self, server: Server) -> None:
        """A killed one again."""
        self._killed.discard(server)
        server.start()

    def heal(self) -> None:
        """All servers answer, all connections pass, two services run."""
        for proxy in self.proxies.values():
            proxy.heal()
        self.revive()
        for server in self.servers:
            before = server.pid if server.running else None
            if before is None and server not in self._killed:
                self._note_abort(server)
            self._killed.discard(server)
            server.ensure_running()
            if before not in (None, server.pid):  # it hung in its abort
                self._note_abort(server)
        for service in self.services[2:]:
            service.resume()
            self.leave(service)
        for service in self.services:
            if service.running:
                service.resume()
            elif service not in self._killed:
                self._note_abort(service)
            self.start(service)

    def revive(self) -> None:
        """Starts a ClickHouse again that has ended by itself, so that the next fault meets services that can work."""
        if not self.clickhouse.running:
            if self.clickhouse not in self._killed:
                self._note_abort(self.clickhouse)
            self.start(self.clickhouse)

    def _note_abort(self, server: Server) -> None:
        """The ClickHouse of the tests may end by itself when a client breaks off; nothing else may."""
        if server is not self.clickhouse:
            self.differ([f"{server.name} ended by itself: {server.logged()[-2000:]}"])
        self.report.say(f"{server.name} had aborted: {server.logged().strip()[-300:]!r}")
        self.report.killed(f"{server.name}, aborted by a broken connection")

    # What must hold.

    def check(self, *, go_on: bool = True) -> None:
        """Stops the stream, waits until all of it is stored, and compares everything with what was sent."""
        self.heal()
        self.producing.rest()
        truth = self.producing.truth
        began = time.monotonic()
        behind = self._wait_until_caught_up()
        took = time.monotonic() - began
        self.report.longest_recovery = max(self.report.longest_recovery, took)
        found = [behind] if behind else []
        rows, letters = asyncio.run(self._stored())
        found += truth.differences(rows, letters)
        found += self._wrong_answers(patience_seconds=0.0 if found else AGREED_SECONDS)
        found += self._fat_services()
        self.report.checks += 1
        self.report.say(
            f"{len(truth.log)} records, {len(rows)} events stored, {len(letters)} refused,"
            f" caught up after {took:.1f} s, {len(found)} differences"
        )
        self.differ(found)
        if go_on:
            self.producing.go_on()

    def differ(self, found: list[str]) -> None:
        """Ends the run if there is anything, with what the services complained about."""
        self.report.differences += found
        if found:
            logs = [f"--- {service.url}\n" + "\n".join(service.complaints()) for service in self.services]
            raise AssertionError("\n".join([f"seed {self.report.seed}", *found, *logs]))

    def _wait_until_caught_up(self) -> str:
        """Until the group has committed all that was sent; says what is missing if that takes too long."""
        sent = self.producing.truth.ends
        deadline = time.monotonic() + CAUGHT_UP_SECONDS
        while True:
            committed, ends = self.offsets()
            has = {(at.topic, at.partition): offset for at, offset in committed.items()}
            if has == sent:
                return ""
            if dead := [service for service in self.services if not service.running]:
                return f"{len(dead)} services ended by themselves"
            if time.monotonic() > deadline:
                log = {(at.topic, at.partition): offset for at, offset in ends.items()}
                return f"not caught up in {CAUGHT_UP_SECONDS:g} s: committed {has}, log {log}, sent {sent}"
            time.sleep(0.3)

    def offsets(self) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        """What the group has committed, and where the log ends."""

        async def ask() -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
            async with asyncio.timeout(20):
                return await committed_and_end_offsets(self.topics, self.config["kafka"]["group_id"])

        try:
            return asyncio.run(ask())
        except (KafkaError, OSError, TimeoutError):  # a cluster that chooses new leaders
            return {}, {}

    async def _stored(self) -> tuple[list[Stored], set[tuple[Place, str]]]:
        warehouse = ServerWarehouse(self.clickhouse.url, query_timeout_seconds=60, insert_timeout_seconds=60)
        try:
            rows = [(row["id"], row["type"], row["at"]) for row in await warehouse.query(STORED)]
            letters = {
                ((row["topic"], row["partition"], row["offset"]), row["reason"])
                for row in await warehouse.query(LETTERS)
            }
        finally:
            await warehouse.close()
        return rows, letters

    def _wrong_answers(self, patience_seconds: float) -> list[str]:
        """Of all endpoints and questions, each from one of the services."""
        expected = expected_answers(self.producing.truth.events)
        found: list[str] = []
        deadline = time.monotonic() + patience_seconds
        for turn, (endpoint, number) in enumerate(expected):
            service = self.services[turn % len(self.services)]
            while wrong := compared(
                endpoint, number, expected[endpoint, number], self._answer(service, endpoint, number)
            ):
                if time.monotonic() > deadline:
                    found += wrong
                    break
                time.sleep(0.2)
        return found

    def _answer(self, service: Instance, endpoint: str, number: int) -> Any:
        """What it answers, if that is a refusal as well."""
        with suppress(httpx.TransportError):
            return service.get(f"/v1/metrics/{endpoint}", **parameters(endpoint, QUESTIONS[number])).json()
        return "no answer"

    def _fat_services(self) -> list[str]:
        sizes = [psutil.Process(service.pid).memory_info().rss // 2**20 for service in self.services]
        self.report.largest_mb = max(self.report.largest_mb, *sizes)
        return [f"a service takes {size} MB" for size in sizes if size > LARGEST_MB]

    def table(self) -> str:
        truth = self.producing.truth
        return self.report.table(
            records_in_the_log=len(truth.log),
            events_sent=len(truth.events),
            events_stored=truth.distinct(),
            repeats_and_clashes=len(truth.events) - truth.distinct(),
            records_refused=len(truth.refused),
        )


def _behind(kafka: KafkaServer, inner: int, outer: int) -> None:
    """Gives the broker one more listener, which is known to its clients by another port."""
    properties = kafka.properties
    properties["listeners"] += f",PROXIED://{HOST}:{inner}"
    properties["advertised.listeners"] += f",PROXIED://{HOST}:{outer}"
    properties["listener.security.protocol.map"] = (
        "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
    )
    properties["inter.broker.listener.name"] = "PLAINTEXT"
