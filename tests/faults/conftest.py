"""The seed of a run of faults: printed, and repeated with SEED=… (OPENRIDE_TEST_SEED)."""

import os
import secrets
from collections.abc import Iterator
from random import Random

import pytest

from .report import Report
from .stage import Stage


@pytest.fixture
def report() -> Report:
    return Report(int(os.environ.get("OPENRIDE_TEST_SEED") or secrets.randbelow(2**31)))


@pytest.fixture
def chance(report: Report) -> Random:
    return Random(report.seed)


@pytest.fixture
def stage(report: Report) -> Iterator[Stage]:
    """Two services at work on a stream that goes on; the figures at the end."""
    with Stage(report) as stage:
        stage.producing.go_on()
        yield stage
        report.say(stage.table())
