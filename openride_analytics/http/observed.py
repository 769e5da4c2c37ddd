"""What operators learn of requests: their number and times, and an id that joins an answer to its log lines."""

import re
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from openride_analytics.ops.metrics import UNKNOWN, Metrics

# What a proxy or a client has given, if it is no more than a name: it goes into logs and headers.
_GIVEN: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE: Final = "0" * 32
# Others are no HTTP, and anybody may make them up.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """An ASGI application around all others.

    Each request has an id: that of its `X-Request-ID`, or of its trace, or a new one. It is answered as `X-Request-ID`, and
    stands in each log line until the answer's end. Times are by route and not by path (whose number is not bounded).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's own life."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started = perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableScopeHeaders.from_message(message)["X-Request-ID"] = request_id
                method = scope["method"] if scope["method"] in _METHODS else UNKNOWN
                route = scope.get("path_template") or UNKNOWN
                self._metrics.request_seconds.labels(method, route, message["status"]).observe(
                    perf_counter() - started
                )
            await send(message)

        with bound_contextvars(request_id=request_id), self._metrics.requests_running.track_inprogress():
            await self._app(scope, receive, observed)


def _request_id(scope: Any) -> str:
    given: dict[bytes, str] = {
        name: value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"x-request-id", b"traceparent")
    }
    if _GIVEN.fullmatch(request_id := given.get(b"x-request-id", "")):
        return request_id
    trace = _TRACEPARENT.fullmatch(given.get(b"traceparent", ""))
    return trace[1] if trace and trace[1] != _NO_TRACE else uuid4().hex
