"""`/v1/ingest/dead-letters`: the records that were rejected, by page or one by one, and their replay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, get_args
from zoneinfo import ZoneInfo

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec import Parameter as OpenAPIParameter
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import Parameter
from msgspec import Meta

from openride_analytics.access import audit
from openride_analytics.config import Config
from openride_analytics.events import Reason
from openride_analytics.http.access import caller_of, needs
from openride_analytics.http.parameters import MAX_LIMIT, PARAMETERS, Query, QueryParameter
from openride_analytics.http.problems import MEDIA_TYPE, BadRequest, FieldProblem, Problem
from openride_analytics.ingest import dead_letters
from openride_analytics.ingest.dead_letters import Letter, LettersAnswer, Place, Selection, Source, Status
from openride_analytics.ingest.replay import MAX_LETTERS, MAX_SECONDS, Replayed
from openride_analytics.period import BadPeriod, milliseconds, parse_bounds
from openride_analytics.service import Service

_DEFAULT_LIMIT: Final = 100
_MOST_IDS: Final = 1_000
_ID: Final = r"^[0-9a-f]{32}\Z"
_NOT_CACHED: Final = {"Cache-Control": "no-store"}

_PARAMETERS: Final = {
    parameter.name: parameter
    for parameter in (
        QueryParameter("reason", "Only those rejected for this reason.", "expired", get_args(Reason)),
        QueryParameter("topic", "Only those of this topic; `http`: over HTTP.", "openride.events.user"),
        QueryParameter("event_type", "Only those that claim to be of this type.", "user.registered"),
        QueryParameter("source", "Only those that came this way.", "kafka", get_args(Source)),
        replace(
            PARAMETERS["start_date"],
            description="First rejected from then on: a calendar day of the time zone (`2026-03-01`) or an RFC 3339 "
            "instant (`2026-03-01T07:05:00+01:00`). Default: at any time.",
        ),
        replace(
            PARAMETERS["end_date"],
            description="First rejected before then: a day, which is included, or an instant, excluded. "
            "Default: at any time.",
        ),
        replace(PARAMETERS["timezone"], description="IANA time zone of the days. Default: as configured."),
        QueryParameter(
            "status",
            "`replayed`: only those whose last replay was accepted; `open`: only the others.",
            "open",
            get_args(Status),
        ),
        QueryParameter(
            "limit",
            f"Length of the page. Default: {_DEFAULT_LIMIT}.",
            _DEFAULT_LIMIT,
            whole_number_up_to=MAX_LIMIT,
        ),
        QueryParameter(
            "cursor",
            "`next_cursor` of the answer before, to go on from there.",
            "MTc3MjM0ODcwMDEyMC41ZjBjNGJlOGQxYTk0ZTdmYjFmNWE4ZjNmMGY2YTJkMQ",
        ),
    )
}
_IN_BODY: Final = tuple(name for name in _PARAMETERS if name not in ("status", "limit"))


def _problems(*described: tuple[int, str]) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(Problem, description=text, media_type=MEDIA_TYPE, generate_examples=False)
        for status, text in (
            *described,
            (503, "The data store does not answer; try again after `Retry-After` seconds."),
            (504, "The query ran past its limit."),
        )
    }


@dataclass  # without it Operation's own __init__ would not call __post_init__
class _Listing(Operation):
    query: ClassVar[list[OpenAPIParameter]] = [parameter.openapi for parameter in _PARAMETERS.values()]

    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *self.query]


@dataclass  # as above
class _Replaying(Operation):
    def __post_init__(self) -> None:
        properties: dict[str, Any] = {
            "ids": Schema(
                type=OpenAPIType.ARRAY,
                items=Schema(type=OpenAPIType.STRING, pattern=_ID),
                min_items=1,
                max_items=_MOST_IDS,
                description="Only these.",
                examples=[["5f0c4be8d1a94e7fb1f5a8f3f0f6a2d1"]],
            ),
            **{
                name: replace(_PARAMETERS[name].schema, description=_PARAMETERS[name].description)
                for name in _IN_BODY
            },
            "again": Schema(
                type=OpenAPIType.BOOLEAN,
                description="Also those whose last replay was accepted. Default: false.",
                examples=[False],
            ),
        }
        self.request_body = RequestBody(
            required=True,
            description="Which letters: those that fit everything that is given; `{}`: all that are open.",
            content={
                "application/json": OpenAPIMediaType(
                    schema=Schema(type=OpenAPIType.OBJECT, properties=properties, additional_properties=False)
                )
            },
        )


@get(
    "/v1/ingest/dead-letters",
    opt=needs("ingest"),
    operation_id="list_dead_letters",
    summary="Records that were rejected",
    description="The newest first, by page, with the numbers of all that match. Long records are cut short.",
    tags=["Ingest"],
    operation_class=_Listing,
    responses={
        200: ResponseSpec(LettersAnswer, description="A page of letters.", generate_examples=False),
        **_problems((400, "A parameter cannot be used; `errors` names each.")),
    },
)
async def list_dead_letters(request: Request[Any, Any, State]) -> Response[bytes]:
    """One page of letters."""
    service: Service = request.app.state.service
    query = Query(request.query_params.multi_items(), _PARAMETERS, _PARAMETERS)
    selection, after = _selection(query, service.config)
    limit = query.number("limit", _DEFAULT_LIMIT)
    answer = await dead_letters.page(service.warehouse, selection, after, limit)
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=_NOT_CACHED)


@get(
    "/v1/ingest/dead-letters/{dead_letter_id:str}",
    opt=needs("ingest"),
    operation_id="get_dead_letter",
    summary="One record that was rejected",
    description="All of it, however long.",
    tags=["Ingest"],
    responses={
        200: ResponseSpec(Letter, description="The letter.", generate_examples=False),
        **_problems((400, "There is no such parameter."), (404, "There is no such letter.")),
    },
)
async def get_dead_letter(
    request: Request[Any, Any, State],
    dead_letter_id: Annotated[
        str,
        Parameter(
            description="The letter's id.", schema_extra={"examples": ["5f0c4be8d1a94e7fb1f5a8f3f0f6a2d1"]}
        ),
    ],
) -> Response[bytes]:
    """The whole of one letter."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    letter = await dead_letters.one(service.warehouse, dead_letter_id)
    if letter is None:
        raise BadRequest("There is no dead letter with this id.", status=404)
    return Response(msgspec.json.encode(letter), media_type="application/json", headers=_NOT_CACHED)


@post(
    "/v1/ingest/dead-letters/replay",
    opt=needs("ingest"),
    operation_id="replay_dead_letters",
    summary="Take rejected records in after all",
    description="After a fix: decodes and stores the letters again and answers when that is done. Accepted ones are not "
    f"tried again unless `again` says so; nothing is ever stored twice. One request tries at most {MAX_LETTERS} letters or "
    f"takes some {MAX_SECONDS:g} seconds; `remaining` and `next_cursor` tell what is left.",
    tags=["Ingest"],
    status_code=200,
    operation_class=_Replaying,
    responses={
        200: ResponseSpec(Replayed, description="What became of them.", generate_examples=False),
        **_problems(
            (400, "The body is not JSON."), (422, "A field of the body cannot be used; `errors` names each.")
        ),
    },
)
async def replay_dead_letters(request: Request[Any, Any, State]) -> Response[bytes]:
    """Replays and waits for the outcomes."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    selection, after = _asked(await request.body(), service.config)
    if not (service.started.is_set() and service.pipeline.has_room):
        raise BadRequest("The store is behind; replay a little later.", status=503)
    filters = sorted(
        name
        for name in ("reason", "topic", "event_type", "source", "start_ms", "end_ms", "ids")
        if getattr(selection, name)
    )
    await audit.record(
        service.postgres,
        caller_of(request).who,
        "dead_letters.replayed",
        {"filters": filters, "again": selection.status is None},
    )
    answer = await service.replays.replay(selection, after, service.stopping.is_set)
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=_NOT_CACHED)


def _selection(query: Query, config: Config) -> tuple[Selection, Place | None]:
    """Which letters a query means, and from where on. Raises `BadRequest`."""
    try:
        start, end = parse_bounds(
            query.text("start_date"),
            query.text("end_date"),
            timezone=ZoneInfo(query.text("timezone") or config.analytics.timezone),
        )
    except BadPeriod as error:
        raise _cannot_be_used([FieldProblem(field=error.field, message=error.message)]) from None
    cursor = query.text("cursor")
    after = None if cursor is None else Place.at(cursor)
    if cursor is not None and after is None:
        raise _cannot_be_used(
            [FieldProblem(field="cursor", message="Must be the `next_cursor` of an answer.")]
        )
    status: Any = query.text("status")
    return Selection(
        reason=query.text("reason"),
        topic=query.text("topic"),
        event_type=query.text("event_type"),
        source=query.text("source"),
        start_ms=None if start is None else milliseconds(start),
        end_ms=None if end is None else milliseconds(end),
        status=status,
    ), after


def _asked(body: bytes, config: Config) -> tuple[Selection, Place | None]:
    """Which letters the body of a replay means. Raises `BadRequest` with every fault it found."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise _cannot_be_used([FieldProblem(field="", message="Must be an object.")], status=422)
    fields = dict(given)
    faults = list(_faults(fields))
    ids, again = fields.pop("ids", None), fields.pop("again", False)
    texts = [(name, text) for name, text in fields.items() if name in _IN_BODY and isinstance(text, str)]
    try:
        selection, after = _selection(Query(texts, _IN_BODY, _PARAMETERS), config)
    except BadRequest as error:
        raise _cannot_be_used(faults + error.errors, status=422) from None
    if faults:
        raise _cannot_be_used(faults, status=422)
    return replace(selection, ids=ids, status=None if again else "open"), after


def _faults(fields: Mapping[str, Any]) -> Iterable[FieldProblem]:
    """What is wrong with a body, but for the values that a query could have as well."""
    there_are = ", ".join(sorted(("ids", *_IN_BODY, "again")))
    for name, value in fields.items():
        message = ""
        if name == "ids":
            try:
                msgspec.convert(value, _Ids)
            except msgspec.ValidationError:
                message = f"Must be a list of 1 to {_MOST_IDS} ids of dead letters."
        elif name == "again":
            message = "" if isinstance(value, bool) else "Must be true or false."
        elif name not in _IN_BODY:
            message = f"There is no such field here. There are: {there_are}."
        elif not isinstance(value, str):
            message = "Must be a text."
        if message:
            yield FieldProblem(field=name[:200], message=message)


_Ids = Annotated[list[Annotated[str, Meta(pattern=_ID)]], Meta(min_length=1, max_length=_MOST_IDS)]


def _cannot_be_used(faults: list[FieldProblem], status: int = 400) -> BadRequest:
    what = "parameter" if status == 400 else "field"
    several = len(faults) > 1
    return BadRequest(f"{len(faults)} {what}{'s' if several else ''} cannot be used.", faults, status)
