"""Runs the service in one process and one event loop, until a signal or a failure ends it."""

import asyncio
import contextlib
import ctypes
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Literal

import structlog
import uvicorn
import uvloop
from litestar.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from openride_analytics.config import Config
from openride_analytics.http.app import http_app, ops_app
from openride_analytics.service import Service

log = structlog.get_logger(__name__)

# Requests in flight get this long after the drain time; then the stores are flushed and closed.
_REQUESTS_SECONDS: Final = 5
# From a connection's beginning, or a request's first byte, to the end of its headers.
_HEADERS_SECONDS: Final = 10.0
_OBJECTS_BETWEEN_COLLECTIONS: Final = 10_000
_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE_BUFFER_BYTES: Final = 4 * 1_048_576


class _Connection(H11Protocol):
    """uvicorn's, by h11 because that bounds the size of the headers; here their time is bounded too.

    Otherwise clients that come to no end hold as many connections as they like, for ever.
    """

    _cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if not self._in_request:
            self._wait()
        super().data_received(data)
        if self._in_request:
            self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    @property
    def _in_request(self) -> bool:
        cycle: Any = self.cycle  # None before the first one
        return cycle is not None and not cycle.response_complete

    def _wait(self) -> None:
        if self._cut_off is None:
            self._cut_off = self.loop.call_later(_HEADERS_SECONDS, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would close its port at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: Config, alongside: Callable[[Service], Awaitable[None]] | None = None) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code: 0 after a clean stop, 1 after a failure.

    `alongside` runs beside the service, from when it is ready, and ends with it.
    """
    # What is imported stays, and events make no cycles: to look for some after every 700 objects took a twentieth of the CPU.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    _give_large_buffers_back()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, alongside))


def _give_large_buffers_back() -> None:
    """Has the memory of large bodies go back to the system when it is freed.

    glibc keeps buffers of up to 32 MB once it has seen some: several uploads at once then grew the process by 150 MB more.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # other C libraries have none
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BUFFER_BYTES)


async def _serve(config: Config, alongside: Callable[[Service], Awaitable[None]] | None) -> int:
    service = Service(config)
    server = _server(config, http_app(service), config.server.port, lifespan="on")
    ops = (
        _server(config, ops_app(service), config.server.ops_port, lifespan="off")
        if config.server.ops_port
        else None
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
    beside_ops = asyncio.create_task(_beside_ops(ops, server)) if ops else None
    try:
        served = await _served(server)
        if ops is not None and beside_ops is not None:  # until here, so that probes see the stop
            ops.should_exit = True
            served = await beside_ops and served
    finally:
        for task in [*ending, *([beside] if beside else [])]:
            task.cancel()
    return 1 if service.failed or not served else 0


def _server(config: Config, app: ASGIApp, port: int, *, lifespan: Literal["on", "off"]) -> _Server:
    app_for_uvicorn: Any = app  # its own names for the same types
    return _Server(
        uvicorn.Config(
            app_for_uvicorn,
            host=config.server.host,
            port=port,
            http=_Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_REQUESTS_SECONDS,
            lifespan=lifespan,
        )
    )


async def _served(server: uvicorn.Server) -> bool:
    """Serves until told to stop; false where the port cannot be had."""
    try:
        await server.serve()
    except SystemExit:  # uvicorn's way of saying that the port is taken
        log.error("port_not_available", host=server.config.host, port=server.config.port)
        return False
    return True


async def _beside_ops(ops: uvicorn.Server, server: uvicorn.Server) -> bool:
    """The operators' port; without it there is no service."""
    served = await _served(ops)
    server.should_exit = True
    return served


async def _end(server: uvicorn.Server, drain_seconds: float) -> None:
    """Answers on for a while, so that load balancers notice, then closes the port."""
    await asyncio.sleep(drain_seconds)
    server.should_exit = True


async def _beside(service: Service, alongside: Callable[[Service], Awaitable[None]]) -> None:
    await service.started.wait()
    await alongside(service)
