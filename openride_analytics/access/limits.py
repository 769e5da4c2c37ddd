"""How many requests a caller may send: so many a minute, all at once or spread, over all instances that share a Redis.

A caller has room for a minute's requests, which fills up again evenly. Kept is one instant a caller: when the room will be
full again. While Redis is away each instance counts by itself.
"""

from collections import OrderedDict
from time import time
from typing import Final

from openride_analytics.cache import Cache, RedisCache

_ROOM_SECONDS: Final = 60.0
_MOST_CALLERS: Final = 10_000
_PREFIX: Final = "openride-limit:"  # not among the keys of answers, which are all forgotten at times


class Limits:
    """Counts requests by caller."""

    def __init__(self, cache: Cache) -> None:
        self._shared = cache if isinstance(cache, RedisCache) else None
        self._full_at: OrderedDict[str, float] = OrderedDict()

    async def wait_seconds(self, who: str, requests_per_minute: int) -> float:
        """0, and the request is counted; or how long to wait before the next one."""
        step = _ROOM_SECONDS / requests_per_minute
        if self._shared is not None:
            said = await self._shared.run_script(_TAKE, _PREFIX + who, f"{step:.6f}", f"{_ROOM_SECONDS:g}")
            if said is not None:
                return int(said) / 1_000
        return self._take(who, step)

    def _take(self, who: str, step: float) -> float:
        now = time()
        full_at = max(self._full_at.get(who, now), now) + step
        if full_at - now > _ROOM_SECONDS + 1e-6:
            return full_at - now - _ROOM_SECONDS
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        if len(self._full_at) > _MOST_CALLERS:
            self._full_at.popitem(last=False)
        return 0.0


# The same as `_take`, with Redis' clock; milliseconds to wait.
_TAKE: Final = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local step, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1])) or now
full_at = math.max(full_at, now) + step
if full_at - now > room + 0.000001 then
    return math.ceil((full_at - now - room) * 1000)
end
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000))
return 0
"""
