"""Answers to questions, kept and used again as long as they are good enough: how long that is, is decided here.

An answer knows when it was begun, and the cache what was stored since. **Events before the end of its period** are missed in
it: for `fresh_seconds` from when the first of them was stored it is still a `hit`, and for `stale_seconds` it is `stale`
(used, while it is computed anew). Of a period that is over there are none but late ones. **All else** may change an answer
too: later events (a booking of March is confirmed in April, a route gets its city) and the time of day (a cell of a cohort
begins). It is let in after `max_age_seconds`, or `closed_max_age_seconds` where the period was over; in the last fifth of
that time an answer is stale.

Between two refreshes there is a rest, as long as that keeps answers good enough: a short one, or where more events come than
are stored in time one that leaves them most of the machine, however many answers are asked for.

Equal questions at the same time are computed once, by whichever instance claims them, which it goes on doing until it has
the answer; whoever waits for another instance too long goes on alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import inf
from time import monotonic, time
from typing import Any, Final, Literal

import msgspec
import structlog
from msgspec import Struct

from openride_analytics.cache import PATIENCE_SECONDS, Cache, Changes, Claim, Kept
from openride_analytics.config import Cache as Lifetimes

log = structlog.get_logger(__name__)

# A claim is good for this long after it was held last: its instance may be gone.
_CLAIM_SECONDS: Final = 3.0
# Nobody waits longer for another instance's answer: it may be slow.
_WAIT_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.25
# Refreshes leave the store's connections to those who wait for an answer.
_REFRESHES_AT_ONCE: Final = 4
_REFRESHES_WAITING: Final = 100
_STALE_FROM: Final = 0.8
# After a refresh there are none for so many times as long as it took, or where storing is behind …
_REST: Final = 0.5
_REST_BEHIND: Final = 2.0
# … but of answers as old as this part of what is allowed, which leaves time for it.
_NO_REST_FROM: Final = 1 / 3

Source = Literal["hit", "miss", "stale"]


class _Entry(Struct, array_like=True):
    begun: float  # Unix seconds
    era: int
    version: int  # of the changes, when it was begun
    was_over: bool  # its period, when it was asked for
    etag: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    """An answer's body, how old it is and how it came about. `etag` is equal for equal bodies."""

    body: bytes
    etag: str
    age_seconds: int
    source: Source


@dataclass(frozen=True)
class _Asked:
    """A question: `key` stands for it, and its period ends at `end_ms` (Unix milliseconds).

    It was asked `at` that time (Unix seconds). `patient_until`: how long it waits for the cache, by the monotonic clock.
    """

    key: str
    compute: Callable[[], Awaitable[bytes]]
    end_ms: float
    max_age_seconds: float
    at: float
    is_over: bool
    patient_until: float

    @classmethod
    def now(
        cls, key: str, compute: Callable[[], Awaitable[bytes]], end_ms: float, max_age_seconds: float
    ) -> "_Asked":
        """At this moment, as `compute` takes it for now too, however late it is called."""
        at = time()
        is_over = end_ms <= at * 1000
        return cls(key, compute, end_ms, max_age_seconds, at, is_over, monotonic() + PATIENCE_SECONDS)


class Answers:
    """Answers by their question, computed when there is none that is good enough.

    `is_behind`: whether more events come than are stored in time.
    """

    def __init__(
        self, cache: Cache, lifetimes: Lifetimes, *, is_behind: Callable[[], bool] = lambda: False
    ) -> None:
        self._cache = cache
        self._is_behind = is_behind
        self._lifetimes = lifetimes
        self._longest_missing = max(lifetimes.fresh_seconds, lifetimes.stale_seconds)
        self._longest_rest = _NO_REST_FROM * self._longest_missing
        self._computing: dict[tuple[str, int | None], asyncio.Future[_Entry]] = {}
        self._refreshing: set[str] = set()
        self._rest_until = 0.0
        self._refreshes = asyncio.Semaphore(_REFRESHES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(
        self,
        key: str,
        compute: Callable[[], Awaitable[bytes]],
        *,
        end_ms: float = inf,
        max_age_seconds: float = inf,
    ) -> Answer:
        """A good enough answer to the question that `key` stands for; raises what `compute` raises.

        `end_ms`: later events (Unix milliseconds) touch the answer only as the fates of what it counts.
        """
        asked = _Asked.now(key, compute, end_ms, max_age_seconds)
        kept = await self._cache.get(key)
        entry = _decoded(kept.entry)
        source = self._source(asked, entry, kept.changes, time())
        if entry is not None and source is not None:
            if source == "stale" and self._is_due(entry):
                self._refresh(asked, kept.changes, entry.begun)
            return _answer(entry, source)
        flight = _flight(key, kept.changes)
        under_way = self._computing.get(flight)
        if under_way is not None:
            entry = await asyncio.shield(under_way)
            # If it was begun before this was asked, it may miss what was stored by then.
            since = max(asked.at, entry.begun)
            source = "hit" if kept.changes is None else self._source(asked, entry, kept.changes, since)
            if source is not None:
                return _answer(entry, "miss" if source == "hit" else source)
            asked = replace(asked, patient_until=monotonic() + PATIENCE_SECONDS)
        computed = self._computing.get(flight)
        if computed is None or computed is under_way:
            computed = self._begin(asked, kept, None)
        entry = await asyncio.shield(computed)
        # Another instance may have begun it, before this was asked.
        is_older = entry.begun < asked.at and self._source(asked, entry, kept.changes, asked.at) == "stale"
        return _answer(entry, "stale" if is_older else "miss")

    def _source(
        self, asked: _Asked, entry: _Entry | None, changes: Changes | None, now: float
    ) -> Source | None:
        """Whether the entry may be used at a time, and as what."""
        if entry is None or changes is None or entry.era != changes.era:
            return None
        limit = self._longest(asked, entry.was_over)
        age = now - entry.begun
        since = changes.since(entry.version, asked.end_ms)
        # Nothing is missing from before it was begun; and who says that of a time to come has a wrong clock.
        missing_for = -1.0 if since == inf else age if since > now else min(age, now - since)
        if age < 0 or age > limit or missing_for > self._longest_missing:
            return None
        is_fresh = missing_for <= self._lifetimes.fresh_seconds and age <= limit * _STALE_FROM
        return "hit" if is_fresh else "stale"

    def _is_due(self, entry: _Entry) -> bool:
        """Whether a stale entry is to be computed anew now."""
        now = time()
        return now >= self._rest_until or now - entry.begun >= self._longest_rest

    def _longest(self, asked: _Asked, was_over: bool) -> float:  # noqa: FBT001
        """How old an answer may become at most."""
        longest = self._lifetimes.closed_max_age_seconds if was_over else self._lifetimes.max_age_seconds
        return min(longest, asked.max_age_seconds)

    def _refresh(self, asked: _Asked, changes: Changes | None, seen: float) -> None:
        """Has the answer computed anew behind the scenes, unless that is under way. `seen`: when the one there was begun."""
        if asked.key in self._refreshing or len(self._refreshing) >= _REFRESHES_WAITING:
            return
        self._refreshing.add(asked.key)
        self._spawn(self._refreshed(asked, changes, seen))

    async def _refreshed(self, asked: _Asked, changes: Changes | None, seen: float) -> None:
        try:
            async with self._refreshes:
                if changes is None or _flight(asked.key, changes) in self._computing:
                    return
                claim = await self._cache.claim(asked.key, changes.era, _CLAIM_SECONDS, PATIENCE_SECONDS)
                if claim.token is None:  # another instance is at it, or the cache is away
                    return
                now, entry = claim.kept.changes, _decoded(claim.kept.entry)
                if (
                    now is None
                    or now.era != changes.era
                    or _flight(asked.key, now) in self._computing
                    # Done meanwhile; or what was the time of day when it was asked for is too long ago.
                    or (entry is not None and entry.begun > seen)
                    or time() - asked.at > asked.max_age_seconds
                ):
                    await self._cache.release(asked.key, changes.era, claim.token)
                    return
                begun = time()
                await asyncio.wait([self._begin(asked, claim.kept, claim.token)])
                rest = (_REST_BEHIND if self._is_behind() else _REST) * (time() - begun)
                self._rest_until = min(max(time(), self._rest_until) + rest, time() + self._longest_rest)
        finally:
            self._refreshing.discard(asked.key)

    def _begin(self, asked: _Asked, kept: Kept, token: str | None) -> "asyncio.Future[_Entry]":
        """Has the answer computed; all who ask this meanwhile share the future."""
        flight = _flight(asked.key, kept.changes)
        computed: asyncio.Future[_Entry] = asyncio.get_running_loop().create_future()
        computed.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting
        self._computing[flight] = computed

        async def lead() -> None:
            try:
                await self._lead(asked, kept, token, computed)
            except Exception as error:  # noqa: BLE001  # raised where the answer is awaited
                if not computed.done():
                    computed.set_exception(error)
                if token is not None:
                    log.warning("refresh_failed", error=type(error).__name__)
            finally:
                computed.cancel()
                if self._computing.get(flight) is computed:
                    del self._computing[flight]

        self._spawn(lead())
        return computed

    async def _lead(
        self, asked: _Asked, kept: Kept, token: str | None, computed: "asyncio.Future[_Entry]"
    ) -> None:
        """Computes the answer, or waits until another instance has; keeps it after those who wait have it."""
        if token is None and kept.changes is not None:
            claim = await self._claimed(asked, kept, kept.changes.era)
            kept, token = claim.kept, claim.token
            if token is None and (entry := _decoded(kept.entry)) is not None:
                computed.set_result(entry)
                return
        changes = kept.changes
        holding = None
        if token is not None and changes is not None:
            holding = asyncio.create_task(self._hold(asked.key, changes.era, token))
        try:
            begun = time()  # what is stored meanwhile may be missing
            body = await asked.compute()
            era, version = (changes.era, changes.version) if changes else (0, 0)
            etag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
            entry = _Entry(begun, era, version, asked.is_over, etag, body)
            computed.set_result(entry)
            if changes is not None:
                seconds = self._longest(asked, asked.is_over)
                await self._cache.put(asked.key, msgspec.msgpack.encode(entry), seconds)
        finally:
            if holding is not None:
                holding.cancel()
            if token is not None and changes is not None:
                await self._cache.release(asked.key, changes.era, token)

    async def _hold(self, key: str, era: int, token: str) -> None:
        """Keeps the claim while its answer is computed."""
        while True:
            await asyncio.sleep(_CLAIM_SECONDS / 3)
            await self._cache.hold(key, era, token, _CLAIM_SECONDS)

    async def _claimed(self, asked: _Asked, seen: Kept, era: int) -> Claim:
        """A token with the changes to begin from, or no token and either another instance's new entry or nothing."""
        before = _decoded(seen.entry)
        deadline, pause = monotonic() + _WAIT_SECONDS, _FIRST_PAUSE_SECONDS
        patience = max(0.0, asked.patient_until - monotonic())
        while True:
            claim = await self._cache.claim(asked.key, era, _CLAIM_SECONDS, patience)
            patience = PATIENCE_SECONDS
            changes, entry = claim.kept.changes, _decoded(claim.kept.entry)
            if changes is None or changes.era != era:
                # Away, or begun anew meanwhile: the answer is for those only who asked before.
                return Claim(claim.token, Kept(None, seen.changes))
            if entry is not None and self._will_do(asked, entry, before, changes):
                if claim.token is not None:
                    await self._cache.release(asked.key, era, claim.token)
                return Claim(None, claim.kept)
            if claim.token is not None or monotonic() > deadline:
                return Claim(claim.token, Kept(None, changes))
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)

    def _will_do(self, asked: _Asked, entry: _Entry, before: _Entry | None, changes: Changes) -> bool:
        """Whether another instance's entry is an answer for who has waited: computed since, if not good enough anyway."""
        is_new = entry.era == changes.era and (before is None or entry.begun > before.begun)
        return (is_new and 0 <= time() - entry.begun <= _WAIT_SECONDS) or (
            self._source(asked, entry, changes, time()) is not None
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends what is being computed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _flight(key: str, changes: Changes | None) -> tuple[str, int | None]:
    """Who waits for whom: those of a later era for nobody of an earlier one."""
    return key, None if changes is None else changes.era


def _answer(entry: _Entry, source: Source) -> Answer:
    return Answer(entry.body, entry.etag, max(0, int(time() - entry.begun)), source)


def _decoded(kept: bytes | None) -> _Entry | None:
    if kept is None:
        return None
    try:
        return msgspec.msgpack.decode(kept, type=_Entry)
    except msgspec.MsgspecError:
        return None
