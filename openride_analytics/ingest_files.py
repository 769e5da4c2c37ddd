"""`openride-analytics ingest`: files of events to a running service, or to Kafka, with a progress bar."""

import asyncio
import gzip
import io
import logging
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import httpx
import zstandard
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from openride_analytics.config import Config, ConfigError
from openride_analytics.events import claimed_type
from openride_analytics.ingest.topics import produce, topic_for
from openride_analytics.key_commands import authorization, refusal

_LINES_PER_REQUEST: Final = 10_000
_BYTES_PER_REQUEST: Final = 8 * 1_048_576
_TIMEOUT_SECONDS: Final = 60.0
_SHOWN_REJECTIONS: Final = 10
_PACKED_BYTES: Final = 4_096  # unpacked at once: at the very worst 128 MB

_console = Console(stderr=True)


class _Unreadable(Exception):
    """A file that is broken or cut off somewhere. The message is for people."""


def ingest(files: Sequence[str], *, url: str, to_kafka: Config | None) -> int:
    """Sends all files and prints what became of their events; 1 if some were rejected or could not be sent."""
    for name in files:
        if name != "-" and not Path(name).is_file():
            raise ConfigError(f"{name}: there is no such file")
    if to_kafka is not None and not to_kafka.kafka.bootstrap_servers:
        raise ConfigError("kafka.bootstrap_servers: not set, so there is nowhere to produce to")
    if to_kafka is None and not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url: {url}: must begin with http:// or https://")
    with _progress() as progress:
        try:
            if to_kafka is not None:
                return asyncio.run(_to_kafka(files, to_kafka, progress))
            return asyncio.run(_to_service(files, url, progress))
        except _Unreadable as error:
            _console.print(
                f"{error}; what comes before it may have been sent, and may be sent again",
                style="red",
                markup=False,
            )
            return 1


async def _to_service(files: Sequence[str], url: str, progress: Progress) -> int:
    accepted, rejected = 0, Counter[str]()
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, headers=authorization()) as client:
        for name in files:
            for first_line, lines in _batches(name, progress):
                try:
                    receipt = await _post(client, lines)
                except httpx.HTTPError as error:
                    said = (
                        str(error) if type(error) is httpx.HTTPError else f"{type(error).__name__}: {error}"
                    )
                    _console.print(
                        f"{name}: stopped at line {first_line}: {url}: {said}", style="red", markup=False
                    )
                    return 1
                accepted += receipt["accepted"]
                for rejection in receipt["rejected"]:
                    rejected[rejection["reason"]] += 1
                    if rejected.total() <= _SHOWN_REJECTIONS:
                        line = first_line + rejection["line"] - 1
                        place = f"{rejection['field']}: " if rejection["field"] else ""
                        _console.print(
                            f"{name}:{line}: {rejection['reason']}: {place}{rejection['detail']}",
                            markup=False,
                        )
    _console.print(
        f"{accepted} accepted, {rejected.total()} rejected {dict(rejected) if rejected else ''}", markup=False
    )
    return 1 if rejected else 0


async def _post(client: httpx.AsyncClient, lines: list[bytes]) -> dict[str, Any]:
    """One request, repeated while the service cannot store: sending twice changes nothing."""
    body = gzip.compress(b"".join(lines), compresslevel=1)
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    for pause_seconds in (0.5, 1, 2, 4, 8, 16):
        try:
            response = await client.post("/v1/events", content=body, headers=headers)
        except httpx.TransportError as error:
            said = type(error).__name__
        else:
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return _receipt(response)
            said = "503"
        _console.print(f"{client.base_url}: {said}; tried again in {pause_seconds} s", markup=False)
        await asyncio.sleep(pause_seconds)
    return _receipt(await client.post("/v1/events", content=body, headers=headers))


def _receipt(response: httpx.Response) -> dict[str, Any]:
    if said := refusal(response.status_code, "ingest"):
        raise httpx.HTTPError(said)
    response.raise_for_status()
    receipt: dict[str, Any] = response.json()
    return receipt


async def _to_kafka(files: Sequence[str], config: Config, progress: Progress) -> int:
    # It calls each topic an error that is not there yet, and a broker that is away several times.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    homeless = 0

    async def records() -> AsyncIterator[tuple[str, bytes]]:
        nonlocal homeless
        for name in files:
            for first_line, lines in _batches(name, progress):
                for number, line in enumerate(lines, first_line):
                    record = line.strip()
                    topic = topic_for(claimed_type(record), config.kafka.topics)
                    if topic is not None:
                        yield topic, record
                    elif record:
                        homeless += 1
                        if homeless <= _SHOWN_REJECTIONS:
                            _console.print(f"{name}:{number}: no topic for its event_type", markup=False)

    try:
        sent = await produce(config.kafka, records())
    except (KafkaError, OSError) as error:
        _console.print(
            f"not everything was produced: {type(error).__name__}: {error}", style="red", markup=False
        )
        return 1
    _console.print(f"{sent} produced, {homeless} without a topic for their event_type")
    return 1 if homeless else 0


def _batches(name: str, progress: Progress) -> Iterator[tuple[int, list[bytes]]]:
    """Lines of a file, some thousand at a time, with the number of the first."""
    with _opened(name, progress) as stream:
        first, lines, size = 1, list[bytes](), 0
        try:
            for number, line in enumerate(stream, 1):
                lines.append(line)
                size += len(line)
                if len(lines) >= _LINES_PER_REQUEST or size >= _BYTES_PER_REQUEST:
                    yield first, lines
                    first, lines, size = number + 1, [], 0
        except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
            raise _Unreadable(
                f"{name}: cannot be read beyond line {first + len(lines) - 1}: {error}"
            ) from error
        if lines:
            yield first, lines


@contextmanager
def _opened(name: str, progress: Progress) -> Iterator[IO[bytes]]:
    """A file's content, unpacked, with a bar that follows its packed bytes."""
    if name == "-":
        task = progress.add_task("standard input", total=None)
        stdin = cast("io.BufferedReader", sys.stdin.buffer)
        yield io.BufferedReader(_Watched(stdin, progress, task), 262_144)
        return
    path = Path(name)
    task = progress.add_task(path.name, total=path.stat().st_size)
    with path.open("rb") as file:
        watched = io.BufferedReader(_Watched(file, progress, task), 262_144)
        if path.suffix == ".gz":
            with gzip.open(watched) as unpacked:
                yield unpacked  # type: ignore[misc]  # typeshed: IO[bytes] in all but name
        elif path.suffix == ".zst":
            yield io.BufferedReader(_Unpacked(watched), 262_144)
        else:
            yield watched


class _Unpacked(io.RawIOBase):
    """A Zstandard file's content: of all its frames, and an `EOFError` where the last one is cut off.

    The library's own reader takes the first frame, or a part of it, for the whole.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._rest = b""
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            packed, self._rest = self._rest or self._packed.read(_PACKED_BYTES), b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("the file is cut off")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._unpacked = memoryview(self._frame.decompress(packed))
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._unpacked))
        buffer[:count], self._unpacked = self._unpacked[:count], self._unpacked[count:]
        return count


class _Watched(io.RawIOBase):
    """A file that tells the progress bar what was read of it; of a pipe what is there, without waiting for more."""

    def __init__(self, file: io.BufferedReader, progress: Progress, task: TaskID) -> None:
        self._file, self._progress, self._task = file, progress, task

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._file.read1(len(buffer))
        buffer[: len(chunk)] = chunk
        self._progress.advance(self._task, len(chunk))
        return len(chunk)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=_console,
    )
