"""Scheduled jobs: each due time is run once, however many instances there are."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from unittest.mock import create_autospec

import asyncpg
import pytest
import pytest_asyncio

from openride_analytics import jobs as jobs_module
from openride_analytics import postgres
from openride_analytics.cache import MemoryCache
from openride_analytics.jobs import Jobs
from openride_analytics.migrations import load
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse

DUE = datetime(2026, 3, 1, 3, 17, tzinfo=UTC)


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """PostgreSQL with the service's tables."""
    pool = await postgres.connect(postgres_url)
    for migration in load("postgres"):
        for statement in migration.statements:
            await pool.execute(statement)
    yield pool
    await postgres.close(pool)


def instance(pool: "asyncpg.Pool[asyncpg.Record]") -> Jobs:
    """The jobs of one instance."""
    return Jobs(pool, create_autospec(Warehouse, instance=True), MemoryCache(), Metrics())


async def test_of_two_instances_one_runs_a_due_time(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    runs: list[int] = []
    instances = [instance(pool) for _ in range(2)]

    async def work() -> None:
        runs.append(1)

    claimed = await asyncio.gather(*(jobs.run_once("report", DUE, work) for jobs in instances * 3))
    assert sorted(claimed) == [*[False] * 5, True]
    assert runs == [1]
    row = await pool.fetchrow("SELECT finished_at, error FROM job_runs WHERE job = 'report'")
    assert row is not None
    assert row["finished_at"] is not None
    assert row["error"] is None


async def test_another_due_time_and_another_job_are_runs_of_their_own(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    jobs = instance(pool)
    runs: list[str] = []

    async def work() -> None:
        runs.append("run")

    assert await jobs.run_once("report", DUE, work)
    assert await jobs.run_once("report", DUE.replace(day=2), work)
    assert await jobs.run_once("cleaning", DUE, work)
    assert not await jobs.run_once("report", DUE, work)
    assert len(runs) == 3


@pytest.mark.parametrize("fate", ["died", "failed", "done"])
async def test_what_did_not_get_through_is_tried_again_within_the_night(
    pool: "asyncpg.Pool[asyncpg.Record]", fate: str
) -> None:
    jobs = instance(pool)
    runs: list[str] = []

    async def work() -> None:
        runs.append("run")

    assert await jobs.run_once("report", DUE, work)
    if fate == "died":
        await pool.execute("UPDATE job_runs SET finished_at = NULL")
    elif fate == "failed":
        await pool.execute("UPDATE job_runs SET error = 'away'")
    assert not await jobs.run_once("report", DUE, work)
    await pool.execute("UPDATE job_runs SET claimed_at = now() - interval '11 minutes'")
    assert await jobs.run_once("report", DUE, work) == (fate != "done")
    assert not await jobs.run_once("report", DUE, work)
    row = await pool.fetchrow("SELECT finished_at, error FROM job_runs")
    assert row is not None
    assert row["finished_at"] is not None
    assert row["error"] is None


async def test_who_is_at_it_holds_the_claim(
    pool: "asyncpg.Pool[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_HOLD_SECONDS", 0.01)

    async def long() -> None:
        await pool.execute("UPDATE job_runs SET claimed_at = now() - interval '11 minutes'")
        old = "SELECT claimed_at < now() - interval '10 minutes' FROM job_runs"
        while await pool.fetchval(old):  # noqa: ASYNC110  # the database tells no events
            await asyncio.sleep(0.01)
        assert not await instance(pool).run_once("report", DUE, long)

    async with asyncio.timeout(20):
        assert await instance(pool).run_once("report", DUE, long)
    assert await pool.fetchval("SELECT error FROM job_runs") is None


async def test_a_failing_job_is_recorded_with_its_error_and_is_not_run_again_at_once(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    jobs = instance(pool)

    async def fail() -> None:
        raise LookupError("no such report" + "!" * 2_000)

    assert await jobs.run_once("report", DUE, fail)
    assert not await jobs.run_once("report", DUE, fail)
    row = await pool.fetchrow("SELECT finished_at, error FROM job_runs WHERE job = 'report'")
    assert row is not None
    assert row["error"].startswith("LookupError: no such report")
    assert len(row["error"]) <= 1_000
    assert row["finished_at"] is not None


async def test_a_scheduler_that_never_started_can_be_stopped(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    jobs = instance(pool)
    jobs.stop()
    jobs.start()
    jobs.stop()


async def test_the_jobs_of_the_night_follow_each_other(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    jobs = instance(pool)
    jobs.start()
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    first = {job.id: job.trigger.get_next_fire_time(None, midnight) for job in jobs._scheduler.get_jobs()}
    jobs.stop()
    at = {name: (time.hour, time.minute) for name, time in first.items()}
    assert at == {"settle_clashes": (3, 17), "erase_again": (3, 47), "derive_missing": (4, 7)}


async def test_the_job_of_the_night_removes_what_came_of_an_erased_user(
    pool: "asyncpg.Pool[asyncpg.Record]", embedded_warehouse: EmbeddedWarehouse
) -> None:
    cache = MemoryCache()
    await cache.put("question", b"answer", 60)
    jobs = Jobs(pool, embedded_warehouse, cache, Metrics())
    user = {"user": "d0000000-0000-4000-8000-000000000001"}
    for statement in (
        "INSERT INTO erased_users SELECT {user:UUID}, now64(3)",
        "INSERT INTO events (event_type, event_timestamp, rider_id) SELECT 'booking.created', now64(3), {user:UUID}",
    ):
        await embedded_warehouse.execute(statement, user)
    assert await jobs.run_once("erase_again", DUE, jobs._erase_again)
    assert await embedded_warehouse.query("SELECT event_type FROM events") == []
    assert (await cache.get("question"))[0] is None
    assert await pool.fetchval("SELECT error FROM job_runs") is None
