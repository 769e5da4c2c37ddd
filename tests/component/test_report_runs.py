"""Runs of scheduled reports while instances die, hang, are stopped and lose their lease."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from openride_analytics.reports import runner, runs, schedules
from openride_analytics.reports.runs import Delivery
from tests.component.test_reports import ADA, BEN, Stage, making, pool, stage
from tests.reporting import Making

__all__ = ["making", "pool", "stage"]


async def test_a_run_whose_maker_died_is_made_by_another_and_a_poisonous_one_not_for_ever(
    stage: Stage, making: Making
) -> None:
    schedule_id = await stage.due()
    await runs.enqueue_due(stage.pool, timedelta(hours=1))
    hold = timedelta(seconds=60)
    for attempt in range(1, runner._MAKE_ATTEMPTS):
        claimed = await runs.claim(stage.pool, hold, to_make=True)
        assert claimed is not None
        assert (claimed.attempts, claimed.fence) == (attempt, attempt)
        assert await runs.claim(stage.pool, hold, to_make=True) is None  # it is held
        await stage.later()  # and its holder is gone
    await stage.instance()
    assert (await stage.until(schedule_id, "delivered")).attempts == runner._MAKE_ATTEMPTS

    schedule_id = await stage.due(BEN)
    await runs.enqueue_due(stage.pool, timedelta(hours=1))
    await stage.pool.execute(
        "UPDATE report_runs SET attempts = $1 WHERE state = 'waiting'", runner._MAKE_ATTEMPTS
    )
    run = await stage.until(schedule_id, "failed")
    assert run.error == "The service ended each time it was being made."
    assert len(making.orders) == 1


async def test_who_was_stopped_for_long_writes_nothing_when_it_wakes_up(stage: Stage) -> None:
    await stage.due()
    await runs.enqueue_due(stage.pool, timedelta(hours=1))
    hold = timedelta(seconds=60)
    slow = await runs.claim(stage.pool, hold, to_make=True)
    await stage.later()
    quick = await runs.claim(stage.pool, hold, to_make=True)
    assert slow is not None
    assert quick is not None
    about = {"rows": 1, "size": 1, "file_key": "x", "file_name": "x", "media_type": "text/html"}
    for attempt in (
        runs.hold(stage.pool, slow, hold),
        runs.store_made(stage.pool, slow, **about),  # type: ignore[arg-type]
        runs.store_not_made(stage.pool, slow, "x", None),
        runs.store_skipped(stage.pool, slow),
        runs.settle(stage.pool, slow),
        runs.release(stage.pool, slow),
    ):
        with pytest.raises(runs.LostRun):
            await attempt
    assert await stage.run(quick.schedule_id) == quick
    delivery = (await runs.due_deliveries(stage.pool, slow))[0]
    with pytest.raises(runs.LostRun):
        await runs.begin_delivery(stage.pool, slow, delivery, "x@y")


async def test_a_mail_that_is_sent_again_after_a_crash_is_the_same_mail(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = await stage.instance()
    crashed = Counter[str]()
    recorded = runs.store_delivered

    async def crash(pool: Any, delivery: Delivery) -> None:
        crashed[delivery.address] += 1
        if crashed[delivery.address] == 1:
            raise SystemError("died between the mail server's answer and the record")
        await recorded(pool, delivery)

    monkeypatch.setattr(runs, "store_delivered", crash)
    schedule_id = await stage.due(ADA)

    async def died() -> bool:
        return crashed[ADA] == 1

    await stage.eventually(died)
    await stage.idle()
    assert (await stage.deliveries(schedule_id))[ADA].state == "waiting"
    await stage.later()
    await stage.until(schedule_id, "delivered")
    first, again = stage.smtp.to(ADA)
    assert first.message_id == again.message_id
    assert first.message["Date"] == again.message["Date"]
    assert first.message.get_body() is not None
    assert [part.get_content() for part in first.message.iter_attachments()] == [
        part.get_content() for part in again.message.iter_attachments()
    ]
    await instance.close()


async def test_a_long_report_does_not_keep_the_next_one_waiting(stage: Stage, making: Making) -> None:
    await stage.instance()
    go_on = asyncio.Event()

    async def wait(order: Any) -> None:
        if order.name == "Long":
            await go_on.wait()

    making.before = wait
    long, short = await stage.due(ADA, name="Long"), await stage.due(BEN)
    await stage.until(short, "delivered")
    assert (await stage.run(long)).state == "making"
    go_on.set()
    await stage.until(long, "delivered")


async def test_a_run_is_held_for_as_long_as_its_making_takes(
    stage: Stage, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HOLD_SECONDS", 2.0)
    for _ in range(2):
        await stage.instance()
    go_on = asyncio.Event()

    async def wait(_: object) -> None:
        await go_on.wait()

    making.before = wait
    schedule_id = await stage.due()
    until = (await stage.until(schedule_id, "making")).next_attempt_at
    assert until is not None

    async def held_longer() -> bool:
        run = await stage.run(schedule_id)
        assert run.fence == 1
        return run.next_attempt_at is not None and run.next_attempt_at > until + timedelta(seconds=2)

    await stage.eventually(held_longer)
    go_on.set()
    await stage.until(schedule_id, "delivered")
    assert len(making.orders) == 1


async def test_work_on_a_run_that_is_lost_ends(
    stage: Stage, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HOLD_SECONDS", 0.4)
    await stage.instance()
    ended = asyncio.Event()

    async def wait(_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    making.before = wait
    schedule_id = await stage.due()
    await stage.until(schedule_id, "making")
    assert await schedules.remove(stage.pool, schedule_id)
    await asyncio.wait_for(ended.wait(), 30)
    assert (await stage.run(schedule_id)).state == "cancelled"
    assert stage.smtp.mails == []


async def test_an_instance_that_stops_leaves_its_runs_to_the_others_at_once(
    stage: Stage, making: Making
) -> None:
    first = await stage.instance()
    forever = asyncio.Event()

    async def wait(_: object) -> None:
        await forever.wait()

    making.before = wait
    schedule_id = await stage.due()
    await stage.until(schedule_id, "making")
    await first.close()
    making.before = None
    await stage.instance()
    run = await stage.until(schedule_id, "delivered")
    assert run.attempts == 1  # what was left is no attempt that failed


async def test_an_instance_that_stops_while_it_is_given_a_run_leaves_it_to_the_others_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, claimed = runs.claim, asyncio.Event()

    async def slowly(*given: Any, **named: Any) -> runs.Run | None:
        run = await claim(*given, **named)
        if run is not None:
            claimed.set()
            await asyncio.sleep(0.3)
        return run

    monkeypatch.setattr(runs, "claim", slowly)
    first = await stage.instance()
    schedule_id = await stage.due()

    async def is_given() -> bool:
        return claimed.is_set()

    await stage.eventually(is_given)
    await first.close()
    monkeypatch.setattr(runs, "claim", claim)
    await stage.instance()
    async with asyncio.timeout(runner.HOLD_SECONDS / 2):
        run = await stage.until(schedule_id, "delivered")
    assert run.attempts == 1


async def test_a_mail_that_is_being_sent_when_the_instance_stops_is_recorded(stage: Stage) -> None:
    stage.smtp.delay_seconds = 0.5
    instance = await stage.instance()
    schedule_id = await stage.due(ADA)

    async def arrived() -> bool:
        return bool(stage.smtp.mails)

    await stage.eventually(arrived)
    await instance.close()
    assert (await stage.deliveries(schedule_id))[ADA].state == "delivered"
