"""`GET /v1/metrics/*`: parameters in, the question's answer out, by way of the cache."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import ServerSentEvent, ServerSentEventMessage

from openride_analytics import catalogue
from openride_analytics.http.access import caller_of, needs
from openride_analytics.http.answers import NOT_MODIFIED, PROBLEMS, answered, documented, in_time
from openride_analytics.http.parameters import PARAMETERS, PERIOD, Query, question_key
from openride_analytics.metrics import bookings, drivers, payments, realtime, routes, trips, users
from openride_analytics.metrics.question import Question
from openride_analytics.service import Service
from openride_analytics.warehouse import Warehouse

# A realtime answer is about this moment: it is shared by those who ask in the same second or two.
_REALTIME_SECONDS: Final = 1.0
_KEEP_ALIVE_SECONDS: Final = 15


@dataclass(frozen=True)
class Endpoint:
    """One metrics endpoint: its question, its answer's type and the parameters it takes."""

    name: str
    ask: Callable[[Warehouse, Question], Awaitable[Any]]
    answer: Any
    filters: frozenset[str]
    summary: str
    more: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """All parameters, in the order of their table."""
        taken = {*PERIOD, *self.filters, *self.more}
        return tuple(name for name in PARAMETERS if name in taken)


ENDPOINTS: Final = (
    Endpoint(
        "users", users.ask, users.UsersAnswer, users.FILTERS, "Who is active, who joined, who became a driver"
    ),
    Endpoint(
        "bookings",
        bookings.ask,
        bookings.BookingsAnswer,
        bookings.FILTERS,
        "Bookings, how they went, their value",
    ),
    Endpoint(
        "payments", payments.ask, payments.PaymentsAnswer, payments.FILTERS, "Payments, outcomes and revenue"
    ),
    Endpoint("trips", trips.ask, trips.TripsAnswer, trips.FILTERS, "Trips, how long, far and punctual"),
    Endpoint(
        "drivers",
        drivers.ask,
        drivers.DriversAnswer,
        drivers.FILTERS,
        "Drivers, their earnings and who stays",
        ("sort", "limit"),
    ),
    Endpoint(
        "routes",
        routes.ask,
        routes.RoutesAnswer,
        routes.FILTERS,
        "Routes, the popular ones, how full",
        ("limit",),
    ),
)


def handlers() -> list[HTTPRouteHandler]:
    """The route handlers of all metrics endpoints."""
    return [
        *(_handler(endpoint) for endpoint in ENDPOINTS),
        realtime_metrics,
        realtime_stream,
        metric_definitions,
    ]


def _handler(endpoint: Endpoint) -> HTTPRouteHandler:
    parameters = endpoint.parameters

    @get(
        f"/v1/metrics/{endpoint.name}",
        name=f"metrics_{endpoint.name}",
        opt=needs("read"),
        operation_id=f"metrics_{endpoint.name}",
        summary=endpoint.summary,
        tags=["Metrics"],
        operation_class=documented(parameters),
        responses={
            200: ResponseSpec(
                endpoint.answer, description="The metrics of the period.", generate_examples=False
            ),
            **NOT_MODIFIED,
            **PROBLEMS,
        },
    )
    async def handler(request: Request[Any, Any, State]) -> Response[bytes]:
        service: Service = request.app.state.service
        now = datetime.now(UTC)
        query = Query(request.query_params.multi_items(), parameters)
        question = query.question(service.config.analytics, endpoint.filters, now)

        async def compute() -> bytes:
            return msgspec.json.encode(await endpoint.ask(service.warehouse, question))

        key = question_key(endpoint.name, question)
        return await answered(request, key, compute, end_ms=question.period.end_ms)

    return handler


@get(
    "/v1/metrics/realtime",
    opt=needs("read"),
    operation_id="metrics_realtime",
    summary="What is going on just now",
    tags=["Metrics"],
    operation_class=documented(("timezone", "window_minutes")),
    responses={
        200: ResponseSpec(
            realtime.RealtimeAnswer, description="The window that ends now.", generate_examples=False
        ),
        **NOT_MODIFIED,
        **PROBLEMS,
    },
)
async def realtime_metrics(request: Request[Any, Any, State]) -> Response[bytes]:
    """Counts over the last minutes."""
    query = Query(request.query_params.multi_items(), ("timezone", "window_minutes"))
    key, compute = _realtime(request, query)
    return await answered(request, key, compute, max_age_seconds=_REALTIME_SECONDS)


@get(
    "/v1/metrics/realtime/stream",
    opt=needs("read"),
    operation_id="metrics_realtime_stream",
    summary="The same as server-sent events",
    description="One event `metrics` every `interval_seconds`, each with the answer of `/v1/metrics/realtime`.",
    tags=["Metrics"],
    operation_class=documented(("timezone", "window_minutes", "interval_seconds")),
    responses={
        200: ResponseSpec(
            str, description="A stream of events.", media_type="text/event-stream", generate_examples=False
        ),
        400: PROBLEMS[400],
    },
)
async def realtime_stream(request: Request[Any, Any, State]) -> ServerSentEvent:
    """Ends when the client goes away, its key is revoked or expires, or the service stops."""
    service: Service = request.app.state.service
    query = Query(request.query_params.multi_items(), ("timezone", "window_minutes", "interval_seconds"))
    interval = query.number("interval_seconds", 2)
    _realtime(request, query)  # a bad parameter is a 400, not a broken stream

    async def events() -> AsyncIterator[ServerSentEventMessage]:
        caller = caller_of(request)
        while not service.stopping.is_set() and service.gate.holds(caller):
            key, compute = _realtime(request, query)
            timed = in_time(service, "/v1/metrics/realtime", compute)
            try:
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    answer = await service.answers.get(key, timed, max_age_seconds=_REALTIME_SECONDS)
                yield ServerSentEventMessage(event="metrics", data=answer.body.decode())
            except Exception as error:  # noqa: BLE001  # the stream outlives an outage of the store
                # Its default, empty data, would be an event of its own.
                yield ServerSentEventMessage(
                    data=None, comment=f"no answer just now ({type(error).__name__})"
                )
            try:
                async with asyncio.timeout(interval):
                    await service.stopping.wait()
            except TimeoutError:
                continue

    return ServerSentEvent(events())


def _realtime(request: Request[Any, Any, State], query: Query) -> tuple[str, Callable[[], Awaitable[bytes]]]:
    service: Service = request.app.state.service
    now = datetime.now(UTC)
    window = query.number("window_minutes", 60)
    question = realtime.RealtimeQuestion.at(now, window, query.period(service.config.analytics, now))

    async def compute() -> bytes:
        return msgspec.json.encode(await realtime.ask(service.warehouse, question))

    return f"realtime?{window}&{question.period.timezone.key}", compute


@get(
    "/v1/metrics/definitions",
    opt=needs("read"),
    operation_id="metrics_definitions",
    summary="What every metric means",
    tags=["Metrics"],
    responses={
        200: ResponseSpec(
            catalogue.MetricDefinitions, description="The catalogue of metrics.", generate_examples=False
        ),
        400: PROBLEMS[400],
    },
)
async def metric_definitions(request: Request[Any, Any, State]) -> Response[bytes]:
    """The same for as long as the service runs."""
    Query(request.query_params.multi_items(), ())
    return Response(msgspec.json.encode(catalogue.definitions()), media_type="application/json")
