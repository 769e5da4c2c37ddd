"""Who may use which route. Each route says it at the route: `opt=needs("read")`, or `opt=OPEN`.

A route that says neither stops the application from being made. Those that need a scope are let through by `guard`, and get
their answers 401, 403 and 429 and their scope into the OpenAPI document here. `Hardened` stands around the whole application.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, Message, Receive, Send
from litestar.types import Scope as ASGIScope

from openride_analytics.access import SCOPES, Caller, Denied, Scope
from openride_analytics.config import is_loopback
from openride_analytics.http.problems import MEDIA_TYPE, Problem, problem
from openride_analytics.service import Service

_OPT: Final = "scope"
_SIGNED: Final = "signed"
OPEN: Final[Mapping[str, Any]] = {_OPT: None}
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SCHEME: Final = "bearer"

# Nothing from elsewhere, no inline scripts or styles; a page of ours may load what is served beside it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": _POLICY,
}


def needs(scope: Scope, *, unless: str = "") -> dict[str, Any]:
    """For `opt=` of a route that needs a key or token with this scope.

    `unless`: a query parameter that stands for it, as a signed link has; where it is given the handler itself must check it.
    """
    return {_OPT: scope, _SIGNED: unless}


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Lets a request through to its handler, which finds its caller with `caller_of`; raises `Denied`."""
    scope: Scope | None = handler.opt.get(_OPT)
    if scope is None or (handler.opt.get(_SIGNED) or None) in connection.query_params:
        return
    service: Service = connection.app.state.service
    try:
        connection.state.caller = await service.gate.admit(
            connection.headers.getall("authorization", []), scope
        )
    except Denied as denied:
        service.metrics.requests_denied.labels(denied.reason).inc()
        raise


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Who sent a request to a route with a scope."""
    caller: Caller = request.state.caller
    return caller


def on_denied(request: Request[Any, Any, Any], denied: Denied) -> Response[bytes]:
    """401, 403, 429, or 503 while keys cannot be checked."""
    response = problem(request, denied.status, denied.detail)
    response.headers.update(denied.headers)
    return response


def scope_of(handler: BaseRouteHandler, path: str) -> Scope | None:
    """What a route needs; None: nothing. Raises ValueError where it does not say."""
    if _OPT in handler.opt:
        scope: Scope | None = handler.opt[_OPT]
        if scope is not None and scope not in SCOPES:
            raise ValueError(f'{path}: there is no scope "{scope}"')
        return scope
    if handler.fn.__module__.startswith("litestar."):  # the OpenAPI document, its page, answers to OPTIONS
        return None
    raise ValueError(f'{path}: says neither opt=needs("…") nor opt=OPEN')


class Declared(ReceiveRoutePlugin):
    """Looks at each route as it is added: does it say what it needs? and writes that into its documentation."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def receive_route(self, route: BaseRoute) -> None:
        """Raises ValueError for a route that does not say."""
        if not isinstance(route, HTTPRoute):
            raise TypeError(f"{route.path}: is no HTTP route, which nobody guards")
        for handler in route.route_handlers:
            scope = scope_of(handler, route.path)
            if scope is None:
                continue
            # Where access is off a key is possible, but nobody asks for it.
            handler.security = [*([] if self._enabled else [{}]), {_SCHEME: [scope]}]
            handler.responses = {**_denials(scope), **(handler.responses or {})}


def _denials(scope: Scope) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(Problem, description=text, media_type=MEDIA_TYPE, generate_examples=False)
        for status, text in (
            (401, "No key or token, or not one that is valid; `WWW-Authenticate` says how."),
            (403, f"The key or token does not have the scope `{scope}`."),
            (429, "Too many requests with this key or token; try again after `Retry-After` seconds."),
            (503, "Keys or tokens cannot be checked just now; try again after `Retry-After` seconds."),
        )
    }


COMPONENTS: Final = Components(
    security_schemes={
        _SCHEME: SecurityScheme(
            type="http",
            scheme="bearer",
            description="An API key (`ork_…`) or a JSON Web Token, as `Authorization: Bearer …`. Scopes: `read` (metrics, "
            "analytics, state of ingestion), `export`, `reports`, `ingest` (sending events, rejected records and their "
            "replay), `admin` (keys, the audit log, and all the others).",
        )
    }
)


class Hardened:
    """An ASGI application around all others: headers on each answer, whatever it is.

    While the service stops, each answer ends its connection: a client that keeps one would never learn that it has to go
    elsewhere. Where nobody needs a key, what a page of another site makes a browser of this machine send is refused: names
    that were made to point here, and changes from foreign origins.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        config = service.config
        self._app = app
        self._stopping = service.stopping
        self._names_checked = not config.auth.enabled and not config.auth.open_to_everybody
        self._origins_checked = not config.auth.enabled
        self._origins = frozenset(config.server.cors_origins)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """One request, or the application's own life."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableScopeHeaders.from_message(message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if self._stopping.is_set():
                    headers["Connection"] = "close"
            await send(message)

        if self._from_elsewhere(scope):
            await _refused(scope, hardened)
            return
        await self._app(scope, receive, hardened)

    def _from_elsewhere(self, scope: Any) -> bool:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._names_checked and host and not is_loopback(_name(f"//{host}")):
            return True
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not self._origins_checked or not origin or scope["method"] in _SAFE_METHODS:
            return False
        return origin not in self._origins and "*" not in self._origins and origin.partition("//")[2] != host


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _refused(scope: Any, send: Send) -> None:
    request: Request[Any, Any, Any] = Request(scope)
    answer = problem(
        request,
        403,
        "Access is off, so only this machine is answered, by its own name, and no page of another site.",
    )
    await send(
        {
            "type": "http.response.start",
            "status": 403,
            "headers": [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(answer.content)).encode()),
                (b"cache-control", b"no-store"),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": answer.content, "more_body": False})
