"""Which answers are used again: how old they may be, who computes them, and what waits for whom."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from math import inf

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics import answers as answering
from openride_analytics import cache as caching
from openride_analytics.answers import Answer, Answers
from openride_analytics.cache import Cache, RedisCache
from openride_analytics.config import Cache as Lifetimes
from tests.caches import emptied
from tests.properties import SLOW, holds
from tests.servers.redis import RedisServer

START = 1_772_348_700.0
DEFAULTS = Lifetimes(
    fresh_seconds=1.0, stale_seconds=15.0, max_age_seconds=60.0, closed_max_age_seconds=300.0
)
TODAY_ENDS = (START + 3_600 * 5) * 1000
MARCH_ENDED = (START - 3_600 * 50) * 1000
NOW_MS = int(START * 1000)
IN_MARCH = int(MARCH_ENDED) - 86_400_000


class Clock:
    """The time of the answers, which moves only when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that ages are measured by."""
    clock = Clock()
    monkeypatch.setattr(answering, "time", clock)
    monkeypatch.setattr(caching, "time", clock)
    return clock


@dataclass
class Store:
    """What questions are answered from. Once `gate` is there, an answer waits for it."""

    content: bytes = b"first"
    asked: int = 0
    gate: asyncio.Event | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> bytes:
        self.asked += 1
        content = self.content
        self.reached.set()
        await (self.gate.wait() if self.gate else asyncio.sleep(0))
        return content


@pytest_asyncio.fixture
async def answers(cache: Cache) -> AsyncIterator[Answers]:
    """Answers kept in each kind of cache, by the defaults of the configuration."""
    made = Answers(cache, DEFAULTS)
    yield made
    await made.close()


async def settled(answers: Answers) -> None:
    """Waits until nothing is being computed, kept or refreshed."""
    async with asyncio.timeout(20):
        while answers._tasks:
            await asyncio.gather(*answers._tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # of things that know no events
            await asyncio.sleep(0.001)


async def ask(
    answers: Answers, store: Store, *, end_ms: float = TODAY_ENDS, max_age_seconds: float = inf
) -> Answer:
    """An answer, and what was begun for it brought to its end."""
    answer = await answers.get("question", store, end_ms=end_ms, max_age_seconds=max_age_seconds)
    await settled(answers)
    return answer


# How old an answer may be


async def test_an_answer_is_a_hit_while_nothing_has_changed(answers: Answers, clock: Clock) -> None:
    store = Store()
    first = await ask(answers, store)
    clock.now += 47
    second = await ask(answers, store)
    assert (first.source, first.age_seconds, first.body) == ("miss", 0, b"first")
    assert (second.source, second.age_seconds, second.body) == ("hit", 47, b"first")
    assert second.etag == first.etag
    assert store.asked == 1


async def test_other_questions_have_other_answers(answers: Answers) -> None:
    one = await answers.get("one", Store(b"1"))
    two = await answers.get("two", Store(b"2"))
    assert (one.body, two.body) == (b"1", b"2")
    assert one.etag != two.etag


@pytest.mark.parametrize(
    ("age", "source", "next_body"),
    [
        (0.9, "hit", b"first"),
        (1.1, "stale", b"second"),
        (14.9, "stale", b"second"),
        (15.1, "miss", b"second"),
    ],
)
async def test_events_of_its_period_make_an_answer_stale_and_then_useless(
    answers: Answers, cache: Cache, clock: Clock, age: float, source: str, next_body: bytes
) -> None:
    store = Store()
    await ask(answers, store)
    await cache.data_changed(NOW_MS)
    store.content = b"second"
    clock.now += age
    answer = await ask(answers, store)
    assert (answer.source, answer.body) == (source, b"second" if source == "miss" else b"first")
    assert answer.age_seconds == (0 if source == "miss" else int(age))
    assert (await ask(answers, store)).body == next_body


@pytest.mark.parametrize(
    ("end_ms", "age", "source"),
    [
        (TODAY_ENDS, 47, "hit"),
        (TODAY_ENDS, 49, "stale"),
        (TODAY_ENDS, 61, "miss"),
        (MARCH_ENDED, 239, "hit"),
        (MARCH_ENDED, 241, "stale"),
        (MARCH_ENDED, 301, "miss"),
    ],
)
async def test_time_alone_makes_an_answer_old_that_of_a_period_that_is_over_later(
    answers: Answers, clock: Clock, end_ms: float, age: float, source: str
) -> None:
    store = Store()
    await ask(answers, store, end_ms=end_ms)
    clock.now += age
    assert (await ask(answers, store, end_ms=end_ms)).source == source


async def test_what_is_stored_of_later_times_leaves_an_answer_as_it_is(
    answers: Answers, cache: Cache, clock: Clock
) -> None:
    store = Store()
    await ask(answers, store, end_ms=MARCH_ENDED)
    for _ in range(100):
        await cache.data_changed(NOW_MS)
    clock.now += 200
    assert (await ask(answers, store, end_ms=MARCH_ENDED)).source == "hit"


@pytest.mark.parametrize("earliest_ms", [IN_MARCH, IN_MARCH - 10**11, 0])
@pytest.mark.parametrize(
    ("later", "source", "age"),
    [(0.9, "hit", 100), (1.1, "stale", 101), (14.9, "stale", 114), (15.1, "miss", 0)],
)
async def test_late_events_of_a_period_that_is_over_or_of_before_it_make_its_answer_old(
    answers: Answers, cache: Cache, clock: Clock, earliest_ms: int, later: float, source: str, age: int
) -> None:
    """Of before it: totals count all that was there before its end. It counts how long they are there."""
    store = Store()
    await ask(answers, store, end_ms=MARCH_ENDED)
    clock.now += 50
    await cache.data_changed(NOW_MS)
    clock.now += 50
    await cache.data_changed(earliest_ms)
    clock.now += later
    await cache.data_changed(NOW_MS)
    store.content = b"with it"
    answer = await ask(answers, store, end_ms=MARCH_ENDED)
    assert (answer.source, answer.age_seconds) == (source, age)
    if source != "hit":
        assert (await ask(answers, store, end_ms=MARCH_ENDED)).body == b"with it"
    clock.now += 100
    await cache.data_changed(NOW_MS)
    last = await ask(answers, store, end_ms=MARCH_ENDED)
    assert (last.source, last.body) == ("miss" if source == "hit" else "hit", b"with it")


async def test_an_instance_whose_clock_is_ahead_makes_no_answer_live_longer(
    answers: Answers, cache: Cache, clock: Clock
) -> None:
    store = Store()
    await ask(answers, store)
    clock.now += 3_600
    await cache.data_changed(NOW_MS)
    clock.now -= 3_600 - 16
    assert (await ask(answers, store)).source == "miss"


async def test_an_answer_begun_before_its_period_was_over_is_no_answer_of_one_that_is_over(
    answers: Answers, clock: Clock
) -> None:
    """Its last bucket is marked as partial."""
    store, ends_ms = Store(), (START + 5) * 1000
    await ask(answers, store, end_ms=ends_ms)
    clock.now += 61
    assert (await ask(answers, store, end_ms=ends_ms)).source == "miss"
    clock.now += 61
    assert (await ask(answers, store, end_ms=ends_ms)).source == "hit"


async def test_a_refresh_that_had_to_wait_takes_the_period_for_what_it_was_when_asked(
    answers: Answers, cache: Cache, clock: Clock
) -> None:
    """It computes what was asked then: a period that was not over."""
    store, ends_ms = Store(), (START + 5) * 1000
    await ask(answers, store, end_ms=ends_ms)
    await cache.data_changed(NOW_MS)
    clock.now += 4
    for _ in range(4):
        await answers._refreshes.acquire()
    assert (await answers.get("question", store, end_ms=ends_ms)).source == "stale"
    clock.now += 2
    for _ in range(4):
        answers._refreshes.release()
    await settled(answers)
    assert store.asked == 2
    clock.now += 61
    assert (await ask(answers, store, end_ms=ends_ms)).source == "miss"


async def test_a_question_may_ask_for_a_shorter_age_but_for_no_longer_one(
    answers: Answers, clock: Clock
) -> None:
    store = Store()
    await ask(answers, store)
    clock.now += 10
    assert (await ask(answers, store, max_age_seconds=20)).source == "hit"
    assert (await ask(answers, store, max_age_seconds=5)).source == "miss"
    clock.now += 61
    assert (await ask(answers, store, max_age_seconds=3_600)).source == "miss"


async def test_an_answer_from_a_clock_that_is_ahead_is_not_used(answers: Answers, clock: Clock) -> None:
    store = Store()
    await ask(answers, store)
    clock.now -= 3_600
    assert (await ask(answers, store)).source == "miss"


async def test_an_answer_is_as_old_as_its_question(answers: Answers, cache: Cache, clock: Clock) -> None:
    """What is stored while it is computed may be missing in it."""

    async def slow() -> bytes:
        await cache.data_changed(NOW_MS)
        clock.now += 16
        return b"without the change"

    assert (await answers.get("question", slow)).age_seconds == 16
    await settled(answers)
    assert (await ask(answers, Store(b"with it"))).body == b"with it"


@pytest.mark.parametrize("poison", [b"", b"\xc1 not msgpack", b"\x93\x01\x02", b"\x93\xa1a\xa1b\xa1c"])
async def test_a_poisoned_entry_is_ignored_and_replaced(
    answers: Answers, cache: Cache, poison: bytes
) -> None:
    await cache.put("question", poison, 60)
    store = Store()
    assert (await ask(answers, store)).source == "miss"
    assert (await ask(answers, store)).source == "hit"


# Forgetting


async def test_what_is_to_be_forgotten_is_not_used_again_however_fresh_it_is(
    answers: Answers, cache: Cache, clock: Clock
) -> None:
    store = Store()
    await ask(answers, store)
    assert await cache.forget_all()
    store.content = b"second"
    answer = await ask(answers, store)
    assert (answer.source, answer.body) == ("miss", b"second")
    assert (await ask(answers, store)).source == "hit"


@pytest.mark.parametrize("why", ["absent", "stale"])
async def test_what_is_being_computed_meanwhile_is_for_those_only_who_asked_before(
    answers: Answers, cache: Cache, clock: Clock, why: str
) -> None:
    store, later = Store(b"before"), Store(b"after")
    if why == "stale":
        await ask(answers, store)
        await cache.data_changed(NOW_MS)
        clock.now += 2
    store.gate, store.reached = asyncio.Event(), asyncio.Event()
    early = asyncio.create_task(answers.get("question", store))
    await store.reached.wait()
    assert await cache.forget_all()
    assert (await answers.get("question", later)).body == b"after"
    store.gate.set()
    assert (await early).body == b"before"
    await settled(answers)
    # The late answer may have taken the place of the other one in the cache, but not for anybody.
    assert (await ask(answers, later)).body == b"after"
    another_instance = Answers(cache, DEFAULTS)
    assert (await ask(another_instance, later)).body == b"after"


# Whatever happens

_ENDS = (TODAY_ENDS, MARCH_ENDED)
_DAYS_AGO = (0, 1, 3)
_STEPS = st.one_of(
    st.tuples(st.sampled_from(["ask", "ask", "ask slowly"]), st.sampled_from(_ENDS)),
    st.tuples(st.just("store"), st.sampled_from(_DAYS_AGO)),
    st.tuples(st.just("wait"), st.sampled_from([2.0, 10.0, 40.0, 100.0])),
    st.tuples(st.sampled_from(["erase", "let go on"]), st.just(0.0)),
)


class World:
    """All that was stored, by its event times, and two instances that are asked about it.

    An answer is what was there when its computing began; slow ones end when they are let go on.
    """

    def __init__(self, clock: Clock, caches: list[RedisCache]) -> None:
        self.clock = clock
        self.caches = caches
        self.instances = [Answers(cache, DEFAULTS) for cache in caches]
        self.stored: list[tuple[float, float]] = []
        self.erased = 0
        self.gate = asyncio.Event()
        self.asking: list[asyncio.Task[None]] = []

    async def step(self, which: int, name: str, amount: float) -> None:
        if name == "wait":
            self.clock.now += amount
        elif name == "store":
            event_ms = START * 1000 - amount * 86_400_000
            self.stored.append((event_ms, self.clock.now))
            await self.caches[which].data_changed(int(event_ms))
        elif name == "erase":
            self.erased += 1
            assert await self.caches[which].forget_all()
        elif name == "let go on":
            await self.go_on()
        else:
            asking = asyncio.create_task(self.ask(self.instances[which], amount, slowly=name == "ask slowly"))
            self.asking.append(asking)
            if name == "ask":  # it may have to wait for a slow one
                await asyncio.wait([asking], timeout=0.02)
            else:
                await asyncio.sleep(0.002)

    async def ask(self, answers: Answers, end_ms: float, *, slowly: bool) -> None:
        began_asking, stored, erased = self.clock.now, len(self.stored), self.erased

        async def see() -> bytes:
            seen = f"{len(self.stored)},{self.erased},{self.clock.now}".encode()
            if slowly:
                await self.gate.wait()
            return seen

        answer = await answers.get(f"until {end_ms}", see, end_ms=end_ms)
        seen, seen_erased, began = (float(part) for part in answer.body.decode().split(","))
        assert seen_erased >= erased, "an answer from before an erasure"
        if answer.source != "miss":  # who waits for an answer gets it at whatever age it has then
            assert began_asking - began <= (300.0 if end_ms <= began * 1000 else 60.0)
            missing = [at for event_ms, at in self.stored[int(seen) : stored] if event_ms < end_ms]
            assert all(began_asking - at <= 15.0 for at in missing)
            assert answer.source == "stale" or all(began_asking - at <= 1.0 for at in missing)
            assert answer.age_seconds == int(self.clock.now - began)

    async def go_on(self) -> None:
        self.gate.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*self.asking)
            for answers in self.instances:
                await settled(answers)
        self.asking.clear()
        self.gate = asyncio.Event()

    async def end(self) -> None:
        for task in self.asking:
            task.cancel()
        for answers, cache in zip(self.instances, self.caches, strict=True):
            await answers.close()
            await cache.close()


async def test_whatever_happens_an_answer_is_never_older_than_its_bound(
    redis_server: RedisServer, patient: None, clock: Clock
) -> None:
    @settings(SLOW, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 1), _STEPS), min_size=5, max_size=20))
    async def bounded(steps: list[tuple[int, tuple[str, float]]]) -> None:
        clock.now = START
        world = World(clock, [await emptied(redis_server), RedisCache(redis_server.url)])
        try:
            for which, (name, amount) in steps:
                await world.step(which, name, amount)
            await world.go_on()
        finally:
            await world.end()

    await holds(bounded)
