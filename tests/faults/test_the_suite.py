"""The suite must be able to fail: services that are wrong on purpose, each of which it has to catch."""

import re

import pytest

from tests.servers.process import Server

from .report import Report
from .stage import Stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def caught(stage: Stage) -> str:
    """What the comparison finds."""
    with pytest.raises(AssertionError) as found:
        stage.check()
    return str(found.value)


def test_offsets_committed_before_events_are_stored_are_noticed(report: Report) -> None:
    with Stage(report, broken="commits_first") as stage:
        stage.producing.go_on()
        for point in ("insert:before:2", "insert:during:2", "insert:before:3"):
            service = stage.join(point=point)
            assert stage.awaited_death(service)
            stage.dismiss(service)
        assert "not stored" in caught(stage)


def test_batches_that_are_not_tried_again_are_noticed(report: Report) -> None:
    with Stage(report, broken="gives_up") as stage:
        stage.producing.go_on()
        server: Server = stage.clickhouse
        for _ in range(3):
            server.kill()
            server.start()
        assert "not stored" in caught(stage)


def test_ids_with_two_contents_that_are_not_settled_are_noticed(report: Report) -> None:
    with Stage(report, broken="settles_nothing") as stage:
        stage.producing.go_on()
        stage.services[0].wait_until_stored(200)
        found = caught(stage)
        assert "stored and not sent, or stored twice" in found
        assert re.search(r"question \d", found), "no metric was wrong"


def test_dead_letters_that_are_not_kept_are_noticed(report: Report) -> None:
    with Stage(report, broken="drops_dead_letters") as stage:
        stage.producing.go_on()
        stage.services[0].wait_until_stored(0, refused=5)
        assert "refused and not kept" in caught(stage)
