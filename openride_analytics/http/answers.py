"""How questions are documented and answered over HTTP, whatever they ask."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Final

from litestar import Request, Response
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIHeader, OpenAPIResponse, OpenAPIType, Operation, Schema
from litestar.openapi.spec import Parameter as OpenAPIParameter

from openride_analytics.http.parameters import PARAMETERS, QueryParameter
from openride_analytics.http.problems import MEDIA_TYPE, Problem
from openride_analytics.service import Service
from openride_analytics.warehouse import QueryTooLong

# An answer may take so many times as long as one of its statements, which may wait for a connection and for each other.
_STATEMENTS_IN_TURN: Final = 2

PROBLEMS: Final = {
    status: ResponseSpec(Problem, description=description, media_type=MEDIA_TYPE, generate_examples=False)
    for status, description in (
        (400, "A parameter cannot be used; `errors` names each."),
        (503, "The data store does not answer; try again after `Retry-After` seconds."),
        (504, "The query ran past its limit."),
    )
}


NOT_MODIFIED: Final = {
    304: ResponseSpec(
        None,
        description="The client has this answer: `If-None-Match` names its `ETag` (compared weakly) or is `*`.",
        generate_examples=False,
    )
}

_TEXT: Final = Schema(type=OpenAPIType.STRING)
_HEADERS: Final = {
    "ETag": "A strong validator: equal for answers that are equal byte for byte.",
    "Cache-Control": "Clients may keep an answer, and ask each time whether it is still the same.",
    "Age": "Seconds since the computation of this answer began: what was stored later may be missing.",
    "X-Cache": """`miss`: computed for this request. `hit`: computed before; whatever was stored of the time before its
period's end is in it, but for the last second. `stale`: the same but for the last 30 seconds; it is computed anew now or
soon. All else that may change it, what happened after the period's end (a confirmation, a refund) and the time of day, is in
it after one minute at most, where the period is over after 5. (The configuration may set other lengths.)""",
}


def documented(parameters: Iterable[str]) -> type[Operation]:
    """An OpenAPI operation that lists these query parameters of the questions."""
    return documented_from(PARAMETERS[name] for name in parameters)


def documented_from(parameters: Iterable[QueryParameter]) -> type[Operation]:
    """An OpenAPI operation that lists these query parameters; where it may answer 304, the headers of cached answers too."""
    listed: list[OpenAPIParameter] = [parameter.openapi for parameter in parameters]

    @dataclass  # without it Operation's own __init__ would not call __post_init__
    class Documented(Operation):
        query: ClassVar = listed

        def __post_init__(self) -> None:
            self.parameters = [*(self.parameters or []), *self.query]
            responses = self.responses or {}
            answer = responses.get("200")
            if "304" in responses and isinstance(answer, OpenAPIResponse):
                answer.headers = {
                    name: OpenAPIHeader(description=description, required=True, schema=_TEXT)
                    for name, description in _HEADERS.items()
                }

    return Documented


def in_time(
    service: Service, endpoint: str, compute: Callable[[], Awaitable[bytes]]
) -> Callable[[], Awaitable[bytes]]:
    """The same computation of an answer, timed for the metrics; raises `QueryTooLong` where it takes too long as a whole."""
    limit = _STATEMENTS_IN_TURN * service.config.clickhouse.query_timeout_seconds

    async def timed() -> bytes:
        with service.metrics.answer_seconds.labels(endpoint).time():
            try:
                async with asyncio.timeout(limit):
                    return await compute()
            except TimeoutError:
                raise QueryTooLong(f"no answer within {limit:g} s") from None

    return timed


async def answered(
    request: Request[Any, Any, State],
    key: str,
    compute: Callable[[], Awaitable[bytes]],
    *,
    end_ms: float = inf,
    max_age_seconds: float = inf,
    media_type: str = "application/json",
) -> Response[bytes]:
    """The answer from the cache or computed, with its headers; 304 where the client has it already.

    The rest is as for `Answers.get`.
    """
    service: Service = request.app.state.service
    timed = in_time(service, request.scope["path_template"], compute)
    answer = await service.answers.get(key, timed, end_ms=end_ms, max_age_seconds=max_age_seconds)
    service.metrics.cache_requests.labels(answer.source).inc()
    headers = {
        "ETag": answer.etag,
        "Cache-Control": "private, max-age=0, must-revalidate",
        "Age": str(answer.age_seconds),
        "X-Cache": answer.source,
    }
    # Compared weakly: proxies that compress make strong tags weak ones.
    sent = ",".join(request.headers.getall("if-none-match", []))
    known = [tag.strip().removeprefix("W/") for tag in sent.split(",")]
    if answer.etag in known or known == ["*"]:
        return Response(b"", status_code=304, headers=headers)
    return Response(answer.body, media_type=media_type, headers=headers)
