"""The query parameters: one table for checking them and for documenting them.

Each endpoint names the parameters it takes; any other, a repeated one or a bad value is a 400 that names them all.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.openapi.spec import Parameter as OpenAPIParameter

from openride_analytics.analytics import cohort, funnel, geographic, retention
from openride_analytics.analytics.question import AnalyticsQuestion
from openride_analytics.config import Analytics, time_zones
from openride_analytics.exports import CONTENTS
from openride_analytics.http.problems import BadRequest, FieldProblem
from openride_analytics.metrics.drivers import SORTS
from openride_analytics.metrics.question import Filters, Question
from openride_analytics.period import (
    DEFAULT_DAYS,
    GRANULARITIES,
    UNITS,
    BadPeriod,
    Granularity,
    Period,
    parse,
    parse_bounds,
)

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
    whole_number_from: int = 1
    required: bool = False
    several: tuple[int, int] | None = None
    """How many values at least and at most, with commas between them."""

    @property
    def schema(self) -> Schema:
        """Its values' documentation."""
        schema = Schema(
            type=OpenAPIType.STRING,
            examples=[self.example],
            format=self.format,
            pattern=self.pattern or None,
            min_length=1,
            max_length=None if self.several else _LONGEST_TEXT,
        )
        # Several values are one text to OpenAPI: an array would be documented as a repeated parameter.
        if self.choices and not self.several:
            schema.enum = list(self.choices)
        if self.whole_number_up_to is not None and not self.several:
            schema = Schema(
                type=OpenAPIType.INTEGER,
                minimum=self.whole_number_from,
                maximum=self.whole_number_up_to,
                examples=[self.example],
            )
        return schema

    @property
    def openapi(self) -> OpenAPIParameter:
        """Its documentation."""
        return OpenAPIParameter(
            name=self.name,
            param_in="query",
            description=self.description,
            required=self.required,
            schema=self.schema,
        )


_DAY_OR_INSTANT = (
    "a calendar day of the time zone (`2026-03-01`) or an RFC 3339 instant (`2026-03-01T07:05:00+01:00`)"
)

PARAMETERS: Final = {
    parameter.name: parameter
    for parameter in (
        QueryParameter("dataset", "What is exported.", "bookings", CONTENTS, required=True),
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
            "Size of the buckets of the series; `none`: no series. Default: `day`. Answers that have no series are the same "
            "with any.",
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
        QueryParameter(
            "sort",
            "What `top` is ordered by. Default: `earnings`, those in the `currency` asked for, or in the configured one.",
            "earnings",
            SORTS,
        ),
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
        QueryParameter(
            "steps",
            f"{funnel.LEAST_STEPS} to {funnel.MOST_STEPS} event types with commas between them, of: "
            f"{', '.join(funnel.STEPS)}. Default: `{','.join(funnel.DEFAULT_STEPS)}`.",
            "booking.created,booking.confirmed",
            funnel.STEPS,
            several=(funnel.LEAST_STEPS, funnel.MOST_STEPS),
        ),
        QueryParameter(
            "window_hours",
            f"Time from step 1 in which all others must follow. Default: {funnel.DEFAULT_WINDOW_HOURS}.",
            funnel.DEFAULT_WINDOW_HOURS,
            whole_number_up_to=funnel.LONGEST_WINDOW_HOURS,
        ),
        QueryParameter(
            "step",
            "Only users who went no further than this step, by its number from 1; the last step is none. "
            "Default: whichever they stopped at.",
            1,
            whole_number_up_to=funnel.MOST_STEPS - 1,
        ),
        QueryParameter("breakdown", "Adds the funnel by place of registration.", "state", funnel.BREAKDOWNS),
        QueryParameter("unit", "Size of the cohorts and of the cells. Default: `week`.", "week", UNITS),
        QueryParameter(
            "periods",
            f"How many cells a cohort has at most. Default: {cohort.DEFAULT_PERIODS}.",
            cohort.DEFAULT_PERIODS,
            whole_number_up_to=cohort.MOST_PERIODS,
        ),
        QueryParameter(
            "activity",
            "What makes a user active: `booking` (created one), `trip` (completed one as rider or driver) or `any` "
            "(acted). Default: `booking`.",
            "booking",
            cohort.ACTIVITIES,
        ),
        QueryParameter(
            "days",
            f"Up to {retention.MOST_DAYS} days N from 0 to {retention.LAST_DAY} with commas between them. "
            f"Default: `{','.join(map(str, retention.DEFAULT_DAYS))}`.",
            "1,7,30",
            whole_number_up_to=retention.LAST_DAY,
            whole_number_from=0,
            several=(1, retention.MOST_DAYS),
        ),
        QueryParameter(
            "mode",
            "`exact`: active in the 24 h of day N; `unbounded`: at any time from there. Default: `exact`.",
            "exact",
            retention.MODES,
        ),
        QueryParameter("role", "Only users who registered as this.", "RIDER", retention.ROLES),
        QueryParameter(
            "metric", "What is counted. Default: `bookings`.", "bookings", tuple(geographic.FILTERS)
        ),
        QueryParameter(
            "level",
            f"What a place is; `h3`, a hexagon, only with {', '.join(geographic.WITH_POINTS)}. Default: `state`.",
            "city",
            geographic.LEVELS,
        ),
        QueryParameter(
            "resolution",
            f"Of the hexagons, the finest last. Default: {geographic.DEFAULT_RESOLUTION}.",
            geographic.DEFAULT_RESOLUTION,
            whole_number_up_to=geographic.FINEST,
            whole_number_from=geographic.COARSEST,
        ),
        QueryParameter(
            "format",
            "`geojson` (RFC 7946), only with `level=h3`. Default: `json`.",
            "json",
            ("json", "geojson"),
        ),
        QueryParameter(
            "bom",
            "`true` begins the file with a byte order mark, by which older spreadsheets know UTF-8.",
            "true",
            ("true", "false"),
        ),
        QueryParameter(
            "raw",
            "`true` leaves text as it is, also where a spreadsheet would take it for a formula.",
            "true",
            ("true", "false"),
        ),
    )
}

SPAN: Final = ("start_date", "end_date", "timezone")
PERIOD: Final = ("start_date", "end_date", "timezone", "granularity", "compare")

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE | re.ASCII)
_ANY_ZONE: Final = ZoneInfo("UTC")
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
                self.refuse(
                    name, f"There is no such parameter here. There are: {', '.join(sorted(allowed))}."
                )
            elif name in self._values:
                self.refuse(name, "Given more than once.")
            else:
                self._values[name] = value
        for name, value in self._values.items():
            self._check(table[name], value)
        self.raise_faults()

    def question(self, analytics: Analytics, filters: Iterable[str], now: datetime) -> Question:
        """What a metrics endpoint is asked."""
        return Question(
            period=self.period(analytics, now),
            now=now,
            compare="compare" in self._values,
            filters=self._filters(filters),
            default_currency=analytics.currency,
            on_time_minutes=analytics.on_time_minutes,
            limit=self.number("limit", 10),
            sort=self._values.get("sort", "earnings"),
        )

    def common(self, analytics: Analytics, filters: Iterable[str], now: datetime) -> dict[str, Any]:
        """What every question of analytics has."""
        return {
            # The buckets of a series are taken as for metrics, and there is none.
            "period": replace(self.period(analytics, now, "none"), granularity="none"),
            "now": now,
            "filters": self._filters(filters),
            "default_currency": analytics.currency,
            "compare": "compare" in self._values,
        }

    def period(self, analytics: Analytics, now: datetime, default: Granularity = "day") -> Period:
        """The period asked for, or the default one."""
        granularity: Any = self._values.get("granularity", default)
        try:
            return parse(
                self._values.get("start_date"),
                self._values.get("end_date"),
                timezone=ZoneInfo(self._values.get("timezone", analytics.timezone)),
                granularity=granularity,
                now=now,
            )
        except BadPeriod as error:
            self.refuse(error.field, error.message)
            self.raise_faults()
            raise

    def text(self, name: str) -> str | None:
        """A text as it was given, None if it was not."""
        return self._values.get(name)

    def number(self, name: str, default: int) -> int:
        """A whole number."""
        return int(self._values.get(name, default))

    def choice(self, name: str, default: str | None = None) -> Any:
        """One of a parameter's choices."""
        return self._values.get(name, default)

    def several(self, name: str) -> list[str]:
        """The values of a list; an empty one if it is not given."""
        return self._values[name].split(",") if name in self._values else []

    def given(self, names: Iterable[str]) -> list[str]:
        """Which of these are given."""
        return [name for name in names if name in self._values]

    def _filters(self, names: Iterable[str]) -> Filters:
        return Filters(**{name: self._filter(name) for name in self.given(names)})

    def _filter(self, name: str) -> str:
        value = self._values[name]
        return value.lower() if PARAMETERS[name].format is OpenAPIFormat.UUID else value

    def _check(self, parameter: QueryParameter, value: str) -> None:
        if parameter.several is None:
            self._check_one(parameter, value)
            return
        least, most = parameter.several
        values = value.split(",")
        if not least <= len(values) <= most:
            self.refuse(parameter.name, f"Give {least} to {most} values with commas between them.")
            return
        faults = len(self._errors)
        for one in values:
            if len(self._errors) == faults:  # saying it once is enough
                self._check_one(parameter, one)

    def _check_one(self, parameter: QueryParameter, value: str) -> None:
        if parameter.choices and value not in parameter.choices:
            self.refuse(parameter.name, f"Must be one of {', '.join(parameter.choices)}.")
        elif parameter.whole_number_up_to is not None:
            is_number = value.isascii() and value.isdecimal() and len(value) < 10
            least, most = parameter.whole_number_from, parameter.whole_number_up_to
            if not is_number or not least <= int(value) <= most:
                self.refuse(parameter.name, f"Must be a whole number from {least} to {most}.")
        elif parameter.format is OpenAPIFormat.UUID and not _UUID.match(value):
            self.refuse(parameter.name, "Must be a UUID, such as 0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f.")
        elif parameter.name == "currency" and not _CURRENCY.match(value):
            self.refuse("currency", "Must be an ISO 4217 code, such as NGN.")
        elif parameter.name == "timezone" and not _is_zone(value):
            self.refuse("timezone", "There is no such IANA time zone. Example: Africa/Lagos.")
        elif not value.strip() or len(value) > _LONGEST_TEXT or "\0" in value:
            self.refuse(parameter.name, f"Must be a text of 1 to {_LONGEST_TEXT} characters.")
        elif parameter.name in ("start_date", "end_date"):
            self._check_bound(parameter.name, value)

    def _check_bound(self, name: str, value: str) -> None:
        """By itself: the period needs all the others."""
        bounds = (value, None) if name == "start_date" else (None, value)
        try:
            parse_bounds(*bounds, timezone=_ANY_ZONE)
        except BadPeriod as error:
            self.refuse(name, error.message)

    def refuse(self, field: str, message: str) -> None:
        """Finds a fault, to be raised with all others."""
        self._errors.append(FieldProblem(field=field[:_LONGEST_TEXT], message=message))

    def raise_faults(self) -> None:
        """Raises `BadRequest` if there are any."""
        if self._errors:
            several = len(self._errors) > 1
            detail = f"{len(self._errors)} parameter{'s' if several else ''} cannot be used."
            raise BadRequest(detail, self._errors)


def question_key(endpoint: str, question: Question) -> str:
    """One text for all requests that ask the same, however they wrote it."""
    return _key(
        endpoint,
        question.period,
        {
            "compare": question.compare,
            "limit": question.limit,
            "sort": question.sort,
            "default_currency": question.default_currency,
            "on_time_minutes": question.on_time_minutes,
            **question.filters.given,
        },
    )


def analytics_key(endpoint: str, question: AnalyticsQuestion) -> str:
    """The same for a question of analytics."""
    common = {"compare": question.compare, "default_currency": question.default_currency}
    return _key(endpoint, question.period, {**common, **question.settings})


def _key(endpoint: str, period: Period, parts: Mapping[str, object]) -> str:
    all_parts = {
        "start": period.start_ms,
        "end": period.end_ms,
        "timezone": period.timezone.key,
        "granularity": period.granularity,
        "whole_days": period.whole_days,
        **parts,
    }
    return f"{endpoint}?" + "&".join(f"{name}={value!r}" for name, value in all_parts.items())


def _is_zone(name: str) -> bool:
    return name in time_zones()
