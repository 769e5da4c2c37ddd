"""`GET /v1/analytics/*`: parameters in, the question's answer out, by way of the cache."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from openride_analytics.analytics import cohort, funnel, geographic, retention
from openride_analytics.http.access import needs
from openride_analytics.http.answers import NOT_MODIFIED, PROBLEMS, answered, documented
from openride_analytics.http.parameters import PARAMETERS, PERIOD, Query, analytics_key
from openride_analytics.http.problems import BadRequest, FieldProblem
from openride_analytics.service import Service
from openride_analytics.warehouse import Warehouse

GEOJSON: Final = "application/geo+json"


@dataclass(frozen=True)
class Asked:
    """A question, how it is answered, and the type of the answer."""

    question: Any
    ask: Callable[[Warehouse, Any], Awaitable[Any]]
    media_type: str = "application/json"


@dataclass(frozen=True)
class Endpoint:
    """One endpoint of analytics: how it reads its parameters, and what it answers."""

    name: str
    asked: Callable[[Query, dict[str, Any]], Asked]
    answer: Any
    filters: frozenset[str]
    own: tuple[str, ...]
    summary: str
    description: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """All parameters, in the order of their table."""
        taken = {*PERIOD, *self.filters, *self.own}
        return tuple(name for name in PARAMETERS if name in taken)


def _funnel(query: Query, common: dict[str, Any]) -> Asked:
    question = funnel.Question(
        **common,
        steps=tuple(query.several("steps")) or funnel.DEFAULT_STEPS,
        window_hours=query.number("window_hours", funnel.DEFAULT_WINDOW_HOURS),
        breakdown=query.choice("breakdown"),
    )
    return Asked(question, funnel.ask)


def _cohort(query: Query, common: dict[str, Any]) -> Asked:
    question = cohort.Question(
        **common,
        unit=query.choice("unit", "week"),
        periods=query.number("periods", cohort.DEFAULT_PERIODS),
        activity=query.choice("activity", "booking"),
    )
    return Asked(question, cohort.ask)


def _retention(query: Query, common: dict[str, Any]) -> Asked:
    question = retention.Question(
        **common,
        days=tuple(sorted({int(day) for day in query.several("days")})) or retention.DEFAULT_DAYS,
        mode=query.choice("mode", "exact"),
        role=query.choice("role"),
    )
    return Asked(question, retention.ask)


def _geographic(query: Query, common: dict[str, Any]) -> Asked:
    question = geographic.Question(
        **common,
        metric=query.choice("metric", "bookings"),
        level=query.choice("level", "state"),
        resolution=query.number("resolution", geographic.DEFAULT_RESOLUTION),
    )
    metric, is_geojson = question.metric, query.choice("format") == "geojson"
    for name in query.given(_GEOGRAPHIC_FILTERS - geographic.FILTERS[metric]):
        query.refuse(name, f"Not with metric={metric}.")
    if question.level == "h3" and metric not in geographic.WITH_POINTS:
        query.refuse("level", f"h3 only with metric={', '.join(geographic.WITH_POINTS)}.")
    if is_geojson and question.level != "h3":
        query.refuse("format", "geojson only with level=h3.")
    if is_geojson and question.compare:
        query.refuse("compare", "Not with format=geojson.")
    query.raise_faults()
    if is_geojson:
        return Asked(question, geographic.ask_geojson, GEOJSON)
    return Asked(question, geographic.ask)


_FIRST_REGISTRATION: Final = "Users who registered more than once count at their first registration."
_TOO_MANY: Final = (
    f"The answer would have more than {geographic.MOST_HEXAGONS:,} hexagons: ask for a coarser resolution, a shorter period "
    "or one city."
)
_GEOGRAPHIC_FILTERS: Final = frozenset[str]().union(*geographic.FILTERS.values())

ENDPOINTS: Final = (
    Endpoint(
        "funnel",
        _funnel,
        funnel.FunnelAnswer,
        funnel.FILTERS,
        ("steps", "window_hours", "breakdown"),
        "How many users take one step after another",
        "Users are riders for steps of bookings, payments and trips, and drivers for those of routes.",
    ),
    Endpoint(
        "cohort",
        _cohort,
        cohort.CohortAnswer,
        cohort.FILTERS,
        ("unit", "periods", "activity"),
        "Who comes back, by the time of registration",
        _FIRST_REGISTRATION,
    ),
    Endpoint(
        "retention",
        _retention,
        retention.RetentionAnswer,
        retention.FILTERS,
        ("days", "mode", "role"),
        "Who of the newly registered is there on day N",
        _FIRST_REGISTRATION,
    ),
    Endpoint(
        "geographic",
        _geographic,
        geographic.GeographicAnswer,
        _GEOGRAPHIC_FILTERS,
        ("metric", "level", "resolution", "format"),
        "How much happens where",
        "With `format=geojson` the same by hexagon as a FeatureCollection (`application/geo+json`) that has `period`, "
        "`data_through` and `definition` as foreign members. An answer with more than "
        f"{geographic.MOST_HEXAGONS:,} hexagons is refused (400).",
    ),
)


def handlers() -> list[HTTPRouteHandler]:
    """The route handlers of all endpoints of analytics."""
    return [_handler(endpoint) for endpoint in ENDPOINTS]


def _handler(endpoint: Endpoint) -> HTTPRouteHandler:
    parameters = endpoint.parameters

    @get(
        f"/v1/analytics/{endpoint.name}",
        name=f"analytics_{endpoint.name}",
        opt=needs("read"),
        operation_id=f"analytics_{endpoint.name}",
        summary=endpoint.summary,
        description=endpoint.description,
        tags=["Analytics"],
        operation_class=documented(parameters),
        responses={
            200: ResponseSpec(endpoint.answer, description="The answer.", generate_examples=False),
            **NOT_MODIFIED,
            **PROBLEMS,
        },
    )
    async def handler(request: Request[Any, Any, State]) -> Response[bytes]:
        service: Service = request.app.state.service
        query = Query(request.query_params.multi_items(), parameters)
        common = query.common(service.config.analytics, endpoint.filters, datetime.now(UTC))
        asked = endpoint.asked(query, common)

        async def compute() -> bytes:
            try:
                answer = await asked.ask(service.warehouse, asked.question)
            except geographic.TooManyHexagons:
                raise BadRequest(_TOO_MANY, [FieldProblem(field="resolution", message=_TOO_MANY)]) from None
            return msgspec.json.encode(answer)

        key = analytics_key(f"{endpoint.name} {asked.media_type}", asked.question)
        end_ms = asked.question.period.end_ms
        return await answered(request, key, compute, end_ms=end_ms, media_type=asked.media_type)

    return handler
