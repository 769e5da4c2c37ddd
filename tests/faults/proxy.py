"""A TCP proxy that does to connections what networks do: delays, silence, resets, half-closes, cuts in mid-sentence."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

from tests.servers.process import HOST, free_port

CHUNK_BYTES = 65_536
LAST_SECONDS = 5.0

T = TypeVar("T")


class Proxy:
    """Passes connections to `port` on to `target_port`, from a loop in a thread of its own. All methods may be called
    from any thread and have taken effect when they return.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0
        self.passing = asyncio.Event()
        self.bytes_left: int | None = None
        self.answers_left: int | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LAST_SECONDS)
        self._loop.close()

    def heal(self) -> None:
        """Passes everything on again; what was held back goes first."""

        async def heal() -> None:
            self.delay_seconds = 0.0
            self.bytes_left = self.answers_left = None
            self.passing.set()

        self._call(heal())

    def delay(self, seconds: float) -> None:
        """Holds each piece back for so long, in both directions."""

        async def delay() -> None:
            self.delay_seconds = seconds

        self._call(delay())

    def black_hole(self) -> None:
        """Accepts connections and passes nothing on, in neither direction, until `heal`."""

        async def hold() -> None:
            self.passing.clear()

        self._call(hold())

    def reset(self) -> int:
        """Resets all connections, on both sides; how many there were."""

        async def reset() -> int:
            broken = list(self._connections)
            for connection in broken:
                connection.reset()
            return len(broken)

        return self._call(reset())

    def half_close(self) -> None:
        """Tells all clients that nothing more will come, while their servers know nothing of it."""

        async def half_close() -> None:
            for connection in list(self._connections):
                connection.half_close()

        self._call(half_close())

    def cut_after(self, count: int) -> None:
        """Resets the connection on which a client sends the last of `count` more bytes, once these have passed."""

        async def cut() -> None:
            self.bytes_left = count

        self._call(cut())

    def cut_answer(self, number: int = 1) -> None:
        """Resets a connection instead of passing on the server's next (or `number`-th) piece of answer."""

        async def cut() -> None:
            self.answers_left = number

        self._call(cut())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * LAST_SECONDS)

    async def _listen(self) -> None:
        self.passing.set()
        self._server = await asyncio.start_server(self._accept, HOST, self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.passing.wait()
            try:
                target = await asyncio.open_connection(HOST, self.target_port)
            except OSError:
                _reset(writer)
                return
            connection = _Connection(self, (reader, writer), target)
            self._connections.add(connection)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio would call it an error
        finally:
            self._tasks.discard(task)
            _reset(writer)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # aborted transports are closed in the loop's next turns


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    def __init__(self, proxy: Proxy, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._half_closed = False

    async def run(self) -> None:
        """Until both directions have ended."""
        up = asyncio.create_task(self._pump(self._client[0], self._server[1], upwards=True))
        down = asyncio.create_task(self._pump(self._server[0], self._client[1], upwards=False))
        try:
            await asyncio.gather(up, down)
        except OSError:
            pass
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self.reset()

    def reset(self) -> None:
        _reset(self._client[1])
        _reset(self._server[1])

    def half_close(self) -> None:
        self._half_closed = True
        _write_eof(self._client[1])

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upwards: bool
    ) -> None:
        proxy = self._proxy
        while piece := await reader.read(CHUNK_BYTES):
            if proxy.delay_seconds:
                await asyncio.sleep(proxy.delay_seconds)
            await proxy.passing.wait()
            cut = False
            if upwards and proxy.bytes_left is not None:
                piece = piece[: proxy.bytes_left]  # what passes of it
                proxy.bytes_left -= len(piece)
                cut = proxy.bytes_left <= 0
            elif not upwards and proxy.answers_left is not None:
                proxy.answers_left -= 1
                cut = proxy.answers_left <= 0
                piece = b"" if cut else piece
            if writer.is_closing() or (self._half_closed and not upwards):
                continue
            writer.write(piece)
            await writer.drain()
            if cut:
                proxy.bytes_left = proxy.answers_left = None
                # What has passed shall arrive before the reset, which would discard it.
                await asyncio.sleep(0.02)
                self.reset()
                return
        _write_eof(writer)


def _write_eof(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        if not writer.is_closing():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST: its peer sees an error, not an end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() != -1:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
