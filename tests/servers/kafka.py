"""Apache Kafka's own broker in KRaft mode, from Maven Central: one node that is broker and controller."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.servers.downloads import cached, run_client
from tests.servers.process import HOST, Server, ServerUnavailableError, free_port, lent

POM = Path(__file__).with_name("pom.xml")
OLDEST_JAVA = 17
# A quick start and a small footprint count for more here than the last events per second.
JVM_FLAGS = (
    *("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)
CLUSTER_ID = "b3BlbnJpZGUtdGVzdHMtMQ"


class KafkaServer(Server):
    """A broker at `address`. Topics are made when first used; the log on disk survives `kill`.

    `properties` are added to the broker's own (and win): with another `node_id` and the others' controllers
    in `controller.quorum.voters`, several of these make a cluster. `users` (names with passwords) are known to
    SCRAM-SHA-512.
    """

    name = "Kafka"

    def __init__(
        self,
        address: str | None = None,
        *,
        node_id: int = 1,
        properties: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(elsewhere=address is not None)
        self.port = free_port()
        self.controller_port = free_port()
        self.address = address or f"{HOST}:{self.port}"
        self.node_id = node_id
        self.users = dict(users or {})
        self.properties = {
            "process.roles": "broker,controller",
            "node.id": f"{node_id}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"{node_id}@{HOST}:{self.controller_port}",
            "log.dirs": f"{self.folder / 'data'}",
            "auto.create.topics.enable": "true",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # A killed broker may register again only when its former session has run out (9 s by default).
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "log.cleaner.dedupe.buffer.size": "4194304",
            **(properties or {}),
        }

    def command(self) -> list[str]:
        java = _java()
        jars = cached(f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}", _copy_jars)
        run = [java, *JVM_FLAGS, "-cp", f"{jars}/*"]
        configuration = self.folder / "server.properties"
        configuration.write_text("".join(f"{key}={value}\n" for key, value in self.properties.items()))
        if not Path(self.properties["log.dirs"]).exists():
            subprocess.run(
                [
                    *run,
                    "kafka.tools.StorageTool",
                    "format",
                    "-t",
                    CLUSTER_ID,
                    "-c",
                    str(configuration),
                    *(
                        word
                        for name, password in self.users.items()
                        for word in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=self.start_seconds,
            )
        return [*run, "kafka.Kafka", str(configuration)]

    def ready(self) -> bool:
        # The port opens a moment before the broker may lead partitions.
        return "Kafka Server started" in self.logged()


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise ServerUnavailableError("there is no java on the PATH")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise ServerUnavailableError(
            f"the broker needs Java {OLDEST_JAVA}, {java} is {said.splitlines()[:1]}"
        )
    return java


def _copy_jars(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerUnavailableError("there is no mvn on the PATH to fetch the broker with")
    run_client(
        [
            *(maven, "--batch-mode", "--quiet", "--file", POM),
            *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"),
        ]
    )


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """A broker for the whole session; a test takes topics and groups of its own."""
    with lent(KafkaServer(os.environ.get("OPENRIDE_TEST_KAFKA"))) as server:
        yield server


@asynccontextmanager
async def admin(addresses: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Who makes, describes and deletes topics."""
    client = AIOKafkaAdminClient(bootstrap_servers=addresses)
    await client.start()
    try:
        yield client
    finally:
        await client.close()
