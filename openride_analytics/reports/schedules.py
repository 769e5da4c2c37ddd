"""Schedules of reports: what they consist of, what must be right before they are saved, and their place in PostgreSQL.

Recipients are personal data and webhook secrets are secrets: neither appears in logs or in the texts of these structs.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
from msgspec import Struct

from openride_analytics.config import Analytics, Config
from openride_analytics.metrics.question import Filters
from openride_analytics.reports.content import BadOrder, Format, Order
from openride_analytics.reports.content import check as check_order
from openride_analytics.reports.due import (
    BadTiming,
    Frequency,
    RelativePeriod,
    Timing,
    Weekday,
    period_of,
    timing,
)
from openride_analytics.reports.sending import check_url

WhenEmpty = Literal["send", "skip"]
WHEN_EMPTY: Final = get_args(WhenEmpty)
Kind = Literal["email", "webhook"]

_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z",
    re.ASCII,
)
_LONGEST_ADDRESS: Final = 254
_LONGEST_LOCAL_PART: Final = 64


class BadSchedule(ValueError):
    """A schedule that cannot be saved: every field at fault with a sentence that says how to mend it."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__(f"{len(faults)} faults")
        self.faults = faults


class Definition(Struct, frozen=True, kw_only=True):
    """What is reported, when and by whose wish; each run keeps a copy of it."""

    name: str
    owner: str
    contents: tuple[str, ...]
    period: RelativePeriod
    format: Format
    timezone: str
    filters: dict[str, str] = {}
    cron: str | None = None
    frequency: Frequency | None = None
    time: str | None = None
    weekday: Weekday | None = None
    day: int | None = None
    when_empty: WhenEmpty = "send"

    @property
    def zone(self) -> ZoneInfo:
        """Whose calendar and clock count."""
        return ZoneInfo(self.timezone)

    @property
    def timing(self) -> Timing:
        """When it is due. Raises `BadTiming`."""
        return timing(
            timezone=self.zone,
            cron=self.cron,
            frequency=self.frequency,
            at=self.time,
            weekday=self.weekday,
            day=self.day,
        )

    def order(self, due: datetime, now: datetime, analytics: Analytics) -> Order:
        """The report that is due then, made now."""
        return Order(
            name=self.name,
            contents=self.contents,
            period=period_of(self.period, due, self.zone),
            filters=Filters(**self.filters),
            format=self.format,
            now=now,
            currency=analytics.currency,
            on_time_minutes=analytics.on_time_minutes,
        )


class Recipient(Struct, frozen=True, kw_only=True):
    """A mail address, or the URL of a webhook with the secret that signs what is posted there."""

    kind: Kind
    address: str
    secret: str | None = None
    recipient_id: UUID | None = None
    unsubscribed: bool = False

    def __repr__(self) -> str:
        return f"Recipient({self.kind})"


class Draft(Struct, frozen=True, kw_only=True):
    """All that the maker of a schedule decides."""

    definition: Definition
    recipients: tuple[Recipient, ...] = ()
    paused: bool = False


class Schedule(Struct, frozen=True, kw_only=True):
    """A schedule as it is stored."""

    schedule_id: UUID
    draft: Draft
    next_due_at: datetime | None
    created_at: datetime
    updated_at: datetime


def check(draft: Draft, config: Config, now: datetime) -> None:
    """What the forms of the single fields can't say. Raises `BadSchedule` with every fault."""
    definition = draft.definition
    faults = []
    try:
        _ = definition.timing
    except BadTiming as error:
        faults.append((error.field, error.message))
    try:
        check_order(definition.order(now, now, config.analytics))
    except BadOrder as error:
        faults.append((error.field, error.message))
    allowed = config.reports.allowed_recipient_domains
    for field, address in [
        ("owner", definition.owner),
        *((f"recipients[{n}]", r.address) for n, r in enumerate(draft.recipients) if r.kind == "email"),
    ]:
        if message := refusal(address, allowed):
            faults.append((field, message))
    for number, recipient in enumerate(draft.recipients):
        if recipient.kind == "webhook":
            try:
                check_url(recipient.address, frozenset(config.reports.webhook_private_hosts))
            except ValueError as error:
                faults.append((f"recipients[{number}]", str(error)))
            if not recipient.secret:
                faults.append((f"recipients[{number}]", "A webhook needs a `secret`."))
    if faults:
        raise BadSchedule(faults)


def refusal(address: str, allowed_domains: Iterable[str]) -> str | None:
    """Why no mail can go to this address; None if it can. Asked before saving, and again before sending."""
    local, _, domain = address.rpartition("@")
    if not _ADDRESS.match(address) or len(address) > _LONGEST_ADDRESS or len(local) > _LONGEST_LOCAL_PART:
        return "Must be a mail address, such as ada@example.com."
    domains = {allowed.lower() for allowed in allowed_domains}
    if domains and domain.lower() not in domains:
        return "Mail to this domain is not allowed here."
    return None


async def create(pool: "asyncpg.Pool[asyncpg.Record]", draft: Draft) -> Schedule:
    """Saves a schedule that was checked."""
    schedule_id = uuid4()
    async with pool.acquire() as connection, connection.transaction():
        now: Any = await connection.fetchval("SELECT now()")
        await connection.execute(
            "INSERT INTO report_schedules (schedule_id, definition, paused, next_due_at) VALUES ($1, $2, $3, $4)",
            schedule_id,
            msgspec.json.encode(draft.definition).decode(),
            draft.paused,
            next_due(draft, now),
        )
        await _put_recipients(connection, schedule_id, draft.recipients)
        saved: Any = await _one(connection, schedule_id)
    created: Schedule = saved
    return created


async def one(pool: "asyncpg.Pool[asyncpg.Record]", schedule_id: UUID) -> Schedule | None:
    """A schedule by its id."""
    return await _one(pool, schedule_id)


async def page(pool: "asyncpg.Pool[asyncpg.Record]", after: UUID | None, limit: int) -> list[Schedule]:
    """The newest first, from the one after `after` on."""
    rows = await pool.fetch(f"{_SELECT} {_PAGE}", after, limit)
    return await _with_recipients(pool, rows)


async def change(
    pool: "asyncpg.Pool[asyncpg.Record]", schedule_id: UUID, changed: Callable[[Draft], Draft]
) -> Schedule | None:
    """Replaces what `changed` makes of a schedule, undisturbed by others; what that raises changes nothing."""
    async with pool.acquire() as connection, connection.transaction():
        before = await _one(connection, schedule_id, "FOR UPDATE")
        if before is None:
            return None
        draft = changed(before.draft)
        now: Any = await connection.fetchval("SELECT now()")
        due = before.next_due_at
        if draft.paused or due is None or draft.definition.timing != before.draft.definition.timing:
            due = next_due(draft, now)
        await connection.execute(
            "UPDATE report_schedules SET definition = $2, paused = $3, next_due_at = $4, updated_at = now()"
            " WHERE schedule_id = $1",
            schedule_id,
            msgspec.json.encode(draft.definition).decode(),
            draft.paused,
            due,
        )
        await _put_recipients(connection, schedule_id, draft.recipients)
        return await _one(connection, schedule_id)


async def remove(pool: "asyncpg.Pool[asyncpg.Record]", schedule_id: UUID) -> bool:
    """Deletes a schedule and its recipients, and cancels what is under way; finished reports stay for their time."""
    async with pool.acquire() as connection, connection.transaction():
        removed = await connection.fetchval(
            "UPDATE report_schedules SET deleted_at = now(), next_due_at = NULL, paused = true"
            " WHERE schedule_id = $1 AND deleted_at IS NULL RETURNING true",
            schedule_id,
        )
        if removed is None:
            return False
        await connection.execute("DELETE FROM report_recipients WHERE schedule_id = $1", schedule_id)
        await connection.execute(_CANCEL_RUNS, schedule_id)
        await connection.execute(_DROP_DELIVERIES, schedule_id)
        return True


async def unsubscribe(pool: "asyncpg.Pool[asyncpg.Record]", recipient_id: UUID) -> None:
    """No more mail of this schedule to this recipient; nothing if there is none."""
    await pool.execute(
        "UPDATE report_recipients SET unsubscribed_at = coalesce(unsubscribed_at, now()) WHERE recipient_id = $1",
        recipient_id,
    )


def next_due(draft: Draft, after: datetime) -> datetime | None:
    """The next due time; none while it is paused."""
    return None if draft.paused else next(draft.definition.timing.following(after), None)


async def _one(connection: Any, schedule_id: UUID, lock: str = "") -> Schedule | None:
    rows = await connection.fetch(
        f"{_SELECT} WHERE schedule_id = $1 AND deleted_at IS NULL {lock}", schedule_id
    )
    found = await _with_recipients(connection, rows)
    return found[0] if found else None


async def _with_recipients(connection: Any, rows: list[Any]) -> list[Schedule]:
    recipients: dict[UUID, list[Recipient]] = {row["schedule_id"]: [] for row in rows}
    for row in await connection.fetch(_RECIPIENTS, list(recipients)):
        recipients[row["schedule_id"]].append(
            Recipient(
                kind=row["kind"],
                address=row["address"],
                secret=row["secret"],
                recipient_id=row["recipient_id"],
                unsubscribed=row["unsubscribed_at"] is not None,
            )
        )
    return [
        Schedule(
            schedule_id=row["schedule_id"],
            draft=Draft(
                definition=decoded(row["definition"]),
                recipients=tuple(recipients[row["schedule_id"]]),
                paused=row["paused"],
            ),
            next_due_at=row["next_due_at"] and row["next_due_at"].astimezone(UTC),
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
        for row in rows
    ]


def decoded(definition: str) -> Definition:
    """As it was stored."""
    return msgspec.json.decode(definition, type=Definition)


async def _put_recipients(connection: Any, schedule_id: UUID, recipients: Iterable[Recipient]) -> None:
    """The list as it shall be: who was on it keeps the id, and who unsubscribed stays so, also when taken off the list."""
    rows = list(recipients)
    await connection.execute(
        _DELIST,
        schedule_id,
        [recipient.kind for recipient in rows],
        [recipient.address for recipient in rows],
    )
    await connection.executemany(
        _ENLIST,
        [
            (uuid4(), schedule_id, recipient.kind, recipient.address, recipient.secret, position)
            for position, recipient in enumerate(rows)
        ],
    )


_SELECT: Final = """
SELECT schedule_id, definition, paused, next_due_at, created_at, updated_at
FROM report_schedules
"""

_PAGE: Final = """
WHERE deleted_at IS NULL
  AND ($1::uuid IS NULL OR (created_at, schedule_id) <
       (SELECT created_at, schedule_id FROM report_schedules WHERE schedule_id = $1))
ORDER BY created_at DESC, schedule_id DESC
LIMIT $2
"""

_RECIPIENTS: Final = """
SELECT schedule_id, recipient_id, kind, address, secret, unsubscribed_at
FROM report_recipients
WHERE schedule_id = ANY($1) AND listed
ORDER BY position
"""

_DELIST: Final = """
WITH kept AS (SELECT * FROM unnest($2::text[], $3::text[]) AS kept (kind, address)),
     gone AS
     (
         DELETE FROM report_recipients
         WHERE schedule_id = $1 AND unsubscribed_at IS NULL AND (kind, address) NOT IN (SELECT kind, address FROM kept)
     )
UPDATE report_recipients
SET listed = false
WHERE schedule_id = $1 AND unsubscribed_at IS NOT NULL AND (kind, address) NOT IN (SELECT kind, address FROM kept)
"""

_ENLIST: Final = """
INSERT INTO report_recipients (recipient_id, schedule_id, kind, address, secret, position)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (schedule_id, kind, address)
DO UPDATE SET secret = excluded.secret, position = excluded.position, listed = true
"""

_CANCEL_RUNS: Final = """
UPDATE report_runs
SET state = 'cancelled', next_attempt_at = NULL, fence = fence + 1, finished_at = now()
WHERE schedule_id = $1 AND finished_at IS NULL
"""

_DROP_DELIVERIES: Final = """
UPDATE report_deliveries
SET state = 'dropped'
WHERE state = 'waiting' AND report_id IN (SELECT report_id FROM report_runs WHERE schedule_id = $1)
"""
