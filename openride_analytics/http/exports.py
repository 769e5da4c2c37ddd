"""`GET /v1/exports/*`: parameters in, a file out.

CSV flows from the store to the client, at the pace of the slower one. `X-Total-Rows` is a header and no trailer: uvicorn sends
no trailers over HTTP/1.1 and hardly a client reads any. It is exact, as the number comes from the statement that gives the
rows, and if not just so many have come at the end, or anything fails on the way, the connection breaks instead of ending.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from openride_analytics import exports
from openride_analytics.analytics import funnel
from openride_analytics.exports import csv
from openride_analytics.exports.datasets import DATASETS
from openride_analytics.exports.metrics import METRICS
from openride_analytics.exports.question import ExportBroken, Format, Question, TooManyRows
from openride_analytics.http.access import needs
from openride_analytics.http.answers import PROBLEMS, documented
from openride_analytics.http.parameters import PARAMETERS, SPAN, Query
from openride_analytics.http.problems import BadRequest, FieldProblem
from openride_analytics.service import Service
from openride_analytics.temporary import TemporaryFolder
from openride_analytics.warehouse import QueryTooLong, WarehouseError

log = structlog.get_logger(__name__)

# Each holds a connection to the store, or a process that makes a workbook: some of both must be left for others.
_AT_ONCE: Final = 4
_CHUNK_BYTES: Final = 262_144

_FUNNEL: Final = frozenset({"steps", "window_hours", "step"})
_FILTERS: Final = frozenset[str]().union(*(exports.filters_of(content) for content in exports.CONTENTS))
_OWN: Final[dict[Format, frozenset[str]]] = {
    "csv": frozenset({"bom", "raw"}),
    "excel": frozenset(),
    "parquet": frozenset(),
}
_SUMMARIES: Final[dict[Format, str]] = {
    "csv": "Rows as CSV (RFC 4180), streamed",
    "excel": "Rows as a workbook for Excel",
    "parquet": "Rows as Parquet",
}
_FORMS: Final[dict[Format, str]] = {
    "csv": "UTF-8, lines end with CRLF, times are RFC 3339 in UTC, decimals are exact, unknown values are empty. Text that a "
    "spreadsheet would take for a formula gets a `'` in front, unless `raw=true`.",
    "excel": "Typed cells, local times of `timezone`, charts of metrics, a first sheet that says what this is, a last one "
    "with the definitions. More rows than Excel has go on on a further sheet.",
    "parquet": "Times are instants in UTC, amounts decimals, unknown values null.",
}


def handlers() -> list[HTTPRouteHandler]:
    """The route handlers of all formats."""
    places = asyncio.Semaphore(_AT_ONCE)
    return [_handler(one, places) for one in exports.ENDINGS]


def _handler(format: Format, places: asyncio.Semaphore) -> HTTPRouteHandler:
    taken = {"dataset", *SPAN, "granularity", *_FILTERS, *_FUNNEL, *_OWN[format]}
    parameters = tuple(name for name in PARAMETERS if name in taken)

    @get(
        f"/v1/exports/{format}",
        name=f"exports_{format}",
        opt=needs("export"),
        operation_id=f"exports_{format}",
        summary=_SUMMARIES[format],
        description=f"{_FORMS[format]}\n\n{_columns_text()}",
        tags=["Exports"],
        operation_class=documented(parameters),
        responses={
            200: ResponseSpec(
                bytes,
                description="The file.",
                media_type=exports.MEDIA_TYPES[format].partition(";")[0],
                generate_examples=False,
            ),
            **PROBLEMS,
            413: ResponseSpec(
                PROBLEMS[400].data_container,
                description="The export has more rows than the service is configured to give out at once.",
                media_type=PROBLEMS[400].media_type,
                generate_examples=False,
            ),
        },
    )
    async def handler(request: Request[Any, Any, State]) -> Response[bytes]:
        service: Service = request.app.state.service
        now = datetime.now(UTC)
        query = Query(request.query_params.multi_items(), parameters)
        content, question = _asked(query, service, now)
        name = exports.file_name([content], question, format)
        if format == "csv":
            bom, raw = query.choice("bom") == "true", query.choice("raw") == "true"
            file = _streamed(service, content, question, bom=bom, raw=raw)
        else:
            file = _made(service, content, question, format, now)
        return _Download(file, name, exports.MEDIA_TYPES[format], places)

    return handler


def _asked(query: Query, service: Service, now: datetime) -> tuple[str, Question]:
    content = query.choice("dataset")
    if content is None:
        query.refuse("dataset", f"Say which: {', '.join(exports.CONTENTS)}.")
        query.raise_faults()
    base = query.question(service.config.analytics, exports.filters_of(content), now)
    steps = tuple(query.several("steps")) or funnel.DEFAULT_STEPS
    step = query.number("step", 0) or None
    not_here = (_FILTERS - exports.filters_of(content)) | (_FUNNEL if content != "funnel_dropouts" else set())
    if content not in METRICS:
        not_here |= {"granularity"}
    for name in query.given(sorted(not_here)):
        query.refuse(name, f"Not with dataset={content}.")
    if step is not None and step >= len(steps):
        query.refuse("step", f"Nobody drops out at or behind the last step: give 1 to {len(steps) - 1}.")
    query.raise_faults()
    window_hours = query.number("window_hours", funnel.DEFAULT_WINDOW_HOURS)
    return content, Question(**vars(base), steps=steps, window_hours=window_hours, step=step)


class _File:
    """What is sent: its headers, and its bytes in pieces."""

    def __init__(self, rows: int, pieces: AsyncIterator[bytes], length: int | None = None) -> None:
        self.pieces = pieces
        self.headers = [(b"x-total-rows", b"%d" % rows)]
        if length is not None:
            self.headers.append((b"content-length", b"%d" % length))


@contextlib.asynccontextmanager
async def _streamed(
    service: Service, content: str, question: Question, *, bom: bool, raw: bool
) -> AsyncIterator[_File]:
    limits = service.config.exports
    async with exports.csv_lines(service.warehouse, content, question, raw=raw, limits=limits) as (
        columns,
        lines,
    ):

        async def pieces() -> AsyncIterator[bytes]:
            yield (csv.BOM if bom else b"") + csv.head(columns)
            async for piece in lines.pieces:
                yield piece

        yield _File(lines.rows, pieces())


@contextlib.asynccontextmanager
async def _made(
    service: Service, content: str, question: Question, format: Format, now: datetime
) -> AsyncIterator[_File]:
    async with TemporaryFolder("export") as folder:
        path = folder / "file"
        limits = service.config.exports
        async with asyncio.timeout(limits.timeout_seconds):
            written = await exports.write_file(
                service.warehouse, [content], question, format, path, made_at=now, limits=limits
            )
        with path.open("rb") as file:

            async def pieces() -> AsyncIterator[bytes]:
                while piece := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                    yield piece

            yield _File(written.rows, pieces(), written.bytes)


class _Download(Response[bytes]):
    """A file that is opened, sent and closed by one task, which is cancelled when the client goes away."""

    def __init__(
        self,
        file: contextlib.AbstractAsyncContextManager[_File],
        name: str,
        media_type: str,
        places: asyncio.Semaphore,
    ) -> None:
        super().__init__(b"", media_type=media_type)
        self._file = file
        self._places = places
        self._head = [
            (b"content-type", media_type.encode()),
            (b"content-disposition", f'attachment; filename="{name}"'.encode()),
            (b"cache-control", b"no-store"),
        ]

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """Itself, as what the server calls."""
        return _Sending(self._send)

    async def _send(self, receive: Receive, send: Send) -> None:
        if self._places.locked():
            raise BadRequest("Too many exports at once; try again a little later.", status=503)
        async with self._places:
            sending = asyncio.create_task(self._send_file(send))
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                was_done = sending.done()
                for task in (sending, gone):
                    task.cancel()
                await asyncio.gather(sending, gone, return_exceptions=True)
            if was_done:
                sending.result()

    async def _send_file(self, send: Send) -> None:
        begun = False
        try:
            async with self._file as file:
                start: Any = {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": self._head + file.headers,
                }
                await send(start)
                begun = True
                async for piece in file.pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TooManyRows as error:
            fault = FieldProblem(field="dataset", message="Ask for a shorter period, or filter.")
            raise BadRequest(str(error), [fault], status=413) from None
        except TimeoutError:
            raise QueryTooLong("the file was not made in time") from None
        except (WarehouseError, ExportBroken) as error:
            if not begun:
                raise
            # No end is sent, so the server breaks the connection, and nobody takes the part for the whole.
            log.error("export_broken", error=f"{type(error).__name__}: {error}"[:500])


class _Sending(ASGIResponse):
    def __init__(self, send_all: Callable[[Receive, Send], Awaitable[None]]) -> None:
        super().__init__()
        self._send_all = send_all

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the whole answer."""
        await self._send_all(receive, send)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _columns_text() -> str:
    """All datasets with their columns, for the documentation."""
    parts = []
    for name, dataset in DATASETS.items():
        listed = "\n".join(f"| `{c.name}` | {_TYPES[c.kind]} | {c.description} |" for c in dataset.columns)
        filters = ", ".join(f"`{one}`" for one in PARAMETERS if one in dataset.filters)
        parts.append(
            f"**`{name}`**: {dataset.description} Filters: {filters}.\n\n| column | type | meaning |\n|---|---|---|\n{listed}"
        )
    described = "; ".join(f"`{name}`" for name in METRICS)
    parts.append(
        f"{described}: one row a bucket, the fields of the endpoint's `series` as columns (`cancelled_by.RIDER`, amounts "
        "by currency as `revenue.NGN`); with `granularity=none` one row, the whole period. They take the endpoint's filters."
    )
    return "\n\n".join(parts)


_TYPES: Final = {
    "id": "UUID",
    "text": "text",
    "time": "time",
    "whole": "whole number",
    "number": "number",
    "ratio": "number",
    "amount": "decimal",
    "flag": "`true` or `false`",
}
