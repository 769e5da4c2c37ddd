"""Errors as RFC 9457 problem details. Nothing inside the service shows in them: no SQL, no addresses, no traces."""

from typing import Annotated, Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import Meta, Struct
from structlog.contextvars import get_contextvars

from openride_analytics.warehouse import QueryTooLong, StatementRefused, WarehouseError, WarehouseUnavailable

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5

_TITLES: Final = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timed out",
    409: "Conflict",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
    504: "Query timed out",
}


class FieldProblem(Struct, kw_only=True):
    """What is wrong with one parameter or field."""

    field: Annotated[str, Meta(description="Its name.", examples=["timezone"])]
    message: Annotated[
        str, Meta(description="What is wrong, and how to mend it.", examples=["There is no such zone."])
    ]


class Problem(Struct, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details."""

    type: Annotated[str, Meta(description="Kind of problem.", examples=["about:blank"])]
    title: Annotated[str, Meta(description="The kind in words.", examples=["Bad request"])]
    status: Annotated[int, Meta(description="HTTP status.", examples=[400])]
    detail: Annotated[str, Meta(description="What happened here.", examples=["1 parameter cannot be used."])]
    instance: Annotated[str, Meta(description="Path of the request.", examples=["/v1/metrics/bookings"])]
    request_id: Annotated[
        str,
        Meta(
            description="As the header `X-Request-ID`: stands in the service's log lines about this request.",
            examples=["4bf92f3577b34da6a3ce929d0e0e4736"],
        ),
    ]
    errors: Annotated[list[FieldProblem], Meta(description="For bad parameters: each of them.")] = []


class BadRequest(Exception):
    """The request cannot be answered; `errors` name the parameters at fault."""

    def __init__(self, detail: str, errors: list[FieldProblem] | None = None, status: int = 400) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.status = status


def problem(
    request: Request[Any, Any, Any], status: int, detail: str, errors: list[FieldProblem] | None = None
) -> Response[bytes]:
    """A problem answer."""
    body = Problem(
        type="about:blank",
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=detail,
        instance=request.url.path,
        request_id=get_contextvars().get("request_id", ""),
        errors=errors or [],
    )
    headers = {"Cache-Control": "no-store"}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def on_bad_request(request: Request[Any, Any, Any], error: BadRequest) -> Response[bytes]:
    """400 and its relatives."""
    return problem(request, error.status, error.detail, error.errors)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What Litestar itself refuses: unknown paths, wrong methods, bodies that are too large."""
    details = {
        404: "There is nothing at this address.",
        405: f"{request.method} is not possible here.",
        413: "The body is larger than the service accepts.",
    }
    if error.status_code >= 500:
        return on_unexpected(request, error)
    response = problem(
        request, error.status_code, details.get(error.status_code, "The request cannot be answered.")
    )
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def on_warehouse_error(request: Request[Any, Any, Any], error: WarehouseError) -> Response[bytes]:
    """The store is away, or took too long; anything else is our own mistake."""
    if isinstance(error, StatementRefused) and not request.app.state.service.started.is_set():
        return problem(request, 503, "The service is starting.")  # its tables may not be there yet
    if isinstance(error, WarehouseUnavailable):
        log.warning("warehouse_unavailable", path=request.url.path, error=str(error)[:500])
        return problem(request, 503, "The data store does not answer just now.")
    if isinstance(error, QueryTooLong):
        log.warning("query_too_long", path=request.url.path, error=str(error)[:500])
        return problem(request, 504, "The query ran past its limit: ask for a shorter period.")
    return on_unexpected(request, error)


def on_store_away(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """PostgreSQL or the store of the files is away."""
    log.warning("store_unavailable", path=request.url.path, error=f"{type(error).__name__}: {error}"[:500])
    return problem(request, 503, "The data store does not answer just now.")


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A mistake in the service: logged in full, told in brief."""
    log.error("request_failed", path=request.url.path, exc_info=error)
    return problem(request, 500, "The service made a mistake; it has been logged.")
