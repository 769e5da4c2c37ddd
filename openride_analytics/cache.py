"""Answers kept for a while: in Redis, so that all instances share them, or in memory.

An answer is used again while nothing new has been stored since it was computed; while events keep coming it is at most
`fresh_seconds` old. None is used again that was begun before the cache was told to forget all. Equal questions at the same
time are computed once. A cache that is away or slow costs a question little and never its answer.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic, time
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec
import redis.asyncio
import structlog
from msgspec import Struct
from redis.exceptions import ResponseError

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS: Final = 0.2
_REST_SECONDS: Final = 5.0
_MEMORY_ENTRIES: Final = 2_000
_PREFIX: Final = "openride:"
_VERSION: Final = f"{_PREFIX}data_version"
# The version counts changes of the data, and by this much each time that all answers are to be forgotten: so an answer that
# was being computed meanwhile carries its era with it, and is not used in a later one.
_ERA: Final = 1 << 32
_FORGET_SECONDS: Final = 60.0
# So small that eras pass by changes alone only now and then, which costs a few answers.
_LONGEST_STEP: Final = 1 << 16
_KEYS_PER_SCAN: Final = 1_000

T = TypeVar("T")


class Cache(Protocol):
    """Where answers are kept. No call raises, and none takes longer than a fraction of a second."""

    async def get(self, key: str) -> tuple[bytes | None, int | None]:
        """The entry, and the version of the stored data. A version of None: the cache is away."""
        ...

    async def put(self, key: str, entry: bytes, seconds: float) -> None:
        """Keeps an entry for so long."""
        ...

    async def data_changed(self) -> None:
        """New data is stored: the version moves on."""
        ...

    async def forget_all(self) -> bool:
        """No answer whose computation has begun before is used again, by whoever shares this cache.

        Says whether that was done. Unlike the other calls it may take a minute.
        """
        ...

    async def answers(self) -> bool:
        """Whether it works."""
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...


class MemoryCache:
    """A cache inside the process, for one instance. Drops what was used longest ago."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._version = 0

    async def get(self, key: str) -> tuple[bytes | None, int | None]:
        """See `Cache.get`."""
        entry = self._entries.get(key)
        if entry is None or entry[1] < monotonic():
            return None, self._version
        self._entries.move_to_end(key)
        return entry[0], self._version

    async def put(self, key: str, entry: bytes, seconds: float) -> None:
        """See `Cache.put`."""
        self._entries[key] = entry, monotonic() + seconds
        self._entries.move_to_end(key)
        if len(self._entries) > _MEMORY_ENTRIES:
            self._entries.popitem(last=False)

    async def data_changed(self) -> None:
        """See `Cache.data_changed`."""
        self._version += 1

    async def forget_all(self) -> bool:
        """See `Cache.forget_all`."""
        self._version += _ERA
        self._entries.clear()
        return True

    async def answers(self) -> bool:
        """See `Cache.answers`."""
        return True

    async def close(self) -> None:
        """See `Cache.close`."""


class RedisCache:
    """A cache that all instances share. After a failure Redis is left alone for some seconds.

    A change that Redis could not be told of is told as soon as it can be: others may go on to read its entries.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=None,
            single_connection_client=False,
        )
        self._rest_until = 0.0
        self._untold = False
        self._telling: asyncio.Task[None] | None = None

    async def get(self, key: str) -> tuple[bytes | None, int | None]:
        """See `Cache.get`."""

        async def read() -> tuple[bytes | None, int]:
            version, entry = await self._redis.mget(_VERSION, _PREFIX + key)
            return entry if isinstance(entry, bytes) else None, int(version or 0)

        if self._telling is not None:  # its entries are older than what this instance knows
            return None, None
        return await self._guarded(read) or (None, None)

    async def put(self, key: str, entry: bytes, seconds: float) -> None:
        """See `Cache.put`."""
        await self._guarded(lambda: self._redis.set(_PREFIX + key, entry, px=max(1, int(seconds * 1000))))

    async def data_changed(self) -> None:
        """See `Cache.data_changed`."""
        self._untold = True
        if self._telling is None:
            await self._tell()
            if self._untold:
                self._telling = asyncio.create_task(self._tell_later())

    async def _tell(self) -> None:
        self._untold = False  # a change that comes meanwhile is another one
        # Not by one: a Redis that has forgotten its version would count up to that of an old answer again.
        if await self._guarded(lambda: self._move_version_on(1 + secrets.randbelow(_LONGEST_STEP))) is None:
            self._untold = True

    async def _tell_later(self) -> None:
        while self._untold:
            await asyncio.sleep(_REST_SECONDS)
            await self._tell()
        self._telling = None

    async def _move_version_on(self, step: int) -> int:
        try:
            return int(await self._redis.incrby(_VERSION, step))
        except ResponseError:  # somebody has put there what is no number, or too great a one
            version = secrets.randbits(62)
            await self._redis.set(_VERSION, version)
            return version

    async def forget_all(self) -> bool:
        """See `Cache.forget_all`. Entries are taken away, too: they would stay until their time is over."""
        if await self._guarded(lambda: self._move_version_on(_ERA)) is None:
            return False
        cursor = 0

        async def forget_some() -> int:
            after, found = await self._redis.scan(cursor, match=f"{_PREFIX}*", count=_KEYS_PER_SCAN)
            if keys := [key for key in found if key != _VERSION.encode()]:
                await self._redis.unlink(*keys)
            return int(after)

        started = monotonic()
        while monotonic() - started < _FORGET_SECONDS:
            after = await self._guarded(forget_some)
            if not after:
                return after == 0
            cursor = after
        return False

    async def run_script(self, script: str, key: str, *arguments: str) -> Any | None:
        """What a script says about one key; None: Redis is away. For what instances share beside answers."""

        async def run() -> Any:
            return await self._redis.eval(script, 1, key, *arguments)

        return await self._guarded(run)

    async def answers(self) -> bool:
        """See `Cache.answers`."""
        return await self._guarded(self._redis.ping) is not None

    async def close(self) -> None:
        """See `Cache.close`."""
        if self._telling is not None:
            self._telling.cancel()
        self._rest_until = 0.0  # connections are there also while Redis is left alone
        if self._untold:
            await self._tell()
        await self._guarded(self._redis.aclose)

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T | None:
        if monotonic() < self._rest_until:
            return None
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await call()
        except Exception as error:  # noqa: BLE001  # a server that answers garbage makes the client raise anything
            self._rest_until = monotonic() + _REST_SECONDS
            log.warning("cache_away", error=type(error).__name__, rest_seconds=_REST_SECONDS)
            return None


class _Entry(Struct, array_like=True):
    computed_at: float  # Unix seconds
    version: int
    body: bytes


@dataclass(frozen=True)
class CachedAnswer:
    """An answer's body, how old it is and how it came about."""

    body: bytes
    age_seconds: int
    source: Literal["hit", "miss"]

    @property
    def etag(self) -> str:
        """Equal for equal bodies."""
        return f'"{blake2b(self.body, digest_size=12).hexdigest()}"'


class Answers:
    """Answers by their question, computed when there is none that is fresh enough."""

    def __init__(self, cache: Cache, *, fresh_seconds: float, max_age_seconds: float) -> None:
        self._cache = cache
        self._fresh_seconds = fresh_seconds
        self._max_age_seconds = max_age_seconds
        self._computing: dict[tuple[str, int | None], asyncio.Task[bytes]] = {}

    async def get(
        self, key: str, compute: Callable[[], Awaitable[bytes]], *, max_age_seconds: float | None = None
    ) -> CachedAnswer:
        """A fresh enough answer to the question that `key` stands for; raises what `compute` raises."""
        limit = min(max_age_seconds or self._max_age_seconds, self._max_age_seconds)
        kept, version = await self._cache.get(key)
        if kept is not None and version is not None and (entry := _decoded(kept)):
            age = time() - entry.computed_at
            fresh = entry.version == version or age <= self._fresh_seconds
            if 0 <= age <= limit and fresh and entry.version // _ERA == version // _ERA:
                return CachedAnswer(entry.body, int(age), "hit")
        asked = key, None if version is None else version // _ERA
        task = self._computing.get(asked)
        if task is None:
            task = asyncio.create_task(self._compute(key, compute, version, limit))
            self._computing[asked] = task
            task.add_done_callback(lambda _: self._computing.pop(asked, None))
        return CachedAnswer(await asyncio.shield(task), 0, "miss")

    async def _compute(
        self, key: str, compute: Callable[[], Awaitable[bytes]], version: int | None, limit: float
    ) -> bytes:
        began = time()  # data stored meanwhile may be missing: the answer is as old as its question
        body = await compute()
        if version is not None:
            await self._cache.put(key, msgspec.msgpack.encode(_Entry(began, version, body)), limit)
        return body


def _decoded(kept: bytes) -> _Entry | None:
    try:
        return msgspec.msgpack.decode(kept, type=_Entry)
    except msgspec.MsgspecError:
        return None
