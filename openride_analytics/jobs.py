"""Jobs by the clock: APScheduler wakes every instance, a row in PostgreSQL decides which one does the work.

Who is at it moves the claim on; a claim that stands still, or ended in a failure, is taken over in the next hours.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from openride_analytics.cache import Cache
from openride_analytics.erasure import erase_again
from openride_analytics.ingest.clashes import settle_all_clashes
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.facts import derive_missing

log = structlog.get_logger(__name__)

# The loop may lag, or the process start late: a job is still run this long after it was due.
_GRACE_SECONDS: Final = 3_600
# A job of the night is looked at once an hour, so often: whoever claimed it may have died, PostgreSQL have been away.
_TRIES: Final = 6
_HOLD_SECONDS: Final = 60.0
_CLAIM: Final = """
INSERT INTO job_runs (job, due_at, claimed_by)
VALUES ($1, $2, $3)
ON CONFLICT (job, due_at) DO UPDATE
    SET claimed_by = excluded.claimed_by, claimed_at = now(), finished_at = NULL, error = NULL
    WHERE job_runs.claimed_at < now() - interval '10 minutes'
      AND (job_runs.finished_at IS NULL OR job_runs.error IS NOT NULL)
RETURNING job
"""
_CALL_TIMEOUT_SECONDS: Final = 10.0


class Jobs:
    """The scheduler and what it runs. `start` and `stop` belong to the service's lifespan."""

    def __init__(
        self,
        postgres: "asyncpg.Pool[asyncpg.Record]",
        warehouse: Warehouse,
        cache: Cache,
        metrics: Metrics,
    ) -> None:
        self._postgres = postgres
        self._warehouse = warehouse
        self._cache = cache
        self._metrics = metrics
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._scheduler = AsyncIOScheduler(timezone=UTC)

    def start(self) -> None:
        """Begins to wait for due times."""
        # Insurance: a crash between an insert and what follows it leaves nothing behind for longer than a night.
        self.daily("settle_clashes", lambda: settle_all_clashes(self._warehouse), hour=3, minute=17)
        self.daily("derive_missing", self._derive_missing, hour=4, minute=7)
        # And what an interrupted erasure left behind goes in the same night.
        self.daily("erase_again", self._erase_again, hour=3, minute=47)
        self._scheduler.start()

    async def _derive_missing(self) -> None:
        if things := await derive_missing(self._warehouse):
            log.warning("facts_were_missing", things=things)

    async def _erase_again(self) -> None:
        removed = await erase_again(
            self._warehouse, self._cache, say=lambda line: log.info("erasing_again", progress=line)
        )
        if removed:
            log.warning("erased_again", rows=removed)

    def stop(self) -> None:
        """No more jobs; a running one is cancelled, and is taken over within the night."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def every(self, seconds: float, job: str, work: Callable[[], Awaitable[None]]) -> None:
        """Has `work` called in each instance again and again; calls may overlap while one of them hangs."""
        self._scheduler.add_job(
            work, "interval", seconds=seconds, id=job, misfire_grace_time=None, coalesce=True, max_instances=2
        )

    def daily(self, job: str, work: Callable[[], Awaitable[None]], *, hour: int, minute: int) -> None:
        """Has `work` done by one of the instances at a time of the day, UTC; again in the next hours if it did not end well.

        It must do no harm twice at once.
        """

        async def once() -> None:
            due = datetime.now(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
            await self.run_once(job, due, work)

        self._scheduler.add_job(
            once,
            CronTrigger(hour=f"{hour}-{hour + _TRIES - 1}", minute=minute, timezone=UTC),
            id=job,
            misfire_grace_time=_GRACE_SECONDS,
            coalesce=True,
            max_instances=1,
        )

    async def run_once(self, job: str, due_at: datetime, work: Callable[[], Awaitable[None]]) -> bool:
        """Runs `work` unless it is done for this due time, or an instance is at it; says whether it did.

        A failure is recorded and logged. What failed or did not end may be claimed again ten minutes after it was held last.
        """
        claimed: Any = await self._postgres.fetchval(
            _CLAIM, job, due_at, self._name, timeout=_CALL_TIMEOUT_SECONDS
        )
        if claimed is None:
            return False
        error: str | None = None
        holding = asyncio.create_task(self._hold(job, due_at))
        try:
            await work()
        except Exception as failure:  # noqa: BLE001  # whatever it is, it belongs into the record
            error = f"{type(failure).__name__}: {failure}"[:1000]
            log.error("job_failed", job=job, error=error)
        finally:
            holding.cancel()
        self._metrics.job_runs.labels(job, "done" if error is None else "failed").inc()
        await self._postgres.execute(
            "UPDATE job_runs SET finished_at = now(), error = $3 WHERE job = $1 AND due_at = $2 AND claimed_by = $4",
            job,
            due_at,
            error,
            self._name,
            timeout=_CALL_TIMEOUT_SECONDS,
        )
        return True

    async def _hold(self, job: str, due_at: datetime) -> None:
        """Moves the claim on while the work is done."""
        while True:
            await asyncio.sleep(_HOLD_SECONDS)
            with contextlib.suppress(Exception):  # tried again in a minute; the claim stands for much longer
                await self._postgres.execute(
                    "UPDATE job_runs SET claimed_at = now() WHERE job = $1 AND due_at = $2 AND claimed_by = $3",
                    job,
                    due_at,
                    self._name,
                    timeout=_CALL_TIMEOUT_SECONDS,
                )
