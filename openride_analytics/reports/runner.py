"""Does what is due: claims runs, has them made and delivered, and records what became of them.

Runs go through two stages, making and delivering, each with few places in an instance, so that one that takes long keeps
neither the others nor the service waiting. Whatever happens is written into PostgreSQL before the next step: an instance
may be killed at any point, and another one goes on from there. Only between the acceptance of a mail and its recording
can that mean once more, with the same Message-ID.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from structlog.contextvars import bound_contextvars

from openride_analytics.config import Config
from openride_analytics.ops.metrics import Metrics
from openride_analytics.ops.tracing import OFF, Tracing
from openride_analytics.reports import content, message, runs, sending
from openride_analytics.reports.content import BadOrder, Order, RenderingFailed, Report
from openride_analytics.reports.files import FilesUnavailable, ReportFiles
from openride_analytics.reports.links import Links
from openride_analytics.reports.notice import compose_notice
from openride_analytics.reports.runs import Delivery, LostRun, Run
from openride_analytics.reports.schedules import refusal
from openride_analytics.reports.sending import DeliveryFailed, Webhook
from openride_analytics.temporary import TemporaryFolder
from openride_analytics.warehouse import QueryTooLong, Warehouse, WarehouseError

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
# A run is held this long at a time: after a crash another instance waits for the rest of it.
HOLD_SECONDS: Final = 60.0
# Each may take some 200 MB for rendering.
_MAKING: Final = 2
_DELIVERING: Final = 4
_RECIPIENTS_AT_ONCE: Final = 4
_MAKE_SECONDS: Final = 900.0
_MAKE_ATTEMPTS: Final = 6
_DELIVERY_ATTEMPTS: Final = 9
FIRST_PAUSE_SECONDS: Final = 30.0
_LONGEST_PAUSE_SECONDS: Final = 3_600.0
# When the service stops, what is being handed over to a mail server may finish; after it, it could only be sent again.
_STOP_SECONDS: Final = 8.0
_RECORD_PAUSE_SECONDS: Final = 0.5
_EXPIRE_AT_ONCE: Final = 100

# PostgreSQL or the way to it is broken: what was held is taken up again when its time is over.
POSTGRES_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    TimeoutError,
)
_AWAY: Final = (WarehouseError, FilesUnavailable, RenderingFailed, OSError)


class Runner:
    """The reports of one instance. `tick` is called by the clock, `close` once."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        warehouse: Warehouse,
        config: Config,
        *,
        files: ReportFiles,
        links: Links,
        metrics: Metrics,
        tracing: Tracing = OFF,
    ) -> None:
        self.links = links
        self.files = files
        self._pool = pool
        self._warehouse = warehouse
        self._config = config
        self._metrics = metrics
        self._tracing = tracing
        self._makers = set[asyncio.Task[None]]()
        self._deliverers = set[asyncio.Task[None]]()
        self._ticks = set[asyncio.Task[None]]()
        self._stopping = False
        self._away = False
        self._ticking = asyncio.Lock()

    async def tick(self) -> None:
        """Notices what is due, here or elsewhere, and takes up as much of it as there are places."""
        if self._stopping or self._ticking.locked():
            return
        async with self._ticking:
            try:
                grace = timedelta(minutes=self._config.reports.grace_minutes)
                for report_id, schedule_id in (await runs.enqueue_due(self._pool, grace)).missed:
                    self._metrics.report_runs.labels("missed").inc()
                    log.error("report_missed", report_id=str(report_id), schedule_id=str(schedule_id))
                todo = await runs.todo(self._pool)
            except POSTGRES_AWAY as error:
                if not self._away:  # once, not every second
                    log.warning("reports_not_looked_at", error=type(error).__name__)
                self._away = True
                return
            if self._away:
                log.info("reports_looked_at_again")
            self._away = False
            self._work(self._makers, min(todo.make, _MAKING), to_make=True)
            self._work(self._deliverers, min(todo.deliver, _DELIVERING), to_make=False)

    async def expire(self) -> None:
        """Removes reports whose time is over: the files first, then what is known about them."""
        keep = timedelta(days=self._config.reports.retention_days)
        removed = 0
        while not self._stopping and (found := await runs.expired(self._pool, keep, _EXPIRE_AT_ONCE)):
            for run in found:
                if run.file_key is not None:
                    await self.files.delete(run.file_key)
                    await self.files.delete(_about(run.file_key))
                await runs.forget(self._pool, run)
            removed += len(found)
        if removed:
            log.info("reports_expired", reports=removed)

    async def close(self) -> None:
        """Takes up nothing more; what is being made is left to other instances, what is being sent may finish."""
        self._stopping = True
        for task in (*self._makers, *self._ticks):
            task.cancel()
        if self._deliverers:
            await asyncio.wait(self._deliverers, timeout=_STOP_SECONDS)
        for task in self._deliverers:
            task.cancel()
        await asyncio.gather(*self._makers, *self._ticks, *self._deliverers, return_exceptions=True)

    def wake(self) -> None:
        """There is something to do: no need to wait for the clock."""
        if not self._stopping:
            task = asyncio.create_task(self.tick(), name="reports")
            self._ticks.add(task)
            task.add_done_callback(self._ticks.discard)

    def _work(self, places: set[asyncio.Task[None]], wanted: int, *, to_make: bool) -> None:
        while len(places) < wanted and not self._stopping:
            # In a context of its own: what is logged there is about no request that has woken it.
            task = asyncio.create_task(self._take_up(to_make=to_make), name="reports", context=Context())
            places.add(task)
            task.add_done_callback(places.discard)

    async def _take_up(self, *, to_make: bool) -> None:
        """One place: run after run, until none waits."""
        while not self._stopping:
            run = None
            try:
                run = await self._claimed(to_make=to_make)
                if run is None:
                    return
                name = "report.make" if to_make else "report.deliver"
                about = {"openride.report_id": str(run.report_id)}
                with (
                    bound_contextvars(report_id=str(run.report_id)),
                    self._tracing.span(name, attributes=about),
                ):
                    await self._held(run, self._make if to_make else self._deliver)
            except LostRun:
                log.warning("report_run_lost", report_id=str(run and run.report_id))
            except POSTGRES_AWAY as error:
                log.warning(
                    "report_run_left", report_id=str(run and run.report_id), error=type(error).__name__
                )
                return
            except Exception as error:  # the run is taken up again when its time is over
                log.error("report_run_left", report_id=str(run and run.report_id), exc_info=error)
                return

    async def _claimed(self, *, to_make: bool) -> Run | None:
        """The next run. When cancelled, lets go of one that PostgreSQL had given out but that has not arrived yet."""
        claiming = asyncio.ensure_future(
            runs.claim(self._pool, timedelta(seconds=HOLD_SECONDS), to_make=to_make)
        )
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with contextlib.suppress(LostRun, *POSTGRES_AWAY):
                if (run := await claiming) is not None:
                    await runs.release(self._pool, run)
            raise

    async def _held(self, run: Run, work: Callable[[Run], Awaitable[None]]) -> None:
        """Works on a run and goes on holding it; ends the work where it is held no longer. When cancelled, lets go of it."""
        task = asyncio.ensure_future(work(run))
        held = monotonic()
        try:
            while not (await asyncio.wait([task], timeout=HOLD_SECONDS / 4))[0]:
                try:
                    await runs.hold(self._pool, run, timedelta(seconds=HOLD_SECONDS))
                    held = monotonic()
                except POSTGRES_AWAY:
                    if monotonic() - held > HOLD_SECONDS / 2:
                        raise
            await task
        except asyncio.CancelledError:
            await _ended(task)
            with contextlib.suppress(LostRun, *POSTGRES_AWAY):
                await runs.release(self._pool, run)
            raise
        finally:
            await _ended(task)

    async def _make(self, run: Run) -> None:
        said = log.bind(report_id=str(run.report_id), schedule_id=str(run.schedule_id), attempt=run.attempts)
        if run.attempts > _MAKE_ATTEMPTS:
            await self._not_made(run, "The service ended each time it was being made.", for_good=True)
            return
        try:
            async with TemporaryFolder("report") as folder, asyncio.timeout(_MAKE_SECONDS):
                with self._metrics.report_make_seconds.time():
                    report = await content.make(self._warehouse, self._order(run), folder)
                if report.empty and run.definition.when_empty == "skip":
                    await runs.store_skipped(self._pool, run)
                    self._metrics.report_runs.labels("skipped").inc()
                    said.info("report_skipped")
                    return
                key = f"{run.due_at:%Y/%m}/{run.report_id}/report{report.path.suffix}"
                await self.files.put(key, report.path)
                about = folder / "about.json"
                await asyncio.to_thread(about.write_bytes, msgspec.json.encode(report, enc_hook=str))
                await self.files.put(_about(key), about)
            await runs.store_made(
                self._pool,
                run,
                rows=report.rows,
                size=report.bytes,
                file_key=key,
                file_name=report.file_name,
                media_type=report.media_type,
            )
            said.info("report_made", rows=report.rows, bytes=report.bytes)
            self.wake()
        except BadOrder as error:
            await self._not_made(run, error.message, for_good=True)
        except (LostRun, asyncpg.PostgresError, asyncpg.InterfaceError):
            raise
        except _AWAY as error:
            said.warning("report_not_made", error=f"{type(error).__name__}: {error}"[:500])
            await self._not_made(run, _in_words(error))
        except Exception as error:  # noqa: BLE001  # one report's fault must not be the others'
            said.error("report_not_made", exc_info=error)
            await self._not_made(run, "The service made a mistake; it has been logged.")

    async def _not_made(self, run: Run, error: str, *, for_good: bool = False) -> None:
        for_good = for_good or run.attempts >= _MAKE_ATTEMPTS
        await runs.store_not_made(self._pool, run, error, None if for_good else _pause(run.attempts))
        if for_good:
            self._metrics.report_runs.labels("failed").inc()
            log.error("report_failed", report_id=str(run.report_id), schedule_id=str(run.schedule_id))
            self.wake()

    async def _deliver(self, run: Run) -> None:
        """Tries each recipient whose time has come, a few at once."""
        due = await runs.due_deliveries(self._pool, run)
        async with TemporaryFolder("report") as folder:
            report = None
            if any(delivery.kind != "notice" for delivery in due):
                try:
                    report = await self._fetched(run, folder)
                except (FilesUnavailable, FileNotFoundError) as error:
                    log.warning("report_file_not_read", report_id=str(run.report_id), error=str(error)[:300])
            places = asyncio.Semaphore(_RECIPIENTS_AT_ONCE)

            async def one(delivery: Delivery) -> None:
                async with places:
                    if not self._stopping:
                        await self._deliver_to(run, report, delivery)

            await _all(one(delivery) for delivery in due)
            state = await runs.settle(self._pool, run)
        if state != run.state:
            self._metrics.report_runs.labels(state).inc()
            say = log.info if state == "delivered" else log.error
            say("report_" + state, report_id=str(run.report_id), schedule_id=str(run.schedule_id))

    async def _deliver_to(self, run: Run, report: Report | None, delivery: Delivery) -> None:
        if delivery.attempts >= _DELIVERY_ATTEMPTS:
            error = DeliveryFailed("the service ended each time it was being sent", permanent=True)
            await self._not_delivered(run, delivery, error)
            return
        sender = self._config.smtp.sender
        domain = parseaddr(sender)[1].rpartition("@")[2] or "openride-analytics.invalid"
        begun = await runs.begin_delivery(self._pool, run, delivery, f"{delivery.delivery_id}@{domain}")
        if begun is None:
            return
        message_id, secret = begun
        delivery = msgspec.structs.replace(delivery, attempts=delivery.attempts + 1)
        about = {"openride.kind": delivery.kind, "openride.attempt": delivery.attempts}
        try:
            with self._tracing.span("report.delivery", kind="client", attributes=about):
                await self._hand_over(run, report, delivery, message_id, secret or "")
        except DeliveryFailed as error:
            await self._not_delivered(run, delivery, error)
            return
        except ValueError as error:  # of an address or a URL that was right when it was saved
            await self._not_delivered(run, delivery, DeliveryFailed(str(error), permanent=True))
            return
        except (LostRun, asyncpg.PostgresError, asyncpg.InterfaceError, *POSTGRES_AWAY):
            raise
        except Exception as error:  # one recipient's fault must not be the others'
            log.error("report_not_delivered", delivery_id=str(delivery.delivery_id), exc_info=error)
            mistake = DeliveryFailed("the service made a mistake, which has been logged", permanent=False)
            await self._not_delivered(run, delivery, mistake)
            return
        self._metrics.report_deliveries.labels(delivery.kind, "delivered").inc()
        await self._recorded(delivery)

    async def _recorded(self, delivery: Delivery) -> None:
        """Writes down that it was accepted, and tries hard: what is not written is sent again."""
        deadline = monotonic() + HOLD_SECONDS / 2
        while True:
            try:
                await runs.store_delivered(self._pool, delivery)
            except POSTGRES_AWAY:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(_RECORD_PAUSE_SECONDS)
            else:
                return

    async def _hand_over(
        self, run: Run, report: Report | None, delivery: Delivery, message_id: str, secret: str
    ) -> None:
        """By mail or to a webhook; whatever is raised, it was not accepted."""
        if delivery.kind != "webhook" and not self._config.smtp.host:
            raise DeliveryFailed("no mail server is configured", permanent=False)  # mended by the operator
        if delivery.kind == "notice":
            await self._notify(run, delivery, message_id)
        elif report is None:
            raise DeliveryFailed("the file could not be read", permanent=False)
        elif delivery.kind == "webhook":
            await self._post(run, report, delivery, secret)
        else:
            await self._mail(run, report, delivery, message_id)

    async def _mail(self, run: Run, report: Report, delivery: Delivery, message_id: str) -> None:
        mail = await asyncio.to_thread(
            message.compose,
            report,
            self._order(run),
            delivery.address,
            sender=self._config.smtp.sender,
            message_id=message_id,
            download_link=self.links.file(run.report_id, datetime.now(UTC))[0],
            unsubscribe_link=self.links.unsubscribe(delivery.recipient_id or delivery.delivery_id),
            attach=report.bytes <= self._config.reports.attach_max_bytes,
        )
        await self._send(delivery, mail)

    async def _notify(self, run: Run, delivery: Delivery, message_id: str) -> None:
        others = (await runs.deliveries(self._pool, [run.report_id]))[run.report_id]
        mail = compose_notice(
            run, others, owner=delivery.address, sender=self._config.smtp.sender, message_id=message_id
        )
        await self._send(delivery, mail)

    async def _send(self, delivery: Delivery, mail: EmailMessage) -> None:
        if refused := refusal(delivery.address, self._config.reports.allowed_recipient_domains):
            raise DeliveryFailed(refused, permanent=True)
        await sending.send_mail(self._config.smtp, mail)

    async def _post(self, run: Run, report: Report, delivery: Delivery, secret: str) -> None:
        reports = self._config.reports
        webhook = Webhook(
            url=delivery.address,
            secret=secret,
            timeout_seconds=reports.webhook_timeout_seconds,
            private_hosts=frozenset(reports.webhook_private_hosts),
        )
        body = message.webhook_body(
            report,
            self._order(run),
            report_id=str(run.report_id),
            download_link=self.links.file(run.report_id, datetime.now(UTC))[0],
        )
        await sending.post_webhook(webhook, body, delivery_id=str(delivery.delivery_id))

    def _order(self, run: Run) -> Order:
        """The order of a run: once it is made always the same, so that a mail that is sent again is, too."""
        return run.definition.order(run.due_at, run.made_at or datetime.now(UTC), self._config.analytics)

    async def _not_delivered(self, run: Run, delivery: Delivery, error: DeliveryFailed) -> None:
        for_good = error.permanent or delivery.attempts >= _DELIVERY_ATTEMPTS
        self._metrics.report_deliveries.labels(delivery.kind, "failed" if for_good else "retried").inc()
        log.warning(
            "report_not_delivered",
            report_id=str(run.report_id),
            delivery_id=str(delivery.delivery_id),
            kind=delivery.kind,
            attempt=delivery.attempts,
            for_good=for_good,
        )
        await runs.store_not_delivered(
            self._pool, delivery, str(error)[:500], None if for_good else _pause(delivery.attempts)
        )

    async def _fetched(self, run: Run, folder: Path) -> Report:
        """The finished report, as it was when it was made, with its file in the folder."""
        if run.file_key is None or run.file_name is None:
            raise FileNotFoundError(str(run.report_id))
        about = b"".join([piece async for piece in await self.files.read(_about(run.file_key))])
        report = msgspec.json.decode(about, type=Report, dec_hook=_path)
        path = folder / report.path.name
        with await asyncio.to_thread(path.open, "wb") as file:
            async for piece in await self.files.read(run.file_key):
                await asyncio.to_thread(file.write, piece)
        return replace(report, path=path)


async def _all(works: Any) -> None:
    """All of them, also when one fails, whose error is raised then."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _ended(task: "asyncio.Future[None]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])


def _about(file_key: str) -> str:
    """Where the rest of a report is kept: its key numbers and charts."""
    return f"{file_key.rpartition('/')[0]}/about.json"


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError


def _pause(attempts: int) -> timedelta:
    longest = min(_LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempts - 1))
    return timedelta(seconds=longest * random.uniform(0.8, 1.2))  # noqa: S311  # spreads load, guards nothing


def _in_words(error: Exception) -> str:
    """What went wrong, without what only an operator may know."""
    if isinstance(error, QueryTooLong):
        return "A query ran past its limit."
    if isinstance(error, WarehouseError):
        return "The data store did not answer."
    if isinstance(error, RenderingFailed):
        return "The file could not be made."
    if isinstance(error, TimeoutError):
        return "Making it took too long."
    return "The file could not be stored."
