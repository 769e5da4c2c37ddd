"""The bodies of `/v1/reports/*`: one table of fields for checking them and for documenting them.

Every fault of a body is named at once. What concerns several fields, or who may be written to, is checked by
`reports.schedules.check`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta, Struct

from openride_analytics.config import Config, time_zones
from openride_analytics.http.parameters import PARAMETERS, Query
from openride_analytics.http.problems import BadRequest, FieldProblem
from openride_analytics.reports import schedules
from openride_analytics.reports.content import CONTENTS, FORMATS, Format
from openride_analytics.reports.due import (
    FREQUENCIES,
    RELATIVE_PERIODS,
    WEEKDAYS,
    Frequency,
    RelativePeriod,
    Weekday,
)
from openride_analytics.reports.schedules import (
    WHEN_EMPTY,
    BadSchedule,
    Definition,
    Draft,
    Recipient,
    WhenEmpty,
)

MOST_RECIPIENTS: Final = 100
FILTERS: Final = ("city", "state", "currency", "payment_method", "provider", "route_id", "driver_id")
_LONGEST_NAME: Final = 200
_LONGEST_URL: Final = 2_000
_SHORTEST_SECRET: Final = 16
_LONGEST_SECRET: Final = 200
_LONGEST_ADDRESS: Final = 254

_Name = Annotated[str, Meta(min_length=1, max_length=_LONGEST_NAME, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
_Address = Annotated[str, Meta(min_length=3, max_length=_LONGEST_ADDRESS, pattern=r"^[\x21-\x7e]+\Z")]
_Url = Annotated[str, Meta(max_length=_LONGEST_URL, pattern=r"^https?://[\x21-\x7e]+\Z")]
_Secret = Annotated[
    str, Meta(min_length=_SHORTEST_SECRET, max_length=_LONGEST_SECRET, pattern=r"^[\x21-\x7e]+\Z")
]


class _MailRecipient(Struct, forbid_unknown_fields=True, kw_only=True):
    email: _Address


class _WebhookRecipient(Struct, forbid_unknown_fields=True, kw_only=True):
    webhook: _Url
    secret: _Secret | None = None


@dataclass(frozen=True)
class BodyField:
    """What a field means, what values it takes, and what is said about others."""

    name: str
    type: Any
    message: str
    schema: Schema
    required: bool = False


def _text(description: str, example: str, **more: Any) -> Schema:
    return Schema(type=OpenAPIType.STRING, description=description, examples=[example], **more)


def _choice(description: str, choices: Iterable[str], example: str) -> Schema:
    return _text(description, example, enum=list(choices))


def _or_null(schema: Schema) -> Schema:
    schema.type = [schema.type, OpenAPIType.NULL]  # type: ignore[list-item]
    if schema.enum is not None:
        schema.enum = [*schema.enum, None]
    return schema


def _one_of(choices: Iterable[str]) -> str:
    return f"Must be one of {', '.join(choices)}."


_RECIPIENT: Final = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "email": _text(
            "A mail address, each with a mail of its own.", "ada@example.com", max_length=_LONGEST_ADDRESS
        ),
        "webhook": _text(
            "A URL that a JSON document is posted to.", "https://example.com/hooks/reports", max_length=2_000
        ),
        "secret": _text(
            "Signs what is posted to the webhook, so that its receiver can tell it from others'. Never shown again; may be "
            "left out in a change that keeps the webhook.",
            "a-long-random-text",
            min_length=_SHORTEST_SECRET,
            max_length=_LONGEST_SECRET,
        ),
    },
    additional_properties=False,
    description="Either `email`, or `webhook` with `secret`.",
    examples=[{"email": "ada@example.com"}],
)

_CRON: Final = BodyField(
    "cron",
    Annotated[str, Meta(min_length=1, max_length=200)] | None,
    "Must be a cron expression of five fields, such as 30 7 * * 1.",
    _or_null(
        _text(
            "When it is due: minute, hour, day of the month, month, day of the week (0 or 7: Sunday), on the wall clock "
            "of `timezone`. Either this or `frequency`.",
            "30 7 * * 1-5",
            min_length=1,
            max_length=200,
        )
    ),
)
_FREQUENCY: Final = BodyField(
    "frequency",
    Frequency | None,
    _one_of(FREQUENCIES),
    _or_null(
        _choice("When it is due, in words; goes with `time`. Either this or `cron`.", FREQUENCIES, "weekly")
    ),
)
_TIME: Final = BodyField(
    "time",
    Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")] | None,
    "Must be a time of day as HH:MM, such as 07:30.",
    _or_null(
        _text(
            "Time of day on the wall clock of `timezone`. A time that the clock skips is due at the moment of the change; "
            "one that occurs twice, the first time.",
            "07:30",
            pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$",
        )
    ),
)
_WEEKDAY: Final = BodyField(
    "weekday",
    Weekday | None,
    _one_of(WEEKDAYS),
    _or_null(_choice("Of a weekly report. Default: `monday`.", WEEKDAYS, "monday")),
)
_DAY: Final = BodyField(
    "day",
    Annotated[int, Meta(ge=1, le=31)] | None,
    "Must be a whole number from 1 to 31.",
    _or_null(
        Schema(
            type=OpenAPIType.INTEGER,
            minimum=1,
            maximum=31,
            description="Of a monthly report; in a month without that day, its last one. Default: 1.",
            examples=[1],
        )
    ),
)
_ZONE: Final = BodyField(
    "timezone",
    str,
    "There is no such IANA time zone. Example: Africa/Lagos.",
    _text(
        "IANA time zone of the due times and of the period's days. Default: as configured.",
        "Africa/Lagos",
        min_length=1,
        max_length=200,
    ),
)
_PERIOD: Final = BodyField(
    "period",
    RelativePeriod,
    _one_of(RELATIVE_PERIODS),
    _choice(
        "What it is about, seen from the day of the due time: `last_…` ends before that day, week, month, quarter or year; "
        "`today` and `…_to_date` include the day.",
        RELATIVE_PERIODS,
        "last_week",
    ),
    required=True,
)

FIELDS: Final = {
    field.name: field
    for field in (
        BodyField(
            "name",
            _Name,
            f"Must be a text of 1 to {_LONGEST_NAME} characters in one line.",
            _text(
                "What it is called, in mails too.", "Weekly numbers", min_length=1, max_length=_LONGEST_NAME
            ),
            required=True,
        ),
        BodyField(
            "owner",
            _Address,
            "Must be a mail address, such as ada@example.com.",
            _text(
                "Mail address of who is told when a report did not come.",
                "ada@example.com",
                max_length=_LONGEST_ADDRESS,
            ),
            required=True,
        ),
        BodyField(
            "contents",
            Annotated[list[str], Meta(min_length=1, max_length=len(CONTENTS))],
            f"Must be a list, each once, of {', '.join(CONTENTS)}.",
            Schema(
                type=OpenAPIType.ARRAY,
                items=Schema(type=OpenAPIType.STRING, enum=list(CONTENTS)),
                min_items=1,
                max_items=len(CONTENTS),
                unique_items=True,
                description="What is in it: `overview` (a summary of all metrics), metrics by day, or datasets.",
                examples=[["overview"], ["metrics.bookings", "bookings"]],
            ),
            required=True,
        ),
        _PERIOD,
        BodyField(
            "format",
            Format,
            _one_of(FORMATS),
            _choice("Of the file.", FORMATS, "excel"),
            required=True,
        ),
        _CRON,
        _FREQUENCY,
        _TIME,
        _WEEKDAY,
        _DAY,
        _ZONE,
        BodyField(
            "filters",
            dict[str, str],
            "Must be an object of texts.",
            Schema(
                type=OpenAPIType.OBJECT,
                properties={name: PARAMETERS[name].schema for name in FILTERS},
                additional_properties=False,
                description="As in a query of the metrics.",
                examples=[{"city": "Ikeja"}],
            ),
        ),
        BodyField(
            "recipients",
            Annotated[list[Any], Meta(max_length=MOST_RECIPIENTS)],
            f"Must be a list of at most {MOST_RECIPIENTS} recipients.",
            Schema(
                type=OpenAPIType.ARRAY,
                items=_RECIPIENT,
                max_items=MOST_RECIPIENTS,
                description="Who gets it. Nobody: it is only kept for download.",
            ),
        ),
        BodyField(
            "when_empty",
            WhenEmpty,
            _one_of(WHEN_EMPTY),
            _choice("What happens when there is nothing to report. Default: `send`.", WHEN_EMPTY, "skip"),
        ),
        BodyField(
            "paused",
            bool,
            "Must be true or false.",
            Schema(
                type=OpenAPIType.BOOLEAN,
                description="A paused schedule is not due; what it misses is not made up. Default: false.",
                examples=[False],
            ),
        ),
    )
}
_PREVIEW: Final = {field.name: field for field in (_CRON, _FREQUENCY, _TIME, _WEEKDAY, _DAY, _ZONE, _PERIOD)}
_TEST: Final = {
    "email": BodyField(
        "email",
        _Address,
        "Must be a mail address, such as ada@example.com.",
        _text("Who gets it, instead of the recipients.", "ada@example.com", max_length=_LONGEST_ADDRESS),
        required=True,
    )
}
_TIMING: Final = ("cron", "frequency", "time", "weekday", "day")


def _operation(fields: Mapping[str, BodyField], description: str, required: Iterable[str]) -> type[Operation]:
    names = list(required)

    @dataclass  # without it Operation's own __init__ would not call __post_init__
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(
                required=True,
                description=description,
                content={
                    "application/json": OpenAPIMediaType(
                        schema=Schema(
                            type=OpenAPIType.OBJECT,
                            properties={name: field.schema for name, field in fields.items()},
                            required=names or None,
                            additional_properties=False,
                        )
                    )
                },
            )

    return Documented


_REQUIRED: Final = [name for name, field in FIELDS.items() if field.required]
Creating: Final = _operation(FIELDS, "The schedule.", _REQUIRED)
Changing: Final = _operation(
    FIELDS,
    "The fields that change. `recipients` and `filters` are replaced as a whole; `cron` replaces `frequency` and what goes "
    "with it, and the other way round.",
    (),
)
Previewing: Final = _operation(_PREVIEW, "When it would be due, and what about.", ())
Testing: Final = _operation(_TEST, "Who gets it.", ("email",))


def created(body: bytes, config: Config, now: datetime) -> Draft:
    """A new schedule, checked. Raises `BadRequest` with every fault."""
    given = _fields(body, FIELDS, FIELDS)
    faults = _missing(given, FIELDS)
    if faults:
        raise unusable(faults)
    return _checked(
        given, Draft(definition=_definition({"timezone": config.analytics.timezone, **given})), config, now
    )


def changed(body: bytes, config: Config, now: datetime) -> Callable[[Draft], Draft]:
    """What makes a changed schedule of the one before. It raises `BadRequest` with every fault, too."""
    given = _fields(body, FIELDS, FIELDS)

    def change(before: Draft) -> Draft:
        known = msgspec.to_builtins(before.definition)
        if given.get("cron") is not None:
            known.update(dict.fromkeys(_TIMING))
        elif given.get("frequency") is not None:
            known["cron"] = None
            if given["frequency"] != known["frequency"]:
                known.update(weekday=None, day=None)
        return _checked(
            given, msgspec.structs.replace(before, definition=_definition({**known, **given})), config, now
        )

    return change


def previewed(body: bytes, config: Config) -> dict[str, Any]:
    """When and what about: `timing` and perhaps a `period`. Raises `BadRequest`."""
    return {"timezone": config.analytics.timezone, **_fields(body, _PREVIEW, _PREVIEW)}


def tested(body: bytes, config: Config) -> str:
    """The address for a test. Raises `BadRequest`."""
    given = _fields(body, _TEST, _TEST)
    faults = _missing(given, _TEST)
    if not faults:
        address = _address(given["email"])
        if (message := schedules.refusal(address, config.reports.allowed_recipient_domains)) is None:
            return address
        faults = [FieldProblem(field="email", message=message)]
    raise unusable(faults)


def unusable(faults: list[FieldProblem]) -> BadRequest:
    """A 422 for the fields of a body."""
    return BadRequest(f"{len(faults)} field{'s' if len(faults) > 1 else ''} cannot be used.", faults, 422)


def _fields(body: bytes, fields: Mapping[str, BodyField], names: Iterable[str]) -> dict[str, Any]:
    """The fields of a body, each of its type. Raises `BadRequest` with every fault that one alone can have."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise unusable([FieldProblem(field="", message="Must be an object.")])
    faults = []
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            message = f"There is no such field here. There are: {', '.join(sorted(names))}."
            faults.append(FieldProblem(field=name[:200], message=message))
            continue
        try:
            found[name] = msgspec.convert(value, fields[name].type)
        except msgspec.ValidationError:
            faults.append(FieldProblem(field=name, message=fields[name].message))
    faults += _further_faults(found)
    if faults:
        raise unusable(faults)
    return found


def _further_faults(found: Mapping[str, Any]) -> list[FieldProblem]:
    """What a type can't say."""
    faults = []
    if "timezone" in found and found["timezone"] not in time_zones():
        faults.append(FieldProblem(field="timezone", message=_ZONE.message))
    contents = found.get("contents", [])
    if len(set(contents) & set(CONTENTS)) < len(contents):
        faults.append(FieldProblem(field="contents", message=FIELDS["contents"].message))
    if not found.get("name", "x").strip():
        faults.append(FieldProblem(field="name", message=FIELDS["name"].message))
    try:
        Query(found.get("filters", {}).items(), FILTERS)
    except BadRequest as error:
        faults += [
            FieldProblem(field=f"filters.{fault.field}", message=fault.message) for fault in error.errors
        ]
    for number, recipient in enumerate(found.get("recipients", ())):
        try:
            _recipient(recipient)
        except msgspec.ValidationError:
            faults.append(
                FieldProblem(
                    field=f"recipients[{number}]",
                    message="Must have either an `email`, or a `webhook` (http:// or https://) with a `secret` of "
                    f"{_SHORTEST_SECRET} to {_LONGEST_SECRET} characters.",
                )
            )
    return faults


def _missing(given: Mapping[str, Any], fields: Mapping[str, BodyField]) -> list[FieldProblem]:
    return [
        FieldProblem(field=name, message="Must be given.")
        for name, field in fields.items()
        if field.required and name not in given
    ]


def _definition(fields: Mapping[str, Any]) -> Definition:
    known = {name: value for name, value in fields.items() if name in Definition.__struct_fields__}
    filters = {
        name: value.lower() if name.endswith("_id") else value
        for name, value in known.get("filters", {}).items()
    }
    return Definition(
        **{
            **known,
            "contents": tuple(known["contents"]),
            "owner": _address(known["owner"]),
            "name": known["name"].strip(),
            "filters": filters,
        }
    )


def _checked(given: Mapping[str, Any], draft: Draft, config: Config, now: datetime) -> Draft:
    """With recipients and pause as given, and as the whole sound."""
    if "recipients" in given:
        secrets = {known.address: known.secret for known in draft.recipients if known.kind == "webhook"}
        recipients: dict[tuple[str, str], Recipient] = {}
        for one in map(_recipient, given["recipients"]):
            secret = one.secret or secrets.get(one.address)
            # Each once.
            recipients.setdefault((one.kind, one.address), msgspec.structs.replace(one, secret=secret))
        draft = msgspec.structs.replace(draft, recipients=tuple(recipients.values()))
    draft = msgspec.structs.replace(draft, paused=given.get("paused", draft.paused))
    try:
        schedules.check(draft, config, now)
    except BadSchedule as error:
        raise unusable(
            [FieldProblem(field=field, message=message) for field, message in error.faults]
        ) from None
    return draft


def _recipient(given: Any) -> Recipient:
    """Raises `msgspec.ValidationError`."""
    if isinstance(given, dict) and "webhook" in given:
        webhook = msgspec.convert(given, _WebhookRecipient)
        return Recipient(kind="webhook", address=webhook.webhook, secret=webhook.secret)
    return Recipient(kind="email", address=_address(msgspec.convert(given, _MailRecipient).email))


def _address(text: str) -> str:
    """The domain in lower case, so that an address is one however it was typed."""
    return re.sub(r"@[^@]*\Z", lambda domain: domain[0].lower(), text)
