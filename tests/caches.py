"""Caches for tests: in memory, and on a real server that keeps answering in time on a busy machine."""

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from openride_analytics import answers as answering
from openride_analytics import cache as caching
from openride_analytics.cache import Cache, MemoryCache, RedisCache
from tests.servers.process import lent
from tests.servers.redis import RedisNode, RedisServer


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is given more time than a question would give it."""
    monkeypatch.setattr(caching, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(answering, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(caching, "_TELL_SECONDS", 2.0)


@pytest_asyncio.fixture(params=["memory", "redis", "redis cluster"])
async def cache(request: pytest.FixtureRequest, patient: None) -> AsyncIterator[Cache]:
    """Each kind of cache, empty."""
    made: Cache = MemoryCache()
    if request.param == "redis":
        made = await emptied(request.getfixturevalue("redis_server"))
    elif request.param == "redis cluster":
        made = await emptied_cluster(request.getfixturevalue("redis_cluster"))
    yield made
    await made.close()


@pytest.fixture(scope="module")
def fragile_redis() -> Iterator[RedisServer]:
    """A server of the module's own, to be killed and paused."""
    with lent(RedisServer()) as server:
        yield server


async def emptied(server: RedisServer) -> RedisCache:
    """A cache on a server that holds nothing."""
    async with Redis.from_url(server.url) as client:
        await client.flushdb()
    return RedisCache(server.url)


async def emptied_cluster(nodes: Sequence[RedisNode]) -> RedisCache:
    """A cache on a cluster that holds nothing."""
    for node in nodes:
        async with Redis.from_url(node.url) as client:
            await client.flushdb()
    return RedisCache(nodes[0].url, cluster=True)
