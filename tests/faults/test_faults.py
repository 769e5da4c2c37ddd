"""Faults at random moments, on real servers: whatever happens, nothing is lost and nothing is counted twice."""

import os
import secrets
from collections.abc import Iterator

import pytest

from .report import Report
from .stage import Stage


@pytest.fixture
def report() -> Report:
    return Report(int(os.environ.get("OPENRIDE_TEST_SEED") or secrets.randbelow(2**31)))


@pytest.fixture
def stage(report: Report) -> Iterator[Stage]:
    with Stage(report) as stage:
        yield stage


@pytest.mark.timeout(300)
def test_x(stage: Stage) -> None:
    import time
    stage.producing.go_on()
    for _ in range(3):
        time.sleep(2)
        s=stage.services[0]
        stage.kill(s)
        s.start()
        time.sleep(2)
    stage.check()
    print(stage.table())
