"""`/v1/reports/*`: schedules of reports, their runs, the files, and the links in mails."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import quote
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.openapi.spec import Parameter as OpenAPIParameter
from litestar.params import Parameter
from litestar.response import Stream
from msgspec import Struct

from openride_analytics.access import audit
from openride_analytics.http.access import OPEN, caller_of, needs
from openride_analytics.http.parameters import MAX_LIMIT, Query, QueryParameter
from openride_analytics.http.problems import MEDIA_TYPE, BadRequest, FieldProblem, Problem
from openride_analytics.http.report_answers import (
    SHOWN_DUE_TIMES,
    PreviewAnswer,
    ReportAnswer,
    ReportsAnswer,
    ScheduleAnswer,
    SchedulesAnswer,
    due_time,
    report_answer,
    schedule_answer,
)
from openride_analytics.http.report_bodies import (
    Changing,
    Creating,
    Previewing,
    Testing,
    changed,
    created,
    previewed,
    tested,
    unusable,
)
from openride_analytics.reports import runs, schedules
from openride_analytics.reports.due import BadTiming, timing
from openride_analytics.reports.links import UNSUBSCRIBE_PATH
from openride_analytics.reports.runner import Runner
from openride_analytics.reports.schedules import Schedule
from openride_analytics.service import Service

_DEFAULT_LIMIT: Final = 100
_NOT_CACHED: Final = {"Cache-Control": "no-store"}
_RULE: Final = (
    "Due times are those of the wall clock of `timezone`: a time that the clock skips is due at the moment of the change, "
    "one that occurs twice is due the first time."
)


_LISTING: Final = {
    parameter.name: parameter
    for parameter in (
        QueryParameter(
            "limit",
            f"Length of the page. Default: {_DEFAULT_LIMIT}.",
            _DEFAULT_LIMIT,
            whole_number_up_to=MAX_LIMIT,
        ),
        QueryParameter(
            "cursor",
            "`next_cursor` of the answer before, to go on from there.",
            "0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f",
        ),
    )
}
_LINK: Final = {
    parameter.name: parameter
    for parameter in (
        QueryParameter("expires", "When the link ends, in Unix seconds.", "1772550000"),
        QueryParameter("signature", "What makes the link ours.", "b5kX0y3cQqXo0ZzJm1s7Yw"),
    )
}
_TOKEN: Final = {"token": QueryParameter("token", "From the link in a mail.", "D4wtHlsbT06PY3qdLDtKX7Vh")}


def _with_query(parameters: Mapping[str, QueryParameter]) -> type[Operation]:
    listed: list[OpenAPIParameter] = [parameter.openapi for parameter in parameters.values()]

    @dataclass  # without it Operation's own __init__ would not call __post_init__
    class Documented(Operation):
        query: ClassVar = listed

        def __post_init__(self) -> None:
            self.parameters = [*(self.parameters or []), *self.query]

    return Documented


def _answers(
    answer: Any, text: str, *problems: tuple[int, str], status: int = 200
) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(answer, description=text, generate_examples=False),
        **{
            code: ResponseSpec(Problem, description=why, media_type=MEDIA_TYPE, generate_examples=False)
            for code, why in (
                *problems,
                (503, "The data store does not answer; try again after `Retry-After` seconds."),
            )
        },
    }


_BAD_QUERY: Final = (400, "A parameter cannot be used; `errors` names each.")
_BAD_BODY: Final = (
    (400, "The body is not JSON, or there is no such parameter."),
    (422, "A field of the body cannot be used; `errors` names each."),
)
_NO_SCHEDULE: Final = (404, "There is no such schedule.")
_BUSY: Final = (409, "A run that was asked for is not made yet.")

ScheduleId = Annotated[
    str,
    Parameter(
        description="The schedule's id.", schema_extra={"examples": ["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"]}
    ),
]
ReportId = Annotated[
    str,
    Parameter(
        description="The report's id.", schema_extra={"examples": ["6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e"]}
    ),
]
Asked = Request[Any, Any, State]


@post(
    "/v1/reports/schedule",
    opt=needs("reports"),
    operation_id="create_schedule",
    summary="Have a report sent again and again",
    description=_RULE,
    tags=["Reports"],
    operation_class=Creating,
    responses=_answers(ScheduleAnswer, "The schedule.", *_BAD_BODY, status=201),
)
async def create_schedule(request: Asked) -> Response[bytes]:
    """Saves it; the first report comes when it is due."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    pool, _ = _stores(service)
    draft = created(await request.body(), service.config, datetime.now(UTC))
    await audit.record(pool, caller_of(request).who, "schedule.created", {"name": draft.definition.name})
    schedule = await schedules.create(pool, draft)
    return _json(schedule_answer(schedule), 201, Location=f"/v1/reports/schedule/{schedule.schedule_id}")


@get(
    "/v1/reports/schedule",
    opt=needs("reports"),
    operation_id="list_schedules",
    summary="All schedules",
    tags=["Reports"],
    operation_class=_with_query(_LISTING),
    responses=_answers(SchedulesAnswer, "A page of schedules.", _BAD_QUERY),
)
async def list_schedules(request: Asked) -> Response[bytes]:
    """One page of schedules."""
    pool, _ = _stores(request.app.state.service)
    after, limit = _page(request)
    found = await schedules.page(pool, after, limit + 1)
    return _json(
        SchedulesAnswer(
            schedules=[schedule_answer(schedule) for schedule in found[:limit]],
            next_cursor=str(found[limit - 1].schedule_id) if len(found) > limit else None,
        )
    )


@post(
    "/v1/reports/schedule/preview",
    opt=needs("reports"),
    operation_id="preview_schedule",
    summary="When a report would be due",
    description=f"The next five times, before anything is saved. {_RULE}",
    tags=["Reports"],
    status_code=200,
    operation_class=Previewing,
    responses={
        status: answer
        for status, answer in _answers(PreviewAnswer, "The due times.", *_BAD_BODY).items()
        if status != 503
    },
)
async def preview_schedule(request: Asked) -> Response[bytes]:
    """Asks no store."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    asked = previewed(await request.body(), service.config)
    zone = ZoneInfo(asked["timezone"])
    try:
        due = timing(
            timezone=zone,
            cron=asked.get("cron"),
            frequency=asked.get("frequency"),
            at=asked.get("time"),
            weekday=asked.get("weekday"),
            day=asked.get("day"),
        )
    except BadTiming as error:
        raise unusable([FieldProblem(field=error.field, message=error.message)]) from None
    return _json(
        PreviewAnswer(
            due=[
                due_time(due, at, asked.get("period")) for at in due.next(datetime.now(UTC), SHOWN_DUE_TIMES)
            ]
        )
    )


@get(
    "/v1/reports/schedule/{schedule_id:str}",
    opt=needs("reports"),
    operation_id="get_schedule",
    summary="One schedule",
    tags=["Reports"],
    responses=_answers(ScheduleAnswer, "The schedule.", _BAD_QUERY, _NO_SCHEDULE),
)
async def get_schedule(request: Asked, schedule_id: ScheduleId) -> Response[bytes]:
    """As it is now."""
    Query(request.query_params.multi_items(), ())
    pool, _ = _stores(request.app.state.service)
    return _json(schedule_answer(await _found(pool, schedule_id)))


@patch(
    "/v1/reports/schedule/{schedule_id:str}",
    opt=needs("reports"),
    operation_id="change_schedule",
    summary="Change a schedule, pause it, or let it go on",
    description="Fields that are not given stay as they are. Runs that have begun are not affected, but for recipients "
    "who are taken off the list.",
    tags=["Reports"],
    operation_class=Changing,
    responses=_answers(ScheduleAnswer, "The schedule as it is now.", *_BAD_BODY, _NO_SCHEDULE),
)
async def change_schedule(request: Asked, schedule_id: ScheduleId) -> Response[bytes]:
    """All of the change, or none."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    pool, _ = _stores(service)
    change = changed(await request.body(), service.config, datetime.now(UTC))
    wanted = _id(schedule_id, "schedule")
    await audit.record(pool, caller_of(request).who, "schedule.changed", {"id": str(wanted)})
    schedule = await schedules.change(pool, wanted, change)
    if schedule is None:
        raise _unknown("schedule")
    return _json(schedule_answer(schedule))


@delete(
    "/v1/reports/schedule/{schedule_id:str}",
    opt=needs("reports"),
    operation_id="delete_schedule",
    summary="No more of these reports",
    description="Cancels what is under way. Reports that were made stay until their retention ends.",
    tags=["Reports"],
    status_code=204,
    responses={
        status: answer
        for status, answer in _answers(None, "It is gone.", _BAD_QUERY, _NO_SCHEDULE).items()
        if status != 200
    },
)
async def delete_schedule(request: Asked, schedule_id: ScheduleId) -> None:
    """Its recipients are forgotten."""
    Query(request.query_params.multi_items(), ())
    pool, _ = _stores(request.app.state.service)
    wanted = _id(schedule_id, "schedule")
    await audit.record(pool, caller_of(request).who, "schedule.deleted", {"id": str(wanted)})
    if not await schedules.remove(pool, wanted):
        raise _unknown("schedule")


@post(
    "/v1/reports/schedule/{schedule_id:str}/run",
    opt=needs("reports"),
    operation_id="run_schedule",
    summary="Send a report now",
    description="To all recipients, about the period as seen from now; also while the schedule is paused.",
    tags=["Reports"],
    status_code=202,
    responses=_answers(
        ReportAnswer, "The run, which has yet to be done.", _BAD_QUERY, _NO_SCHEDULE, _BUSY, status=202
    ),
)
async def run_schedule(request: Asked, schedule_id: ScheduleId) -> Response[bytes]:
    """A run out of turn."""
    Query(request.query_params.multi_items(), ())
    return await _started(request, schedule_id, None)


@post(
    "/v1/reports/schedule/{schedule_id:str}/test",
    opt=needs("reports"),
    operation_id="test_schedule",
    summary="Send a report to oneself",
    description="As `run`, but to one address only.",
    tags=["Reports"],
    status_code=202,
    operation_class=Testing,
    responses=_answers(
        ReportAnswer, "The run, which has yet to be done.", *_BAD_BODY, _NO_SCHEDULE, _BUSY, status=202
    ),
)
async def test_schedule(request: Asked, schedule_id: ScheduleId) -> Response[bytes]:
    """A run for one."""
    Query(request.query_params.multi_items(), ())
    service: Service = request.app.state.service
    return await _started(request, schedule_id, tested(await request.body(), service.config))


@get(
    "/v1/reports/schedule/{schedule_id:str}/runs",
    opt=needs("reports"),
    operation_id="list_runs",
    summary="What became of a schedule's reports",
    description="Until their retention ends.",
    tags=["Reports"],
    operation_class=_with_query(_LISTING),
    responses=_answers(ReportsAnswer, "A page of runs.", _BAD_QUERY, _NO_SCHEDULE),
)
async def list_runs(request: Asked, schedule_id: ScheduleId) -> Response[bytes]:
    """One page of runs."""
    pool, runner = _stores(request.app.state.service)
    after, limit = _page(request)
    schedule = await _found(pool, schedule_id)
    found = await runs.page(pool, schedule.schedule_id, after, limit + 1)
    shown = found[:limit]
    deliveries = await runs.deliveries(pool, [run.report_id for run in shown])
    return _json(
        ReportsAnswer(
            runs=[report_answer(run, deliveries[run.report_id], runner.links) for run in shown],
            next_cursor=str(shown[-1].report_id) if len(found) > limit else None,
        )
    )


@get(
    "/v1/reports/{report_id:str}",
    opt=needs("reports"),
    operation_id="get_report",
    summary="One report: its state and where to get it",
    tags=["Reports"],
    responses=_answers(ReportAnswer, "The report.", _BAD_QUERY, (404, "There is no such report.")),
)
async def get_report(request: Asked, report_id: ReportId) -> Response[bytes]:
    """A run by its report's id."""
    Query(request.query_params.multi_items(), ())
    pool, runner = _stores(request.app.state.service)
    run = await runs.one(pool, _id(report_id, "report"))
    if run is None:
        raise _unknown("report")
    return _json(
        report_answer(run, (await runs.deliveries(pool, [run.report_id]))[run.report_id], runner.links)
    )


@get(
    "/v1/reports/{report_id:str}/file",
    opt=needs("reports", unless="signature"),
    operation_id="get_report_file",
    summary="A report's file",
    description="With the parameters of a link from a mail it needs no other permission.",
    tags=["Reports"],
    operation_class=_with_query(_LINK),
    responses={
        **_answers(
            None,
            "",
            _BAD_QUERY,
            (403, "The link is not ours, or its time is over."),
            (404, "There is no such report, or it has no file."),
            (409, "It is not made yet."),
        ),
        200: ResponseSpec(
            bytes,
            description="The file, of the report's media type.",
            media_type="*/*",
            generate_examples=False,
        ),
    },
)
async def get_report_file(request: Asked, report_id: ReportId) -> Stream:
    """Streamed from where it is kept; a failure on the way breaks the connection."""
    query = Query(request.query_params.multi_items(), _LINK, _LINK)
    pool, runner = _stores(request.app.state.service)
    wanted = _id(report_id, "report")
    _check_link(query, wanted, runner)
    run = await runs.one(pool, wanted)
    if run is None:
        raise _unknown("report")
    if run.file_key is None or run.file_name is None:
        if run.state in ("waiting", "making"):
            raise BadRequest("The report is not made yet.", status=409)
        raise BadRequest("This report has no file.", status=404)
    try:
        pieces = await runner.files.read(run.file_key)
    except FileNotFoundError:
        raise BadRequest("The file is not there any more.", status=404) from None
    return Stream(
        pieces,
        media_type=run.media_type or "application/octet-stream",
        headers={
            "Content-Length": str(run.bytes),
            "Content-Disposition": _attachment(run.file_name),
            "Cache-Control": "private, no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


@get(
    UNSUBSCRIBE_PATH,
    opt=OPEN,
    operation_id="unsubscribe_page",
    summary="Ask whether to unsubscribe",
    description="For people who follow the link in a mail. It changes nothing: mail scanners follow links, too.",
    tags=["Reports"],
    operation_class=_with_query(_TOKEN),
    responses={
        **_answers(None, "", _BAD_QUERY),
        200: ResponseSpec(
            str, description="A page with a button.", media_type="text/html", generate_examples=False
        ),
    },
)
async def unsubscribe_page(request: Asked) -> Response[str]:
    """A button that posts to the same address."""
    _recipient(request)
    return _html(
        "Unsubscribe",
        '<p>You will get no more mails of this report.</p><form method="post">'
        '<button name="List-Unsubscribe" value="One-Click">Unsubscribe</button></form>',
    )


@post(
    UNSUBSCRIBE_PATH,
    opt=OPEN,
    operation_id="unsubscribe",
    summary="Unsubscribe with one click",
    description="As RFC 8058 has it: the body is not looked at, the token says it all. It may be repeated.",
    tags=["Reports"],
    status_code=200,
    operation_class=_with_query(_TOKEN),
    responses={
        **_answers(None, "", _BAD_QUERY),
        200: ResponseSpec(
            str, description="A page that says so.", media_type="text/html", generate_examples=False
        ),
    },
)
async def unsubscribe(request: Asked) -> Response[str]:
    """Whatever is still to be sent to this recipient is dropped."""
    pool, recipient_id = _recipient(request)
    await schedules.unsubscribe(pool, recipient_id)
    return _html("Unsubscribed", "<p>You will get no more mails of this report.</p>")


HANDLERS: Final = (
    create_schedule,
    list_schedules,
    preview_schedule,
    get_schedule,
    change_schedule,
    delete_schedule,
    run_schedule,
    test_schedule,
    list_runs,
    get_report,
    get_report_file,
    unsubscribe_page,
    unsubscribe,
)


def _stores(service: Service) -> "tuple[asyncpg.Pool[asyncpg.Record], Runner]":
    """Raises `BadRequest` (503) until the service has started."""
    if service.reports is None:
        raise BadRequest("The service is starting.", status=503)
    return service.reports


async def _found(pool: "asyncpg.Pool[asyncpg.Record]", schedule_id: str) -> Schedule:
    schedule = await schedules.one(pool, _id(schedule_id, "schedule"))
    if schedule is None:
        raise _unknown("schedule")
    return schedule


def _attachment(name: str) -> str:
    """For clients that know names of all characters, and for those that do not."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _started(request: Asked, schedule_id: str, test_address: str | None) -> Response[bytes]:
    pool, runner = _stores(request.app.state.service)
    schedule = await _found(pool, schedule_id)
    asked_for = {"schedule": str(schedule.schedule_id), "is_test": test_address is not None}
    await audit.record(pool, caller_of(request).who, "report.asked_for", asked_for)
    run = await runs.start(pool, schedule.schedule_id, schedule.draft.definition, test_address)
    if run is None:
        raise BadRequest("A run that was asked for is not made yet; wait for it.", status=409)
    runner.wake()
    deliveries = await runs.deliveries(pool, [run.report_id])
    return _json(
        report_answer(run, deliveries[run.report_id], runner.links),
        202,
        Location=f"/v1/reports/{run.report_id}",
    )


def _recipient(request: Asked) -> "tuple[asyncpg.Pool[asyncpg.Record], UUID]":
    query = Query(request.query_params.multi_items(), _TOKEN, _TOKEN)
    pool, runner = _stores(request.app.state.service)
    recipient_id = runner.links.unsubscribes(query.text("token") or "")
    if recipient_id is None:
        fault = FieldProblem(field="token", message="This link is not complete, or not ours.")
        raise BadRequest("1 parameter cannot be used.", [fault])
    return pool, recipient_id


def _check_link(query: Query, report_id: UUID, runner: Runner) -> None:
    """A link from a mail must be ours; who comes without one is let in as to the rest of the interface."""
    expires, signature = query.text("expires"), query.text("signature")
    if expires is None and signature is None:
        return
    is_number = expires is not None and expires.isascii() and expires.isdecimal() and len(expires) < 13
    if not is_number or not runner.links.opens_file(
        report_id, expires or "", signature or "", datetime.now(UTC)
    ):
        raise BadRequest("This link is not ours, or its time is over.", status=403)


def _page(request: Asked) -> tuple[UUID | None, int]:
    query = Query(request.query_params.multi_items(), _LISTING, _LISTING)
    cursor = query.text("cursor")
    limit = query.number("limit", _DEFAULT_LIMIT)
    if cursor is None:
        return None, limit
    try:
        return UUID(cursor), limit
    except ValueError:
        raise BadRequest(
            "1 parameter cannot be used.",
            [FieldProblem(field="cursor", message="Must be the `next_cursor` of an answer.")],
        ) from None


def _id(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _unknown(what) from None


def _unknown(what: str) -> BadRequest:
    return BadRequest(f"There is no {what} with this id.", status=404)


def _json(answer: Struct, status: int = 200, **headers: str) -> Response[bytes]:
    return Response(
        msgspec.json.encode(answer),
        status_code=status,
        media_type="application/json",
        headers={**_NOT_CACHED, **headers},
    )


def _html(title: str, body: str) -> Response[str]:
    """A page without anything from outside."""
    return Response(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><body><h1>{title}</h1>{body}</body></html>",
        media_type="text/html",
        headers={
            **_NOT_CACHED,
            "Content-Security-Policy": "default-src 'none'; form-action 'self'",
            "Referrer-Policy": "no-referrer",
        },
    )
