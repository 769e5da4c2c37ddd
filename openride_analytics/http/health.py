"""Probes for Kubernetes and metrics for Prometheus."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta, Struct
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from openride_analytics import __version__
from openride_analytics.http.access import OPEN
from openride_analytics.service import Service


class Health(Struct, kw_only=True):
    """The state of the service and its parts."""

    status: Annotated[
        str,
        Meta(
            description="`ok`, `degraded` (serves, but without its cache or its stream) or `unavailable`.",
            examples=["ok"],
        ),
    ]
    version: Annotated[str, Meta(description="The service's version.", examples=["0.1.0"])]
    parts: Annotated[
        dict[str, str],
        Meta(
            description="Each part: `ok`, `away`, `off` (not configured), `starting`, `stopping`, `running` (migrations, "
            "which may take hours), `retrying` (ingest), `held` (Kafka: a partition cannot be read).",
            examples=[
                {
                    "clickhouse": "ok",
                    "postgres": "ok",
                    "redis": "ok",
                    "kafka": "ok",
                    "migrations": "ok",
                    "ingest": "ok",
                }
            ],
        ),
    ]


_STATES: Final = {
    200: ResponseSpec(Health, description="It can serve.", generate_examples=False),
    503: ResponseSpec(Health, description="It cannot serve just now.", generate_examples=False),
}


@get(
    "/health/live", opt=OPEN, operation_id="health_live", summary="Is the process alive?", tags=["Operations"]
)
async def live() -> dict[str, str]:
    """200 while the event loop turns, whatever the servers behind it do."""
    return {"status": "ok"}


@get(
    "/health/ready",
    opt=OPEN,
    operation_id="health_ready",
    summary="Can it serve?",
    tags=["Operations"],
    responses=_STATES,
)
async def ready(request: Request[Any, Any, State]) -> Response[bytes]:
    """503 while ClickHouse or PostgreSQL is away, migrations are missing, or it is starting or stopping."""
    return await _report(request)


@get(
    "/health",
    opt=OPEN,
    operation_id="health",
    summary="State of all parts",
    tags=["Operations"],
    responses=_STATES,
)
async def health(request: Request[Any, Any, State]) -> Response[bytes]:
    """The same report as `/health/ready`."""
    return await _report(request)


_PROMETHEUS: Final = CONTENT_TYPE_PLAIN_0_0_4


@get(
    "/metrics",
    opt=OPEN,
    operation_id="prometheus_metrics",
    summary="Metrics for Prometheus",
    tags=["Operations"],
    responses={
        200: ResponseSpec(str, description="The metrics.", media_type=_PROMETHEUS, generate_examples=False)
    },
)
async def prometheus_metrics(request: Request[Any, Any, State]) -> Response[bytes]:
    """In Prometheus' text format, or as OpenMetrics for who accepts that."""
    service: Service = request.app.state.service
    await service.health()  # so that the parts' states are those of now
    body, media_type = service.metrics.exposition(request.headers.get("accept", ""))
    # Litestar says the charset of texts itself.
    return Response(body, media_type=media_type.removesuffix("; charset=utf-8"))


async def _report(request: Request[Any, Any, State]) -> Response[bytes]:
    service: Service = request.app.state.service
    status, parts = await service.health()
    body = Health(status=status, version=__version__, parts=parts)
    return Response(
        msgspec.json.encode(body),
        status_code=503 if status == "unavailable" else 200,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
