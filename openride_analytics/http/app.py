"""The HTTP application: all handlers, errors, documentation."""

from collections.abc import Iterable
from typing import Any, Final

import asyncpg
from litestar import Litestar, Response, route
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from openride_analytics import __version__
from openride_analytics.access import Denied
from openride_analytics.http import (
    access,
    analytics,
    dashboard,
    exports,
    health,
    keys,
    metrics,
    problems,
    reports,
)
from openride_analytics.http.bodies import BoundedBodies, HeldBytes
from openride_analytics.http.dead_letters import get_dead_letter, list_dead_letters, replay_dead_letters
from openride_analytics.http.events import post_events
from openride_analytics.http.head import Heads
from openride_analytics.http.ingest import ingest_status
from openride_analytics.http.observed import Observed
from openride_analytics.reports.files import FilesUnavailable
from openride_analytics.reports.runner import POSTGRES_AWAY
from openride_analytics.service import Service
from openride_analytics.warehouse import WarehouseError

_DESCRIPTION = """Metrics and analytics of the carpooling platform.

Every number is defined once; the same metric for the same period is the same everywhere. Periods are half-open, days
are those of the `timezone`; rates are fractions and null where nothing is counted; money is exact, by currency, as text."""


# Bodies being read or decoded: so many of the largest.
_BODIES_HELD: Final = 6


def http_app(service: Service) -> ASGIApp:
    """The application; it starts and stops the service with itself."""
    largest_bytes = service.config.ingest.max_request_bytes
    held = HeldBytes(_BODIES_HELD * largest_bytes)
    bounded = BoundedBodies(_litestar(service, held), largest_bytes=largest_bytes, held=held)
    return Observed(Heads(access.Hardened(bounded, service)), service.metrics, service.tracing)


def ops_app(service: Service) -> ASGIApp:
    """Health and Prometheus alone, for a port of their own; it neither starts nor stops the service."""
    app = Litestar(
        route_handlers=[*_OPERATIONS],
        state=State({"service": service}),
        exception_handlers=_HANDLERS,
        logging_config=None,
        request_max_body_size=None,
        openapi_config=None,
    )
    largest_bytes = 1_024
    bounded = BoundedBodies(app, largest_bytes=largest_bytes, held=HeldBytes(_BODIES_HELD * largest_bytes))
    return Observed(Heads(access.Hardened(bounded, service)), service.metrics, service.tracing)


_OPERATIONS: Final = (health.health, health.live, health.ready, health.prometheus_metrics)
_HANDLERS: Final[dict[Any, Any]] = {
    problems.BadRequest: problems.on_bad_request,
    Denied: access.on_denied,
    HTTPException: problems.on_http_exception,
    WarehouseError: problems.on_warehouse_error,
    **dict.fromkeys(
        (asyncpg.PostgresError, *POSTGRES_AWAY, FilesUnavailable),
        problems.on_store_away,
    ),
    Exception: problems.on_unexpected,
}


def _options(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """What answers OPTIONS where a path has several methods: Litestar's own knows only the one that was added first."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    return [_allowing(path, allowed) for path, allowed in methods.items() if len(allowed) > 2]


def _allowing(path: str, allowed: Iterable[str]) -> HTTPRouteHandler:
    @route(
        path, http_method=[HttpMethod.OPTIONS], opt=access.OPEN, include_in_schema=False, sync_to_thread=False
    )
    def options() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": ", ".join(sorted(allowed))})

    return options


def _litestar(service: Service, held: HeldBytes) -> Litestar:
    origins = list(service.config.server.cors_origins)
    handlers: list[HTTPRouteHandler] = [
        *dashboard.handlers(service.config.analytics),
        *metrics.handlers(),
        *analytics.handlers(),
        *exports.handlers(),
        post_events,
        ingest_status,
        list_dead_letters,
        get_dead_letter,
        replay_dead_letters,
        *reports.HANDLERS,
        keys.list_keys,
        keys.create_key,
        keys.revoke_key,
        keys.audit_log,
        *(() if service.config.server.ops_port else _OPERATIONS),
    ]
    return Litestar(
        route_handlers=[*_options(handlers), *handlers],
        lifespan=[lambda _: service.lifespan()],
        state=State({"service": service, "held": held}),
        exception_handlers=_HANDLERS,
        guards=[access.guard],
        plugins=[access.Declared(enabled=service.gate.enabled)],
        cors_config=CORSConfig(
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[
                *("Authorization", "Content-Type", "Content-Encoding", "If-None-Match"),
                *("X-Request-ID", "traceparent"),
            ],
            expose_headers=[
                *("ETag", "Age", "X-Cache", "Retry-After", "Content-Disposition", "X-Total-Rows"),
                *("X-Request-ID", "WWW-Authenticate"),
            ],
        )
        if origins
        else None,
        logging_config=None,
        request_max_body_size=None,  # see BoundedBodies
        openapi_config=OpenAPIConfig(
            title="OpenRide Analytics",
            version=__version__,
            description=_DESCRIPTION,
            components=access.COMPONENTS,
            # Litestar takes the root of this path for itself, and at "/" stands the dashboard.
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/")],
        ),
    )
