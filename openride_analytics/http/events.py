"""`POST /v1/events`: events over HTTP, as NDJSON or a JSON array, stored when the answer comes."""

import asyncio
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta, Struct

from openride_analytics.http.problems import MEDIA_TYPE, BadRequest, Problem
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.records import acceptance_now, decode_records
from openride_analytics.service import Service

_STORED_WITHIN_SECONDS: Final = 30.0
_BOM: Final = b"\xef\xbb\xbf"
_LINES: Final = (
    '{"event_type":"user.registered","event_timestamp":"2026-03-01T07:05:00Z","user_id":"…","role":"RIDER"}\n'
)


class Rejection(Struct, kw_only=True):
    """One record that became a dead letter."""

    line: Annotated[int, Meta(description="Line of the body, or place in the array, from 1.", examples=[3])]
    reason: Annotated[str, Meta(description="Machine-readable reason.", examples=["invalid_field"])]
    field: Annotated[
        str, Meta(description="Path of the guilty field; empty: the record.", examples=["seats_booked"])
    ]
    detail: Annotated[str, Meta(description="The reason in words.", examples=["Expected `int` <= 60."])]


class Receipt(Struct, kw_only=True):
    """What became of the records."""

    accepted: Annotated[int, Meta(description="Records stored, or stored before.", examples=[98])]
    duplicates_possible: Annotated[
        bool,
        Meta(
            description="Always true: events stored before are accepted again and change nothing.",
            examples=[True],
        ),
    ]
    rejected: Annotated[list[Rejection], Meta(description="The others, which are dead letters now.")]


@dataclass  # without it Operation's own __init__ would not call __post_init__
class _TakesEvents(Operation):
    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING, description="One event a line.", examples=[_LINES])
        array = Schema(
            type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT), description="An array of events."
        )
        self.request_body = RequestBody(
            required=True,
            description="Events as the event contract defines them. `Content-Encoding: gzip` is accepted.",
            content={
                "application/x-ndjson": OpenAPIMediaType(schema=text),
                "application/json": OpenAPIMediaType(schema=array),
            },
        )


@post(
    "/v1/events",
    operation_id="post_events",
    summary="Take in events",
    description="Answers once the accepted events are stored. Sending the same again changes nothing.",
    tags=["Ingest"],
    status_code=202,
    operation_class=_TakesEvents,
    responses={
        202: ResponseSpec(Receipt, description="Stored.", generate_examples=False),
        **{
            status: ResponseSpec(
                Problem, description=description, media_type=MEDIA_TYPE, generate_examples=False
            )
            for status, description in (
                (400, "The body is neither NDJSON nor a JSON array, or not what its encoding says."),
                (413, "The body is too large."),
                (415, "The encoding is not known."),
                (503, "Not stored in time; send the same again after `Retry-After` seconds."),
            )
        },
    },
)
async def post_events(request: Request[Any, Any, State]) -> Response[bytes]:
    """Decodes the body in slices and waits until the pipeline has stored it."""
    service: Service = request.app.state.service
    if not service.pipeline.has_room:  # before the body is read: what waits here must stay bounded
        raise BadRequest("The store is behind; send the events again a little later.", status=503)
    limit = service.config.ingest.max_request_bytes
    body = _unpacked(await request.body(), request.headers.get("content-encoding", "identity"), limit)
    lines = _records(body, is_ndjson="ndjson" in request.headers.get("content-type", ""))
    arrived_ms = int(datetime.now(UTC).timestamp() * 1000)
    records = [record for _, record in lines]
    events, refused = await decode_records(records, acceptance_now(service.config))
    letters = [DeadLetter.of(records[index], error, rejected_ms=arrived_ms) for index, error in refused]
    if records:
        try:
            async with asyncio.timeout(_STORED_WITHIN_SECONDS):
                await asyncio.shield(await service.pipeline.put(events, letters, arrived_ms))
        except TimeoutError:
            raise BadRequest("The events could not be stored in time; send them again.", status=503) from None
    receipt = Receipt(
        accepted=len(events),
        duplicates_possible=True,
        rejected=[
            Rejection(line=lines[index][0], reason=error.reason, field=error.field, detail=error.detail)
            for index, error in refused
        ],
    )
    return Response(msgspec.json.encode(receipt), status_code=202, media_type="application/json")


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding; a bomb stops at the limit."""
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() != "gzip":
        raise BadRequest("Content-Encoding must be gzip or absent.", status=415)
    unpacked = bytearray()
    rest, complete = body, False
    while rest or not complete:  # gzip files may be written one behind the other
        unpacker = zlib.decompressobj(wbits=31)
        try:
            unpacked += unpacker.decompress(rest, limit + 1 - len(unpacked))
        except zlib.error:
            raise BadRequest("The body is not gzip, although Content-Encoding says so.") from None
        if len(unpacked) > limit:
            raise BadRequest(f"The unpacked body has more than {limit} bytes.", status=413)
        if not unpacker.eof:
            raise BadRequest("The gzip body is cut off.")
        rest, complete = unpacker.unused_data, True
    return bytes(unpacked)


def _records(body: bytes, *, is_ndjson: bool) -> list[tuple[int, bytes]]:
    """The records with their line (or place in the array), from 1. Empty lines are none."""
    text = body.removeprefix(_BOM).lstrip()
    if text.startswith(b"[") and not is_ndjson:
        try:
            items = msgspec.json.decode(text, type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"The body begins like a JSON array, but is none: {error}.") from None
        return [(place, bytes(item)) for place, item in enumerate(items, 1)]
    lines = enumerate(body.removeprefix(_BOM).split(b"\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]
