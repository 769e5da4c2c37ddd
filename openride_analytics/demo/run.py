"""`openride-analytics demo`: the whole service on embedded stores, with a made-up platform behind it."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from time import monotonic
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from openride_analytics import serve
from openride_analytics.config import Config, Log, Server, Storage
from openride_analytics.demo.platform import Platform
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.pipeline import Stored
from openride_analytics.ingest.records import acceptance_now, decode_records
from openride_analytics.ops import logs
from openride_analytics.service import Service
from openride_analytics.temporary import TemporaryFolder

_SEED: Final = 2026
_BATCH_EVENTS: Final = 10_000
_LIVE_EVERY_SECONDS: Final = 0.2
# At the size of the history one event in thirty is business; more would dwarf all the days before.
_LIVE_LOCATION_SHARE: Final = 0.97

_console = Console()


def demo(*, port: int) -> int:
    """Runs until Ctrl-C in a temporary folder, which is gone afterwards; returns the exit code."""
    with TemporaryFolder("demo") as folder:
        config = Config(
            server=Server(port=port, drain_seconds=0.0),
            storage=Storage(data_dir=str(folder)),
            log=Log(level="warning"),
        )
        logs.configure(config.log)
        _console.print("Starting the service on embedded stores …")
        code = serve.run(config, _play)
        _console.print("Stopped.")
        return code


async def _play(service: Service) -> None:
    """Loads the history, then lets the platform live on."""
    began = monotonic()
    platform = Platform(seed=_SEED, now=datetime.now(UTC), live_location_share=_LIVE_LOCATION_SHARE)
    await _load(service, platform)
    _welcome(service.config, monotonic() - began)
    while not service.stopping.is_set():
        await asyncio.sleep(_LIVE_EVERY_SECONDS)
        events = platform.live(datetime.now(UTC))
        if events:
            stored = await _take_in(service, [msgspec.json.encode(event) for event in events])
            await asyncio.shield(stored)


async def _load(service: Service, platform: Platform) -> None:
    columns = (
        TextColumn("90 days of history"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_console) as progress:
        task = progress.add_task("", total=platform.expected_events)
        history = platform.history()
        pending: Stored | None = None
        while True:
            batch = await asyncio.to_thread(_next_records, history)
            if not batch:
                break
            taken = await _take_in(service, batch)
            if pending is not None:
                await pending
            pending = taken
            progress.advance(task, len(batch))
        if pending is not None:
            await pending
        progress.update(task, total=progress.tasks[0].completed)


def _next_records(history: Iterator[dict[str, Any]]) -> list[bytes]:
    return [msgspec.json.encode(event) for event in islice(history, _BATCH_EVENTS)]


async def _take_in(service: Service, records: list[bytes]) -> Stored:
    """The way that posted events go."""
    arrived_ms = int(datetime.now(UTC).timestamp() * 1000)
    events, refused = await decode_records(records, acceptance_now(service.config))
    letters = [DeadLetter.of(records[index], error, rejected_ms=arrived_ms) for index, error in refused]
    return await service.pipeline.put(events, letters, arrived_ms)


def _welcome(config: Config, seconds: float) -> None:
    address = f"http://{config.server.host}:{config.server.port}"
    _console.print(
        f"Loaded in {seconds:.0f} s. A live stream of some 50 events/s is running; Ctrl-C ends it.\n"
    )
    for name, path in (
        ("Dashboard", "/"),
        ("Try the API", "/docs"),
        ("OpenAPI", "/schema"),
        ("Health", "/health"),
        ("Prometheus", "/metrics"),
    ):
        _console.print(f"  {name:<12} {address}{path}", soft_wrap=True, highlight=False)
    _console.print("\nThree questions to begin with:\n")
    for path in (
        "/v1/metrics/bookings?granularity=week&compare=previous",
        "/v1/metrics/payments?state=Lagos&granularity=none",
        "/v1/metrics/realtime?window_minutes=30",
    ):
        _console.print(f"  curl '{address}{path}'", soft_wrap=True, highlight=False)
    _console.print()
