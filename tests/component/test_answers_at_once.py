"""Many who ask at the same time: an answer is computed once for all of them, and refreshed behind the scenes."""

import asyncio

import pytest

from openride_analytics.answers import Answers, Source
from openride_analytics.cache import Cache
from tests.component.test_answers import (
    DEFAULTS,
    NOW_MS,
    START,
    TODAY_ENDS,
    Clock,
    Store,
    answers,
    ask,
    clock,
    settled,
    until,
)

__all__ = ["answers", "clock"]


async def test_equal_questions_at_the_same_time_are_computed_once(answers: Answers) -> None:
    store = Store()
    got = await asyncio.gather(*(answers.get("question", store) for _ in range(50)))
    assert {answer.body for answer in got} == {b"first"}
    assert store.asked == 1


@pytest.mark.parametrize(
    ("waited", "changed", "source", "body"),
    [
        (10.0, False, "miss", b"first"),
        (0.9, True, "miss", b"first"),
        (10.0, True, "stale", b"first"),
        (15.1, True, "miss", b"second"),
    ],
)
async def test_who_joins_a_computation_is_told_what_it_misses(
    answers: Answers,
    cache: Cache,
    clock: Clock,
    waited: float,
    changed: bool,  # noqa: FBT001  # parametrized
    source: str,
    body: bytes,
) -> None:
    store = Store(gate=asyncio.Event())
    first = asyncio.create_task(answers.get("question", store, end_ms=TODAY_ENDS))
    await store.reached.wait()
    if changed:
        await cache.data_changed(NOW_MS)
    store.content = b"second"
    clock.now += waited
    second = asyncio.create_task(answers.get("question", store, end_ms=TODAY_ENDS))
    await asyncio.sleep(0.1)
    assert store.gate is not None
    store.gate.set()
    assert ((await first).source, (await first).body) == ("miss", b"first")
    assert ((await second).source, (await second).body) == (source, body)


async def test_who_goes_away_takes_nobodys_answer_with_them(answers: Answers) -> None:
    store = Store(gate=asyncio.Event())
    impatient = asyncio.create_task(answers.get("question", store))
    await store.reached.wait()
    patient = asyncio.create_task(answers.get("question", store))
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert store.gate is not None
    store.gate.set()
    assert (await patient).body == b"first"


async def test_an_error_reaches_all_who_ask_and_is_not_kept(answers: Answers) -> None:
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


async def test_a_stale_answer_is_given_at_once_and_computed_anew_once(
    answers: Answers, cache: Cache, clock: Clock
) -> None:
    store = Store()
    await ask(answers, store)
    await cache.data_changed(NOW_MS)
    clock.now += 2
    store.gate = asyncio.Event()
    got = [await answers.get("question", store) for _ in range(20)]
    assert {answer.source for answer in got} == {"stale"}
    await until(lambda: store.asked == 2)
    got = [await answers.get("question", store) for _ in range(20)]
    assert {answer.source for answer in got} == {"stale"}
    store.gate.set()
    await settled(answers)
    assert store.asked == 2
    assert (await ask(answers, store)).source == "hit"


async def test_a_burst_is_computed_once_also_where_the_answer_is_too_large_to_be_kept(
    cache: Cache, patient: None
) -> None:
    answers, store = Answers(cache, DEFAULTS), Store(b"x" * 5_000_000, gate=asyncio.Event())
    assert store.gate is not None
    asyncio.get_running_loop().call_later(1, store.gate.set)
    got = await asyncio.gather(*(answers.get("question", store) for _ in range(20)))
    assert {len(answer.body) for answer in got} == {5_000_000}
    assert store.asked == 1
    await answers.close()


async def test_who_joins_a_computation_is_judged_by_when_he_asked(answers: Answers, clock: Clock) -> None:
    store = Store(gate=asyncio.Event())
    asked = [asyncio.create_task(answers.get("question", store, max_age_seconds=1)) for _ in range(2)]
    await store.reached.wait()
    clock.now += 5  # as long as it takes
    assert store.gate is not None
    store.gate.set()
    assert {answer.body for answer in await asyncio.gather(*asked)} == {b"first"}
    assert store.asked == 1


@pytest.mark.parametrize("max_age", [1.0, 60.0])
@pytest.mark.parametrize("meanwhile", ["computed", "old"])
async def test_a_refresh_that_waited_for_others_looks_again(
    cache: Cache, clock: Clock, max_age: float, meanwhile: str
) -> None:
    answers, others, store = Answers(cache, DEFAULTS), Store(), Store()
    keys = [f"other {number}" for number in range(4)]
    for key in keys:
        await answers.get(key, others)
    await ask(answers, store, max_age_seconds=max_age)
    await cache.data_changed(NOW_MS)
    clock.now += 0.9
    if max_age > 1:
        clock.now += 2
    others.gate = asyncio.Event()
    for key in keys:
        await answers.get(key, others, max_age_seconds=max_age)
    await until(lambda: others.asked == 8)
    assert (await answers.get("question", store, max_age_seconds=max_age)).source == "stale"
    clock.now += 20
    if meanwhile == "computed":
        assert (await answers.get("question", store, max_age_seconds=max_age)).source == "miss"
    others.gate.set()
    await settled(answers)
    # Computed by who missed it; or it would be an answer of 20 seconds ago, with nobody waiting for it.
    refreshed = meanwhile == "old" and max_age > 1
    assert store.asked == 1 + (meanwhile == "computed") + refreshed
    await answers.close()


@pytest.mark.parametrize(
    ("took", "is_behind", "rests_until"),
    [(0.9, False, 1.1 + 1.5 * 0.9), (0.9, True, 1.1 + 3 * 0.9), (3, True, 5), (3.2, False, 5)],
)
async def test_after_a_refresh_there_is_a_rest_but_not_for_what_gets_old(
    cache: Cache,
    clock: Clock,
    took: float,
    is_behind: bool,  # noqa: FBT001  # a case
    rests_until: float,
) -> None:
    answers = Answers(cache, DEFAULTS, is_behind=lambda: is_behind)
    computed: list[str] = []

    async def ask(key: str, *, takes: float = 0) -> Source:
        async def compute() -> bytes:
            computed.append(key)
            clock.now += takes
            return b"answer"

        got = await answers.get(key, compute)
        await settled(answers)
        return got.source

    for key in ("dear", "cheap"):
        await ask(key)
    await cache.data_changed(NOW_MS)
    computed.clear()
    clock.now = START + 1.1
    assert await ask("dear", takes=took) == "stale"
    for second, refreshed in ((1.1 + took, []), (rests_until - 0.1, []), (rests_until + 0.1, ["cheap"])):
        clock.now = START + second
        assert await ask("cheap") == "stale"
        assert computed == ["dear", *refreshed]
    await answers.close()


async def test_few_answers_are_refreshed_at_once(cache: Cache, clock: Clock) -> None:
    answers, running, most = Answers(cache, DEFAULTS), 0, 0

    async def compute() -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return b"answer"

    keys = [str(number) for number in range(12)]
    await asyncio.gather(*(answers.get(key, compute) for key in keys))
    await settled(answers)
    await cache.data_changed(NOW_MS)
    clock.now += 2
    most = 0
    assert {(await answers.get(key, compute)).source for key in keys} == {"stale"}
    await settled(answers)
    assert most <= 4
    assert {(await answers.get(key, compute)).source for key in keys} == {"hit"}


async def test_a_refresh_that_fails_costs_nobody_an_answer(
    answers: Answers, cache: Cache, clock: Clock
) -> None:
    async def fail() -> bytes:
        raise LookupError("no answer")

    await ask(answers, Store())
    await cache.data_changed(NOW_MS)
    clock.now += 2
    assert (await answers.get("question", fail)).source == "stale"
    await settled(answers)
    assert (await answers.get("question", fail)).source == "stale"
    await settled(answers)
    clock.now += 15
    with pytest.raises(LookupError):
        await answers.get("question", fail)


async def test_what_is_refreshed_ends_with_the_service(cache: Cache, clock: Clock) -> None:
    answers, store = Answers(cache, DEFAULTS), Store()
    await ask(answers, store)
    await cache.data_changed(NOW_MS)
    clock.now += 2
    store.gate, store.reached = asyncio.Event(), asyncio.Event()
    await answers.get("question", store)
    await store.reached.wait()
    async with asyncio.timeout(5):
        await answers.close()
