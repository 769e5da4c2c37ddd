"""The catalogue of metrics, read from the structs of the answers: what is said there is said once.

The OpenAPI document takes its texts from the same structs, and reports take their sheets of definitions from here.
"""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Final, get_args, get_type_hints

from msgspec import Meta, Struct

from openride_analytics.analytics.cohort import CohortAnswer
from openride_analytics.analytics.funnel import FunnelAnswer
from openride_analytics.analytics.geographic import GeographicAnswer
from openride_analytics.analytics.retention import RetentionAnswer
from openride_analytics.metrics.bookings import BookingsAnswer
from openride_analytics.metrics.drivers import DriversAnswer
from openride_analytics.metrics.measure import Basis, Measure
from openride_analytics.metrics.payments import PaymentsAnswer
from openride_analytics.metrics.realtime import RealtimeAnswer
from openride_analytics.metrics.routes import RoutesAnswer
from openride_analytics.metrics.trips import TripsAnswer
from openride_analytics.metrics.users import UsersAnswer

ANSWERS: Final[dict[str, type[Struct]]] = {
    "/v1/metrics/users": UsersAnswer,
    "/v1/metrics/bookings": BookingsAnswer,
    "/v1/metrics/payments": PaymentsAnswer,
    "/v1/metrics/trips": TripsAnswer,
    "/v1/metrics/drivers": DriversAnswer,
    "/v1/metrics/routes": RoutesAnswer,
    "/v1/metrics/realtime": RealtimeAnswer,
    "/v1/analytics/funnel": FunnelAnswer,
    "/v1/analytics/cohort": CohortAnswer,
    "/v1/analytics/retention": RetentionAnswer,
    "/v1/analytics/geographic": GeographicAnswer,
}
"""The answers whose numbers are metrics, by their endpoint."""

# The same metrics as those of `summary`, for other spans.
_AGAIN: Final = frozenset({"previous", "series"})


class MetricDefinition(Struct, kw_only=True):
    """One metric."""

    name: Annotated[
        str,
        Meta(
            description="The field of the answer, with those it is in before it; `summary` is left out.",
            examples=["conversion_rate", "breakdowns.provider.revenue"],
        ),
    ]
    endpoint: Annotated[str, Meta(description="Who answers it.", examples=["/v1/metrics/bookings"])]
    formula: Annotated[
        str,
        Meta(description="In words.", examples=["Of the bookings created, the share confirmed since."]),
    ]
    unit: Annotated[str, Meta(description="What it counts or is measured in.", examples=["ratio"])]
    numerator: Annotated[
        str | None,
        Meta(description="Of a quotient; else null.", examples=["those of them confirmed since"]),
    ]
    denominator: Annotated[
        str | None, Meta(description="Of a quotient; else null.", examples=["bookings created"])
    ]
    basis: Annotated[
        Basis,
        Meta(
            description="`events`: of what happened in the span; `cohort`: of what became, by now, of the things that "
            "began in it.",
            examples=["cohort"],
        ),
    ]
    additive: Annotated[
        bool,
        Meta(
            description="Whether the buckets add up to the whole. Counts of distinct things, and sums over these, do "
            "not: one thing may be in two buckets.",
            examples=[False],
        ),
    ]
    version: Annotated[
        int, Meta(description="Moves on when the same events give another number.", examples=[1])
    ]


class MetricDefinitions(Struct, kw_only=True):
    """What `GET /v1/metrics/definitions` answers."""

    metrics: Annotated[
        list[MetricDefinition], Meta(description="By endpoint, in the order of the answer's fields.")
    ]


class Described(Struct, kw_only=True, frozen=True):
    """A field of an answer that is no struct itself."""

    path: tuple[str, ...]
    type: Any
    meta: Meta


@cache
def definitions() -> MetricDefinitions:
    """All metrics."""
    return MetricDefinitions(
        metrics=[
            _definition(endpoint, field)
            for endpoint, answer in ANSWERS.items()
            for field in fields(answer)
            if field.path[0] not in _AGAIN and "measure" in (field.meta.extra or {})
        ]
    )


def _definition(endpoint: str, field: Described) -> MetricDefinition:
    measured: Measure = (field.meta.extra or {})["measure"]
    return MetricDefinition(
        name=".".join(field.path).removeprefix("summary."),
        endpoint=endpoint,
        formula=field.meta.description or "",
        unit=measured.unit,
        numerator=measured.numerator,
        denominator=measured.denominator,
        basis=measured.basis,
        additive=measured.additive,
        version=measured.version,
    )


def fields(struct: type[Struct], path: tuple[str, ...] = ()) -> Iterator[Described]:
    """The described fields of an answer, those of the structs inside in the place of these."""
    for name, annotated in get_type_hints(struct, include_extras=True).items():
        inside = list(_structs(annotated))
        for one in inside:
            yield from fields(one, (*path, name))
        metas = getattr(annotated, "__metadata__", ())
        if not inside and metas:
            # Where a type of its own has a description, the field's is the last one.
            yield Described(path=(*path, name), type=annotated.__origin__, meta=metas[-1])


def _structs(annotated: Any) -> Iterator[type[Struct]]:
    if isinstance(annotated, type):
        if issubclass(annotated, Struct):
            yield annotated
        return
    for argument in get_args(annotated):
        yield from _structs(argument)
