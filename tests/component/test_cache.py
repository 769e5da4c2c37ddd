"""The cache of answers, in memory and in Redis: how old an answer may be, and what a cache that fails costs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from time import monotonic

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from openride_analytics import cache as caching
from openride_analytics.cache import Answers, Cache, CachedAnswer, MemoryCache, RedisCache
from tests.servers.process import lent
from tests.servers.redis import RedisServer

# A call on a cache that fails may take its own limit, and a little for a busy machine.
BOUND_SECONDS = 1.5


@pytest_asyncio.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    """Each kind of cache, empty."""
    made: Cache
    if request.param == "redis":
        made = await _emptied(request.getfixturevalue("redis_server"))
    else:
        made = MemoryCache()
    yield made
    await made.close()


@pytest.fixture(scope="module")
def fragile_redis() -> Iterator[RedisServer]:
    """A server of this module's own, to be killed and paused."""
    with lent(RedisServer()) as server:
        yield server


@pytest_asyncio.fixture
async def fragile(fragile_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisCache]:
    """A cache on a server to be killed and paused; it is left alone only shortly after a failure."""
    monkeypatch.setattr(caching, "_REST_SECONDS", 0.3)
    fragile_redis.ensure_running()
    made = await _emptied(fragile_redis)
    yield made
    await asyncio.to_thread(fragile_redis.ensure_running)
    await made.close()


async def _emptied(server: RedisServer) -> RedisCache:
    async with Redis.from_url(server.url) as client:
        await client.flushdb()
    return RedisCache(server.url)


class Clock:
    """The time of the cache's answers, which moves only when told."""

    def __init__(self) -> None:
        self.now = 1_772_348_700.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that ages are measured by."""
    clock = Clock()
    monkeypatch.setattr(caching, "time", clock)
    return clock


@dataclass
class Store:
    """What questions are answered from."""

    content: bytes = b"first"
    asked: int = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        return self.content


def answers_of(cache: Cache, *, fresh_seconds: float = 1.0, max_age_seconds: float = 60.0) -> Answers:
    """Answers kept in `cache`, by the defaults of the configuration."""
    return Answers(cache, fresh_seconds=fresh_seconds, max_age_seconds=max_age_seconds)


async def bounded(asked: "asyncio.Future[CachedAnswer]") -> CachedAnswer:
    """An answer that must not take long."""
    started = monotonic()
    answer = await asked
    assert monotonic() - started < BOUND_SECONDS
    return answer


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(10):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


# How old an answer may be


async def test_an_answer_is_used_again_while_nothing_has_changed(cache: Cache, clock: Clock) -> None:
    answers, store = answers_of(cache), Store()
    first = await answers.get("question", store)
    clock.now += 59.5
    second = await answers.get("question", store)
    assert (first.source, first.age_seconds, first.body) == ("miss", 0, b"first")
    assert (second.source, second.age_seconds, second.body) == ("hit", 59, b"first")
    assert second.etag == first.etag
    assert store.asked == 1


async def test_other_questions_have_other_answers(cache: Cache) -> None:
    answers = answers_of(cache)
    one = await answers.get("one", Store(b"1"))
    two = await answers.get("two", Store(b"2"))
    assert (one.body, two.body) == (b"1", b"2")
    assert one.etag != two.etag


async def test_after_a_change_an_answer_is_used_again_only_while_it_is_fresh(
    cache: Cache, clock: Clock
) -> None:
    answers, store = answers_of(cache), Store()
    await answers.get("question", store)
    await cache.data_changed()
    store.content = b"second"
    clock.now += 0.9
    assert (await answers.get("question", store)).body == b"first"
    clock.now += 0.2
    assert (await answers.get("question", store)) == CachedAnswer(b"second", 0, "miss")


async def test_no_answer_is_older_than_the_longest_age(cache: Cache, clock: Clock) -> None:
    answers, store = answers_of(cache), Store()
    await answers.get("question", store)
    clock.now += 60.1
    assert (await answers.get("question", store)).source == "miss"


async def test_a_question_may_ask_for_a_shorter_age_but_for_no_longer_one(cache: Cache, clock: Clock) -> None:
    answers, store = answers_of(cache), Store()
    await answers.get("question", store)
    clock.now += 10
    assert (await answers.get("question", store, max_age_seconds=20)).source == "hit"
    assert (await answers.get("question", store, max_age_seconds=5)).source == "miss"
    clock.now += 61
    assert (await answers.get("question", store, max_age_seconds=3_600)).source == "miss"


async def test_an_answer_from_a_clock_that_is_ahead_is_not_used(cache: Cache, clock: Clock) -> None:
    answers, store = answers_of(cache), Store()
    await answers.get("question", store)
    clock.now -= 3_600
    assert (await answers.get("question", store)).source == "miss"


async def test_an_answer_is_as_old_as_its_question(cache: Cache, clock: Clock) -> None:
    """What is stored while it is computed may be missing in it."""
    answers = answers_of(cache, fresh_seconds=0.0)

    async def slow() -> bytes:
        clock.now += 3
        await cache.data_changed()
        return b"without the change"

    await answers.get("question", slow)
    assert (await answers.get("question", Store(b"with it"))).body == b"with it"


async def test_entries_are_gone_after_their_time(cache: Cache) -> None:
    await cache.put("key", b"entry", 0.05)

    async def gone() -> bool:
        return (await cache.get("key"))[0] is None

    await until(gone)


async def test_a_cache_in_memory_forgets_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "_MEMORY_ENTRIES", 2)
    cache = MemoryCache()
    for key in ("one", "two"):
        await cache.put(key, key.encode(), 60)
    await cache.get("one")
    await cache.put("three", b"three", 60)
    kept = [key for key in ("one", "two", "three") if (await cache.get(key))[0] is not None]
    assert kept == ["one", "three"]


async def test_instances_share_the_answers_and_the_changes_in_redis(redis_server: RedisServer) -> None:
    one, two = await _emptied(redis_server), RedisCache(redis_server.url)
    try:
        store = Store()
        await answers_of(one).get("question", store)
        assert (await answers_of(two).get("question", store)).source == "hit"
        await two.data_changed()
        assert (await answers_of(one, fresh_seconds=0.0).get("question", store)).source == "miss"
    finally:
        await one.close()
        await two.close()


# Forgetting


async def test_what_is_to_be_forgotten_is_not_used_again_however_fresh_it_is(
    cache: Cache, clock: Clock
) -> None:
    answers, store = answers_of(cache, fresh_seconds=60.0), Store()
    await answers.get("question", store)
    assert await cache.forget_all()
    store.content = b"second"
    assert (await answers.get("question", store)) == CachedAnswer(b"second", 0, "miss")
    assert (await answers.get("question", store)).source == "hit"


async def test_what_is_being_computed_meanwhile_is_for_those_only_who_asked_before(
    cache: Cache, clock: Clock
) -> None:
    answers, later = answers_of(cache, fresh_seconds=60.0), Store(b"after")
    computing, proceed = asyncio.Event(), asyncio.Event()

    async def slow() -> bytes:
        computing.set()
        await proceed.wait()
        return b"before"

    early = asyncio.create_task(answers.get("question", slow))
    await computing.wait()
    assert await cache.forget_all()
    assert (await answers.get("question", later)).body == b"after"
    proceed.set()
    assert (await early).body == b"before"
    # The late answer may have taken the place of the other one in the cache, but not for anybody.
    assert (await answers.get("question", later)).body == b"after"
    assert (await answers_of(cache, fresh_seconds=60.0).get("question", later)).body == b"after"


async def test_redis_keeps_none_of_many_entries_and_all_that_is_not_ours(redis_server: RedisServer) -> None:
    cache = await _emptied(redis_server)
    try:
        async with Redis.from_url(redis_server.url) as client:
            await client.mset({f"openride:{number}": "entry" for number in range(5_000)})
            await client.set("another:1", "stays")
            await cache.data_changed()
            assert await cache.forget_all()
            assert sorted(await client.keys("*")) == [b"another:1", b"openride:data_version"]
    finally:
        await cache.close()


async def test_a_redis_that_is_away_is_not_said_to_have_forgotten(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    await asyncio.to_thread(fragile_redis.kill)
    assert not await fragile.forget_all()
    await asyncio.to_thread(fragile_redis.start)
    await until(fragile.forget_all)


# Many who ask at the same time


async def test_equal_questions_at_the_same_time_are_computed_once(cache: Cache) -> None:
    answers, store = answers_of(cache), Store()
    got = await asyncio.gather(*(answers.get("question", store) for _ in range(50)))
    assert {answer.body for answer in got} == {b"first"}
    assert store.asked == 1


async def test_who_goes_away_takes_nobodys_answer_with_them(cache: Cache) -> None:
    answers = answers_of(cache)
    computing, proceed = asyncio.Event(), asyncio.Event()

    async def compute() -> bytes:
        computing.set()
        await proceed.wait()
        return b"answer"

    impatient = asyncio.create_task(answers.get("question", compute))
    await computing.wait()
    patient = asyncio.create_task(answers.get("question", compute))
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    proceed.set()
    assert (await patient).body == b"answer"


async def test_an_error_reaches_all_who_ask_and_is_not_kept(cache: Cache) -> None:
    answers = answers_of(cache)
    attempts: list[int] = []

    async def fail() -> bytes:
        attempts.append(1)
        await asyncio.sleep(0)
        raise LookupError("no answer")

    got = await asyncio.gather(*(answers.get("question", fail) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in got] == [LookupError] * 5
    with pytest.raises(LookupError):
        await answers.get("question", fail)
    assert 2 <= len(attempts) <= 6
    assert (await answers.get("question", Store())).body == b"first"


@pytest.mark.parametrize("poison", [b"", b"\xc1 not msgpack", b"\x93\x01\x02", b"\x93\xa1a\xa1b\xa1c"])
async def test_a_poisoned_entry_is_ignored_and_replaced(cache: Cache, poison: bytes) -> None:
    await cache.put("question", poison, 60)
    answers, store = answers_of(cache), Store()
    assert (await answers.get("question", store)).source == "miss"
    assert (await answers.get("question", store)).source == "hit"


async def test_a_poisoned_version_costs_no_answer(redis_server: RedisServer) -> None:
    cache = await _emptied(redis_server)
    try:
        async with Redis.from_url(redis_server.url) as client:
            await client.set("openride:data_version", "many")
        assert (await answers_of(cache).get("question", Store())).body == b"first"
    finally:
        async with Redis.from_url(redis_server.url) as client:
            await client.flushdb()
        await cache.close()


async def test_a_poisoned_version_is_gone_with_the_next_change(redis_server: RedisServer) -> None:
    cache = await _emptied(redis_server)
    try:
        async with Redis.from_url(redis_server.url) as client:
            await client.lpush("openride:data_version", "many")
        await cache.data_changed()
        answers, store = answers_of(cache), Store()
        assert (await answers.get("question", store)).source == "miss"
        assert (await answers.get("question", store)).source == "hit"
    finally:
        await cache.close()


async def test_cancelled_reads_never_hand_a_value_to_another_key(cache: Cache) -> None:
    keys = [f"key {number}" for number in range(20)]
    for key in keys:
        await cache.put(key, key.encode(), 60)
    for number in range(100):
        read = asyncio.create_task(cache.get(keys[number % len(keys)]))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.wait([read])
        other = keys[(number + 1) % len(keys)]
        entry, version = await cache.get(other)
        assert entry == other.encode()
        assert version == 0


# Redis away


async def test_a_killed_redis_costs_no_answer_and_is_used_again_afterwards(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    answers, store = answers_of(fragile), Store()
    await answers.get("question", store)
    await asyncio.to_thread(fragile_redis.kill)
    for _ in range(3):
        answer = await bounded(asyncio.ensure_future(answers.get("question", store)))
        assert answer == CachedAnswer(b"first", 0, "miss")
    await bounded_change(fragile)
    assert not await fragile.answers()

    await asyncio.to_thread(fragile_redis.start)
    await used_again(fragile, answers)


async def test_a_paused_redis_costs_little_time_and_is_used_again_afterwards(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    answers, store = answers_of(fragile), Store()
    await answers.get("question", store)
    await asyncio.to_thread(fragile_redis.pause)
    for _ in range(3):
        answer = await bounded(asyncio.ensure_future(answers.get("question", store)))
        assert answer == CachedAnswer(b"first", 0, "miss")
    await bounded_change(fragile)

    await asyncio.to_thread(fragile_redis.resume)
    await used_again(fragile, answers)


async def test_a_change_that_redis_refused_is_told_to_the_others_later(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    other = RedisCache(fragile_redis.url)
    try:
        store = Store()
        await answers_of(other).get("question", store)
        async with Redis.from_url(fragile_redis.url) as client:
            await client.config_set("maxmemory", 1)  # it answers reads and refuses writes
            await fragile.data_changed()
            # Who knows of the change does not use what was kept before it.
            answers = answers_of(fragile, fresh_seconds=0.0)
            assert (await answers.get("question", store)).source == "miss"
            assert (await answers_of(other, fresh_seconds=0.0).get("question", store)).source == "hit"
            await client.config_set("maxmemory", 0)

        async def known_to_the_other() -> bool:
            answers = answers_of(other, fresh_seconds=0.0)
            return (await answers.get("question", store)).source == "miss"

        await until(known_to_the_other)
    finally:
        await other.close()


async def test_after_a_failure_redis_is_left_alone_for_a_while(
    fragile: RedisCache, fragile_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_REST_SECONDS", 60.0)
    await asyncio.to_thread(fragile_redis.pause)
    assert await fragile.get("key") == (None, None)
    started = monotonic()
    for _ in range(100):
        assert await fragile.get("key") == (None, None)
    assert monotonic() - started < BOUND_SECONDS


async def test_reads_that_a_paused_redis_broke_off_hand_no_value_to_another_key(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    for key in ("one", "two"):
        await fragile.put(key, key.encode(), 60)
    await asyncio.to_thread(fragile_redis.pause)
    assert await asyncio.gather(*(fragile.get("one") for _ in range(5))) == [(None, None)] * 5
    await asyncio.to_thread(fragile_redis.resume)
    await until(fragile.answers)
    assert await fragile.get("two") == (b"two", 0)


async def bounded_change(cache: Cache) -> None:
    """New data can be told to a cache that is away."""
    async with asyncio.timeout(BOUND_SECONDS):
        await cache.data_changed()


async def used_again(cache: Cache, answers: Answers) -> None:
    """Waits until the cache works and an answer is a hit."""
    store = Store(b"again")

    async def kept() -> bool:
        return (await answers.get("asked afterwards", store)).source == "hit"

    await until(cache.answers)
    await until(kept)
