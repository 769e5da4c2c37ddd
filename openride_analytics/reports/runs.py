"""Runs of reports and their deliveries in PostgreSQL: how each is done once by several instances, and what became of it.

A run is held by moving its `next_attempt_at` into the future, and by the number of its holder, `fence`. Everything a
holder writes is bound to that number, so one that was stopped for long changes nothing when it wakes up.
All times are PostgreSQL's, so the clocks of the instances need not agree.
"""

from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import asyncpg
import structlog
from msgspec import Struct

from openride_analytics.reports.due import BadTiming
from openride_analytics.reports.schedules import Definition, decoded

log = structlog.get_logger(__name__)

State = Literal[
    "waiting",
    "making",
    "delivering",
    "delivered",
    "partly_delivered",
    "skipped",
    "failed",
    "missed",
    "cancelled",
]
Cause = Literal["schedule", "manual", "test"]
DeliveryKind = Literal["email", "webhook", "notice"]
DeliveryState = Literal["waiting", "delivered", "failed", "dropped"]

_DUE_AT_ONCE: Final = 50


class LostRun(Exception):
    """Somebody else holds the run by now, or it was cancelled: leave it alone."""


class Run(Struct, frozen=True, kw_only=True):
    """A run as it is stored; `fence` is its holder's number."""

    report_id: UUID
    schedule_id: UUID
    due_at: datetime
    cause: Cause
    definition: Definition
    state: State
    fence: int
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    made_at: datetime | None
    finished_at: datetime | None
    rows: int | None
    bytes: int | None
    file_key: str | None
    file_name: str | None
    media_type: str | None
    error: str | None


class Delivery(Struct, frozen=True, kw_only=True):
    """One recipient's share of a run."""

    delivery_id: UUID
    recipient_id: UUID | None
    kind: DeliveryKind
    address: str
    state: DeliveryState
    next_attempt_at: datetime
    attempts: int
    message_id: str | None
    delivered_at: datetime | None
    error: str | None

    def __repr__(self) -> str:
        return f"Delivery({self.delivery_id}, {self.kind}, {self.state})"


class Todo(Struct, frozen=True):
    """How many runs wait for somebody."""

    make: int
    deliver: int


class Enqueued(Struct, frozen=True):
    """How many schedules were due, and what is too late: pairs of report and schedule."""

    due: int
    missed: list[tuple[UUID, UUID]]


async def enqueue_due(pool: "asyncpg.Pool[asyncpg.Record]", grace: timedelta) -> Enqueued:
    """Turns what is due into runs.

    Of the due times that have passed since somebody looked, the last one counts. It is missed where it is older than
    `grace`, and the schedule's owner is told; the ones before it are left out.
    """
    late = []
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(_DUE, _DUE_AT_ONCE)
        for row in rows:
            now: datetime = row["now"]
            definition = decoded(row["definition"])
            try:
                timing = definition.timing
                due_at = max(timing.latest(now) or row["next_due_at"], row["next_due_at"])
                following = next(timing.following(now), None)
            except (BadTiming, LookupError, ValueError) as error:
                # The zone is gone with an update, for example; the others must not wait for it.
                log.error("schedule_never_due", schedule_id=str(row["schedule_id"]), error=str(error)[:200])
                following, due_at = None, None
            await connection.execute(
                "UPDATE report_schedules SET next_due_at = $2 WHERE schedule_id = $1",
                row["schedule_id"],
                following,
            )
            if due_at is not None:
                missed = due_at < now - grace
                report_id = await _insert(
                    connection, row["schedule_id"], definition, due_at, "schedule", missed=missed
                )
                if missed and report_id is not None:
                    late.append((report_id, row["schedule_id"]))
    return Enqueued(len(rows), late)


async def start(
    pool: "asyncpg.Pool[asyncpg.Record]",
    schedule_id: UUID,
    definition: Definition,
    test_address: str | None = None,
) -> Run | None:
    """A run out of turn: to all recipients, or as a test to one address. None while another one is being made."""
    async with pool.acquire() as connection, connection.transaction():
        # Two at the same time wait for each other here.
        await connection.execute(
            "SELECT true FROM report_schedules WHERE schedule_id = $1 FOR UPDATE", schedule_id
        )
        busy = await connection.fetchval(
            "SELECT true FROM report_runs WHERE schedule_id = $1 AND cause != 'schedule'"
            " AND state IN ('waiting', 'making') LIMIT 1",
            schedule_id,
        )
        if busy:
            return None
        now: Any = await connection.fetchval("SELECT clock_timestamp()")
        cause: Cause = "test" if test_address else "manual"
        report_id = await _insert(connection, schedule_id, definition, now, cause)
        if report_id is None:
            return None
        if test_address:
            await _insert_delivery(connection, report_id, "email", test_address)
        row = await connection.fetchrow(f"{_SELECT} WHERE report_id = $1", report_id)
        return _run(row)


async def _insert(
    connection: Any,
    schedule_id: UUID,
    definition: Definition,
    due_at: datetime,
    cause: Cause,
    *,
    missed: bool = False,
) -> UUID | None:
    """A run and its deliveries; None where it is there already."""
    report_id: UUID | None = await connection.fetchval(_INSERT, uuid4(), schedule_id, due_at, cause, missed)
    if report_id is None:
        return None
    if missed:
        await _insert_delivery(connection, report_id, "notice", definition.owner)
    elif cause != "test":
        recipients = await connection.fetch(
            "SELECT recipient_id, kind, address FROM report_recipients"
            " WHERE schedule_id = $1 AND listed AND unsubscribed_at IS NULL ORDER BY position",
            schedule_id,
        )
        for recipient in recipients:
            await _insert_delivery(
                connection, report_id, recipient["kind"], recipient["address"], recipient["recipient_id"]
            )
    return report_id


async def _insert_delivery(
    connection: Any, report_id: UUID, kind: DeliveryKind, address: str, recipient_id: UUID | None = None
) -> None:
    await connection.execute(
        "INSERT INTO report_deliveries (delivery_id, report_id, recipient_id, kind, address)"
        " VALUES ($1, $2, $3, $4, $5)",
        uuid4(),
        report_id,
        recipient_id,
        kind,
        address,
    )


async def todo(pool: "asyncpg.Pool[asyncpg.Record]") -> Todo:
    """What waits to be made and to be delivered, by anybody."""
    row: Any = await pool.fetchrow(_TODO)
    return Todo(row["make"], row["deliver"])


async def claim(pool: "asyncpg.Pool[asyncpg.Record]", hold: timedelta, *, to_make: bool) -> Run | None:
    """Takes the run that has waited longest, for so long; None where there is none."""
    row = await pool.fetchrow(_CLAIM_TO_MAKE if to_make else _CLAIM_TO_DELIVER, hold)
    return None if row is None else _run(row)


async def hold(pool: "asyncpg.Pool[asyncpg.Record]", run: Run, longer: timedelta) -> None:
    """Goes on holding a run. Raises `LostRun`, also where it was given back just now."""
    held = await pool.fetchval(_HOLD, run.report_id, run.fence, longer)
    if held is None:
        raise LostRun(str(run.report_id))


async def release(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> None:
    """Lets go of a run that is not finished, so that another instance takes it at once."""
    await _update(
        pool,
        run,
        "next_attempt_at = now(), attempts = CASE WHEN state = 'making' THEN attempts - 1 ELSE attempts END",
    )


async def store_made(
    pool: "asyncpg.Pool[asyncpg.Record]",
    run: Run,
    *,
    rows: int,
    size: int,
    file_key: str,
    file_name: str,
    media_type: str,
) -> None:
    """The file is in its store: on to the recipients."""
    await _update(
        pool,
        run,
        "state = 'delivering', made_at = now(), error = NULL, next_attempt_at = now(), rows = $3, bytes = $4,"
        " file_key = $5, file_name = $6, media_type = $7",
        *(rows, size, file_key, file_name, media_type),
    )


async def store_skipped(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> None:
    """It was empty and not wanted so."""
    async with pool.acquire() as connection, connection.transaction():
        await _update(
            connection,
            run,
            "state = 'skipped', made_at = now(), finished_at = now(), error = NULL, rows = 0,"
            " next_attempt_at = NULL",
        )
        await connection.execute(_DROP, run.report_id)


async def store_not_made(
    pool: "asyncpg.Pool[asyncpg.Record]", run: Run, error: str, again_in: timedelta | None
) -> None:
    """It could not be made; None: it never will, and the owner is told."""
    if again_in is not None:
        await _update(
            pool, run, "state = 'waiting', error = $3, next_attempt_at = now() + $4", error, again_in
        )
        return
    async with pool.acquire() as connection, connection.transaction():
        await _update(
            connection,
            run,
            "state = 'failed', error = $3, finished_at = now(), next_attempt_at = now()",
            error,
        )
        await connection.execute(_DROP, run.report_id)
        await _tell_owner(connection, run)


async def deliveries(
    pool: "asyncpg.Pool[asyncpg.Record]", report_ids: list[UUID]
) -> dict[UUID, list[Delivery]]:
    """Of some runs, each in the order of its recipients."""
    found: dict[UUID, list[Delivery]] = {report_id: [] for report_id in report_ids}
    for row in await pool.fetch(_DELIVERIES, report_ids):
        found[row["report_id"]].append(_delivery(row))
    return found


async def due_deliveries(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> list[Delivery]:
    """Those of a run that are to be tried now."""
    rows = await pool.fetch(_DUE_DELIVERIES, run.report_id)
    return [_delivery(row) for row in rows]


async def begin_delivery(
    pool: "asyncpg.Pool[asyncpg.Record]", run: Run, delivery: Delivery, message_id: str
) -> tuple[str, str | None] | None:
    """The last thing before sending: counts the attempt, and returns the Message-ID and the webhook's secret.

    The Message-ID is that of the first attempt, whoever made it. None: the recipient is off the list or has unsubscribed
    since, and the delivery is dropped. Raises `LostRun`.
    """
    async with pool.acquire() as connection, connection.transaction():
        await _update(connection, run, "fence = fence")  # still ours, and locked until the attempt is written
        if delivery.recipient_id is not None:
            recipient = await connection.fetchrow(
                "SELECT secret FROM report_recipients"
                " WHERE recipient_id = $1 AND listed AND unsubscribed_at IS NULL",
                delivery.recipient_id,
            )
            if recipient is None:
                await connection.execute(
                    "UPDATE report_deliveries SET state = 'dropped' WHERE delivery_id = $1",
                    delivery.delivery_id,
                )
                return None
            secret = recipient["secret"]
        else:
            secret = None
        known: str = await connection.fetchval(
            "UPDATE report_deliveries SET attempts = attempts + 1, message_id = coalesce(message_id, $2)"
            " WHERE delivery_id = $1 RETURNING message_id",
            delivery.delivery_id,
            message_id,
        )
        return known, secret


async def store_delivered(pool: "asyncpg.Pool[asyncpg.Record]", delivery: Delivery) -> None:
    """It was accepted. Bound to no holder: it is true, whoever says so."""
    await pool.execute(
        "UPDATE report_deliveries SET state = 'delivered', delivered_at = now(), error = NULL WHERE delivery_id = $1",
        delivery.delivery_id,
    )


async def store_not_delivered(
    pool: "asyncpg.Pool[asyncpg.Record]", delivery: Delivery, error: str, again_in: timedelta | None
) -> None:
    """It was not accepted; None: and never will be."""
    await pool.execute(_NOT_DELIVERED, delivery.delivery_id, error, again_in or timedelta(), again_in is None)


async def settle(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> State:
    """What has become of a run after its deliveries were tried: finished, or to be gone on with. Raises `LostRun`."""
    async with pool.acquire() as connection, connection.transaction():
        await _update(connection, run, "fence = fence")
        counts = await connection.fetchrow(_COUNTS, run.report_id)
        state = run.state
        if run.finished_at is None and not counts["waiting"]:
            if not counts["failed"]:
                state = "delivered"
            else:
                state = "partly_delivered" if counts["delivered"] else "failed"
                await _tell_owner(connection, run)
            await _update(
                connection,
                run,
                "state = $3, finished_at = now(), error = $4",
                state,
                f"{counts['failed']} of {counts['failed'] + counts['delivered']} recipients could not be served."
                if counts["failed"]
                else None,
            )
        await _update(
            connection,
            run,
            "next_attempt_at = (SELECT min(next_attempt_at) FROM report_deliveries"
            " WHERE report_id = $1 AND state = 'waiting')",
        )
        return state


async def one(pool: "asyncpg.Pool[asyncpg.Record]", report_id: UUID) -> Run | None:
    """A run by its report's id."""
    row = await pool.fetchrow(f"{_SELECT} WHERE report_id = $1", report_id)
    return None if row is None else _run(row)


async def page(
    pool: "asyncpg.Pool[asyncpg.Record]", schedule_id: UUID, after: UUID | None, limit: int
) -> list[Run]:
    """A schedule's runs, the latest first, from the one after `after` on."""
    return [_run(row) for row in await pool.fetch(f"{_SELECT} {_PAGE}", schedule_id, after, limit)]


async def expired(pool: "asyncpg.Pool[asyncpg.Record]", keep: timedelta, limit: int) -> list[Run]:
    """Finished runs whose time is over."""
    rows = await pool.fetch(
        f"{_SELECT} WHERE created_at < now() - $1::interval AND next_attempt_at IS NULL ORDER BY created_at LIMIT $2",
        keep,
        limit,
    )
    return [_run(row) for row in rows]


async def forget(pool: "asyncpg.Pool[asyncpg.Record]", run: Run) -> None:
    """Removes a run, and its schedule where that was deleted and this was its last run."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM report_runs WHERE report_id = $1", run.report_id)
        await connection.execute(
            "DELETE FROM report_schedules WHERE schedule_id = $1 AND deleted_at IS NOT NULL"
            " AND NOT EXISTS (SELECT true FROM report_runs WHERE schedule_id = $1)",
            run.schedule_id,
        )


async def _tell_owner(connection: Any, run: Run) -> None:
    if run.cause != "test":  # who asked for a test looks at it
        await _insert_delivery(connection, run.report_id, "notice", run.definition.owner)


async def _update(connection: Any, run: Run, assignments: str, *values: object) -> None:
    """Changes a run that this holder still holds. Raises `LostRun`."""
    held = await connection.fetchval(
        f"UPDATE report_runs SET {assignments} WHERE report_id = $1 AND fence = $2 RETURNING true",
        run.report_id,
        run.fence,
        *values,
    )
    if held is None:
        raise LostRun(str(run.report_id))


def _run(row: Any) -> Run:
    return Run(
        **{**{name: row[name] for name in Run.__struct_fields__}, "definition": decoded(row["definition"])}
    )


def _delivery(row: Any) -> Delivery:
    return Delivery(**{name: row[name] for name in Delivery.__struct_fields__})


_COLUMNS: Final = """report_id, schedule_id, due_at, cause, definition, state, fence, attempts, next_attempt_at, created_at,
       started_at, made_at, finished_at, rows, bytes, file_key, file_name, media_type, error"""

_SELECT: Final = f"""
SELECT {_COLUMNS}
FROM report_runs
"""

_PAGE: Final = """
WHERE schedule_id = $1
  AND ($2::uuid IS NULL OR (due_at, report_id) <
       (SELECT due_at, report_id FROM report_runs WHERE report_id = $2))
ORDER BY due_at DESC, report_id DESC
LIMIT $3
"""

_DUE: Final = """
SELECT schedule_id, definition, next_due_at, now() AS now
FROM report_schedules
WHERE next_due_at <= now()
ORDER BY next_due_at
LIMIT $1
FOR UPDATE SKIP LOCKED
"""

_INSERT: Final = """
INSERT INTO report_runs (report_id, schedule_id, due_at, cause, definition, state, next_attempt_at, finished_at)
SELECT $1::uuid, schedule_id, $3::timestamptz, $4::text, definition,
       CASE WHEN $5::boolean THEN 'missed' ELSE 'waiting' END,
       now(),
       CASE WHEN $5::boolean THEN now() END
FROM report_schedules
WHERE schedule_id = $2 AND deleted_at IS NULL
ON CONFLICT (schedule_id, due_at) DO NOTHING
RETURNING report_id
"""

_TODO: Final = """
SELECT count(*) FILTER (WHERE state IN ('waiting', 'making')) AS make,
       count(*) FILTER (WHERE state NOT IN ('waiting', 'making')) AS deliver
FROM report_runs
WHERE next_attempt_at <= now()
"""

_HOLD: Final = """
UPDATE report_runs
SET next_attempt_at = now() + $3
WHERE report_id = $1 AND fence = $2 AND next_attempt_at > now()
RETURNING true
"""

_CLAIM: Final = """
UPDATE report_runs
SET {assignments},
    fence = fence + 1,
    next_attempt_at = now() + $1
WHERE report_id =
(
    SELECT report_id
    FROM report_runs
    WHERE next_attempt_at <= now() AND state {states}
    ORDER BY next_attempt_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING {columns}
"""

_CLAIM_TO_MAKE: Final = _CLAIM.format(
    assignments="state = 'making', attempts = attempts + 1, started_at = coalesce(started_at, now())",
    states="IN ('waiting', 'making')",
    columns=_COLUMNS,
)

_CLAIM_TO_DELIVER: Final = _CLAIM.format(
    assignments="started_at = coalesce(started_at, now())",
    states="NOT IN ('waiting', 'making')",
    columns=_COLUMNS,
)

_DELIVERIES: Final = """
SELECT report_id, delivery_id, recipient_id, kind, address, state, next_attempt_at, attempts, message_id, delivered_at,
       error
FROM report_deliveries
WHERE report_id = ANY($1)
ORDER BY kind, address
"""

_DUE_DELIVERIES: Final = """
SELECT delivery_id, recipient_id, kind, address, state, next_attempt_at, attempts, message_id, delivered_at, error
FROM report_deliveries
WHERE report_id = $1 AND state = 'waiting' AND next_attempt_at <= now()
"""

_DROP: Final = "UPDATE report_deliveries SET state = 'dropped' WHERE report_id = $1 AND state = 'waiting'"

_NOT_DELIVERED: Final = """
UPDATE report_deliveries
SET state = CASE WHEN $4 THEN 'failed' ELSE state END,
    error = $2,
    next_attempt_at = now() + $3
WHERE delivery_id = $1 AND state = 'waiting'
"""

_COUNTS: Final = """
SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting,
       count(*) FILTER (WHERE state = 'delivered') AS delivered,
       count(*) FILTER (WHERE state = 'failed') AS failed
FROM report_deliveries
WHERE report_id = $1 AND kind != 'notice'
"""
