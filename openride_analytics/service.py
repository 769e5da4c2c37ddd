"""The composition root: makes the stores, the pipeline, the sources and the scheduler, and ties their lives together.

The service starts at once and becomes ready when its servers are: what is away at the start or later is tried again until
it is there. It stops in the order in which events flow: sources first, stores last.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal

import asyncpg
import structlog

from openride_analytics import migrations, postgres, temporary
from openride_analytics.access.gate import Gate
from openride_analytics.answers import Answers
from openride_analytics.cache import Cache, MemoryCache, RedisCache
from openride_analytics.config import Config, ConfigError, address_of
from openride_analytics.dialects import Dialects
from openride_analytics.ingest.kafka import KafkaSource
from openride_analytics.ingest.pipeline import Pipeline
from openride_analytics.ingest.replay import Replays
from openride_analytics.ingest.topics import DeadLetterTopic
from openride_analytics.jobs import Jobs
from openride_analytics.migrations import MigrationError
from openride_analytics.ops.metrics import Metrics
from openride_analytics.ops.tracing import OFF, Tracing
from openride_analytics.reports.files import ReportFiles
from openride_analytics.reports.links import Links
from openride_analytics.reports.runner import TICK_SECONDS, Runner
from openride_analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailable, retention
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.observed import ObservedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse

log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 5.0
_PROBE_SECONDS: Final = 2.0
_PROBE_KEPT_SECONDS: Final = 1.0
_FLUSH_SECONDS: Final = 5.0

Status = Literal["ok", "degraded", "unavailable"]


class Service:
    """All parts of one running instance."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        self.dialects = Dialects(config.kafka)
        self.tracing = _tracing_of(config, self.metrics)
        engine = warehouse_of(config)
        self.metrics.watch_pool("clickhouse", engine.use)
        self.warehouse: Warehouse = ObservedWarehouse(
            engine,
            self.metrics,
            slow_seconds=config.clickhouse.slow_query_seconds,
            tracing=self.tracing,
        )
        # An embedded engine belongs to one process; a server may have other instances, which a cache in memory cannot hear.
        self.cache: Cache = (
            RedisCache(config.redis.url, self.metrics.cache_failures.inc, cluster=config.redis.cluster)
            if config.redis.url
            else MemoryCache(alone=not config.clickhouse.url)
        )
        self.gate = Gate(config.auth, self.cache)
        self.dead_letter_topic = (
            DeadLetterTopic(config.kafka, self.metrics) if config.kafka.bootstrap_servers else None
        )
        self.pipeline = Pipeline(
            self.warehouse,
            self.metrics,
            max_batch_events=config.ingest.max_batch_events,
            max_delay_seconds=config.ingest.max_delay_seconds,
            on_stored=self.cache.data_changed,
            publish=self.dead_letter_topic.publish if self.dead_letter_topic else None,
            tracing=self.tracing,
        )
        self.answers = Answers(self.cache, config.cache, is_behind=lambda: self.pipeline.is_behind)
        self.kafka = (
            KafkaSource(config, self.dialects, self.pipeline, self.metrics, self.tracing)
            if config.kafka.bootstrap_servers
            else None
        )
        self.replays = Replays(self.warehouse, self.pipeline, self.metrics, config, self.dialects.decoder)
        self.stopping = asyncio.Event()
        self.started = asyncio.Event()
        self._migrating = asyncio.Event()
        self.failed: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._embedded_postgres: postgres.EmbeddedPostgres | None = None
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._jobs: Jobs | None = None
        self._reports: Runner | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._probed: tuple[float, Status, dict[str, str]] | None = None
        self._probing: asyncio.Task[tuple[Status, dict[str, str]]] | None = None

    @property
    def reports(self) -> "tuple[asyncpg.Pool[asyncpg.Record], Runner] | None":
        """PostgreSQL and who does what is due; None until the service has started."""
        if self._pool is None or self._reports is None:
            return None
        return self._pool, self._reports

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """From the first attempt to reach the servers to the last flush."""
        self._spawn("event_loop", self.metrics.watch_event_loop())
        self._spawn("start", self._start())
        try:
            yield
        finally:
            await self._stop()

    def begin_stop(self) -> None:
        """Not ready from now on; open streams end and the Kafka source lets go of its partitions."""
        self.stopping.set()
        self.metrics.ready.set(0)
        if self.kafka is not None:
            self.kafka.stop()

    @property
    def postgres(self) -> "asyncpg.Pool[asyncpg.Record]":
        """The pool. Raises `WarehouseUnavailable` before it is there, which is answered with a 503."""
        if self._pool is None:
            raise WarehouseUnavailable("PostgreSQL is not reached yet")
        return self._pool

    async def health(self) -> tuple[Status, dict[str, str]]:
        """The overall status and each part's. Probes are bounded, and shared by those who ask in the same second."""
        if self.stopping.is_set():
            known = {} if self._probed is None else self._probed[2]
            return "unavailable", {**known, "service": "stopping"}
        if self._probed is not None and monotonic() - self._probed[0] <= _PROBE_KEPT_SECONDS:
            return self._probed[1], self._probed[2]
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        status, parts = await asyncio.shield(self._probing)
        return await self.health() if self.stopping.is_set() else (status, parts)

    async def _probe(self) -> tuple[Status, dict[str, str]]:
        """Asks the servers, and says so to Prometheus."""
        parts = await self._parts()
        if any(parts[name] != "ok" for name in ("clickhouse", "postgres", "migrations")):
            status: Status = "unavailable"
        elif any(parts[name] in ("away", "held", "retrying") for name in ("redis", "kafka", "ingest")):
            status = "degraded"
        else:
            status = "ok"
        self.metrics.ready.set(status != "unavailable" and not self.stopping.is_set())
        for name, state in parts.items():
            self.metrics.part_ok.labels(name).set(state in ("ok", "off"))
        self._probed = monotonic(), status, parts
        return status, parts

    async def _parts(self) -> dict[str, str]:
        async def works(call: Coroutine[Any, Any, Any]) -> str:
            # Not waited for where it is given up: asyncpg tries for ten seconds to tell a silent server.
            asking = asyncio.ensure_future(call)
            asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
            try:
                done, _ = await asyncio.wait([asking], timeout=_PROBE_SECONDS)
            finally:
                asking.cancel()
            return "ok" if done and not asking.cancelled() and asking.exception() is None else "away"

        async def database() -> str:
            return "starting" if self._pool is None else await works(self._pool.fetchval("SELECT 1"))

        # Once the tables are there: a small one that has rows on every shard of a cluster.
        asked = "SELECT count() AS n FROM erased_users" if self.started.is_set() else "SELECT 1 AS n"
        clickhouse, postgres, redis = await asyncio.gather(
            works(self.warehouse.query(f"-- health.probe\n{asked}")), database(), self.cache.answers()
        )
        return {
            "clickhouse": clickhouse,
            "postgres": postgres,
            "migrations": self._migrations(),
            "redis": ("ok" if redis else "away") if self.config.redis.url else "off",
            "kafka": self.kafka.state if self.kafka else "off",
            "ingest": "retrying" if self.pipeline.retrying else "ok",
        }

    def _migrations(self) -> str:
        if self.started.is_set():
            return "ok"
        return "running" if self._migrating.is_set() else "starting"

    async def _start(self) -> None:
        """Reaches the servers, however long that takes, then lets events in."""
        if folders := await asyncio.to_thread(temporary.remove_abandoned):
            log.info("temporary_folders_removed", folders=folders)
        pause = _FIRST_PAUSE_SECONDS
        pool: asyncpg.Pool[asyncpg.Record] | None = None
        while pool is None:
            try:
                pool = await self._prepare()
            except (MigrationError, ConfigError, ImportError):
                raise  # waiting does not mend these
            except Exception as error:  # noqa: BLE001  # a server that answers garbage makes its driver raise anything
                log.warning(
                    "not_ready_yet", error=f"{type(error).__name__}: {error}"[:300], retry_seconds=pause
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        # Whoever was here before may have stored something and died before it could say so.
        await self.cache.data_changed()
        self._spawn("access", self.gate.run(pool))
        self._spawn("pipeline", self.pipeline.run())
        if self.kafka is not None:
            self._spawn("kafka", self.kafka.run())
        self._jobs = Jobs(pool, self.warehouse, self.cache, self.metrics)
        if self._reports is not None:
            self._jobs.every(TICK_SECONDS, "reports", self._reports.tick)
            self._jobs.daily("expire_reports", self._reports.expire, hour=4, minute=17)
        self._jobs.start()
        self.started.set()
        log.info(
            "ready",
            host=self.config.server.host,
            port=self.config.server.port,
            clickhouse=address_of(self.config.clickhouse.url) or "embedded",
        )

    async def _prepare(self) -> "asyncpg.Pool[asyncpg.Record]":
        """Connects, brings the tables up to date, and returns the pool."""
        if self._pool is None:
            self._pool = pool = await postgres.connect(await self._postgres_address())
            self.metrics.watch_pool("postgres", lambda: postgres.use(pool))
        if self.config.storage.migrate_at_start:
            try:
                await migrations.migrate(self._pool, self.warehouse, lambda _: self._migrating.set())
            finally:
                self._migrating.clear()
        elif missing := await migrations.pending(self._pool, self.warehouse):
            raise WarehouseError(
                f"migrations are missing, run `openride-analytics migrate`: {', '.join(missing)}"
            )
        for table in await retention.apply(self.warehouse, self.config.retention):
            log.info("retention_applied", table=table)
        self._reports = Runner(
            self._pool,
            self.warehouse,
            self.config,
            files=await asyncio.to_thread(ReportFiles.configured, self.config),
            links=await Links.of(self.config, self._pool),
            metrics=self.metrics,
            tracing=self.tracing,
        )
        return self._pool

    async def _postgres_address(self) -> str:
        if self.config.postgres.url:
            return self.config.postgres.url
        if self._embedded_postgres is None:
            self._embedded_postgres = postgres.EmbeddedPostgres(
                Path(self.config.storage.data_dir) / "postgres"
            )
        return await self._embedded_postgres.start()

    async def _stop(self) -> None:
        """Flush, commit, close, each step bounded."""
        self.begin_stop()
        self._tasks["start"].cancel()
        if "kafka" in self._tasks:
            await asyncio.wait([self._tasks["kafka"]], timeout=_FLUSH_SECONDS)
        await self.pipeline.close()
        if "pipeline" in self._tasks:
            await asyncio.wait([self._tasks["pipeline"]], timeout=_FLUSH_SECONDS)
        if self._jobs is not None:
            self._jobs.stop()
        if self._reports is not None:
            await self._reports.close()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self.dead_letter_topic is not None:
            await self.dead_letter_topic.close()
        await self.answers.close()
        await self.gate.keys.write_use()
        await self.cache.close()
        if self._pool is not None:
            await postgres.close(self._pool)
        await self.warehouse.close()
        if self._embedded_postgres is not None:
            await self._embedded_postgres.stop()
        await self.tracing.close()
        log.info("stopped")

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """A background task; if it dies the whole service ends, loudly."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task

        def ended(task: asyncio.Task[None]) -> None:
            error: BaseException | None
            if task.cancelled():
                # We cancel while we stop. At any other time a driver has cancelled something of its own and let that out.
                error = None if self.stopping.is_set() else RuntimeError("cancelled, by nobody here")
            else:
                error = task.exception()
            if error is None:
                return
            log.critical("task_died", task=name, exc_info=error)
            self.failed = error
            self.on_failure()

        task.add_done_callback(ended)


def warehouse_of(config: Config) -> ServerWarehouse | EmbeddedWarehouse:
    """The configured ClickHouse server, or the embedded engine."""
    settings = config.clickhouse
    query, insert = settings.query_timeout_seconds, settings.insert_timeout_seconds
    if settings.url:
        return ServerWarehouse(
            settings.url,
            query_timeout_seconds=query,
            insert_timeout_seconds=insert,
            cluster=settings.cluster,
            replicated=settings.replicated,
        )
    folder = Path(config.storage.data_dir) / "clickhouse"
    return EmbeddedWarehouse(folder, query_timeout_seconds=query, insert_timeout_seconds=insert)


def _tracing_of(config: Config, metrics: Metrics) -> Tracing:
    """Spans for the configured collector, or none."""
    if not config.tracing.endpoint:
        return OFF
    from openride_analytics.ops.otlp import RecordedTracing  # some 12 MB, for nobody who records nothing

    return RecordedTracing(config.tracing.endpoint, metrics.spans_dropped)
