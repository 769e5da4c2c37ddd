"""`POST /v1/events`: events over HTTP, as NDJSON or a JSON array, stored when the answer comes."""

import asyncio
import re
import zlib
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta, Struct

from openride_analytics.events import BadEvent
from openride_analytics.http.access import needs
from openride_analytics.http.bodies import HeldBytes
from openride_analytics.http.parameters import Query
from openride_analytics.http.problems import MEDIA_TYPE, BadRequest, Problem
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.pipeline import UNSTORABLE, Stored
from openride_analytics.ingest.records import Turns, acceptance_now, decode_records
from openride_analytics.service import Service

_STORED_WITHIN_SECONDS: Final = 30.0
_SLICE_RECORDS: Final = 250
_PIECE_BYTES: Final = 16_384  # what follows a gzip member is copied: with small pieces, little
_STEP_BYTES: Final = 1_048_576
_MOST_GZIP_MEMBERS: Final = 10_000
# No event is shorter: a body with more records than that holds something else, and each would become a dead letter.
_SHORTEST_EVENT_BYTES: Final = 100
# An array is split by msgspec in one go. Its commas say what that may take: at most an item for each.
_MOST_COMMAS: Final = 7
_ITEM_BYTES: Final = 64
_BOM: Final = b"\xef\xbb\xbf"
_OPENS_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[").match
_NDJSON: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
# Besides: what clients say that were not told what they send. Then the body's beginning decides.
_MEDIA_TYPES: Final = _NDJSON | {
    *("application/json", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded", "")
}
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
    opt=needs("ingest"),
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
                (408, "The body came too slowly."),
                (413, "The body is too large, packed or unpacked, or has too many records."),
                (415, "The encoding or the media type is not known."),
                (503, "Not stored in time; send the same again after `Retry-After` seconds."),
            )
        },
    },
)
async def post_events(request: Request[Any, Any, State]) -> Response[bytes]:
    """Decodes the body in slices and waits until the pipeline has stored them."""
    Query(request.query_params.multi_items(), ())
    service: Service = request.app.state.service
    held: HeldBytes = request.app.state.held
    if not service.pipeline.has_room:  # before the body is read: what waits here must stay bounded
        raise BadRequest("The store is behind; send the events again a little later.", status=503)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise BadRequest("Content-Type must be application/x-ndjson or application/json.", status=415)
    limit = service.config.ingest.max_request_bytes
    body = _Claimed(held)
    try:
        await body.receive(request.stream())
        await body.unpack(request.headers.get("content-encoding", "identity").strip().lower(), limit)
        records = body.records(limit, is_ndjson=media_type in _NDJSON)
        async with asyncio.timeout(_STORED_WITHIN_SECONDS):
            receipt = await _store(service, records)
    except TimeoutError:
        raise BadRequest("The events could not be stored in time; send them again.", status=503) from None
    finally:
        body.release()
    return Response(msgspec.json.encode(receipt), status_code=202, media_type="application/json")


async def _store(service: Service, records: Iterator[tuple[int, bytes]]) -> Receipt:
    """Hands over slice after slice, and waits until all are stored."""
    receipt = Receipt(accepted=0, duplicates_possible=True, rejected=[])
    waiting: list[tuple[array[int], Stored]] = []  # the line of each event, and when they are stored
    turns = Turns()
    while lines := list(islice(records, _SLICE_RECORDS)):
        arrived_ms = int(datetime.now(UTC).timestamp() * 1000)
        slice_ = [record for _, record in lines]
        events, refused = await decode_records(
            slice_, acceptance_now(service.config), took=service.metrics.decode_seconds.observe
        )
        letters = []
        for index, error in refused:
            letters.append(DeadLetter.of(slice_[index], error, rejected_ms=arrived_ms))
            await turns.after(slice_[index])
        bad = dict(refused)
        receipt.rejected += [_rejection(lines[index][0], error) for index, error in refused]
        accepted = array("I", [number for index, (number, _) in enumerate(lines) if index not in bad])
        waiting.append((accepted, await service.pipeline.put(events, letters, arrived_ms)))
    if waiting:
        await asyncio.wait([stored for _, stored in waiting])  # which leaves them alone when it is cancelled
    for accepted, stored in waiting:
        unstorable = stored.result()
        receipt.accepted += len(accepted) - len(unstorable)
        receipt.rejected += [_rejection(accepted[place], UNSTORABLE) for place in unstorable]
    receipt.rejected.sort(key=attrgetter("line"))
    return receipt


def _rejection(line: int, error: BadEvent) -> Rejection:
    return Rejection(line=line, reason=error.reason, field=error.field, detail=error.detail)


class _Claimed:
    """A body and what has become of it, with its share of the bytes that may be held at once."""

    def __init__(self, held: HeldBytes) -> None:
        self._held = held
        self._claimed = 0
        self._body = bytearray()

    def release(self) -> None:
        """Gives the share back."""
        self._held.release(self._claimed)

    def _claim(self, count: int) -> None:
        self._held.claim(count)
        self._claimed += count

    async def receive(self, parts: AsyncIterator[bytes]) -> None:
        """To its end: of a body that breaks off nothing is stored."""
        async for part in parts:
            self._body += part

    async def unpack(self, encoding: str, limit: int) -> None:
        """Takes away the content encoding, bit by bit; a bomb stops at the limit."""
        if encoding in ("", "identity"):
            return
        if encoding != "gzip":
            raise BadRequest("Content-Encoding must be gzip or absent.", status=415)
        unpacked = bytearray()
        unpacker = zlib.decompressobj(wbits=31)
        members = 1  # gzip files may be written one behind the other
        for start in range(0, len(self._body), _PIECE_BYTES):
            rest = bytes(self._body[start : start + _PIECE_BYTES])
            while rest:
                if unpacker.eof:
                    unpacker = zlib.decompressobj(wbits=31)
                    members += 1
                part = self._unpacked(unpacker, rest)
                self._claim(len(part))
                unpacked += part
                if len(unpacked) > limit:
                    raise BadRequest(f"The unpacked body has more than {limit} bytes.", status=413)
                rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                if members > _MOST_GZIP_MEMBERS:
                    raise BadRequest(f"The gzip body has more than {_MOST_GZIP_MEMBERS} members.", status=413)
                if len(part) == _STEP_BYTES:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        if not unpacker.eof:
            raise BadRequest("The gzip body is cut off.")
        self._body = unpacked

    @staticmethod
    def _unpacked(unpacker: "zlib._Decompress", rest: bytes) -> bytes:
        try:
            return unpacker.decompress(rest, _STEP_BYTES)
        except zlib.error:
            raise BadRequest("The body is not gzip, although Content-Encoding says so.") from None

    def records(self, limit: int, *, is_ndjson: bool) -> Iterator[tuple[int, bytes]]:
        """The records with their line (or place in the array), from 1. Empty lines are none. What is taken out is let go."""
        body, self._body = self._body, bytearray()
        if body.startswith(_BOM):
            del body[: len(_BOM)]
        most = max(limit // _SHORTEST_EVENT_BYTES, 1)
        too_many = BadRequest(f"The body has more than {most} records or empty lines.", status=413)
        if is_ndjson or not _OPENS_ARRAY(body):
            if body.count(b"\n") > most:
                raise too_many
            return _lines(body)
        commas = body.count(b",")
        if commas > most * _MOST_COMMAS:
            raise too_many
        self._claim(commas * _ITEM_BYTES)
        try:
            items = msgspec.json.decode(bytes(body), type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"The body begins like a JSON array, but is none: {error}.") from None
        if len(items) > most:
            raise too_many
        return ((place, bytes(item)) for place, item in enumerate(items, 1))


def _lines(body: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes line after line out of the body: what is left of it shrinks while the events of many are held elsewhere."""
    number = 0
    while body:
        end = body.find(b"\n", _STEP_BYTES) + 1 or len(body)
        with memoryview(body) as view:
            part = bytes(view[:end])
        del body[:end]
        for line in BytesIO(part):
            number += 1
            record = line.rstrip(b"\r\n")
            if record and not record.isspace():
                yield number, record
