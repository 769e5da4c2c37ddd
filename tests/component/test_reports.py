"""Runs of reports: each happens once, each recipient is served once, and whatever fails is tried again or told."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import create_autospec
from uuid import UUID

import asyncpg
import msgspec
import pytest
import pytest_asyncio
import structlog
from obstore.store import MemoryStore

from openride_analytics import postgres
from openride_analytics.config import Config, Log
from openride_analytics.ops import logs
from openride_analytics.ops.metrics import Metrics
from openride_analytics.reports import content, runner, runs, schedules, sending
from openride_analytics.reports.content import BadOrder, RenderingFailed
from openride_analytics.reports.files import FilesUnavailable, ReportFiles
from openride_analytics.reports.links import Links
from openride_analytics.reports.runner import Runner
from openride_analytics.reports.runs import Delivery, Run
from openride_analytics.reports.sending import DeliveryFailed, Webhook
from openride_analytics.warehouse import Warehouse, WarehouseUnavailable
from tests.reporting import OWNER, SECRET, Making, connected, draft
from tests.servers.smtp import SmtpServer

ADA, BEN, CLEO = "ada@openride.test", "ben@openride.test", "cleo@openride.test"
HOOK = "https://hooks.openride.test/reports"


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    pool = await connected(postgres_url)
    yield pool
    await postgres.close(pool)


@pytest.fixture
def readable_logs() -> Iterator[None]:
    """As on a terminal, where most is shown."""
    handlers, level = logging.root.handlers, logging.root.level
    logs.configure(Log(format="console"))
    yield
    structlog.reset_defaults()
    logging.root.handlers = handlers
    logging.root.setLevel(level)


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    """What is made, and how; the numbers are other tests' business."""
    making = Making()
    monkeypatch.setattr(content, "make", making)
    return making


class Stage:
    """Instances on one PostgreSQL, one store of files and one mail server."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", smtp: SmtpServer) -> None:
        self.pool = pool
        self.smtp = smtp
        self.files = ReportFiles(MemoryStore())
        self.runners: list[Runner] = []

    async def instance(self, **reports: Any) -> Runner:
        """One more."""
        sections = {
            "smtp": self.smtp.config,
            "reports": {"public_url": "https://openride.test", **reports},
        }
        config = msgspec.convert(sections, Config)
        made = Runner(
            self.pool,
            create_autospec(Warehouse, instance=True),
            config,
            files=self.files,
            links=await Links.of(config, self.pool),
            metrics=Metrics(),
        )
        self.runners.append(made)
        return made

    async def due(self, *recipients: str, ago: timedelta = timedelta(), **fields: Any) -> UUID:
        """A schedule whose time has come."""
        saved = await schedules.create(self.pool, draft(*recipients, **fields))
        await self.pool.execute(
            "UPDATE report_schedules SET next_due_at = now() - $2::interval WHERE schedule_id = $1",
            saved.schedule_id,
            ago,
        )
        return saved.schedule_id

    async def later(self) -> None:
        """All pauses are over, and so is the time for which runs were held."""
        for table in ("report_deliveries", "report_runs"):
            await self.pool.execute(
                f"UPDATE {table} SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL"
            )

    async def run(self, schedule_id: UUID) -> Run:
        """A schedule's only run."""
        (run,) = await runs.page(self.pool, schedule_id, None, 10)
        return run

    def counted(self, state: str) -> float:
        """How many runs all instances say became this."""
        registries = [one._metrics.registry for one in self.runners]
        values = [
            each.get_sample_value("openride_report_runs_total", {"state": state}) for each in registries
        ]
        return sum(value or 0.0 for value in values)

    async def deliveries(self, schedule_id: UUID) -> dict[str, Delivery]:
        """Its deliveries by address."""
        run = await self.run(schedule_id)
        return {d.address: d for d in (await runs.deliveries(self.pool, [run.report_id]))[run.report_id]}

    async def until(self, schedule_id: UUID, *states: str) -> Run:
        """Lets the instances work until its run is in one of these states and nobody holds it for work."""

        async def reached() -> Run | None:
            found = await runs.page(self.pool, schedule_id, None, 10)
            return found[0] if found and found[0].state in states else None

        run: Run = await self.eventually(reached)
        return run

    async def eventually(self, reached: Callable[[], Awaitable[Any]]) -> Any:
        """The first true answer."""
        async with asyncio.timeout(60):
            while True:
                for one in self.runners:
                    await one.tick()
                if found := await reached():
                    return found
                await asyncio.sleep(0.01)

    async def idle(self) -> None:
        """Until nothing is being worked on."""

        async def nobody() -> bool:
            return not any(one._makers or one._deliverers for one in self.runners)

        await self.eventually(nobody)


@pytest_asyncio.fixture
async def stage(
    pool: "asyncpg.Pool[asyncpg.Record]", smtp: SmtpServer, making: Making
) -> AsyncIterator[Stage]:
    stage = Stage(pool, smtp)
    yield stage
    for one in stage.runners:
        await one.close()


async def test_what_is_due_is_made_and_sent_to_each_recipient_by_itself(stage: Stage, making: Making) -> None:
    await stage.instance()
    schedule_id = await stage.due(ADA, BEN)
    run = await stage.until(schedule_id, "delivered")
    assert stage.smtp.counts() == {ADA: 1, BEN: 1}
    for mail in stage.smtp.mails:
        assert mail.message["To"] == mail.recipient
        assert mail.message["Subject"] == "Daily numbers: 24 November 2026"
        assert mail.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert mail.message["List-Unsubscribe"].startswith(
            "<https://openride.test/v1/reports/unsubscribe?token="
        )
        (attached,) = mail.message.iter_attachments()
        assert attached.get_filename() == "daily-numbers.html"
    assert len({mail.message_id for mail in stage.smtp.mails}) == 2
    (order,) = making.orders
    assert order.period.end <= run.due_at < order.period.end + timedelta(days=1)
    assert (run.cause, run.attempts, run.rows, run.bytes) == ("schedule", 1, 3, 20)
    assert run.started_at is not None
    assert run.made_at is not None
    assert run.finished_at is not None
    assert run.started_at <= run.made_at <= run.finished_at
    assert run.next_attempt_at is None
    assert run.error is None
    kept = b"".join([piece async for piece in await stage.files.read(run.file_key or "")])
    assert kept == b"<p>made</p>".ljust(20)


async def test_the_schedule_goes_on_at_its_next_time(stage: Stage) -> None:
    await stage.instance()
    schedule_id = await stage.due()
    await stage.until(schedule_id, "delivered")
    saved = await schedules.one(stage.pool, schedule_id)
    assert saved is not None
    assert saved.next_due_at == draft().definition.timing.next(datetime.now(UTC))[0]


async def test_of_many_instances_one_does_each_due_run(stage: Stage, making: Making) -> None:
    for _ in range(4):
        await stage.instance()
    ids = [await stage.due(f"{number}@openride.test") for number in range(20)]
    await asyncio.gather(*(one.tick() for one in stage.runners * 3))
    for schedule_id in ids:
        await stage.until(schedule_id, "delivered")
    assert stage.smtp.counts() == {f"{number}@openride.test": 1 for number in range(20)}
    assert len(making.orders) == 20
    assert await stage.pool.fetchval("SELECT count(*) FROM report_runs") == 20


async def test_a_due_time_is_one_run_however_often_it_is_noticed(stage: Stage) -> None:
    schedule_id = await stage.due()
    due_at = await stage.pool.fetchval("SELECT next_due_at FROM report_schedules")
    for _ in range(3):
        assert (await runs.enqueue_due(stage.pool, timedelta(hours=1))).due == 1
        # As if an instance had died before it wrote down the next due time.
        await stage.pool.execute("UPDATE report_schedules SET next_due_at = $1", due_at)
    assert (await stage.run(schedule_id)).due_at == due_at


async def test_of_the_times_that_were_missed_the_latest_is_made_up(stage: Stage, making: Making) -> None:
    await stage.instance()
    schedule_id = await stage.due(cron="*/10 * * * *", frequency=None, time=None, ago=timedelta(hours=5))
    run = await stage.until(schedule_id, "delivered")
    assert run.due_at == draft(cron="*/10 * * * *", frequency=None, time=None).definition.timing.latest(
        run.created_at
    )
    assert len(making.orders) == 1
    assert stage.smtp.counts() == {ADA: 1}


async def test_beyond_the_grace_it_is_missed_and_its_owner_is_told(stage: Stage, making: Making) -> None:
    for _ in range(2):
        await stage.instance(grace_minutes=60)
    # Due a minute ago at the latest: so not the daily one, whose time may be any.
    february = {"cron": "0 0 29 2 *", "frequency": None, "time": None}
    schedule_id = await stage.due(**february, ago=timedelta(days=300))
    run = await stage.until(schedule_id, "missed")
    await stage.idle()
    assert making.orders == []
    assert stage.smtp.counts() == {OWNER: 1}
    text = stage.smtp.mails[0].message.get_content()
    assert "was missed" in text
    assert str(run.report_id) in text
    assert stage.counted("missed") == 1
    assert (await stage.run(schedule_id)).next_attempt_at is None


async def test_a_paused_schedule_is_not_due_and_what_it_missed_is_not_made_up(stage: Stage) -> None:
    await stage.instance()
    schedule_id = await stage.due(cron="* * * * *", frequency=None, time=None)

    def paused(*, yes: bool) -> Callable[[schedules.Draft], schedules.Draft]:
        return lambda before: msgspec.structs.replace(before, paused=yes)

    saved = await schedules.change(stage.pool, schedule_id, paused(yes=True))
    assert saved is not None
    assert saved.next_due_at is None
    assert (await runs.enqueue_due(stage.pool, timedelta(hours=1))).due == 0
    saved = await schedules.change(stage.pool, schedule_id, paused(yes=False))
    assert saved is not None
    assert saved.next_due_at is not None
    assert saved.next_due_at > datetime.now(UTC) - timedelta(seconds=5)


async def test_another_name_does_not_move_the_due_time_and_another_time_does(stage: Stage) -> None:
    schedule_id = (await schedules.create(stage.pool, draft())).schedule_id
    overdue = datetime(2026, 1, 1, tzinfo=UTC)
    await stage.pool.execute("UPDATE report_schedules SET next_due_at = $1", overdue)

    def renamed(**fields: Any) -> Callable[[schedules.Draft], schedules.Draft]:
        return lambda before: msgspec.structs.replace(
            before, definition=msgspec.structs.replace(before.definition, **fields)
        )

    saved = await schedules.change(stage.pool, schedule_id, renamed(name="Other"))
    assert saved is not None
    assert saved.next_due_at == overdue
    saved = await schedules.change(stage.pool, schedule_id, renamed(time="08:00"))
    assert saved is not None
    assert saved.next_due_at is not None
    assert saved.next_due_at > datetime.now(UTC)


async def test_an_empty_report_is_skipped_where_that_is_wished(stage: Stage, making: Making) -> None:
    await stage.instance()
    making.empty = True
    skipped, sent = await stage.due(ADA, when_empty="skip"), await stage.due(BEN)
    run = await stage.until(skipped, "skipped")
    await stage.until(sent, "delivered")
    assert stage.smtp.counts() == {BEN: 1}
    assert (run.rows, run.file_key, run.next_attempt_at) == (0, None, None)
    assert {d.state for d in (await stage.deliveries(skipped)).values()} == {"dropped"}


async def test_a_recipient_that_fails_is_tried_again_by_itself(stage: Stage, making: Making) -> None:
    await stage.instance()
    stage.smtp.answer = lambda address: "451 later" if address == BEN else None
    schedule_id = await stage.due(ADA, BEN, CLEO)
    for attempts in (1, 2, 3):

        async def tried(attempts: int = attempts) -> bool:
            ben = (await stage.deliveries(schedule_id)).get(BEN)
            return ben is not None and ben.attempts == attempts and ben.error is not None

        await stage.until(schedule_id, "delivering")
        await stage.eventually(tried)
        await stage.idle()
        run = await stage.run(schedule_id)
        ben = (await stage.deliveries(schedule_id))[BEN]
        assert (run.state, ben.state) == ("delivering", "waiting")
        assert run.next_attempt_at == ben.next_attempt_at
        if attempts < 3:
            await stage.later()
    assert stage.smtp.counts() == {ADA: 1, CLEO: 1}
    stage.smtp.answer = lambda _: None
    await stage.later()
    await stage.until(schedule_id, "delivered")
    assert stage.smtp.counts() == {ADA: 1, BEN: 1, CLEO: 1}
    assert len(making.orders) == 1


async def test_the_pauses_between_attempts_grow() -> None:
    pauses = [runner._pause(attempt).total_seconds() for attempt in range(1, 9)]
    assert 20 < pauses[0] < 40
    assert 3_000 > pauses[6] > pauses[3] > pauses[0]


async def test_a_run_that_was_not_delivered_to_all_says_so_and_its_owner_is_told(stage: Stage) -> None:
    await stage.instance()
    stage.smtp.answer = lambda address: "550 no such mailbox" if address == BEN else None
    schedule_id = await stage.due(ADA, BEN)
    run = await stage.until(schedule_id, "partly_delivered")
    await stage.idle()
    assert run.error == "1 of 2 recipients could not be served."
    assert stage.smtp.counts() == {ADA: 1, OWNER: 1}
    text = stage.smtp.to(OWNER)[0].message.get_content()
    assert "not sent to everybody" in text
    assert f"{ADA}: delivered" in text
    assert f"{BEN}: failed" in text
    assert (await stage.deliveries(schedule_id))[BEN].attempts == 1


async def test_after_the_last_attempt_a_recipient_has_failed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_DELIVERY_ATTEMPTS", 2)
    await stage.instance()
    stage.smtp.answer = lambda address: None if address == OWNER else "451 later"
    schedule_id = await stage.due(ADA)
    await stage.until(schedule_id, "delivering")
    await stage.idle()
    await stage.later()
    run = await stage.until(schedule_id, "failed")
    await stage.idle()
    assert run.error == "1 of 1 recipients could not be served."
    assert stage.smtp.counts() == {OWNER: 1}


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RenderingFailed("hush"), "The file could not be made."),
        (WarehouseUnavailable("hush"), "The data store did not answer."),
        (FilesUnavailable("hush"), "The file could not be stored."),
        (TimeoutError("hush"), "Making it took too long."),
        (LookupError("hush"), "The service made a mistake; it has been logged."),
    ],
)
async def test_what_cannot_be_made_is_tried_again_and_then_told_to_its_owner(
    stage: Stage, making: Making, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    monkeypatch.setattr(runner, "_MAKE_ATTEMPTS", 2)
    await stage.instance()

    async def fail(_: object) -> None:
        raise failure

    making.before = fail
    schedule_id = await stage.due(ADA)
    run = await stage.until(schedule_id, "waiting")
    await stage.idle()
    run = await stage.run(schedule_id)
    assert (run.state, run.error, len(making.orders)) == ("waiting", said, 1)
    await stage.later()
    run = await stage.until(schedule_id, "failed")

    async def told() -> bool:  # a moment in which nobody works may be one before that is taken up
        return bool(stage.smtp.mails)

    await stage.eventually(told)
    await stage.idle()
    assert (run.error, len(making.orders)) == (said, 2)
    assert stage.smtp.counts() == {OWNER: 1}
    assert said in stage.smtp.mails[0].message.get_content()
    assert {d.kind: d.state for d in (await stage.deliveries(schedule_id)).values()} == {
        "email": "dropped",
        "notice": "delivered",
    }


async def test_what_can_never_be_made_is_not_tried_again(stage: Stage, making: Making) -> None:
    await stage.instance()

    async def fail(_: object) -> None:
        raise BadOrder("contents", "No such dataset.")

    making.before = fail
    run = await stage.until(await stage.due(), "failed")
    assert (run.error, len(making.orders)) == ("No such dataset.", 1)


async def test_who_unsubscribed_or_is_off_the_list_gets_nothing_more(stage: Stage) -> None:
    schedule_id = await stage.due(ADA, BEN, CLEO)
    await runs.enqueue_due(stage.pool, timedelta(hours=1))
    saved = await schedules.one(stage.pool, schedule_id)
    assert saved is not None
    ada, ben, cleo = saved.draft.recipients
    assert ada.recipient_id is not None
    await schedules.unsubscribe(stage.pool, ada.recipient_id)

    def listed(*recipients: schedules.Recipient) -> Callable[[schedules.Draft], schedules.Draft]:
        return lambda before: msgspec.structs.replace(before, recipients=recipients)

    await schedules.change(stage.pool, schedule_id, listed(ada, cleo))
    await stage.instance()
    await stage.until(schedule_id, "delivered")
    assert stage.smtp.counts() == {CLEO: 1}
    assert {a: d.state for a, d in (await stage.deliveries(schedule_id)).items()} == {
        ADA: "dropped",
        BEN: "dropped",
        CLEO: "delivered",
    }
    # Off the list and on it again: who unsubscribed stays so, and others are as new.
    await schedules.change(stage.pool, schedule_id, listed(cleo))
    again = await schedules.change(stage.pool, schedule_id, listed(ada, ben, cleo))
    assert again is not None
    assert [r.unsubscribed for r in again.draft.recipients] == [True, False, False]
    assert [r.address for r in again.draft.recipients] == [ADA, BEN, CLEO]


async def test_the_allowed_domains_are_looked_at_again_before_sending(stage: Stage) -> None:
    await stage.instance(allowed_recipient_domains=["OPENRIDE.test"])
    schedule_id = await stage.due(ADA, "eve@elsewhere.test", "eve@mail.openride.test")
    await stage.until(schedule_id, "partly_delivered")
    await stage.idle()
    assert stage.smtp.counts() == {ADA: 1, OWNER: 1}
    assert "not allowed" in str((await stage.deliveries(schedule_id))["eve@elsewhere.test"].error)


async def test_a_large_file_is_linked_and_not_attached(stage: Stage, making: Making) -> None:
    await stage.instance(attach_max_bytes=100)
    making.bytes = 101
    run = await stage.until(await stage.due(ADA), "delivered")
    message = stage.smtp.to(ADA)[0].message
    assert list(message.iter_attachments()) == []
    plain = message.get_body(("plain",))
    assert plain is not None
    assert f"https://openride.test/v1/reports/{run.report_id}/file?expires=" in plain.get_content()


async def test_a_webhook_is_told_with_its_secret_and_the_same_id_each_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[tuple[Webhook, dict[str, Any], str]] = []

    async def post(webhook: Webhook, body: bytes, *, delivery_id: str) -> None:
        posted.append((webhook, msgspec.json.decode(body), delivery_id))
        if len(posted) == 1:
            raise DeliveryFailed("the webhook answered 503", permanent=False)

    monkeypatch.setattr(sending, "post_webhook", post)
    await stage.instance()
    schedule_id = await stage.due(HOOK)
    await stage.until(schedule_id, "delivering")
    await stage.idle()
    await stage.later()
    run = await stage.until(schedule_id, "delivered")
    (first, body, first_id), (_, _, second_id) = posted
    assert (first.url, first.secret) == (HOOK, SECRET)
    assert first_id == second_id
    assert body["report_id"] == str(run.report_id)
    assert str(run.report_id) in body["file"]["url"]


async def test_while_the_files_are_away_nothing_is_sent_and_nothing_lost(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.instance()

    async def away(_: str) -> AsyncIterator[bytes]:
        raise FilesUnavailable("hush")

    with monkeypatch.context() as patch:
        patch.setattr(stage.files, "read", away)
        schedule_id = await stage.due(ADA)
        await stage.until(schedule_id, "delivering")
        await stage.idle()
        assert (await stage.deliveries(schedule_id))[ADA].error == "the file could not be read"
    await stage.later()
    await stage.until(schedule_id, "delivered")


async def test_without_a_mail_server_a_mail_waits_for_one(stage: Stage) -> None:
    instance = await stage.instance()
    instance._config = msgspec.structs.replace(instance._config, smtp=Config().smtp)
    schedule_id = await stage.due(ADA)
    await stage.until(schedule_id, "delivering")
    await stage.idle()
    ada = (await stage.deliveries(schedule_id))[ADA]
    assert (ada.state, ada.error) == ("waiting", "no mail server is configured")


async def test_one_recipients_fault_is_not_the_others(stage: Stage) -> None:
    await stage.instance()
    schedule_id = await stage.due(ADA, BEN)
    await stage.pool.execute("UPDATE report_recipients SET address = 'no address' WHERE address = $1", BEN)
    run = await stage.until(schedule_id, "partly_delivered")
    assert stage.smtp.counts()[ADA] == 1
    assert run.finished_at is not None


async def test_a_schedule_that_cannot_be_read_does_not_stop_the_others(stage: Stage) -> None:
    await stage.instance()
    await stage.due(BEN)
    await stage.pool.execute(
        "UPDATE report_schedules SET definition = jsonb_set(definition, '{timezone}', '\"Mars/Olympus\"')"
    )
    await stage.until(await stage.due(ADA), "delivered")
    assert stage.smtp.counts() == {ADA: 1}


async def test_reports_are_kept_until_their_time_is_over_and_deleted_schedules_with_them(
    stage: Stage,
) -> None:
    instance = await stage.instance(retention_days=30)
    old, young = await stage.due(ADA), await stage.due(BEN)
    gone = await stage.until(old, "delivered")
    kept = await stage.until(young, "delivered")
    assert await schedules.remove(stage.pool, old)
    await stage.pool.execute(
        "UPDATE report_runs SET created_at = created_at - interval '31 days' WHERE schedule_id = $1", old
    )
    await instance.expire()
    assert await runs.one(stage.pool, gone.report_id) is None
    assert await runs.one(stage.pool, kept.report_id) is not None
    left = {row["schedule_id"] for row in await stage.pool.fetch("SELECT schedule_id FROM report_schedules")}
    assert left == {young}
    assert gone.file_key is not None
    with pytest.raises(FileNotFoundError):
        await stage.files.read(gone.file_key)
    assert kept.file_key is not None
    await stage.files.read(kept.file_key)
    assert len(stage.files._store.list().collect()) == 2


async def test_nothing_personal_and_no_secret_is_logged(
    stage: Stage, capsys: pytest.CaptureFixture[str], making: Making, readable_logs: None
) -> None:
    await stage.instance()
    stage.smtp.answer = lambda _: "550 refused"
    first = await stage.due(ADA, HOOK)

    async def fail(_: object) -> None:
        raise LookupError("odd")

    await stage.until(first, "delivering")
    await stage.idle()
    making.before = fail
    await stage.until(await stage.due(BEN), "waiting")
    await stage.idle()
    printed = "".join(capsys.readouterr())
    assert "report_not_delivered" in printed
    for hidden in (ADA, BEN, OWNER, HOOK, SECRET, "ada@", "hooks.openride"):
        assert hidden not in printed


async def test_postgresql_away_is_logged_once_until_it_is_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, really, away = await stage.instance(), runs.enqueue_due, False

    async def enqueue_due(*given: Any) -> Any:
        if away:
            raise ConnectionRefusedError
        return await really(*given)

    monkeypatch.setattr(runs, "enqueue_due", enqueue_due)
    with structlog.testing.capture_logs() as logged:
        for away in (False, True, True, True, False, False, True, True):  # noqa: B007  # read by `enqueue_due`
            await one.tick()
    assert [line["event"] for line in logged] == [
        "reports_not_looked_at",
        "reports_looked_at_again",
        "reports_not_looked_at",
    ]
