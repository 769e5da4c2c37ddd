"""What every metrics endpoint is asked, the shape of its answer, and the SQL that all of them share.

A question runs one statement over its events in which **the whole period is just one more bucket**: `BUCKET` puts
each row into its own bucket and into `WHOLE`. Summary and series so come from the same expressions and the same
state of the store, and a thing that happened twice counts once in each.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, Struct

from openride_analytics.period import Period, from_milliseconds, instant_text, milliseconds
from openride_analytics.warehouse import Parameter, Row, Warehouse
from openride_analytics.warehouse.facts import FIRST

WHOLE: Final = -1
"""The bucket that is the whole period."""

BUCKET: Final = """arrayJoin(arrayDistinct([
            -1,
            roundDown(toUnixTimestamp64Milli(event_timestamp), {edges:Array(Int64)})
        ]))"""

OWN_BUCKET: Final = "roundDown(toUnixTimestamp64Milli(event_timestamp), {edges:Array(Int64)})"
"""Only its own bucket: what adds up is counted so, and brought into `WHOLE` afterwards by `SPANS`."""

SPANS: Final = "if(adds_up AND span != -1, [span, -1], [span])"
"""The buckets that a row of counts goes into: its own, and `WHOLE` if its things cannot be in another bucket too."""

IN_PERIOD: Final = """event_timestamp >= fromUnixTimestamp64Milli({start:Int64})
          AND event_timestamp < fromUnixTimestamp64Milli({end:Int64})"""

BEFORE_END: Final = "event_timestamp < fromUnixTimestamp64Milli({end:Int64})"

LATEST: Final = "(event_timestamp, event_type, event_id)"

Money = Annotated[
    dict[str, str],
    Meta(
        description="Exact amounts by currency (ISO 4217), as decimal text.", examples=[{"NGN": "1234500.00"}]
    ),
]


@dataclass(frozen=True)
class Filters:
    """What to keep; None keeps all. See `filters` for what each means for a booking, payment, trip, route or user."""

    city: str | None = None
    state: str | None = None
    currency: str | None = None
    payment_method: str | None = None
    provider: str | None = None
    route_id: str | None = None
    driver_id: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Those that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Question:
    """One request to a metrics endpoint. `now` is when it was asked; nothing else here looks at a clock."""

    period: Period
    now: datetime
    compare: bool = False
    filters: Filters = Filters()
    default_currency: str = "NGN"
    on_time_minutes: int = 10
    limit: int = 10
    sort: str = "earnings"
    origin: Period | None = None
    back: int = 0

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What the shared SQL fragments bind, and all filters."""
        edges = [milliseconds(start) for start in self.period.buckets] or [WHOLE]
        return {
            "start": self.period.start_ms,
            "end": self.period.end_ms,
            "edges": edges,
            "on_time_minutes": self.on_time_minutes,
            **self.filters.given,
        }

    def before(self) -> "Question":
        """The same for the previous period, without a series. It can be repeated: all are cut as the first one is."""
        origin, back = self.origin or self.period, self.back + 1
        return replace(self, period=origin.previous(self.now, back), origin=origin, back=back, compare=False)


class PeriodAnswer(Struct, kw_only=True):
    """The period that was answered for."""

    start: Annotated[str, Meta(description="First instant, UTC.", examples=["2026-02-28T23:00:00Z"])]
    end: Annotated[str, Meta(description="End, excluded, UTC.", examples=["2026-03-31T23:00:00Z"])]
    timezone: Annotated[str, Meta(description="The zone whose days cut it.", examples=["Africa/Lagos"])]
    granularity: Annotated[str, Meta(description="Size of the buckets of `series`.", examples=["day"])]


class PreviousPeriod(Struct, kw_only=True):
    """The span that `previous` was computed for."""

    start: Annotated[str, Meta(description="First instant, UTC.", examples=["2026-01-31T23:00:00Z"])]
    end: Annotated[str, Meta(description="End, excluded, UTC.", examples=["2026-02-28T23:00:00Z"])]


BucketStart = Annotated[
    str, Meta(description="First instant of the bucket, UTC.", examples=["2026-02-28T23:00:00Z"])
]
Partial = Annotated[bool, Meta(description="The bucket is not over yet: it contains now.", examples=[False])]


class Bucket(Struct, kw_only=True):
    """What every item of a series begins with."""

    start: BucketStart
    partial: Partial


DataThrough = Annotated[
    str | None,
    Meta(
        description="Newest `event_timestamp` stored, whatever its kind; null while nothing is stored.",
        examples=["2026-03-31T22:59:58.120Z"],
    ),
]

SUMMARY: Final = Meta(description="Over the whole period.")
PREVIOUS: Final = Meta(description="The period before, with `compare=previous`; else null.")
SERIES: Final = Meta(
    description="One item a bucket, in order, empty ones too; empty with `granularity=none`."
)
BREAKDOWNS: Final = Meta(description="The whole period by a property; empty where the endpoint has none.")


class AnswerHead(Struct, kw_only=True):
    """What every answer begins with."""

    period: Annotated[PeriodAnswer, Meta(description="The period that was answered for.")]
    data_through: DataThrough


class PreviousHead(Struct, kw_only=True):
    """What every comparison begins with."""

    period: Annotated[PreviousPeriod, Meta(description="The span that was compared with.")]


class NoBreakdowns(Struct, kw_only=True):
    """This endpoint has none."""


async def no_breakdowns() -> NoBreakdowns:
    """For `answer_by_bucket`."""
    return NoBreakdowns()


A = TypeVar("A")
P = TypeVar("P")
S = TypeVar("S")
Item = TypeVar("Item")


def period_answer(period: Period) -> PeriodAnswer:
    """The period as users see it."""
    return PeriodAnswer(
        start=instant_text(period.start),
        end=instant_text(period.end),
        timezone=period.timezone.key,
        granularity=period.granularity,
    )


def statement(sql: str, **fragments: str) -> str:
    """A question's SQL with the shared fragments in their places. Fragments are fixed texts, never a caller's."""
    shared = {
        "bucket": BUCKET,
        "own_bucket": OWN_BUCKET,
        "spans": SPANS,
        "in_period": IN_PERIOD,
        "before_end": BEFORE_END,
        "first": FIRST,
        "latest": LATEST,
    }
    for name, fragment in {**fragments, **shared}.items():  # other fragments may hold shared ones
        sql = sql.replace("{" + name + "}", fragment)
    return sql


async def rows_by_bucket(warehouse: Warehouse, sql: str, question: Question) -> dict[int, Row]:
    """A statement's rows by their `bucket`: its start in Unix milliseconds, or `WHOLE`."""
    return {row["bucket"]: row for row in await warehouse.query(sql, question.parameters)}


def series(
    question: Question,
    rows: Mapping[int, Row],
    item: Callable[..., Item],
    shape: Callable[..., dict[str, Any]],
) -> list[Item]:
    """One `item` for each bucket of the period, in order; buckets without a row are shaped from an empty one.

    `shape(question, row, start, end)` gives the fields of an item besides `start` and `partial`.
    """
    return [
        item(
            start=instant_text(start),
            partial=start <= question.now < end,
            **shape(question, rows.get(milliseconds(start), {}), start, end),
        )
        for start, end in question.period.spans
    ]


def whole(
    question: Question, rows: Mapping[int, Row], shape: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """The whole period's fields, shaped as a bucket's."""
    return shape(question, rows.get(WHOLE, {}), question.period.start, question.period.end)


async def compared(
    question: Question, summarise: Callable[[Question], Awaitable[S]], previous: Callable[..., P]
) -> P | None:
    """`previous` with the summary of the period before, if the question asks for it."""
    if not question.compare:
        return None
    before = question.before()
    period = PreviousPeriod(start=instant_text(before.period.start), end=instant_text(before.period.end))
    return previous(period=period, summary=await summarise(before))


async def answer_by_bucket(
    warehouse: Warehouse,
    question: Question,
    sql: str,
    shape: Callable[..., dict[str, Any]],
    *,
    answer: Callable[..., A],
    summary: Callable[..., S],
    previous: Callable[..., Any],
    item: Callable[..., Any],
    breakdowns: Callable[[], Awaitable[Struct]] = no_breakdowns,
) -> A:
    """The answer where one statement says it all: its row for the whole period is the summary, the others the series."""

    async def summarise(asked: Question) -> S:
        return summary(**whole(asked, await rows_by_bucket(warehouse, sql, asked), shape))

    through, rows, before, by_value = await asyncio.gather(
        data_through(warehouse),
        rows_by_bucket(warehouse, sql, question),
        compared(question, summarise, previous),
        breakdowns(),
    )
    return answer(
        period=period_answer(question.period),
        data_through=through,
        summary=summary(**whole(question, rows, shape)),
        previous=before,
        series=series(question, rows, item, shape),
        breakdowns=by_value,
    )


async def data_through(warehouse: Warehouse) -> str | None:
    """Newest event time stored.

    The bounds of the parts give the newest row without reading; only the hours before it are looked through for the
    newest event that counts. Almost always one hour will do: further back only where the newest rows lost to others
    under the same id.
    """
    for hours in _LOOK_BACK_HOURS:
        (row,) = await warehouse.query(_NEWEST, {"hours": hours})
        if row["newest_ms"] is not None:
            return instant_text(from_milliseconds(row["newest_ms"]))
    return None


_LOOK_BACK_HOURS: Final = (1, 24 * 32, 24 * 366 * 50)

_NEWEST: Final = """
-- freshness
WITH
    (SELECT max(event_timestamp) FROM events) AS newest_event,
    (SELECT max(event_timestamp) FROM driver_locations) AS newest_location,
    greatest(newest_event, newest_location) - toIntervalHour({hours:UInt32}) AS since
SELECT toUnixTimestamp64Milli(max(newest)) AS newest_ms
FROM
(
    SELECT maxOrNull(event_timestamp) AS newest
    FROM events FINAL
    WHERE event_timestamp >= since

    UNION ALL

    SELECT maxOrNull(event_timestamp) AS newest
    FROM driver_locations FINAL
    WHERE event_timestamp >= since
)
"""


def rate(part: int | None, whole: int | None) -> float | None:
    """A ratio of sums as a fraction; None where the denominator is 0."""
    return (part or 0) / whole if whole else None


def money(amounts: Mapping[str, str] | None) -> dict[str, str]:
    """Amounts by currency as users see them, in the currencies' order."""
    return {currency: money_text(Decimal(amount)) for currency, amount in sorted((amounts or {}).items())}


def money_text(amount: Decimal) -> str:
    """Decimal text with 2 to 4 decimals; finer amounts (of means, percentiles) are rounded half to even."""
    text = f"{amount.quantize(_FOUR_PLACES, ROUND_HALF_EVEN):f}"
    while text.endswith("0") and text[-3] != ".":
        text = text[:-1]
    return text


def mean_money(amounts: Mapping[str, str] | None, counts: Mapping[str, int] | None) -> dict[str, str]:
    """Sums by currency divided by their counts."""
    counts = counts or {}
    return {
        currency: money_text(Decimal(amount) / counts[currency])
        for currency, amount in sorted((amounts or {}).items())
    }


def minus(amounts: Mapping[str, str] | None, less: Mapping[str, str] | None) -> dict[str, str]:
    """The difference by currency, over the currencies of both."""
    amounts, less = amounts or {}, less or {}
    return {
        currency: money_text(Decimal(amounts.get(currency, 0)) - Decimal(less.get(currency, 0)))
        for currency in sorted({*amounts, *less})
    }


_FOUR_PLACES: Final = Decimal("0.0001")
