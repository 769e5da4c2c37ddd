"""Answers that several instances share by Redis: each is computed by one of them, and none waits for one that is lost."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest
import pytest_asyncio

from openride_analytics import answers as answering
from openride_analytics import cache as caching
from openride_analytics.answers import Answers
from openride_analytics.cache import RedisCache
from tests.caches import emptied
from tests.component.test_answers import DEFAULTS, NOW_MS, Clock, Store, ask, clock, settled, until
from tests.servers.redis import RedisServer

__all__ = ["clock"]


# Several instances


@pytest_asyncio.fixture
async def instances(redis_server: RedisServer, patient: None) -> AsyncIterator[list[Answers]]:
    """Three instances that share a Redis."""
    caches = [await emptied(redis_server), RedisCache(redis_server.url), RedisCache(redis_server.url)]
    made = [Answers(cache, DEFAULTS) for cache in caches]
    yield made
    for answers, cache in zip(made, caches, strict=True):
        await answers.close()
        await cache.close()


async def test_instances_share_answers_and_changes(instances: list[Answers], clock: Clock) -> None:
    one, two, _ = instances
    store = Store()
    await ask(one, store)
    assert (await ask(two, store)).source == "hit"
    await two._cache.data_changed(NOW_MS)
    clock.now += 16
    assert (await ask(one, store)).source == "miss"


async def test_equal_questions_to_several_instances_are_computed_once(instances: list[Answers]) -> None:
    store = Store(gate=asyncio.Event())
    asking = [asyncio.create_task(answers.get("question", store)) for answers in instances * 5]
    await store.reached.wait()
    assert store.gate is not None
    asyncio.get_running_loop().call_later(0.3, store.gate.set)
    got = await asyncio.gather(*asking)
    assert store.asked == 1
    assert {(answer.body, answer.source) for answer in got} == {(b"first", "miss")}


async def test_who_waits_for_another_instance_is_told_what_its_answer_misses(
    instances: list[Answers], clock: Clock
) -> None:
    one, two, _ = instances
    store = Store(gate=asyncio.Event())
    first = asyncio.create_task(one.get("question", store))
    await store.reached.wait()
    await two._cache.data_changed(NOW_MS)
    clock.now += 1.5
    second = asyncio.create_task(two.get("question", store))
    await until(lambda: bool(two._computing))  # it waits for the other's
    await asyncio.sleep(0.1)
    assert store.gate is not None
    store.gate.set()
    assert ((await first).source, (await second).source) == ("miss", "stale")
    assert store.asked == 1


async def test_a_stale_answer_is_refreshed_by_one_instance(instances: list[Answers], clock: Clock) -> None:
    store = Store()
    await ask(instances[0], store)
    await instances[0]._cache.data_changed(NOW_MS)
    clock.now += 2
    store.gate, store.reached = asyncio.Event(), asyncio.Event()
    for answers in instances * 3:
        assert (await answers.get("question", store)).source == "stale"
    await store.reached.wait()
    # Those without the claim give up.
    await until(lambda: sum(len(answers._refreshing) for answers in instances) == 1)
    store.gate.set()
    for answers in instances:
        await settled(answers)
    assert store.asked == 2


async def test_an_answer_that_takes_longer_than_a_claim_is_computed_once_too(
    instances: list[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_CLAIM_SECONDS", 1.5)
    store = Store(gate=asyncio.Event())
    asked = [asyncio.create_task(answers.get("question", store)) for answers in instances]
    await store.reached.wait()
    await asyncio.sleep(4)
    assert store.gate is not None
    store.gate.set()
    assert {answer.body for answer in await asyncio.gather(*asked)} == {b"first"}
    assert store.asked == 1


@pytest.mark.parametrize("state", ["dead", "slow"])
async def test_others_go_on_when_the_one_that_computes_dies_or_is_slow(
    instances: list[Answers], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(answering, "_CLAIM_SECONDS" if state == "dead" else "_WAIT_SECONDS", 0.5)
    one, *others = instances
    slow, store = Store(gate=asyncio.Event()), Store(b"another's")
    asking = asyncio.create_task(one.get("question", slow))
    await slow.reached.wait()
    if state == "dead":  # without a word to Redis
        monkeypatch.setattr(one._cache, "release", one._cache.get)
        for task in one._tasks:
            task.cancel()
    began = monotonic()
    got = await asyncio.gather(*(answers.get("question", store) for answers in others))
    assert {answer.body for answer in got} == {b"another's"}
    assert 0.4 < monotonic() - began < 5
    asking.cancel()


async def test_an_error_of_one_instance_does_not_make_the_others_wait(instances: list[Answers]) -> None:
    one, two, _ = instances
    gate = asyncio.Event()
    reached = asyncio.Event()

    async def fail() -> bytes:
        reached.set()
        await gate.wait()
        raise LookupError("no answer")

    failing = asyncio.create_task(one.get("question", fail))
    await reached.wait()
    waiting = asyncio.create_task(two.get("question", Store()))
    gate.set()
    with pytest.raises(LookupError):
        await failing
    began = monotonic()
    assert (await waiting).body == b"first"
    assert monotonic() - began < 2.5  # less than a claim is good for


async def test_a_redis_that_dies_while_others_wait_lets_them_go_on(
    fragile_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    monkeypatch.setattr(caching, "_REST_SECONDS", 0.3)
    fragile_redis.ensure_running()
    caches = [await emptied(fragile_redis), RedisCache(fragile_redis.url)]
    one, two = (Answers(cache, DEFAULTS) for cache in caches)
    slow = Store(gate=asyncio.Event())
    asking = asyncio.create_task(one.get("question", slow))
    await slow.reached.wait()
    waiting = asyncio.create_task(two.get("question", Store(b"alone")))
    await asyncio.to_thread(fragile_redis.kill)
    assert (await waiting).body == b"alone"
    assert slow.gate is not None
    slow.gate.set()
    assert (await asking).body == b"first"
    for answers, cache in zip((one, two), caches, strict=True):
        await answers.close()
        await cache.close()
    await asyncio.to_thread(fragile_redis.ensure_running)
