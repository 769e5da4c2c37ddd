"""Runs the service in one process and one event loop, until a signal or a failure ends it."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import structlog
import uvicorn
import uvloop

from openride_analytics.config import Config
from openride_analytics.http.app import http_app
from openride_analytics.service import Service

log = structlog.get_logger(__name__)

# Requests in flight get this long after the drain time; then the stores are flushed and closed.
_REQUESTS_SECONDS: Final = 5


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would close its port at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: Config, alongside: Callable[[Service], Awaitable[None]] | None = None) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code: 0 after a clean stop, 1 after a failure.

    `alongside` runs beside the service, from when it is ready, and ends with it.
    """
    # Events are many short-lived objects without cycles: looking for cycles at every 700 of them costs a tenth of the CPU.
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, alongside))


async def _serve(config: Config, alongside: Callable[[Service], Awaitable[None]] | None) -> int:
    service = Service(config)
    server = _Server(
        uvicorn.Config(
            http_app(service),
            host=config.server.host,
            port=config.server.port,
            http="h11",  # bounds the headers of a request, which httptools does not
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_REQUESTS_SECONDS,
            lifespan="on",
        )
    )
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    def begin_stop(drain_seconds: float) -> None:
        if ending:  # asked twice: now
            server.should_exit = True
            return
        service.begin_stop()
        ending.append(asyncio.create_task(_end(server, drain_seconds)))

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, begin_stop, config.server.drain_seconds)
    service.on_failure = lambda: begin_stop(0.0)

    beside = asyncio.create_task(_beside(service, alongside)) if alongside else None
    try:
        await server.serve()
    except SystemExit:  # uvicorn's way of saying that the port is taken
        log.error("port_not_available", host=config.server.host, port=config.server.port)
        return 1
    finally:
        for task in [*ending, *([beside] if beside else [])]:
            task.cancel()
    return 1 if service.failed else 0


async def _end(server: uvicorn.Server, drain_seconds: float) -> None:
    """Answers on for a while, so that load balancers notice, then closes the port."""
    await asyncio.sleep(drain_seconds)
    server.should_exit = True


async def _beside(service: Service, alongside: Callable[[Service], Awaitable[None]]) -> None:
    await service.started.wait()
    await alongside(service)
