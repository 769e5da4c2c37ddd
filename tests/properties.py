"""Hypothesis for asynchronous properties on a store that belongs to the loop of the test."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings

SLOW = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


async def holds(test: Any) -> None:
    """Runs an `async def` that `@given` decorates: Hypothesis in a thread, each example in the loop that runs."""
    loop = asyncio.get_running_loop()
    example = test.hypothesis.inner_test

    def synchronous(**arguments: Any) -> None:
        asyncio.run_coroutine_threadsafe(example(**arguments), loop).result()

    test.hypothesis.inner_test = synchronous
    await asyncio.to_thread(test)
