"""A cluster of three brokers that loses one at a time."""

from collections.abc import Iterator
from random import Random

import pytest

from tests.servers.kafka import KafkaServer
from tests.servers.process import HOST

from .faults import a_moment, service_killed
from .report import Report
from .stage import Stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}


@pytest.fixture
def cluster() -> list[KafkaServer]:
    brokers = [KafkaServer(node_id=number, properties=REPLICATED) for number in (1, 2, 3)]
    voters = ",".join(f"{broker.node_id}@{HOST}:{broker.controller_port}" for broker in brokers)
    for broker in brokers:
        broker.properties["controller.quorum.voters"] = voters
    return brokers


@pytest.fixture
def stage(report: Report, cluster: list[KafkaServer]) -> Iterator[Stage]:
    # The group's session is as long as the service leaves it, not as short as elsewhere in this suite.
    with Stage(report, cluster=cluster, session_seconds="") as stage:
        stage.producing.go_on()
        yield stage
        report.say(stage.table())


def test_each_of_three_brokers_may_be_killed_or_hang(stage: Stage, chance: Random) -> None:
    """Leaders, the group's coordinator and the controller among them."""
    for broker in chance.sample(stage.brokers, 3):
        stage.report.say(f"broker {broker.node_id} killed")
        stage.kill(broker)
        a_moment(chance, 8.0)
        service_killed(stage, chance)
        stage.start(broker)
        a_moment(chance, 4.0)
    stage.check()
    broker = chance.choice(stage.brokers)
    stage.report.say(f"broker {broker.node_id} stopped")
    broker.pause()
    a_moment(chance, 10.0)
    broker.resume()
    stage.check()
