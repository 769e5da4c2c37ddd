"""What `/v1/reports/*` answers, and how schedules and runs are shown in it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from openride_analytics.period import instant_text
from openride_analytics.reports.due import Timing, period_of
from openride_analytics.reports.links import Links
from openride_analytics.reports.runs import Delivery, Run
from openride_analytics.reports.schedules import Schedule

SHOWN_DUE_TIMES: Final = 5


class ScheduleRecipient(Struct, kw_only=True):
    """Who gets a report."""

    kind: Annotated[str, Meta(description="`email` or `webhook`.", examples=["email"])]
    address: Annotated[str, Meta(description="The mail address or the URL.", examples=["ada@example.com"])]
    unsubscribed: Annotated[
        bool, Meta(description="Took itself off by the link in a mail, and gets nothing.", examples=[False])
    ]


def _instant(description: str) -> Meta:
    return Meta(description=description, examples=["2026-03-02T06:30:00.000Z"])


class ScheduleAnswer(Struct, kw_only=True):
    """A schedule of reports."""

    schedule_id: Annotated[
        str, Meta(description="Its id.", examples=["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"])
    ]
    name: Annotated[str, Meta(description="What it is called.", examples=["Weekly numbers"])]
    owner: Annotated[
        str, Meta(description="Who is told when a report did not come.", examples=["ada@example.com"])
    ]
    contents: Annotated[list[str], Meta(description="What is in it.", examples=[["overview"]])]
    period: Annotated[
        str, Meta(description="What it is about, seen from the due time.", examples=["last_week"])
    ]
    filters: Annotated[
        dict[str, str], Meta(description="As in a query of the metrics.", examples=[{"city": "Ikeja"}])
    ]
    format: Annotated[str, Meta(description="Of the file.", examples=["excel"])]
    cron: Annotated[
        str | None, Meta(description="When it is due; null with `frequency`.", examples=["30 7 * * 1"])
    ]
    frequency: Annotated[
        str | None, Meta(description="When it is due; null with `cron`.", examples=["weekly"])
    ]
    time: Annotated[str | None, Meta(description="Time of day; null with `cron`.", examples=["07:30"])]
    weekday: Annotated[str | None, Meta(description="Of a weekly report; null: Monday.", examples=["monday"])]
    day: Annotated[int | None, Meta(description="Of a monthly report; null: the first.", examples=[1])]
    timezone: Annotated[
        str, Meta(description="IANA time zone of due times and periods.", examples=["Africa/Lagos"])
    ]
    when_empty: Annotated[
        str, Meta(description="What happens when there is nothing to report.", examples=["send"])
    ]
    recipients: Annotated[list[ScheduleRecipient], Meta(description="Who gets it. Secrets are not shown.")]
    paused: Annotated[bool, Meta(description="Whether it rests.", examples=[False])]
    next_due_at: Annotated[
        list[str],
        Meta(
            description="The next five due times, UTC; none while it is paused.",
            examples=[["2026-03-02T06:30:00Z"]],
        ),
    ]
    created_at: Annotated[str, _instant("When it was made, UTC.")]
    updated_at: Annotated[str, _instant("When it was last changed, UTC.")]


class SchedulesAnswer(Struct, kw_only=True):
    """A page of schedules."""

    schedules: Annotated[list[ScheduleAnswer], Meta(description="The newest first.")]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="For the next page; null on the last one.",
            examples=["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"],
        ),
    ]


class ReportPeriod(Struct, kw_only=True):
    """The span that a report is about."""

    start: Annotated[str, Meta(description="First instant, UTC.", examples=["2026-02-22T23:00:00Z"])]
    end: Annotated[str, Meta(description="End, excluded, UTC.", examples=["2026-03-01T23:00:00Z"])]
    timezone: Annotated[str, Meta(description="The zone whose days it is cut by.", examples=["Africa/Lagos"])]


class DueTime(Struct, kw_only=True):
    """A time at which a report would be due."""

    due_at: Annotated[str, Meta(description="UTC.", examples=["2026-03-29T01:00:00Z"])]
    local: Annotated[
        str,
        Meta(
            description="On the wall clock of the time zone, with its offset.",
            examples=["2026-03-29T03:00:00+02:00"],
        ),
    ]
    moved: Annotated[
        bool,
        Meta(
            description="The clock skips the time itself: this is the moment of the change.", examples=[True]
        ),
    ]
    period: Annotated[
        ReportPeriod | None, Meta(description="What it would be about; null if no `period` was given.")
    ]


class PreviewAnswer(Struct, kw_only=True):
    """The next due times."""

    due: Annotated[list[DueTime], Meta(description="The next five.")]


class ReportDelivery(Struct, kw_only=True):
    """What became of a report for one recipient."""

    kind: Annotated[
        str,
        Meta(
            description="`email`, `webhook`, or `notice`: the owner is told of a failure.", examples=["email"]
        ),
    ]
    address: Annotated[str, Meta(description="The mail address or the URL.", examples=["ada@example.com"])]
    state: Annotated[
        str,
        Meta(
            description="`waiting` (to be tried, perhaps again), `delivered`, `failed` (for good), `dropped` (unsubscribed "
            "or taken off the list meanwhile, or there was nothing to send).",
            examples=["delivered"],
        ),
    ]
    attempts: Annotated[int, Meta(description="How often it was tried.", examples=[1])]
    next_attempt_at: Annotated[str | None, _instant("When it is tried (again), UTC; else null.")]
    delivered_at: Annotated[str | None, _instant("When it was accepted, UTC; else null.")]
    error: Annotated[
        str | None, Meta(description="Why the last attempt failed.", examples=["The mailbox does not exist."])
    ]


class ReportDownload(Struct, kw_only=True):
    """A link to the file that needs nothing else."""

    url: Annotated[
        str,
        Meta(
            description="Where it is.",
            examples=["https://analytics.example.com/v1/reports/6b1d…/file?expires=1772550000&signature=x"],
        ),
    ]
    expires_at: Annotated[
        str, Meta(description="When the link ends, UTC.", examples=["2026-03-16T06:30:00Z"])
    ]


class ReportAnswer(Struct, kw_only=True):
    """One run of a schedule, and its report."""

    report_id: Annotated[str, Meta(description="Its id.", examples=["6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e"])]
    schedule_id: Annotated[
        str, Meta(description="The schedule's id.", examples=["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"])
    ]
    name: Annotated[str, Meta(description="What the schedule was called.", examples=["Weekly numbers"])]
    cause: Annotated[
        str, Meta(description="`schedule` (it was due), `manual` or `test`.", examples=["schedule"])
    ]
    state: Annotated[
        str,
        Meta(
            description="`waiting`, `making`, `delivering` (also between attempts), `delivered` (to all, or kept where "
            "there is nobody), `partly_delivered`, `skipped` (it was empty), `failed`, `missed` (nothing ran in "
            "time), `cancelled` (its schedule was deleted).",
            examples=["delivered"],
        ),
    ]
    due_at: Annotated[str, _instant("When it was due, UTC.")]
    period: Annotated[ReportPeriod, Meta(description="What it is about.")]
    format: Annotated[str, Meta(description="Of the file.", examples=["excel"])]
    started_at: Annotated[str | None, _instant("When its making began, UTC.")]
    made_at: Annotated[str | None, _instant("When the file was there, UTC.")]
    finished_at: Annotated[str | None, _instant("When all was done, UTC.")]
    duration_seconds: Annotated[
        float | None, Meta(description="From the beginning of its making to its end.", examples=[3.2])
    ]
    attempts: Annotated[int, Meta(description="How often it was begun to be made.", examples=[1])]
    next_attempt_at: Annotated[
        str | None,
        _instant(
            "While something is left to do: when that is tried again or, if it is being done, taken over by another instance."
        ),
    ]
    rows: Annotated[int | None, Meta(description="Rows of data in it.", examples=[412])]
    bytes: Annotated[int | None, Meta(description="Size of the file.", examples=[28_114])]
    file_name: Annotated[
        str | None,
        Meta(description="Name of the file.", examples=["weekly-numbers_2026-02-23_2026-03-01.xlsx"]),
    ]
    media_type: Annotated[str | None, Meta(description="Type of the file.", examples=["text/csv"])]
    error: Annotated[
        str | None, Meta(description="What went wrong last.", examples=["The data store did not answer."])
    ]
    download: Annotated[ReportDownload | None, Meta(description="The file, while there is one; else null.")]
    deliveries: Annotated[list[ReportDelivery], Meta(description="What became of it for each recipient.")]


class ReportsAnswer(Struct, kw_only=True):
    """A page of runs."""

    runs: Annotated[list[ReportAnswer], Meta(description="The latest first.")]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="For the next page; null on the last one.",
            examples=["6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e"],
        ),
    ]


def schedule_answer(schedule: Schedule) -> ScheduleAnswer:
    """A schedule as users see it."""
    draft = schedule.draft
    definition = msgspec.to_builtins(draft.definition)
    due = []
    if schedule.next_due_at is not None:
        # As it is stored: it may be due already and not yet noticed.
        due = [
            schedule.next_due_at,
            *draft.definition.timing.next(schedule.next_due_at, SHOWN_DUE_TIMES - 1),
        ]
    return ScheduleAnswer(
        **{**definition, "contents": list(definition["contents"])},
        schedule_id=str(schedule.schedule_id),
        recipients=[
            ScheduleRecipient(
                kind=recipient.kind, address=recipient.address, unsubscribed=recipient.unsubscribed
            )
            for recipient in draft.recipients
        ],
        paused=draft.paused,
        next_due_at=[instant_text(at) for at in due],
        created_at=instant_text(schedule.created_at),
        updated_at=instant_text(schedule.updated_at),
    )


def due_time(due: Timing, at: datetime, period: Any) -> DueTime:
    """A due time as users see it."""
    return DueTime(
        due_at=instant_text(at),
        local=at.astimezone(due.timezone).isoformat(),
        moved=due.skipped(at),
        period=None if period is None else _period(period, at, due.timezone),
    )


def _period(relative: Any, at: datetime, zone: ZoneInfo) -> ReportPeriod:
    period = period_of(relative, at, zone)
    return ReportPeriod(start=instant_text(period.start), end=instant_text(period.end), timezone=zone.key)


def report_answer(run: Run, deliveries: list[Delivery], links: Links) -> ReportAnswer:
    """A run as users see it."""
    download = None
    if run.file_key is not None:
        url, ends = links.file(run.report_id, datetime.now(UTC))
        download = ReportDownload(url=url, expires_at=instant_text(ends))
    took = run.finished_at - run.started_at if run.finished_at and run.started_at else None
    return ReportAnswer(
        report_id=str(run.report_id),
        schedule_id=str(run.schedule_id),
        name=run.definition.name,
        cause=run.cause,
        state=run.state,
        due_at=instant_text(run.due_at),
        period=_period(run.definition.period, run.due_at, run.definition.zone),
        format=run.definition.format,
        started_at=_text(run.started_at),
        made_at=_text(run.made_at),
        finished_at=_text(run.finished_at),
        duration_seconds=None if took is None else took / timedelta(seconds=1),
        attempts=run.attempts,
        next_attempt_at=_text(run.next_attempt_at),
        rows=run.rows,
        bytes=run.bytes,
        file_name=run.file_name,
        media_type=run.media_type,
        error=run.error,
        download=download,
        deliveries=[
            ReportDelivery(
                kind=delivery.kind,
                address=delivery.address,
                state=delivery.state,
                attempts=delivery.attempts,
                next_attempt_at=_text(delivery.next_attempt_at if delivery.state == "waiting" else None),
                delivered_at=_text(delivery.delivered_at),
                error=delivery.error,
            )
            for delivery in deliveries
        ],
    )


def _text(at: datetime | None) -> str | None:
    return None if at is None else instant_text(at)
