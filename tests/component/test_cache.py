"""Where answers are kept, in memory and in Redis: what is known of the changes, and what a cache that fails costs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from statistics import median
from time import monotonic, perf_counter, sleep, time
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis, RedisCluster

from openride_analytics import cache as caching
from openride_analytics.answers import Answers
from openride_analytics.cache import AWAY, Cache, Changes, Claim, MemoryCache, RedisCache
from openride_analytics.config import Cache as Lifetimes
from tests.caches import emptied, emptied_cluster
from tests.servers.redis import RedisServer

# A call on a cache that fails may take its own limit, and a little for a busy machine.
BOUND_SECONDS = 1.5
MINUTE_MS = 60_000
LIFETIMES = Lifetimes()


async def at_once() -> bytes:
    return b"answer"


@pytest_asyncio.fixture
async def fragile(fragile_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisCache]:
    """A cache on a server to be killed and paused; it is left alone only shortly after a failure."""
    monkeypatch.setattr(caching, "_REST_SECONDS", 0.3)
    fragile_redis.ensure_running()
    made = await emptied(fragile_redis)
    yield made
    await asyncio.to_thread(fragile_redis.ensure_running)
    await made.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.01)


async def changes_of(cache: Cache) -> Changes:
    """What it knows of the changes so far."""
    changes = (await cache.get("nothing")).changes
    assert changes is not None
    return changes


async def entry_of(cache: Cache, key: str) -> bytes | None:
    return (await cache.get(key)).entry


# What is known of the changes


def test_nothing_was_stored_since_the_last_change() -> None:
    changes = Changes.anew().and_then(5 * MINUTE_MS, 1.0)
    assert changes.since(changes.version, inf) == inf


def test_of_other_versions_than_it_has_seen_nothing_is_known() -> None:
    changes = Changes.anew().and_then(5 * MINUTE_MS, 1.0)
    assert changes.since(changes.version + 1, inf) == -inf
    assert changes.since(-1, inf) == -inf


@given(st.lists(st.integers(0, 60), max_size=120), st.integers(0, 60))
def test_no_change_is_missed_and_steps_are_few(minutes: list[int], end: int) -> None:
    """The truth is at hand: when the first event of before the end was stored after each version."""
    changes = Changes.anew()
    for number, minute in enumerate(minutes):
        changes = changes.and_then(minute * MINUTE_MS + 1, float(number))
    assert len(changes.steps) <= 32
    for version in range(len(minutes) + 1):
        later = [number for number in range(version, len(minutes)) if minutes[number] < end]
        said = changes.since(version, end * MINUTE_MS)
        assert said <= min(later, default=inf)
        if not later and version >= changes.known_from:
            assert said == inf


def test_half_an_hour_of_a_live_stream_is_known_and_late_events_to_the_second() -> None:
    changes, began = Changes.anew(), 30_000_000 * MINUTE_MS
    for second in range(1_800):
        changes = changes.and_then(began + second * 1_000, second)
        if second == 1_000:
            changes = changes.and_then(began - 86_400_000, second)
    assert changes.since(0, began) == 1_000
    assert changes.since(1_500, began) == inf
    assert changes.since(0, began - 86_400_000) == inf
    assert 1_440 <= changes.since(1_500, inf) <= 1_500


async def test_a_cache_knows_when_events_of_which_time_were_stored(cache: Cache) -> None:
    before = await changes_of(cache)
    began = time()
    await cache.data_changed(90 * MINUTE_MS + 1)
    between = await changes_of(cache)
    await cache.data_changed(120 * MINUTE_MS)
    after = await changes_of(cache)
    assert {changes.era for changes in (before, between, after)} == {before.era}
    assert after.since(before.version, 90 * MINUTE_MS) == inf
    assert began <= after.since(before.version, 91 * MINUTE_MS) <= time()
    assert after.since(between.version, 120 * MINUTE_MS) == inf
    assert began <= after.since(between.version, 121 * MINUTE_MS) <= time()
    await cache.data_changed()
    assert began <= (await changes_of(cache)).since(after.version, 1) <= time()


async def test_a_cache_that_is_not_alone_takes_everything_for_changed() -> None:
    cache = MemoryCache(alone=False)
    changes = await changes_of(cache)
    assert (await changes_of(cache)).since(changes.version, 0) == -inf


async def test_no_change_is_lost_where_many_instances_tell_theirs_at_once(
    redis_server: RedisServer, patient: None
) -> None:
    instances = [await emptied(redis_server), *(RedisCache(redis_server.url) for _ in range(3))]
    before = await changes_of(instances[0])
    await asyncio.gather(
        *(cache.data_changed((100 - n) * MINUTE_MS) for n in range(10) for cache in instances)
    )

    async def all_told() -> bool:
        return all(cache._untold is None and cache._telling is None for cache in instances)

    await until(all_told)
    after = await changes_of(instances[1])
    # All that an instance had to say meanwhile is one change.
    assert before.version < after.version <= before.version + 40
    assert after.since(before.version, 92 * MINUTE_MS) < inf
    assert after.since(before.version, 91 * MINUTE_MS) == inf
    for cache in instances:
        await cache.close()


# Entries


async def test_entries_are_gone_after_their_time(cache: Cache) -> None:
    await cache.put("key", b"entry", 0.05)

    async def gone() -> bool:
        return await entry_of(cache, "key") is None

    await until(gone)


async def test_a_cache_in_memory_is_bounded_in_bytes_and_forgets_what_was_used_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caching, "_MEMORY_BYTES", 2_800)
    cache = MemoryCache()
    for key in ("one", "two"):
        await cache.put(key, bytes(1_000), 60)
    await cache.put("two", bytes(1_001), 60)  # in its own place
    await cache.get("one")
    await cache.put("three", bytes(1_000), 60)
    kept = [key for key in ("one", "two", "three") if await entry_of(cache, key)]
    assert kept == ["one", "three"]


async def test_what_is_very_large_is_not_kept_nor_what_was_in_its_place(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_LARGEST_BYTES", 100)
    await cache.put("key", bytes(100), 60)
    assert await entry_of(cache, "key") == bytes(100)
    await cache.put("large", bytes(101), 60)
    assert await entry_of(cache, "large") is None


@pytest.mark.parametrize("in_cluster", [False, True], ids=["one server", "cluster"])
async def test_one_instance_gets_the_claim_and_the_others_when_it_is_over(
    request: pytest.FixtureRequest, patient: None, *, in_cluster: bool
) -> None:
    if in_cluster:
        nodes = request.getfixturevalue("redis_cluster")
        one, two = await emptied_cluster(nodes), RedisCache(nodes[1].url, cluster=True)
    else:
        server = request.getfixturevalue("redis_server")
        one, two = await emptied(server), RedisCache(server.url)
    era = (await changes_of(one)).era
    first = await one.claim("key", era, 60, 2.0)
    assert first.token
    assert (await two.claim("key", era, 60, 2.0)).token is None
    assert (await two.claim("another", era, 60, 2.0)).token
    assert (await two.claim("key", era + 1, 60, 2.0)).token  # nobody waits for an answer of another era
    await two.release("key", era, "not its own")
    assert (await two.claim("key", era, 60, 2.0)).token is None
    await two.hold("key", era, "not its own", 0.001)
    await one.hold("key", era, first.token, 60)
    assert (await two.claim("key", era, 60, 2.0)).token is None
    await one.put("key", b"entry", 60)
    await one.release("key", era, first.token)
    second = await two.claim("key", era, 0.05, 2.0)
    assert second.token
    assert second.kept.entry == b"entry"

    async def over() -> bool:  # the claim of an instance that died
        return (await one.claim("key", era, 60, 2.0)).token is not None

    await until(over)
    for cache in (one, two):
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
        assert await entry_of(cache, other) == other.encode()


# Forgetting


async def test_after_forgetting_there_is_another_era_and_no_entry(cache: Cache) -> None:
    await cache.put("key", b"entry", 60)
    before = await changes_of(cache)
    assert await cache.forget_all()
    assert (await changes_of(cache)).era != before.era
    assert await entry_of(cache, "key") is None


@pytest.mark.parametrize("in_cluster", [False, True], ids=["one server", "cluster"])
async def test_redis_keeps_none_of_many_entries_and_all_that_is_not_ours(
    request: pytest.FixtureRequest, patient: None, *, in_cluster: bool
) -> None:
    client: Redis | RedisCluster
    if in_cluster:
        nodes = request.getfixturevalue("redis_cluster")
        cache, client = await emptied_cluster(nodes), RedisCluster.from_url(nodes[1].url)
    else:
        server = request.getfixturevalue("redis_server")
        cache, client = await emptied(server), Redis.from_url(server.url)
    async with client:
        await client.mset({f"{{openride}}:{number}": "entry" for number in range(5_000)})
        others = [f"another:{number}".encode() for number in range(10)]
        for other in others:
            await client.set(other, "stays")
        await cache.data_changed(0)
        assert await cache.forget_all()
        everywhere = {"target_nodes": RedisCluster.PRIMARIES} if in_cluster else {}
        assert sorted(await client.keys("*", **everywhere)) == [*others, b"{openride}:changes"]
    await cache.close()


async def test_a_redis_that_has_lost_its_memory_begins_another_era(
    redis_server: RedisServer, patient: None
) -> None:
    cache = await emptied(redis_server)
    await cache.data_changed(0)
    before = await changes_of(cache)
    async with Redis.from_url(redis_server.url) as client:
        await client.delete("{openride}:changes")
    assert (await changes_of(cache)).era != before.era
    await cache.close()


@pytest.mark.parametrize("poison", [b"", b"many", b"\x93\x01\x02\x03", None])
async def test_spoilt_changes_begin_another_era(
    redis_server: RedisServer, patient: None, poison: bytes | None
) -> None:
    cache = await emptied(redis_server)
    before = await changes_of(cache)

    async def spoil() -> None:
        async with Redis.from_url(redis_server.url) as client:
            await client.delete("{openride}:changes")
            if poison is None:
                await client.lpush("{openride}:changes", "a list")
            else:
                await client.set("{openride}:changes", poison)

    await spoil()
    after = await changes_of(cache)
    assert after.era != before.era
    assert (await changes_of(cache)) == after
    await spoil()
    await cache.data_changed(0)
    assert (await changes_of(cache)).era not in (before.era, after.era)
    await cache.close()


async def test_a_redis_that_is_away_is_not_said_to_have_forgotten(
    fragile: RedisCache, fragile_redis: RedisServer, patient: None
) -> None:
    await asyncio.to_thread(fragile_redis.kill)
    assert not await fragile.forget_all()
    await asyncio.to_thread(fragile_redis.start)
    await until(fragile.forget_all)


# Redis away


async def test_a_killed_redis_is_away_at_once_and_used_again_afterwards(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    await until_kept(fragile)
    await asyncio.to_thread(fragile_redis.kill)
    async with asyncio.timeout(BOUND_SECONDS):
        await fragile.data_changed(0)
    assert await fragile.get("key") == AWAY
    assert await fragile.claim("key", 1, 60, 2.0) == Claim(None, AWAY)
    assert not await fragile.answers()
    await asyncio.to_thread(fragile_redis.start)
    await until_kept(fragile)


async def test_a_redis_that_is_always_slow_is_left_alone_although_it_keeps_what_nobody_waits_for(
    fragile: RedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until_kept(fragile)
    placed = fragile._placed

    async def slowly(call: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0.1)
        return await placed(call)

    monkeypatch.setattr(fragile, "_placed", slowly)
    for _ in range(3):
        assert await fragile.run_script("return 1", "key") is None
        assert fragile._failures
        await fragile.put("other", b"entry", 60)
    assert fragile._rest_until > monotonic()


async def test_a_paused_redis_costs_a_question_fifty_milliseconds_at_most(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    """The median of several, as this machine may do something else meanwhile."""
    await until_kept(fragile)
    answers = Answers(fragile, LIFETIMES)
    await asyncio.to_thread(fragile_redis.pause)
    costs = []
    for number in range(5):
        fragile._rest_until, fragile._failures = 0.0, 0
        began = perf_counter()
        assert (await answers.get(f"question {number}", at_once)).source == "miss"
        costs.append(perf_counter() - began)
    assert 0.04 < median(costs) < 0.065
    assert (await fragile.claim("key", 0, 60, 0.0)).kept == AWAY
    async with asyncio.timeout(BOUND_SECONDS):
        await fragile.data_changed()
    await asyncio.to_thread(fragile_redis.resume)
    await until_kept(fragile)
    await answers.close()


async def test_a_process_that_was_busy_takes_an_answer_that_is_there(
    redis_server: RedisServer,
) -> None:
    cache = await emptied(redis_server)
    await until_kept(cache)
    for _ in range(3):
        reading = asyncio.create_task(cache.get("two"))
        for _ in range(5):
            await asyncio.sleep(0)  # the question is sent
        sleep(3 * caching.PATIENCE_SECONDS)  # noqa: ASYNC251  # as something long does
        assert (await reading).entry == b"two"
    await cache.close()


async def test_after_repeated_failures_redis_is_left_alone_for_a_while(
    fragile: RedisCache, fragile_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_REST_SECONDS", 60.0)
    await asyncio.to_thread(fragile_redis.pause)
    started = monotonic()
    for _ in range(1_000):
        assert await fragile.get("key") == AWAY
    assert monotonic() - started < BOUND_SECONDS


async def test_failures_at_the_same_time_are_one(fragile: RedisCache, fragile_redis: RedisServer) -> None:
    await until_kept(fragile)
    await asyncio.to_thread(fragile_redis.pause)
    assert set(await asyncio.gather(*(fragile.get("key") for _ in range(6)))) == {AWAY}
    assert fragile._failures == 1
    assert fragile._rest_until < monotonic()


async def test_a_change_is_not_lost_with_who_was_telling_it(
    fragile: RedisCache, fragile_redis: RedisServer, patient: None
) -> None:
    await until_kept(fragile)
    before = await changes_of(fragile)
    await asyncio.to_thread(fragile_redis.pause)
    telling = asyncio.create_task(fragile.data_changed(7 * MINUTE_MS))
    await asyncio.sleep(0.01)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await asyncio.to_thread(fragile_redis.resume)
    other = RedisCache(fragile_redis.url)
    await fragile.close()
    assert (await changes_of(other)).since(before.version, 8 * MINUTE_MS) < inf
    await other.close()


async def test_a_change_that_redis_refused_is_told_to_the_others_later(
    fragile: RedisCache, fragile_redis: RedisServer, patient: None
) -> None:
    other = RedisCache(fragile_redis.url)
    before = await changes_of(other)
    async with Redis.from_url(fragile_redis.url) as client:
        await client.config_set("maxmemory", 1)  # it answers reads and refuses writes
        refused = time()
        await fragile.data_changed(7 * MINUTE_MS)
        await fragile.data_changed(3 * MINUTE_MS)
        # Who knows of the change uses nothing that was kept before it.
        assert await fragile.get("key") == AWAY
        assert (await changes_of(other)).version == before.version
        await client.config_set("maxmemory", 0)

    async def known_to_the_other() -> bool:
        return refused < (await changes_of(other)).since(before.version, 4 * MINUTE_MS) < refused + 2

    await until(known_to_the_other)
    await until_kept(fragile)
    await other.close()


async def test_reads_that_a_paused_redis_broke_off_hand_no_value_to_another_key(
    fragile: RedisCache, fragile_redis: RedisServer
) -> None:
    await until_kept(fragile)
    await asyncio.to_thread(fragile_redis.pause)
    assert await asyncio.gather(*(fragile.get("one") for _ in range(5))) == [AWAY] * 5
    await asyncio.to_thread(fragile_redis.resume)
    await until(fragile.answers)

    async def right() -> bool:
        entry = await entry_of(fragile, "two")
        assert entry in (b"two", None)
        return entry is not None

    await until(right)


async def until_kept(cache: Cache) -> None:
    """Waits until a cache works: it hands out what was put."""

    async def kept() -> bool:
        await cache.put("two", b"two", 60)
        return await entry_of(cache, "two") == b"two"

    await until(kept)
