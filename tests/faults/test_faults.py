"""Faults at random moments, on real servers: whatever happens, nothing is lost and nothing is counted twice."""

from functools import partial
from random import Random

import pytest

from .faults import MIXED, POINTS, ROUNDS, SHORT, SHORT_POINTS, Fault, service_killed_at_a_point
from .stage import Stage

LEAST_KILLS = 100
POINTS_BETWEEN_COMPARISONS = 6
STRIKES_BETWEEN_COMPARISONS = 8


def strike(stage: Stage, name: str, fault: Fault, chance: Random) -> None:
    stage.report.say(name)
    stage.report.faults[name.partition(":")[0]] += 1
    fault(stage, chance)
    stage.revive()


@pytest.mark.timeout(600)
def test_a_few_faults_lose_nothing_and_count_nothing_twice(stage: Stage, chance: Random) -> None:
    for fault, times in SHORT.items():
        for _ in range(times):
            strike(stage, fault.__name__, fault, chance)
    stage.check()
    for point in SHORT_POINTS:
        strike(stage, f"killed at {point}", partial(service_killed_at_a_point, point=point), chance)
    stage.check()


@pytest.mark.faults
@pytest.mark.timeout(1_200)
def test_a_hundred_kills_lose_nothing_and_count_nothing_twice(stage: Stage, chance: Random) -> None:
    for fault, times in chance.sample(list(ROUNDS.items()), len(ROUNDS)):
        for _ in range(times):
            strike(stage, fault.__name__, fault, chance)
        stage.check()
    for number, point in enumerate(chance.sample(POINTS, len(POINTS)), 1):
        strike(stage, f"killed at {point}", partial(service_killed_at_a_point, point=point), chance)
        if number % POINTS_BETWEEN_COMPARISONS == 0:
            stage.check()
    # What is left to the hundred, but at least a few: faults of all kinds in a row, before anybody looks.
    while True:
        for fault in chance.choices(list(MIXED), list(MIXED.values()), k=STRIKES_BETWEEN_COMPARISONS):
            strike(stage, fault.__name__, fault, chance)
        stage.check()
        if stage.report.kills.total() >= LEAST_KILLS:
            break
