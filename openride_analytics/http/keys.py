"""`/v1/keys` and `GET /v1/audit`: who may ask, and who changed what."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import Parameter
from msgspec import Meta, Struct

from openride_analytics.access import SCOPES, Scope, audit, keys
from openride_analytics.http.access import caller_of, needs
from openride_analytics.http.answers import documented_from
from openride_analytics.http.parameters import MAX_LIMIT, PARAMETERS, Query, QueryParameter
from openride_analytics.http.problems import MEDIA_TYPE, BadRequest, FieldProblem, Problem
from openride_analytics.period import BadPeriod, instant_text, parse_bounds
from openride_analytics.service import Service

_DEFAULT_LIMIT: Final = 100
_NOT_CACHED: Final = {"Cache-Control": "no-store"}


class Key(Struct, kw_only=True):
    """What is kept of an API key."""

    id: Annotated[str, Meta(description="Its id, the middle part of the key.", examples=["5f0c4be8d1a94e7f"])]
    name: Annotated[str, Meta(description="What it is for.", examples=["dashboard"])]
    scopes: Annotated[list[str], Meta(description="What it may do.", examples=[["read", "export"]])]
    requests_per_minute: Annotated[
        int | None, Meta(description="Its own limit; 0: none; null: the configured one.", examples=[600])
    ]
    created_at: Annotated[str, Meta(description="UTC.", examples=["2026-03-01T07:05:00Z"])]
    created_by: Annotated[str, Meta(description="Who made it.", examples=["key:0a1b2c3d4e5f6071"])]
    expires_at: Annotated[str | None, Meta(description="Not valid from then on; null: for ever.")]
    revoked_at: Annotated[str | None, Meta(description="When it was revoked; null: it was not.")]
    last_used_at: Annotated[
        str | None, Meta(description="Its last use, up to a minute late; null: none yet.")
    ]


class NewKey(Key, kw_only=True):
    """A key that was just made."""

    key: Annotated[
        str,
        Meta(description="The key itself. It is shown this once: only its hash is kept.", examples=["ork_…"]),
    ]


class KeysAnswer(Struct, kw_only=True):
    """All keys."""

    keys: Annotated[list[Key], Meta(description="Those that may be used, then the others, the newest first.")]


class Entry(Struct, kw_only=True):
    """One change."""

    id: Annotated[int, Meta(description="Its number.", examples=[17])]
    at: Annotated[str, Meta(description="When, UTC.", examples=["2026-03-01T07:05:00Z"])]
    who: Annotated[
        str,
        Meta(
            description="`key:` and its id, `token:` and its subject, `command:` and the user at a machine.",
            examples=["key:0a1b2c3d4e5f6071"],
        ),
    ]
    what: Annotated[str, Meta(description="What was done.", examples=["key.created"])]
    details: Annotated[
        dict[str, Any],
        Meta(description="To what.", examples=[{"id": "5f0c4be8d1a94e7f", "scopes": ["read"]}]),
    ]


class AuditAnswer(Struct, kw_only=True):
    """A page of the audit log."""

    entries: Annotated[list[Entry], Meta(description="Changes, the newest first.")]
    next_cursor: Annotated[str | None, Meta(description="`cursor` of the next page; null: there is none.")]


class _Asked(Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=len(SCOPES))]
    expires_at: datetime | None = None
    requests_per_minute: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


@dataclass  # without it Operation's own __init__ would not call __post_init__
class _Making(Operation):
    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING)
        properties: dict[str, Any] = {
            "name": replace(
                text, min_length=1, max_length=100, description="What it is for.", examples=["dashboard"]
            ),
            "scopes": Schema(
                type=OpenAPIType.ARRAY,
                items=replace(text, enum=SCOPES),
                min_items=1,
                max_items=len(SCOPES),
                description="What it may do.",
                examples=[["read"]],
            ),
            "expires_at": Schema(
                type=[OpenAPIType.STRING, OpenAPIType.NULL],
                format=OpenAPIFormat.DATE_TIME,
                description="Not valid from this instant on, which must be to come. Default: valid until it is revoked.",
                examples=["2030-01-01T00:00:00Z"],
            ),
            "requests_per_minute": Schema(
                type=[OpenAPIType.INTEGER, OpenAPIType.NULL],
                minimum=0,
                maximum=1_000_000,
                description="Its own limit; 0: none. Default: the configured one.",
                examples=[600],
            ),
        }
        schema = Schema(
            type=OpenAPIType.OBJECT,
            properties=properties,
            required=["name", "scopes"],
            additional_properties=False,
        )
        self.request_body = RequestBody(
            required=True,
            description="The key to make.",
            content={"application/json": OpenAPIMediaType(schema=schema)},
        )


def _problems(*described: tuple[int, str]) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(Problem, description=text, media_type=MEDIA_TYPE, generate_examples=False)
        for status, text in described
    }


_OFF: Final = (409, "Access is off, so keys are made and revoked by command only.")


@get(
    "/v1/keys",
    opt=needs("admin"),
    operation_id="list_keys",
    summary="API keys",
    tags=["Access"],
    responses={
        200: ResponseSpec(KeysAnswer, description="The keys.", generate_examples=False),
        **_problems((400, "There is no such parameter.")),
    },
)
async def list_keys(request: Request[Any, Any, State]) -> Response[bytes]:
    """All that may be used, and the last of those that may not be."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    return _json(KeysAnswer(keys=[Key(**_fields(row)) for row in await keys.listed(service.postgres)]))


@post(
    "/v1/keys",
    opt=needs("admin"),
    operation_id="create_key",
    summary="Make an API key",
    description="The answer holds the key, which is shown this once. It can be used at once.",
    tags=["Access"],
    status_code=201,
    operation_class=_Making,
    responses={
        201: ResponseSpec(NewKey, description="The key.", generate_examples=False),
        **_problems(
            (400, "The body is not JSON."),
            (409, f"{_OFF[1][:-1]}; or there are too many keys."),
            (422, "A field of the body cannot be used; `errors` names it."),
        ),
    },
)
async def create_key(request: Request[Any, Any, State]) -> Response[bytes]:
    """Makes a key."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    asked = _asked(await request.body())
    _require_access(service)
    try:
        text, row = await keys.create(
            service.postgres,
            name=asked.name,
            scopes=asked.scopes,
            expires_at=asked.expires_at,
            requests_per_minute=asked.requests_per_minute,
            by=caller_of(request).who,
        )
    except keys.TooManyKeys:
        raise BadRequest(
            f"There are {keys.MOST_KEYS} keys that may be used; revoke some first.", status=409
        ) from None
    return _json(NewKey(key=text, **_fields(row)), status=201)


@delete(
    "/v1/keys/{key_id:str}",
    opt=needs("admin"),
    operation_id="revoke_key",
    summary="Revoke an API key",
    description=f"For good. All instances refuse it within {keys.READ_SECONDS:g} seconds. Repeating it changes nothing.",
    tags=["Access"],
    status_code=200,
    responses={
        200: ResponseSpec(Key, description="The key, revoked.", generate_examples=False),
        **_problems((400, "There is no such parameter."), (404, "There is no such key."), _OFF),
    },
)
async def revoke_key(
    request: Request[Any, Any, State],
    key_id: Annotated[
        str, Parameter(description="The key's id.", schema_extra={"examples": ["5f0c4be8d1a94e7f"]})
    ],
) -> Response[bytes]:
    """Revokes a key."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    _require_access(service)
    row = None
    if "\0" not in key_id:  # which PostgreSQL cannot take
        row = await keys.revoke(service.postgres, key_id, by=caller_of(request).who)
    if row is None:
        raise BadRequest("There is no key with this id.", status=404)
    await service.gate.keys.read_again(0.0)
    return _json(Key(**_fields(row)))


_PARAMETERS: Final = {
    parameter.name: parameter
    for parameter in (
        replace(
            PARAMETERS["start_date"], description="Changes from then on: a day or an instant. Default: all."
        ),
        replace(
            PARAMETERS["end_date"],
            description="Changes before then: a day, included, or an instant, excluded.",
        ),
        replace(PARAMETERS["timezone"], description="IANA time zone of the days. Default: as configured."),
        QueryParameter(
            "limit",
            f"Length of the page. Default: {_DEFAULT_LIMIT}.",
            _DEFAULT_LIMIT,
            whole_number_up_to=MAX_LIMIT,
        ),
        QueryParameter(
            "cursor",
            "`next_cursor` of the answer before, to go on from there.",
            "17",
            whole_number_up_to=2**63 - 1,
        ),
    )
}


@get(
    "/v1/audit",
    opt=needs("admin"),
    operation_id="audit_log",
    summary="Who changed what, and when",
    description="Keys made and revoked, dead letters replayed, users erased, derived tables rebuilt; the newest first.",
    tags=["Access"],
    operation_class=documented_from(_PARAMETERS.values()),
    responses={
        200: ResponseSpec(AuditAnswer, description="A page of the log.", generate_examples=False),
        **_problems((400, "A parameter cannot be used; `errors` names each.")),
    },
)
async def audit_log(request: Request[Any, Any, State]) -> Response[bytes]:
    """One page of changes."""
    service: Service = request.app.state.service
    query = Query(request.query_params.multi_items(), _PARAMETERS, _PARAMETERS)
    zone = ZoneInfo(query.text("timezone") or service.config.analytics.timezone)
    try:
        start, end = parse_bounds(query.text("start_date"), query.text("end_date"), timezone=zone)
    except BadPeriod as error:
        fault = FieldProblem(field=error.field, message=error.message)
        raise BadRequest("1 parameter cannot be used.", [fault]) from None
    limit, cursor = query.number("limit", _DEFAULT_LIMIT), query.number("cursor", 0)
    rows = await audit.page(service.postgres, before=cursor or None, start=start, end=end, limit=limit + 1)
    entries = [
        Entry(
            id=row["id"],
            at=instant_text(row["at"]),
            who=row["who"],
            what=row["what"],
            details=msgspec.json.decode(row["details"]),
        )
        for row in rows[:limit]
    ]
    return _json(AuditAnswer(entries=entries, next_cursor=str(entries[-1].id) if len(rows) > limit else None))


def _asked(body: bytes) -> _Asked:
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    try:
        asked = msgspec.convert(given, _Asked)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise _cannot_be_used(path.strip(".`"), f"{message}.") from None
    if asked.expires_at is not None:
        if asked.expires_at.tzinfo is None:
            raise _cannot_be_used("expires_at", "Must have an offset, like 2030-01-01T00:00:00Z.")
        if not datetime.now(UTC) < asked.expires_at:
            raise _cannot_be_used("expires_at", "Must be to come.")
    return asked


def _cannot_be_used(field: str, message: str) -> BadRequest:
    return BadRequest(
        "1 field cannot be used.", [FieldProblem(field=field[:200], message=message[:500])], status=422
    )


def _require_access(service: Service) -> None:
    """Whoever may do everything because access is off must not keep a key for when it is on."""
    if not service.gate.enabled:
        raise BadRequest("Access is off: make and revoke keys by `openride-analytics keys`.", status=409)


def _fields(row: "asyncpg.Record") -> Mapping[str, Any]:
    return {
        name: instant_text(value) if isinstance(value, datetime) else value for name, value in row.items()
    }


def _json(answer: Struct, status: int = 200) -> Response[bytes]:
    return Response(
        msgspec.json.encode(answer), status_code=status, media_type="application/json", headers=_NOT_CACHED
    )
