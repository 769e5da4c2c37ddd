"""What operators learn of requests: their number and times, and an id that joins an answer to its log lines."""

import re
from collections.abc import Mapping
from time import perf_counter
from typing import Final
from uuid import uuid4

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from openride_analytics.ops.metrics import UNKNOWN, Metrics
from openride_analytics.ops.tracing import OFF, Span, Tracing

# What a proxy or a client has given, if it is no more than a name: it goes into logs and headers.
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE: Final = "0" * 32
_GIVEN_BY_CALLERS: Final = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
_PROBES: Final = ("/health", "/metrics")
# Others are no HTTP, and anybody may make them up.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """An ASGI application around all others.

    Each request has an id: that of its `X-Request-ID`, or of its trace, or a new one. It is answered as `X-Request-ID`, and
    stands in each log line until the answer's end. Times are by route and not by path (whose number is not bounded).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's own life."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        given = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _GIVEN_BY_CALLERS
        }
        method = scope["method"] if scope["method"] in _METHODS else UNKNOWN
        # Probes ask every few seconds, and tell nothing that their answers do not.
        tracing = OFF if scope["path"].startswith(_PROBES) else self._tracing
        started = perf_counter()
        with tracing.span(
            method, kind="server", attributes={"http.request.method": method}, headers=given
        ) as span:
            request_id = _request_id(given, span.trace_id)
            span.set("openride.request_id", request_id)

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableScopeHeaders.from_message(message)
                    headers["X-Request-ID"] = request_id
                    route, status = scope.get("path_template") or UNKNOWN, message["status"]
                    self._metrics.request_seconds.labels(method, route, status).observe(
                        perf_counter() - started, {"trace_id": span.trace_id} if span.trace_id else None
                    )
                    _tell(span, method, route, status, headers.get("X-Cache", ""))
                await send(message)

            known = {"request_id": request_id} | ({"trace_id": span.trace_id} if span.trace_id else {})
            with bound_contextvars(**known), self._metrics.requests_running.track_inprogress():
                await self._app(scope, receive, observed)


def _tell(span: Span, method: str, route: str, status: int, cache: str) -> None:
    """What is known of a request when its answer begins."""
    span.rename(f"{method} {route}")
    span.set("http.route", route)
    span.set("http.response.status_code", status)
    if cache:
        span.set("openride.cache", cache)
    if status >= 500:
        span.fail(str(status))


def _request_id(given: Mapping[str, str], trace_id: str) -> str:
    if _ID.fullmatch(request_id := given.get("x-request-id", "")):
        return request_id
    if trace_id:
        return trace_id
    trace = _TRACEPARENT.fullmatch(given.get("traceparent", ""))
    return trace[1] if trace and trace[1] != _NO_TRACE else uuid4().hex
