"""The metrics as tables: one row a bucket, the endpoint's own numbers, columns from the structs of its answer."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final, get_args, get_type_hints

from msgspec import Struct

from openride_analytics.catalogue import Described, fields
from openride_analytics.exports.datasets import Column, Kind
from openride_analytics.metrics import bookings, drivers, payments, routes, trips, users
from openride_analytics.metrics.question import Money, Question
from openride_analytics.period import instant_text
from openride_analytics.warehouse import Warehouse

_MONEY: Final = get_args(Money)[0]


@dataclass(frozen=True)
class Metric:
    """A metrics endpoint as something to export."""

    title: str
    description: str
    filters: frozenset[str]
    ask: Callable[[Warehouse, Question], Awaitable[Any]]
    answer: type[Struct]

    @property
    def fields(self) -> list[Described]:
        """The fields of a bucket, its beginning first."""
        (bucket,) = get_args(get_args(get_type_hints(self.answer, include_extras=True)["series"])[0])
        return sorted(fields(bucket), key=lambda field: field.path not in (("start",), ("partial",)))


def _metric(title: str, module: Any, answer: type[Struct]) -> Metric:
    path = f"/v1/metrics/{module.__name__.rpartition('.')[2]}"
    description = (
        f"One row a bucket, the numbers of `{path}`; with `granularity=none` one row, the whole period."
    )
    return Metric(title, description, module.FILTERS, module.ask, answer)


METRICS: Final[dict[str, Metric]] = {
    "metrics.users": _metric("User metrics", users, users.UsersAnswer),
    "metrics.bookings": _metric("Booking metrics", bookings, bookings.BookingsAnswer),
    "metrics.payments": _metric("Payment metrics", payments, payments.PaymentsAnswer),
    "metrics.trips": _metric("Trip metrics", trips, trips.TripsAnswer),
    "metrics.drivers": _metric("Driver metrics", drivers, drivers.DriversAnswer),
    "metrics.routes": _metric("Route metrics", routes, routes.RoutesAnswer),
}


@dataclass(frozen=True)
class Table:
    """A table whose columns depend on the currencies that occur, and the same columns over the whole period."""

    columns: tuple[Column, ...]
    rows: list[list[Any]]
    whole: list[Any]


async def table(warehouse: Warehouse, metric: Metric, question: Question) -> Table:
    """Asks the endpoint's question. Raises what `Warehouse.query` raises."""
    answer = await metric.ask(warehouse, question)
    items: list[Any] = answer.series or [answer.summary]
    columns: list[Column] = []
    cells: list[Callable[[Any], Any]] = []
    for field in metric.fields:
        for column, cell in _columns(field, [*items, answer.summary], question.default_currency):
            columns.append(column)
            cells.append(cell)
    whole = _Whole(answer.summary, question.period.start, question.now < question.period.end)
    rows = [[cell(item) for cell in cells] for item in answer.series or [whole]]
    return Table(tuple(columns), rows, [cell(whole) for cell in cells])


class _Whole:
    """The summary, as if it were a bucket."""

    def __init__(self, summary: Any, start: datetime, partial: bool) -> None:  # noqa: FBT001  # the bucket's own names
        self.start = instant_text(start)
        self.partial = partial
        self._summary = summary

    def __getattr__(self, name: str) -> Any:
        return getattr(self._summary, name)


def _columns(
    field: Described, items: list[Any], default_currency: str
) -> Iterator[tuple[Column, Callable[[Any], Any]]]:
    """The columns of a field, each with what takes its value out of a bucket."""
    name, description = ".".join(field.path), field.meta.description or ""
    if field.type != _MONEY:
        yield Column(name, _kind(field), description), attrgetter(name)
        return
    known = {currency for item in items for currency in attrgetter(name)(item)}
    for currency in sorted(known) or [default_currency]:
        yield Column(f"{name}.{currency}", "amount", f"{description} In {currency}."), _amount(name, currency)


def _amount(name: str, currency: str) -> Callable[[Any], Decimal | None]:
    def amount(item: Any) -> Decimal | None:
        text: str | None = attrgetter(name)(item).get(currency)
        return None if text is None else Decimal(text)

    return amount


def _kind(field: Described) -> Kind:
    if field.type is str:
        return "time"
    if field.type is bool:
        return "flag"
    measured = (field.meta.extra or {})["measure"]
    if measured.unit == "ratio":
        return "ratio"
    return "whole" if field.type is int else "number"
