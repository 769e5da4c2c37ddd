"""How questions are documented and answered over HTTP, whatever they ask."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from litestar import Request, Response
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.openapi.spec import Parameter as OpenAPIParameter

from openride_analytics.http.parameters import PARAMETERS, QueryParameter
from openride_analytics.http.problems import MEDIA_TYPE, Problem
from openride_analytics.service import Service

PROBLEMS: Final = {
    status: ResponseSpec(Problem, description=description, media_type=MEDIA_TYPE, generate_examples=False)
    for status, description in (
        (400, "A parameter cannot be used; `errors` names each."),
        (503, "The data store does not answer; try again after `Retry-After` seconds."),
        (504, "The query ran past its limit."),
    )
}


def documented(parameters: Iterable[str]) -> type[Operation]:
    """An OpenAPI operation that lists these query parameters of the questions."""
    return documented_from(PARAMETERS[name] for name in parameters)


def documented_from(parameters: Iterable[QueryParameter]) -> type[Operation]:
    """An OpenAPI operation that lists these query parameters."""
    listed: list[OpenAPIParameter] = [parameter.openapi for parameter in parameters]

    @dataclass  # without it Operation's own __init__ would not call __post_init__
    class Documented(Operation):
        query: ClassVar = listed

        def __post_init__(self) -> None:
            self.parameters = [*(self.parameters or []), *self.query]

    return Documented


async def answered(
    request: Request[Any, Any, State],
    key: str,
    compute: Callable[[], Awaitable[bytes]],
    max_age_seconds: float | None = None,
    media_type: str = "application/json",
) -> Response[bytes]:
    """The answer from the cache or computed, with its headers; 304 where the client has it already."""
    service: Service = request.app.state.service
    answer = await service.answers.get(key, compute, max_age_seconds=max_age_seconds)
    service.metrics.cache_requests.labels(answer.source).inc()
    headers = {
        "ETag": answer.etag,
        "Cache-Control": "private, max-age=0, must-revalidate",
        "Age": str(answer.age_seconds),
        "X-Cache": answer.source,
    }
    # Proxies that compress make tags weak ones.
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if answer.etag in known:
        return Response(b"", status_code=304, headers=headers)
    return Response(answer.body, media_type=media_type, headers=headers)
