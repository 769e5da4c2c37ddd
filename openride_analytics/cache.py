"""Where answers are kept for a while, and what is known of the changes since: in Redis for all instances, or in memory.

Nothing here knows questions. Beside the entries a cache keeps `Changes`: enough to say of any entry what was stored since it
was begun. Entries begun before the cache was told to forget all belong to another era. A cache that is away or slow costs
its callers little, and they go on without it.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from time import monotonic, time
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import redis.asyncio
import structlog
from msgspec import Struct
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeoutError

log = structlog.get_logger(__name__)

PATIENCE_SECONDS: Final = 0.05
"""What a question may lose by a Redis that is slow: a look and a claim together; nobody waits for the rest."""
_TELL_SECONDS: Final = 0.2
# Turns of the loop from an answer's arrival to who waits for it.
_TURNS: Final = 4
# A single late answer may be this process's own fault: it was busy with something else.
_FAILURES_BORNE: Final = 2
_REST_SECONDS: Final = 5.0
_CONNECTIONS: Final = 32
_FORGET_SECONDS: Final = 60.0
_KEYS_PER_SCAN: Final = 1_000
_COLLISIONS_BORNE: Final = 20
# A larger entry would take its time to come and go, also that of others on this process's loop.
_LARGEST_BYTES: Final = 4 * 1_048_576
_MEMORY_BYTES: Final = 64 * 1_048_576
# What an entry takes beside its key and bytes.
_ENTRY_BYTES: Final = 300
# In braces: a cluster keeps all keys with this in one slot, and so on one node, as they are read and changed together.
_PREFIX: Final = "{openride}:"
_CHANGES: Final = f"{_PREFIX}changes"
_STEPS: Final = 32
_MINUTE_MS: Final = 60_000

T = TypeVar("T")


class Changes(Struct, array_like=True, frozen=True):
    """What was stored of late, in brief.

    Each change has a `version`, one more than the last. `steps` tell of the last ones, a step for each minute of events: the
    version of the last change whose earliest event is of that minute (Unix time), the minute, and the time of the first such
    change (Unix seconds). Of what lies before `known_from` nothing is known any more.
    """

    era: int
    version: int
    known_from: int
    steps: list[tuple[int, int, float]]

    @classmethod
    def anew(cls) -> "Changes":
        """Of a cache that holds nothing, or nothing that may be used: no entry is of this era."""
        return cls(secrets.randbits(62), 0, 0, [])

    def and_then(self, earliest_ms: int, at: float) -> "Changes":
        """With one more change, made at `at` (Unix seconds): of events from `earliest_ms` on (Unix milliseconds)."""
        version, minute = self.version + 1, earliest_ms // _MINUTE_MS
        first = min([at, *(first for _, known, first in self.steps if known == minute)])
        steps = [step for step in self.steps if step[1] != minute]
        steps.append((version, minute, first))
        known_from = steps[-_STEPS - 1][0] if len(steps) > _STEPS else self.known_from
        return Changes(self.era, version, known_from, steps[-_STEPS:])

    def since(self, version: int, end_ms: float) -> float:
        """From when on (Unix seconds) events of before `end_ms` were stored after that version; infinite: none were.

        That may be too early a time, but none too late.
        """
        if not self.known_from <= version <= self.version:
            return -inf
        firsts = (
            first for last, minute, first in self.steps if last > version and minute * _MINUTE_MS < end_ms
        )
        return min(firsts, default=inf)


class Kept(NamedTuple):
    """An entry, and the changes so far, read at the same moment. Changes of None: the cache is away."""

    entry: bytes | None
    changes: Changes | None


class Claim(NamedTuple):
    """The right to compute an entry, if `token` is there, and what the cache holds at the moment of the claim."""

    token: str | None
    kept: Kept


AWAY: Final = Kept(None, None)


class Cache(Protocol):
    """Where entries are kept. No call raises, and none takes longer than a fraction of a second."""

    async def get(self, key: str) -> Kept:
        """The entry and the changes so far."""
        ...

    async def claim(self, key: str, era: int, seconds: float, patience_seconds: float) -> Claim:
        """Who gets a token computes the entry for this era, and the others wait for it; it is good for so long."""
        ...

    async def hold(self, key: str, era: int, token: str, seconds: float) -> None:
        """Makes a claim good for so long from now, unless its time was over already."""
        ...

    async def release(self, key: str, era: int, token: str) -> None:
        """Gives a claim back before its time is over."""
        ...

    async def put(self, key: str, entry: bytes, seconds: float) -> None:
        """Keeps an entry for so long; one that is very large it may not keep."""
        ...

    async def data_changed(self, earliest_ms: int = 0) -> None:
        """Something is stored: events from that time on (Unix milliseconds), 0 for whatever."""
        ...

    async def forget_all(self) -> bool:
        """Ends the era: nobody who shares this cache uses an entry again whose computation has begun before.

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
    """A cache inside the process, which drops what was used longest ago.

    `alone`: only this process stores events. Where others do, nothing is known of their changes.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._changes = Changes.anew()

    async def get(self, key: str) -> Kept:
        """See `Cache.get`."""
        changes = self._changes
        if not self._alone:
            changes = msgspec.structs.replace(changes, known_from=changes.version + 1)
        entry = self._entries.get(key)
        if entry is None or entry[1] < monotonic():
            return Kept(None, changes)
        self._entries.move_to_end(key)
        return Kept(entry[0], changes)

    async def claim(
        self,
        key: str,
        era: int,  # noqa: ARG002  # there is nobody to keep out
        seconds: float,  # noqa: ARG002
        patience_seconds: float,  # noqa: ARG002
    ) -> Claim:
        """See `Cache.claim`: there is nobody to share the work with."""
        return Claim("", await self.get(key))

    async def hold(self, key: str, era: int, token: str, seconds: float) -> None:
        """See `Cache.hold`."""

    async def release(self, key: str, era: int, token: str) -> None:
        """See `Cache.release`."""

    async def put(self, key: str, entry: bytes, seconds: float) -> None:
        """See `Cache.put`."""
        self._drop(key)
        if len(entry) > _LARGEST_BYTES:
            return
        self._entries[key] = entry, monotonic() + seconds
        self._bytes += _size(key, entry)
        while self._bytes > _MEMORY_BYTES:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        if (dropped := self._entries.pop(key, None)) is not None:
            self._bytes -= _size(key, dropped[0])

    async def data_changed(self, earliest_ms: int = 0) -> None:
        """See `Cache.data_changed`."""
        self._changes = self._changes.and_then(earliest_ms, time())

    async def forget_all(self) -> bool:
        """See `Cache.forget_all`."""
        self._changes = Changes.anew()
        self._entries.clear()
        self._bytes = 0
        return True

    async def answers(self) -> bool:
        """See `Cache.answers`."""
        return True

    async def close(self) -> None:
        """See `Cache.close`."""


def _size(key: str, entry: bytes) -> int:
    return len(key) + len(entry) + _ENTRY_BYTES


class _Change(NamedTuple):
    """Of events from `earliest_ms` on, made at `at`."""

    earliest_ms: int
    at: float


class RedisCache:
    """A cache that all instances share. When it fails repeatedly, Redis is left alone for some seconds.

    A change that Redis could not be told of is told as soon as it can be: others may go on to read its entries.
    `cluster`: the server is a node of a Redis Cluster.
    """

    def __init__(
        self, url: str, on_failure: Callable[[], None] = lambda: None, *, cluster: bool = False
    ) -> None:
        self._on_failure = on_failure
        self._cluster = (
            # Tried once more when another node has taken over.
            RedisCluster.from_url(
                url,
                retry=Retry(NoBackoff(), 1),
                socket_timeout=_TELL_SECONDS,
                socket_connect_timeout=_TELL_SECONDS,
            )
            if cluster
            else None
        )
        # All calls are bounded by `_within`: a limit of its own makes this client send each command in a task of its own.
        self._redis = self._cluster or redis.asyncio.Redis.from_url(
            url, retry=None, socket_timeout=None, socket_connect_timeout=_TELL_SECONDS
        )
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._failures = 0  # in a row
        self._failed_at = 0.0
        self._rest_until = 0.0
        self._untold: _Change | None = None
        self._tells_now = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None

    async def get(self, key: str) -> Kept:
        """See `Cache.get`."""

        async def read() -> Kept:
            return await self._kept(key, await self._redis.mget(_CHANGES, _PREFIX + key))

        if self._telling is not None:  # its entries are older than what this instance knows
            return AWAY
        return await self._guarded(read, PATIENCE_SECONDS) or AWAY

    async def claim(self, key: str, era: int, seconds: float, patience_seconds: float) -> Claim:
        """See `Cache.claim`."""
        token = secrets.token_hex(8)

        async def claim() -> Claim:
            keys = _claim(key, era), _CHANGES, _PREFIX + key
            claimed, *values = await self._redis.eval(_CLAIM, len(keys), *keys, token, int(seconds * 1000))
            return Claim(token if claimed else None, await self._kept(key, values))

        if self._telling is not None:
            return Claim(None, AWAY)
        return await self._guarded(claim, patience_seconds) or Claim(None, AWAY)

    async def hold(self, key: str, era: int, token: str, seconds: float) -> None:
        """See `Cache.hold`."""

        async def hold() -> None:
            await self._redis.eval(_HOLD, 1, _claim(key, era), token, int(seconds * 1000))

        await self._guarded(hold, _TELL_SECONDS)

    async def release(self, key: str, era: int, token: str) -> None:
        """See `Cache.release`."""
        await self._guarded(lambda: self._swap(_claim(key, era), token.encode(), None), _TELL_SECONDS)

    async def _kept(self, key: str, values: Sequence[Any]) -> Kept:
        known, entry = values
        changes = _decoded(known)
        if changes is None:  # lost or spoilt, and with it the meaning of all entries
            await self._swap(_CHANGES, known, Changes.anew())
            # Others may have been faster.
            again: Sequence[Any] = await self._redis.mget(_CHANGES, _PREFIX + key)
            changes, entry = _decoded(again[0]), again[1]
        return Kept(entry, changes)

    async def put(self, key: str, entry: bytes, seconds: float) -> None:
        """See `Cache.put`."""
        if len(entry) <= _LARGEST_BYTES:
            await self._guarded(
                lambda: self._redis.set(_PREFIX + key, entry, px=max(1, int(seconds * 1000))), _TELL_SECONDS
            )

    async def data_changed(self, earliest_ms: int = 0) -> None:
        """See `Cache.data_changed`."""
        self._note(_Change(earliest_ms, time()))
        if self._telling is None:
            await self._tell()
            if self._untold is not None and self._telling is None:
                self._telling = asyncio.create_task(self._tell_later())

    def _note(self, change: _Change) -> None:
        other = self._untold or change
        self._untold = _Change(min(other.earliest_ms, change.earliest_ms), min(other.at, change.at))

    async def _tell(self) -> None:
        async with self._tells_now:
            told, self._untold = self._untold, None
            if told is None:
                return
            done: bool | None = False
            try:
                done = await self._guarded(
                    lambda: self._change(lambda changes: changes.and_then(*told)), _TELL_SECONDS
                )
            finally:  # also where this is cancelled
                if not done:
                    self._note(told)

    async def _tell_later(self) -> None:
        while self._untold is not None:
            await asyncio.sleep(_REST_SECONDS)
            await self._tell()
        self._telling = None

    async def _change(self, change: Callable[[Changes], Changes]) -> bool:
        """Puts what `change` makes of the changes in their place, whoever else does the same meanwhile."""
        for _ in range(_COLLISIONS_BORNE):
            known: Any
            (known,) = await self._redis.mget(_CHANGES)  # unlike GET it takes no offence at what is no text
            changes = _decoded(known)
            if await self._swap(_CHANGES, known, change(changes) if changes else Changes.anew()):
                return True
        return False

    async def _swap(self, key: str, old: bytes | None, new: Changes | None) -> bool:
        """Puts `new` in the place of `old`, if that is still there; None: nothing."""
        value = b"" if new is None else msgspec.msgpack.encode(new)
        return bool(await self._redis.eval(_SWAP, 1, key, old or b"", value))

    async def forget_all(self) -> bool:
        """See `Cache.forget_all`. Entries are taken away, too: they would stay until their time is over."""
        if not await self._guarded(lambda: self._change(lambda _: Changes.anew()), _TELL_SECONDS):
            return False
        cursor = 0

        async def forget_some() -> int:
            of_ours: dict[str, Any] = {"match": f"{_PREFIX}*", "count": _KEYS_PER_SCAN}
            after: Any
            if self._cluster is None:
                after, found = await self._redis.scan(cursor, **of_ours)
            else:  # on the one node that has them
                node = self._cluster.get_node_from_key(_CHANGES)
                after, found = await self._cluster.scan(cursor, target_nodes=node, **of_ours)
                (after,) = after.values()
            if keys := [key for key in found if key != _CHANGES.encode()]:
                await self._redis.unlink(*keys)
            return int(after)

        started = monotonic()
        while monotonic() - started < _FORGET_SECONDS:
            after = await self._guarded(forget_some, _TELL_SECONDS)
            if not after:
                return after == 0
            cursor = after
        return False

    async def run_script(self, script: str, key: str, *arguments: str) -> Any | None:
        """What a script says about one key; None: Redis is away. For what instances share beside answers."""

        async def run() -> Any:
            return await self._redis.eval(script, 1, key, *arguments)

        return await self._guarded(run, PATIENCE_SECONDS)

    async def answers(self) -> bool:
        """See `Cache.answers`."""
        return await self._guarded(self._redis.ping, _TELL_SECONDS) is not None

    async def ping(self) -> None:
        """Raises what Redis or its client has to say where it does not work."""
        await _within(_TELL_SECONDS, self._placed(self._redis.ping))

    async def close(self) -> None:
        """See `Cache.close`."""
        if self._telling is not None:
            self._telling.cancel()
        self._rest_until = 0.0  # connections are there also while Redis is left alone
        await self._tell()
        await self._guarded(self._redis.aclose, _TELL_SECONDS)

    async def _guarded(self, call: Callable[[], Awaitable[T]], seconds: float) -> T | None:
        if monotonic() < self._rest_until:
            return None
        began = monotonic()
        try:
            result = await _within(seconds, self._placed(call))
        except Exception as error:  # noqa: BLE001  # a server that answers garbage makes the client raise anything
            if began >= self._failed_at:  # else it failed beside the last one, of the same cause
                self._failures += 1
                self._failed_at = monotonic()
            self._on_failure()
            if self._failures > _FAILURES_BORNE or not isinstance(error, TimeoutError | RedisTimeoutError):
                self._rest_until = monotonic() + _REST_SECONDS
                log.warning("cache_away", error=type(error).__name__, rest_seconds=_REST_SECONDS)
            return None
        if (
            monotonic() - began <= PATIENCE_SECONDS
        ):  # else a slow Redis would seem well to those who do not wait for it
            self._failures = 0
        return result

    async def _placed(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._places:
            if self._cluster is not None:
                # By itself it would begin with commands for nodes that it does not know yet, and fail when many come at once.
                _ = await self._cluster.initialize()
            return await call()


_CLAIM: Final = """
local claimed = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX')
local values = redis.call('MGET', KEYS[2], KEYS[3])
return {claimed and 1 or 0, values[1], values[2]}
"""


_HOLD: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
"""


async def _within(seconds: float, call: Awaitable[T]) -> T:
    """The call's result, or `TimeoutError`. One that is there is taken, even if this process was too busy to look for it.

    No task of its own: each would cost several turns of the loop, and while events come in a turn has its length.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle

    def wait_no_more(turns: int) -> None:
        nonlocal timer
        if turns:
            timer = loop.call_soon(wait_no_more, turns - 1)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds, wait_no_more, _TURNS)
        try:
            return await call
        finally:
            timer.cancel()


# What is no text has no value to compare with, and is replaced.
_SWAP: Final = """
local now = redis.pcall('GET', KEYS[1])
if type(now) == 'table' then
    redis.call('DEL', KEYS[1])
    now = false
end
if (now or '') ~= ARGV[1] then
    return 0
end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[2])
end
return 1
"""


def _claim(key: str, era: int) -> str:
    return f"{_PREFIX}claim:{era}:{key}"


def _decoded(changes: bytes | None) -> Changes | None:
    if changes is None:
        return None
    try:
        return msgspec.msgpack.decode(changes, type=Changes)
    except msgspec.MsgspecError:
        return None
