"""The query parameters: one table for checking them and for documenting them.

Each endpoint names the parameters it takes; any other, a repeated one or a bad value is a 400 that names them all.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.openapi.spec import Parameter as OpenAPIParameter

from openride_analytics.config import Analytics, time_zones
from openride_analytics.http.problems import BadRequest, FieldProblem
from openride_analytics.metrics.drivers import SORTS
from openride_analytics.metrics.question import Filters, Question
from openride_analytics.period import DEFAULT_DAYS, GRANULARITIES, BadPeriod, Period, parse

MAX_LIMIT: Final = 1_000
MAX_WINDOW_MINUTES: Final = 1_440
_LONGEST_TEXT: Final = 200


@dataclass(frozen=True)
class QueryParameter:
    """What a parameter means and what values it takes."""

    name: str
    description: str
    example: str | int
    choices: tuple[str, ...] = ()
    format: OpenAPIFormat | None = None
    pattern: str = ""
    whole_number_up_to: int | None = None

    @property
    def schema(self) -> Schema:
        """Its values' documentation."""
        schema = Schema(
            type=OpenAPIType.STRING,
            examples=[self.example],
            format=self.format,
            pattern=self.pattern or None,
            min_length=1,
            max_length=_LONGEST_TEXT,
        )
        if self.choices:
            schema.enum = list(self.choices)
        if self.whole_number_up_to is not None:
            schema = Schema(
                type=OpenAPIType.INTEGER, minimum=1, maximum=self.whole_number_up_to, examples=[self.example]
            )
        return schema

    @property
    def openapi(self) -> OpenAPIParameter:
        """Its documentation."""
        return OpenAPIParameter(
            name=self.name,
            param_in="query",
            description=self.description,
            required=False,
            schema=self.schema,
        )


_DAY_OR_INSTANT = (
    "a calendar day of the time zone (`2026-03-01`) or an RFC 3339 instant (`2026-03-01T07:05:00+01:00`)"
)

PARAMETERS: Final = {
    parameter.name: parameter
    for parameter in (
        QueryParameter(
            "start_date",
            f"Begin of the period: {_DAY_OR_INSTANT}. Default: {DEFAULT_DAYS} days before the end's day.",
            "2026-03-01",
        ),
        QueryParameter(
            "end_date",
            f"End of the period: {_DAY_OR_INSTANT}. A day is included, an instant excluded. Default: today.",
            "2026-03-31",
        ),
        QueryParameter(
            "timezone",
            "IANA time zone whose days, weeks and months count. Default: as configured.",
            "Africa/Lagos",
        ),
        QueryParameter(
            "granularity",
            "Size of the buckets of the series; `none`: no series. Default: `day`.",
            "day",
            GRANULARITIES,
        ),
        QueryParameter("compare", "`previous` adds the period before.", "previous", ("previous",)),
        QueryParameter("city", "Only this city: of the user, or of the route's origin.", "Ikeja"),
        QueryParameter("state", "Only this state: of the user, or of the route's origin.", "Lagos"),
        QueryParameter("currency", "Only this currency (ISO 4217).", "NGN", pattern="^[A-Z]{3}$"),
        QueryParameter("payment_method", "Only this payment method.", "card"),
        QueryParameter("provider", "Only this payment provider.", "paystack"),
        QueryParameter(
            "route_id", "Only this route.", "0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f", format=OpenAPIFormat.UUID
        ),
        QueryParameter(
            "driver_id",
            "Only this driver.",
            "6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e",
            format=OpenAPIFormat.UUID,
        ),
        QueryParameter("sort", "What `top` is ordered by. Default: `earnings`.", "earnings", SORTS),
        QueryParameter(
            "limit", "Length of `top` or `popular`. Default: 10.", 10, whole_number_up_to=MAX_LIMIT
        ),
        QueryParameter(
            "window_minutes",
            "Length of the window that ends now. Default: 60.",
            60,
            whole_number_up_to=MAX_WINDOW_MINUTES,
        ),
        QueryParameter(
            "interval_seconds", "Seconds between two events. Default: 2.", 2, whole_number_up_to=60
        ),
    )
}

PERIOD: Final = ("start_date", "end_date", "timezone", "granularity", "compare")

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE | re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z]{3}\Z", re.ASCII)


class Query:
    """The checked parameters of one request. Raises `BadRequest` with every fault it found."""

    def __init__(
        self,
        given: Iterable[tuple[str, str]],
        taken: Iterable[str],
        table: Mapping[str, QueryParameter] = PARAMETERS,
    ) -> None:
        allowed = set(taken)
        self._errors: list[FieldProblem] = []
        self._values: dict[str, str] = {}
        for name, value in given:
            if name not in allowed:
                self._fault(
                    name, f"There is no such parameter here. There are: {', '.join(sorted(allowed))}."
                )
            elif name in self._values:
                self._fault(name, "Given more than once.")
            else:
                self._values[name] = value
        for name, value in self._values.items():
            self._check(table[name], value)
        self._raise_faults()

    def question(self, analytics: Analytics, filters: Iterable[str], now: datetime) -> Question:
        """What a metrics endpoint is asked."""
        return Question(
            period=self.period(analytics, now),
            now=now,
            compare="compare" in self._values,
            filters=Filters(**{name: self._filter(name) for name in filters if name in self._values}),
            default_currency=analytics.currency,
            on_time_minutes=analytics.on_time_minutes,
            limit=self.number("limit", 10),
            sort=self._values.get("sort", "earnings"),
        )

    def period(self, analytics: Analytics, now: datetime) -> Period:
        """The period asked for, or the default one."""
        granularity: Any = self._values.get("granularity", "day")
        try:
            return parse(
                self._values.get("start_date"),
                self._values.get("end_date"),
                timezone=ZoneInfo(self._values.get("timezone", analytics.timezone)),
                granularity=granularity,
                now=now,
            )
        except BadPeriod as error:
            self._fault(error.field, error.message)
            self._raise_faults()
            raise

    def text(self, name: str) -> str | None:
        """A text as it was given, None if it was not."""
        return self._values.get(name)

    def number(self, name: str, default: int) -> int:
        """A whole number."""
        return int(self._values.get(name, default))

    def _filter(self, name: str) -> str:
        value = self._values[name]
        return value.lower() if PARAMETERS[name].format is OpenAPIFormat.UUID else value

    def _check(self, parameter: QueryParameter, value: str) -> None:
        if parameter.choices and value not in parameter.choices:
            self._fault(parameter.name, f"Must be one of {', '.join(parameter.choices)}.")
        elif parameter.whole_number_up_to is not None:
            is_number = value.isascii() and value.isdecimal() and len(value) < 10
            if not is_number or not 1 <= int(value) <= parameter.whole_number_up_to:
                self._fault(
                    parameter.name, f"Must be a whole number from 1 to {parameter.whole_number_up_to}."
                )
        elif parameter.format is OpenAPIFormat.UUID and not _UUID.match(value):
            self._fault(parameter.name, "Must be a UUID, such as 0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f.")
        elif parameter.name == "currency" and not _CURRENCY.match(value):
            self._fault("currency", "Must be an ISO 4217 code, such as NGN.")
        elif parameter.name == "timezone" and not _is_zone(value):
            self._fault("timezone", "There is no such IANA time zone. Example: Africa/Lagos.")
        elif not value.strip() or len(value) > _LONGEST_TEXT or "\0" in value:
            self._fault(parameter.name, f"Must be a text of 1 to {_LONGEST_TEXT} characters.")

    def _fault(self, field: str, message: str) -> None:
        self._errors.append(FieldProblem(field=field[:_LONGEST_TEXT], message=message))

    def _raise_faults(self) -> None:
        if self._errors:
            several = len(self._errors) > 1
            detail = f"{len(self._errors)} parameter{'s' if several else ''} cannot be used."
            raise BadRequest(detail, self._errors)


def question_key(endpoint: str, question: Question) -> str:
    """One text for all requests that ask the same, however they wrote it."""
    period = question.period
    parts: Mapping[str, object] = {
        "start": period.start_ms,
        "end": period.end_ms,
        "timezone": period.timezone.key,
        "granularity": period.granularity,
        "whole_days": period.whole_days,
        "compare": question.compare,
        "limit": question.limit,
        "sort": question.sort,
        "default_currency": question.default_currency,
        "on_time_minutes": question.on_time_minutes,
        **question.filters.given,
    }
    return f"{endpoint}?" + "&".join(f"{name}={value!r}" for name, value in parts.items())


def _is_zone(name: str) -> bool:
    return name in time_zones()
