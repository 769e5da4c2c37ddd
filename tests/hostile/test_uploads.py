"""Hostile requests: whatever comes to the port, the service answers as the contract says, lives, and stays small."""

import asyncio
import contextlib
import gzip
import json
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import httpx
import pytest

from tests.integration.running import ServiceProcess
from tests.servers.process import HOST

from .records import SECRETS, Table
from .watch import Watch

# Six bodies of the largest size may be held at once, and each event is held a second time on its way to the store.
GROWN_MEGABYTES = 900
LARGEST_BODY = 33_554_432
TINY_REQUESTS = 10_000
CONNECTIONS = 500
PATIENCE_SECONDS = 60
NDJSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """One process with its own stores for all tests here; at the end nothing may have gone wrong in it."""
    with ServiceProcess({"ingest": {"max_delay_seconds": 0.05}}) as service:
        service.wait_until_ready()
        with Watch(service) as watch:
            yield service
        print(f"grown by {watch.grown_megabytes:.0f} MB, slowest {watch.slowest_seconds:.2f} s")  # noqa: T201  # with -s
        assert watch.failures == []
        assert watch.grown_megabytes < GROWN_MEGABYTES
        log = service.logged()
        assert service.terminate() == 0
    assert "Traceback" not in log
    assert [line for line in map(json.loads, log.splitlines()) if line["level"] == "error"] == []
    assert [secret for secret in SECRETS if secret in log] == []


@pytest.fixture
def events() -> Iterator[bytes]:
    """As many good events as one likes."""
    table = Table(datetime.now(UTC), "uploads")
    return (table.good(f"{number} of {time.monotonic_ns()}") for number in range(10**9))


def post(service: ServiceProcess, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    """A request with a body, whatever its answer; headers with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        f"{service.url}/v1/events", content=body, headers=named, timeout=PATIENCE_SECONDS, trust_env=False
    )


def checked(response: httpx.Response, status: int) -> httpx.Response:
    """An answer with that status, which is a problem if it is an error."""
    assert response.status_code == status, response.text[:300]
    if status >= 400:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["status"] == status
    return response


# Encodings


def test_broken_gzip_is_a_400(service: ServiceProcess, events: Iterator[bytes]) -> None:
    whole = gzip.compress(b"\n".join(next(events) for _ in range(20)))
    bodies = [
        b"",
        b"\n",
        b"\x1f",
        b"\x1f\x8b",
        bytes(range(256)) * 100,
        next(events),
        zlib.compress(next(events)),
        *(whole[:length] for length in (9, 10, 11, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1)),
        whole[:-8] + bytes(8),
        whole[:-4] + bytes(4),
        whole[:50] + bytes(10) + whole[60:],
        whole + b"\x00",
        whole + b"more",
        whole + whole[:-1],
        b"\x1f\x8b\x09" + whole[3:],
    ]
    for body in bodies:
        checked(post(service, body, content_encoding="gzip", content_type=NDJSON), 400)


@pytest.mark.parametrize("size", [LARGEST_BODY + 1, 200_000_000])
def test_a_bomb_is_a_413(service: ServiceProcess, size: int) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000 + 1)) + packer.flush()
    checked(post(service, bomb, content_encoding="gzip"), 413)


def test_a_bomb_of_many_members_is_a_413(service: ServiceProcess) -> None:
    empty, large = gzip.compress(b""), gzip.compress(bytes(1_000_000))
    checked(post(service, empty * 1_600_000, content_encoding="gzip"), 413)
    checked(post(service, large * 40, content_encoding="gzip"), 413)


def test_bombs_at_once_share_the_memory_there_is(service: ServiceProcess) -> None:
    bomb = gzip.compress(b" " * (LARGEST_BODY - 1))

    async def all_at_once() -> Counter[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False, limits=limits) as client:
            sent = (
                client.post(f"{service.url}/v1/events", content=bomb, headers={"Content-Encoding": "gzip"})
                for _ in range(60)
            )
            return Counter(response.status_code for response in await asyncio.gather(*sent))

    statuses = asyncio.run(all_at_once())
    assert set(statuses) <= {202, 503}
    assert statuses[202] > 0


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "deflate", "compress", "gzip, gzip", "gzip;q=1", "x", "*", "gz ip", "\xff"]
)
def test_an_unknown_encoding_is_a_415(
    service: ServiceProcess, events: Iterator[bytes], encoding: str
) -> None:
    headers = [(b"Content-Encoding", encoding.encode("latin-1"))]
    response = httpx.post(
        f"{service.url}/v1/events",
        content=gzip.compress(next(events)),
        headers=headers,
        trust_env=False,
    )
    checked(response, 415)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "GZip"])
def test_gzip_may_be_written_in_any_case(
    service: ServiceProcess, events: Iterator[bytes], encoding: str
) -> None:
    response = post(service, gzip.compress(next(events)), content_encoding=encoding)
    assert checked(response, 202).json()["accepted"] == 1


def test_what_was_packed_twice_is_unpacked_once(service: ServiceProcess, events: Iterator[bytes]) -> None:
    body = gzip.compress(gzip.compress(next(events), mtime=0).replace(b"\n", b""))
    receipt = checked(post(service, body, content_encoding="gzip"), 202).json()
    assert receipt["accepted"] == 0
    assert {each["reason"] for each in receipt["rejected"]} == {"invalid_json"}


# Media types, lines and arrays


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        *((name, 202) for name in (NDJSON, "APPLICATION/X-NDJSON", "application/x-ndjson; charset=utf-8")),
        *((name, 202) for name in ("application/json", "application/json;charset=utf-16", "text/plain", "")),
        *((name, 202) for name in ("application/octet-stream", "application/x-www-form-urlencoded")),
        *(
            (name, 415)
            for name in ("text/html", "image/png", "multipart/form-data; boundary=x", "avro/binary")
        ),
        *((name, 415) for name in ("application/xml", "application/x-protobuf", "json", "*/*", "a" * 5_000)),
    ],
)
def test_media_types(service: ServiceProcess, events: Iterator[bytes], media_type: str, status: int) -> None:
    checked(post(service, next(events), content_type=media_type), status)


@pytest.mark.parametrize(
    ("media_type", "form", "accepted", "rejected"),
    [
        (NDJSON, b"[%b]", 0, [1]),
        (NDJSON, b"[\n%b\n]", 1, [1, 3]),
        (NDJSON, b"\xef\xbb\xbf%b", 1, []),
        (NDJSON, b"\xef\xbb\xbf\xef\xbb\xbf%b", 0, [1]),
        (NDJSON, b"%b\r\n\r\n  \r\n\t\n[]\r\n", 1, [5]),
        (NDJSON, b"\r\r\n%b\r", 1, []),
        (NDJSON, b"%b,\n", 0, [1]),
        (NDJSON, b"\n\n\n", 0, []),
        (NDJSON, b"\x1e%b\n", 0, [1]),
        (NDJSON, b"data: %b\n\n", 0, [1]),
        ("application/json", b"%b", 1, []),
        ("application/json", b" \r\n\t[%b]", 1, []),
        ("application/json", b"[]", 0, []),
        ("application/json", b'[null,[%b],"",1e400,{}]', 0, [1, 2, 3, 4, 5]),
        ("application/json", b'{"events":[%b]}', 0, [1]),
        ("application/json", b"null", 0, [1]),
        ("text/plain", b"[%b]", 1, []),
    ],
)
def test_lines_and_arrays(
    service: ServiceProcess,
    events: Iterator[bytes],
    media_type: str,
    form: bytes,
    accepted: int,
    rejected: list[int],
) -> None:
    body = form.replace(b"%b", next(events))
    receipt = checked(post(service, body, content_type=media_type), 202).json()
    assert (receipt["accepted"], [each["line"] for each in receipt["rejected"]]) == (accepted, rejected)


@pytest.mark.parametrize(
    "body",
    [b"[", b"[1", b"[1,]", b"[,]", b"[1]x", b"[1][2]", b"[1]\n[2]", b"[NaN]", b"[\xff]", b"[{]", b"['']"],
)
def test_a_broken_array_is_a_400(service: ServiceProcess, body: bytes) -> None:
    checked(post(service, body, content_type="application/json"), 400)


@pytest.mark.parametrize(
    ("media_type", "body", "status"),
    [
        pytest.param("application/json", b"[" + b"1," * 16_000_000 + b"1]", 413, id="16 million numbers"),
        pytest.param("application/json", b"[" + b"1,  " * 400_000 + b"1]", 413, id="400,000 numbers"),
        pytest.param("application/json", b"[" * LARGEST_BODY, 400, id="brackets"),
        pytest.param("application/json", b'["' + b"," * 33_000_000 + b'"]', 413, id="commas"),
        pytest.param(NDJSON, b"1\n" * 16_000_000, 413, id="16 million lines"),
        pytest.param(NDJSON, b"\n" * LARGEST_BODY, 413, id="empty lines"),
        pytest.param(NDJSON, b"x" * (LARGEST_BODY + 1), 413, id="a byte too many"),
        pytest.param(NDJSON, b" " * LARGEST_BODY, 202, id="one long blank line"),
    ],
)
def test_large_bodies_of_nothing(service: ServiceProcess, media_type: str, body: bytes, status: int) -> None:
    checked(post(service, body, content_type=media_type), status)


def test_one_line_as_long_as_the_body_is_one_dead_letter(service: ServiceProcess) -> None:
    receipt = checked(post(service, b"x" * LARGEST_BODY, content_type=NDJSON), 202).json()
    assert [(each["line"], each["reason"]) for each in receipt["rejected"]] == [(1, "too_large")]


def test_as_many_bad_lines_as_a_body_may_have_are_all_told(service: ServiceProcess) -> None:
    count = 20_000
    receipt = checked(post(service, b"".join(b"%d\n" % line for line in range(count))), 202).json()
    assert [each["line"] for each in receipt["rejected"]] == list(range(1, count + 1))


# What is no HTTP


async def said(service: ServiceProcess, *parts: bytes, end: bool = True) -> bytes:
    """What a connection answers to these bytes until it is closed, or for a while."""
    reader, writer = await asyncio.open_connection(HOST, service.port)
    answer = b""
    with contextlib.suppress(OSError):
        for part in parts:
            writer.write(part)
            await writer.drain()
        if end:
            writer.write_eof()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(10):
            answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    return head, await reader.readexactly(int(length.split()[1]))


POST = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), id="TLS"),
        pytest.param(b"\x00" * 10_000, id="NULs"),
        pytest.param(b"GET\r\n\r\n", id="no target"),
        pytest.param(b"GET / HTTP/11\r\nHost: localhost\r\n\r\n", id="no version"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(GET + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n", id="a long header"),
        pytest.param(GET + b"X: x\r\n" * 100_000 + b"\r\n", id="many headers"),
        pytest.param(
            b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="a long address"
        ),
        pytest.param(GET + b"X: a\x00b\r\n\r\n", id="a NUL in a header"),
        pytest.param(GET + b"X : a\r\n\r\n", id="a space in a header's name"),
        pytest.param(GET + b"Host: b\r\n\r\n", id="two hosts"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(POST + b"Content-Length: many\r\n\r\n", id="a length in words"),
        pytest.param(POST + b"Content-Length: 1_0\r\n\r\n1234567890", id="a length as Python writes it"),
        pytest.param(POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", id="two lengths"),
        pytest.param(POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", id="an absurd length"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="gzip in transfer"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", id="a chunk without a size"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 1_000 + b"\r\n{}", id="a huge chunk"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", id="a negative chunk"
        ),
        pytest.param(POST + b"Content-Length: 99999999999\r\n\r\n{}", id="a length beyond the limit"),
    ],
)
async def test_what_is_no_request_is_refused(service: ServiceProcess, request_bytes: bytes) -> None:
    answer = await said(service, request_bytes)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]


async def test_a_body_that_breaks_off_leaves_nothing_behind(
    service: ServiceProcess, events: Iterator[bytes]
) -> None:
    stored = service.metric("openride_events_stored_total")
    event = next(events)
    promises = b"Content-Length: %d\r\n\r\n" % (2 * len(event)), b"Transfer-Encoding: chunked\r\n\r\n"
    parts = [event, b"%x\r\n%b\r\n" % (len(event), event)]
    for _ in range(10):
        for promise, part in zip(promises, parts, strict=True):
            await said(service, POST + promise + part)
    assert service.metric("openride_events_stored_total") == stored


async def test_what_follows_a_body_is_another_request(
    service: ServiceProcess, events: Iterator[bytes]
) -> None:
    event = next(events)
    keep = POST.replace(b"Connection: close\r\n", b"")
    answer = await said(
        service,
        keep + b"Content-Length: %d\r\n\r\n" % len(event) + event + b"nonsense\r\n\r\n",
        end=False,
    )
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"HTTP/1.1 400 " in answer


async def test_chunks_of_a_byte_are_a_body(service: ServiceProcess, events: Iterator[bytes]) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in next(events)) + b"0\r\n\r\n"
    answer = await said(service, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, end=False)
    assert b'{"accepted":1,' in answer


# Bodies without an end, and all at once


@pytest.mark.parametrize(
    "path", [b"POST /v1/events", b"GET /health/live", b"POST /nowhere", b"DELETE /v1/events"]
)
async def test_nobody_sends_for_ever(service: ServiceProcess, path: bytes) -> None:
    reader, writer = await asyncio.open_connection(HOST, service.port)
    writer.write(path + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    sent = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(OSError):
            while True:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        with contextlib.suppress(OSError):
            await reader.read()
    writer.close()
    assert sent > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/reports/schedule"),
        ("PATCH", "/v1/reports/schedule/0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"),
        ("POST", "/v1/ingest/dead-letters/replay"),
        ("POST", "/v1/keys"),
        ("POST", "/nowhere"),
    ],
)
def test_only_events_come_in_large_bodies(service: ServiceProcess, method: str, path: str) -> None:
    body = b'{"name": "' + b"x" * 1_048_576 + b'"}'
    answer = httpx.request(method, service.url + path, content=body, trust_env=False, timeout=60)
    assert answer.status_code == (404 if path == "/nowhere" else 413)


async def test_what_trickles_is_cut_off_and_holds_up_nobody(
    service: ServiceProcess, events: Iterator[bytes]
) -> None:
    """A body is a 408; who does not come to the end of the headers is not worth an answer."""

    async def trickle_headers(first: bytes, piece: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, service.port)
        writer.write(first)
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            with contextlib.suppress(OSError):
                writer.write(piece)
                await writer.drain()
            await asyncio.wait([answer], timeout=1)
        writer.close()
        return answer.result()

    async def trickle() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(HOST, service.port)
        writer.write(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        answer = asyncio.create_task(answered(reader))
        while not answer.done():
            writer.write(b" ")
            await writer.drain()
            await asyncio.wait([answer], timeout=1)
        writer.close()
        return answer.result()

    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
    async with asyncio.timeout(PATIENCE_SECONDS):
        slow = [asyncio.create_task(trickle()) for _ in range(100)]
        endless = [
            asyncio.create_task(trickle_headers(first, piece))
            for first, piece in (
                (b"", b""),
                (request, b"X: x\r\n"),
                (request + b"\r\n", b"G"),  # after one that is answered
            )
        ]
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:
            while not all(task.done() for task in (*slow, *endless)):
                response = await client.post(f"{service.url}/v1/events", content=next(events))
                assert checked(response, 202).json()["accepted"] == 1
                await asyncio.wait(slow, timeout=1, return_when=asyncio.FIRST_COMPLETED)
    for task in slow:
        head, body = task.result()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["title"] == "Request timed out"
    nothing, part, another = [task.result() for task in endless]
    assert (nothing, part) == (b"", b"")
    assert another.startswith(b"HTTP/1.1 200 ")


async def test_ten_thousand_tiny_requests_at_once_are_all_stored(
    service: ServiceProcess, events: Iterator[bytes]
) -> None:
    each = TINY_REQUESTS // CONNECTIONS

    async def pipelined() -> AsyncIterator[int]:
        reader, writer = await asyncio.open_connection(HOST, service.port)
        for _ in range(each):
            event = next(events)
            writer.write(
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
                % (len(event), event)
            )
        for _ in range(each):
            head, body = await answered(reader)
            yield json.loads(body)["accepted"] if b" 202 " in head.split(b"\r\n")[0] else 0
        writer.close()

    async def accepted() -> int:
        return sum([count async for count in pipelined()])

    before = service.metric("openride_events_stored_total")
    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        assert sum(await asyncio.gather(*(accepted() for _ in range(CONNECTIONS)))) == TINY_REQUESTS
    assert service.metric("openride_events_stored_total") - before == TINY_REQUESTS


def test_large_uploads_at_once_are_stored_or_told_to_come_again(
    service: ServiceProcess, events: Iterator[bytes]
) -> None:
    body = b"\n".join(next(events) for _ in range(15_000))

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:
            sent = (client.post(f"{service.url}/v1/events", content=body) for _ in range(12))
            return list(await asyncio.gather(*sent))

    responses = asyncio.run(all_at_once())
    assert {response.status_code for response in responses} <= {202, 503}
    receipts = [response.json() for response in responses if response.status_code == 202]
    assert [receipt["accepted"] for receipt in receipts] == [15_000] * len(receipts)
    assert receipts
