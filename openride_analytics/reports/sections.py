"""What a report says of each metrics endpoint: its key numbers, charts and tables, made from the endpoint's own answer."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from openride_analytics import catalogue
from openride_analytics.catalogue import MetricDefinition
from openride_analytics.exports.summary import Number
from openride_analytics.metrics.question import Question
from openride_analytics.reports import charts, wording
from openride_analytics.reports.document import Chart, Column, Definition, KeyNumber, Section, Table
from openride_analytics.warehouse import Warehouse

Better = Literal["more", "less", "either"]

_MOST_BUCKETS: Final = 400
MOST_CURRENCIES: Final = 3
_COHORT_MARK: Final = " *"
_COHORT_NOTE: Final = (
    "* Follows the things that began in the period to the present: it may still change, and that of a recent period has "
    "had less time."
)

# What tables of their own show.
_ELSEWHERE: Final = ("breakdowns.", "top.", "popular.", "earnings.", "retention.")

_LABELS: Final = {
    "dau": "Active users, last day",
    "wau": "Active users, last 7 days",
    "mau": "Active users, last 30 days",
    "stickiness": "Stickiness",
    "growth_rate": "Growth of registrations",
    "total_users": "Registered users, in total",
    "drivers": "Drivers, in total",
    "kyc_completion_rate": "Share of drivers verified",
    "driver_activation_rate": "Share of drivers activated",
    "booking_frequency": "Bookings per rider in 30 days",
    "cancelled_by.RIDER": "Cancelled by the rider",
    "cancelled_by.DRIVER": "Cancelled by the driver",
    "cancelled_by.SYSTEM": "Cancelled by the platform",
    "median_minutes_to_confirm": "Time to confirm, median",
    "average_processing_time_ms": "Processing time, mean",
    "p50_processing_time_ms": "Processing time, median",
    "p95_processing_time_ms": "Processing time, 95th percentile",
    "average_duration_minutes": "Duration, mean",
    "p50_duration_minutes": "Duration, median",
    "p95_duration_minutes": "Duration, 95th percentile",
    "average_distance_km": "Distance, mean",
    "p50_distance_km": "Distance, median",
    "p95_distance_km": "Distance, 95th percentile",
    "on_time_rate": "Left on time",
}


@dataclass(frozen=True)
class Key:
    """A number that stands out: a field of the summary, what it is called, and whether more of it is better."""

    field: str
    label: str
    better: Better = "more"
    headline: bool = False


@dataclass(frozen=True)
class Subject:
    """A metrics endpoint as a part of a report."""

    name: str
    title: str
    lead: str
    ask: Callable[[Warehouse, Question], Awaitable[Any]]
    filters: frozenset[str]
    keys: tuple[Key, ...]
    series: tuple[str, ...]
    counts: tuple[str, ...]
    """Fields of the summary which are all 0 where nothing happened."""
    charts: Callable[["Seen"], list[Chart | None]]
    tables: Callable[["Seen"], list[Table]]

    @property
    def endpoint(self) -> str:
        """As the catalogue of metrics has it."""
        return f"/v1/metrics/{self.name}"


@dataclass(frozen=True)
class Seen:
    """An answer with the question that it answers, and whether all of it is wanted or a summary."""

    subject: Subject
    answer: Any
    question: Question
    detailed: bool

    @property
    def is_empty(self) -> bool:
        """Nothing happened in the period."""
        counts = [getattr(self.answer.summary, name) for name in self.subject.counts]
        # Routes of which only bookings are known.
        return not any(counts) and not getattr(self.answer, "popular", None)

    def key_numbers(self, *, headline: bool = False) -> tuple[KeyNumber, ...]:
        """All, or those that stand for the whole."""
        return tuple(self._key_number(key) for key in self.subject.keys if key.headline or not headline)

    def section(self) -> Section:
        """Key numbers, charts and tables; in detail also the numbers of each bucket."""
        if self.is_empty:
            return Section(
                title=self.subject.title,
                lead="Nothing happened in this period.",
                key_numbers=(),
                charts=(),
                tables=(self._all_numbers(),),
            )
        tables = [self._all_numbers(), *self.subject.tables(self)]
        if self.detailed and self.question.period.granularity != "none":
            tables.append(self._series())
        return Section(
            title=self.subject.title,
            lead=self.subject.lead,
            key_numbers=self.key_numbers(),
            charts=tuple(chart for chart in self.subject.charts(self) if chart is not None),
            tables=tuple(tables),
        )

    def numbers(self) -> list[Number]:
        """All numbers as they are, for a sheet or a CSV."""
        return [
            Number(
                section=self.subject.title,
                name=metric.name,
                label=_label(metric.name),
                unit=metric.unit,
                currency=currency,
                now=now,
                before=before,
            )
            for metric in catalogue.definitions().metrics
            if _is_plain(metric, self.subject)
            for _, now, before, currency in self._values(metric, "")
        ]

    def definitions(self) -> tuple[Definition, ...]:
        """Of the numbers in its main table."""
        return tuple(
            Definition(
                self.subject.title,
                _label(metric.name) + (_COHORT_MARK if metric.basis == "cohort" else ""),
                metric.formula.replace("`", ""),
                metric.unit,
            )
            for metric in catalogue.definitions().metrics
            if _is_plain(metric, self.subject)
        )

    def over_time(self, title: str, fields: dict[str, str], unit: str) -> Chart | None:
        """A chart of fields of the series, by their labels."""
        series = self.answer.series
        lines = [
            charts.Line(label, self._begun([getattr(b, name) for b in series]))
            for name, label in fields.items()
        ]
        return charts.over_time(title, self.question.period, [b.partial for b in series], lines, unit=unit)

    def money_over_time(self, title: str, field: str) -> list[Chart | None]:
        """A chart for each currency (in a summary the usual one): amounts of several are never put on one axis."""
        series = self.answer.series
        return [
            charts.over_time(
                title if len(self.currencies(field)) == 1 else f"{title}, {currency}",
                self.question.period,
                [b.partial for b in series],
                [
                    charts.Line(
                        title, self._begun([float(getattr(b, field).get(currency, 0)) for b in series])
                    )
                ],
                unit="money",
                currency=currency,
            )
            for currency in self.currencies(field)[: MOST_CURRENCIES if self.detailed else 1]
        ]

    def _begun(self, values: list[float | None]) -> list[float | None]:
        """Of a bucket that has not begun there is nothing to draw, which is not 0."""
        starts = self.question.period.buckets
        return [
            value if start <= self.question.now else None for value, start in zip(values, starts, strict=True)
        ]

    def currencies(self, field: str) -> list[str]:
        """Those of an amount in this period and the one before, the usual one first."""
        named = set(getattr(self.answer.summary, field))
        if self.answer.previous is not None:
            named |= set(getattr(self.answer.previous.summary, field))
        return sorted(named, key=lambda currency: (currency != self.question.default_currency, currency))

    def _key_number(self, key: Key) -> KeyNumber:
        """Of money the usual currency, with the others beside it."""
        (metric,) = (
            metric
            for metric in catalogue.definitions().metrics
            if _is_plain(metric, self.subject) and metric.name == key.field
        )
        (label, now, before, currency), *others = self._values(metric, key.label)
        changed = wording.change(now, before, metric.unit)
        direction = changed[1] if changed else None
        return KeyNumber(
            label=label,
            value=_text(now, metric, currency, short=True),
            change=changed[0] if changed else None,
            before=None if before is None else _text(before, metric, currency, short=True),
            also=", ".join(_text(value, metric, other, short=True) for _, value, _, other in others),
            direction=direction,
            trend=wording.trend(direction, key.better),
        )

    def _all_numbers(self) -> Table:
        metrics = [metric for metric in catalogue.definitions().metrics if _is_plain(metric, self.subject)]
        compared = self.answer.previous is not None
        columns = [Column("Metric"), Column("This period", right=True)]
        if compared:
            columns += [Column("Period before", right=True), Column("Change", right=True)]
        return Table(
            title="All numbers",
            columns=tuple(columns),
            rows=tuple(row if compared else row[:2] for metric in metrics for row in self._rows(metric)),
            note=_COHORT_NOTE if any(metric.basis == "cohort" for metric in metrics) else "",
        )

    def _rows(self, metric: MetricDefinition) -> Iterator[tuple[str, ...]]:
        """What it is called, now, before, and the change; a row for each currency."""
        label = _label(metric.name) + (_COHORT_MARK if metric.basis == "cohort" else "")
        for name, now, before, currency in self._values(metric, label):
            changed = wording.change(now, before, metric.unit)
            from_nothing = changed is None and now is not None and before is not None
            yield (
                name,
                _text(now, metric, currency),
                _text(before, metric, currency),
                changed[0] if changed else "from 0" if from_nothing else wording.NOTHING,
            )

    def _values(self, metric: MetricDefinition, label: str) -> Iterator[tuple[str, Any, Any, str | None]]:
        """What it is called, now, before, and the currency; once for each currency."""
        now = _value(self.answer.summary, metric.name)
        before = _value(self.answer.previous.summary, metric.name) if self.answer.previous else None
        if metric.unit != "money by currency":
            yield label, now, before, None
            return
        # No amount is a sum of 0, but no mean.
        none = None if metric.denominator else "0.00"
        named = self.currencies(metric.name) or [self.question.default_currency]
        for currency in named:
            yield (
                label if len(named) == 1 else f"{label}, {currency}",
                now.get(currency, none),
                None if before is None else before.get(currency, none),
                currency,
            )

    def _series(self) -> Table:
        period = self.question.period
        series = self.answer.series
        units = _units(self.subject.endpoint)
        columns = [Column(period.granularity.capitalize())]
        cells: list[Callable[[Any], str]] = []
        for name in self.subject.series:
            for currency in self.currencies(name) if units[name] == "money by currency" else [None]:
                columns.append(Column(_label(name) + (f", {currency}" if currency else ""), right=True))
                cells.append(_cell(name, units[name], currency))
        begun = [pair for pair in zip(series, period.buckets, strict=True) if pair[1] <= self.question.now]
        shown = begun[:_MOST_BUCKETS]
        rows = [
            (
                wording.bucket(start, period) + (" (not over yet)" if item.partial else ""),
                *(cell(item) for cell in cells),
            )
            for item, start in shown
        ]
        note = ""
        if len(begun) > len(shown):
            note = f"The first {len(shown)} of {len(begun)} {period.granularity}s; the Excel and CSV formats have them all."
        return Table(title=f"By {period.granularity}", columns=tuple(columns), rows=tuple(rows), note=note)


def _units(endpoint: str) -> dict[str, str]:
    return {m.name: m.unit for m in catalogue.definitions().metrics if m.endpoint == endpoint}


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " ").capitalize())


def _is_plain(metric: MetricDefinition, subject: Subject) -> bool:
    """Whether it is a number of the summary itself, not one by a key or in a list."""
    return metric.endpoint == subject.endpoint and not metric.name.startswith(_ELSEWHERE)


def _value(summary: Any, name: str) -> Any:
    for part in name.split("."):
        summary = getattr(summary, part)
    return summary


def _text(value: Any, metric: MetricDefinition, currency: str | None, *, short: bool = False) -> str:
    if currency is None:
        return wording.measured(value, metric.unit)
    # Sums are exact; means have as many places as are of use.
    return wording.money(value, currency, "short" if short else "rounded" if metric.denominator else "exact")


def _cell(name: str, unit: str, currency: str | None) -> Callable[[Any], str]:
    if currency is None:
        return lambda item: wording.measured(getattr(item, name), unit)
    return lambda item: wording.money(getattr(item, name).get(currency, "0.00"), currency)
