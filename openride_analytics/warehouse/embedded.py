"""ClickHouse's engine inside the process (chdb-core), for the demo and for small installations.

One folder belongs to one process. The engine releases the interpreter's lock while it works; each of
a few threads keeps a session of its own, because one session serialises its queries.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from openride_analytics.ops.metrics import PoolUse
from openride_analytics.warehouse import (
    FOR_INGEST,
    SETTINGS,
    Block,
    Parameters,
    QueryTooLong,
    Row,
    Value,
    WarehouseError,
    WarehouseUnavailable,
    failure,
    parameter_text,
    with_ids,
)

Session = Any  # chdb.session.Session, which comes without types

_THREADS = 4
# Storing has its own, or many questions at once would make it wait: two batches at a time, and two steps of each.
_THREADS_FOR_INGEST = 4
# Each has a thread and a session to itself for as long as it lasts.
_STREAMS = 4
_PLACE_TIMEOUT_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_BLOCK: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[Any])
_DATABASE = "openride"
_CODE = re.compile(r"Code: (\d+)\.")

# Looking whether the lock is free takes it for a moment, in which no engine of this process may start.
_opening = threading.Lock()

T = TypeVar("T")


class EmbeddedWarehouse:
    """Keeps the promises of `Warehouse` on a folder of this machine."""

    def __init__(self, folder: Path, *, query_timeout_seconds: float, insert_timeout_seconds: float) -> None:
        from chdb.session import (
            Session as ChdbSession,
        )  # the `embedded` extra: a service with a server does without

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._query_timeout = query_timeout_seconds
        self._insert_timeout = insert_timeout_seconds
        self._new_session: Callable[[str], Session] = ChdbSession
        self._local = threading.local()
        self._sessions: list[Session] = []
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="warehouse")
        self._ingest_threads = ThreadPoolExecutor(_THREADS_FOR_INGEST, thread_name_prefix="warehouse-ingest")
        self._calls = 0
        self._streams = asyncio.Semaphore(_STREAMS)

    @property
    def stored_in(self) -> str:
        """See `Warehouse.stored_in`."""
        return _DATABASE

    async def query_hosts(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query_hosts`."""
        return await self.query(sql, {**(parameters or {}), "stored_in": self.stored_in})

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query`."""
        bound = {name: parameter_text(value) for name, value in (parameters or {}).items()}

        def run(session: Session) -> list[Row]:
            result = session.query(_with_ids(sql), "JSONCompact", params=bound)
            answer = msgspec.json.decode(result.bytes())
            names = [column["name"] for column in answer["meta"]]
            return [dict(zip(names, row, strict=True)) for row in answer["data"]]

        return await self._in_thread(run, self._query_timeout)

    @contextlib.asynccontextmanager
    async def stream(
        self, sql: str, parameters: Parameters | None = None, *, timeout_seconds: float
    ) -> AsyncIterator[AsyncIterator[Block]]:
        """See `Warehouse.stream`."""
        bound = {name: parameter_text(value) for name, value in (parameters or {}).items()}
        mark = f"stream {secrets.token_hex(8)}"
        thread = ThreadPoolExecutor(1, thread_name_prefix="warehouse-stream")
        loop = asyncio.get_running_loop()
        read = self._read(f"/* {mark} */ {sql}", bound, timeout_seconds)

        async def blocks() -> AsyncIterator[Block]:
            while (block := await loop.run_in_executor(thread, next, read, None)) is not None:
                yield block

        try:
            async with asyncio.timeout(_PLACE_TIMEOUT_SECONDS):
                await self._streams.acquire()
        except TimeoutError:
            raise WarehouseUnavailable("all streams are busy") from None
        try:
            with self._failures():
                async with asyncio.timeout(timeout_seconds + 1):
                    yield blocks()
        finally:
            # The thread may be waiting for the engine: only another session can tell that one to stop.
            ending = loop.run_in_executor(thread, read.close)
            try:
                await asyncio.shield(self._killed(mark, ending))
            finally:
                thread.shutdown(wait=False)
                self._streams.release()

    async def _killed(self, mark: str, ending: asyncio.Future[None]) -> None:
        kill = f"KILL QUERY WHERE startsWith(query, '/* {mark} */') ASYNC"
        done, _ = await asyncio.wait([ending], timeout=0.05)
        while not done:
            with contextlib.suppress(WarehouseError):
                await self._in_thread(lambda session: session.query(kill), self._query_timeout)
            done, _ = await asyncio.wait([ending], timeout=1)

    def _read(self, sql: str, bound: dict[str, str], timeout_seconds: float) -> Generator[Block]:
        """The blocks of a query, in a session of its own; closing it stops the query. For one thread."""
        session = self._new()
        try:
            session.query(f"SET max_execution_time = {timeout_seconds}")
            with session.send_query(sql, "JSONCompactEachRow", params=bound) as result:
                while (chunk := result.fetch()) is not None:
                    yield list(zip(*_BLOCK.decode_lines(chunk.bytes()), strict=True))
        finally:
            session.close()

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        """See `Warehouse.execute`."""
        bound = {name: parameter_text(value) for name, value in (parameters or {}).items()}
        await self._in_thread(
            lambda session: session.query(_with_ids(statement), params=bound),
            timeout_seconds or self._insert_timeout,
        )

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """See `Warehouse.insert`."""

        def run(session: Session) -> None:
            # As text of one statement: chdb's streaming insert acknowledges rows that a view has refused, and its
            # other formats end at the first line break.
            head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ".encode()
            session.query(head + b",".join(_literals(row) for row in rows))

        await self._in_thread(run, self._insert_timeout)

    async def create_database(self) -> None:
        """See `Warehouse.create_database`: each session makes sure of it."""

    def use(self) -> PoolUse:
        """How the threads are used just now."""
        used = min(self._calls, _THREADS)
        return PoolUse(used, _THREADS - used, _THREADS, self._calls - used)

    async def close(self) -> None:
        """See `Warehouse.close`."""
        ending = asyncio.gather(
            *(
                asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
                for threads in (self._threads, self._ingest_threads)
            )
        )
        done, _ = await asyncio.wait([ending], timeout=_CLOSE_SECONDS)
        while not done:
            await asyncio.to_thread(self._cut_off)
            done, _ = await asyncio.wait([ending], timeout=1)
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def _cut_off(self) -> None:
        """Stops all that runs: the threads at work cannot be spoken to."""
        session = self._new()
        try:
            session.query("KILL QUERY WHERE query NOT LIKE 'KILL QUERY%' ASYNC")
        finally:
            session.close()

    async def _in_thread(self, work: Callable[[Session], T], timeout_seconds: float) -> T:
        loop = asyncio.get_running_loop()
        with self._failures():
            async with asyncio.timeout(timeout_seconds + 1):  # the engine's own limit comes first
                if FOR_INGEST.get():
                    return await loop.run_in_executor(self._ingest_threads, self._run, work, timeout_seconds)
                self._calls += 1
                try:
                    return await loop.run_in_executor(self._threads, self._run, work, timeout_seconds)
                finally:
                    self._calls -= 1

    @staticmethod
    @contextlib.contextmanager
    def _failures() -> Iterator[None]:
        """Makes the engine's errors those that `Warehouse` promises."""
        try:
            yield
        except TimeoutError:
            raise QueryTooLong("the embedded engine did not answer in time") from None
        except RuntimeError as error:
            code = _CODE.search(str(error))
            if code is None:  # the pool of threads is shut down, the session is closed
                raise WarehouseUnavailable(str(error)) from error
            raise failure(int(code[1]), str(error)) from error

    def _run(self, work: Callable[[Session], T], timeout_seconds: float) -> T:
        session = self._session()
        try:
            session.query(f"SET max_execution_time = {timeout_seconds}")
            return work(session)
        except RuntimeError:
            # What a failed query had begun to answer would come before the session's next answer: take it away.
            with contextlib.suppress(RuntimeError):
                session.query("SELECT 1")
            raise

    def _session(self) -> Session:
        session: Session = getattr(self._local, "session", None)
        if session is None:
            session = self._new()
            self._local.session = session
            self._sessions.append(session)
        return session

    def _new(self) -> Session:
        session = self._opened()
        session.query(f"CREATE DATABASE IF NOT EXISTS {_DATABASE} ENGINE = Atomic")
        session.query(f"USE {_DATABASE}")
        settings: dict[str, Any] = {
            **SETTINGS,
            "output_format_json_quote_64bit_integers": 0,
            "output_format_json_quote_denormals": 0,
        }
        for name, value in settings.items():
            session.query(f"SET {name} = {value}")
        return session

    def _opened(self) -> Session:
        # The engine refuses a folder that another process has open, and leaves it as it is; but it says so on standard
        # error, and in an exception without the reason.
        status = self._folder / "status"
        in_use = f"{self._folder} is in use by another process: stop it first"
        with _opening:
            if (holder := _holder(status)) is not None and f"PID: {os.getpid()}\n" not in holder:
                raise WarehouseUnavailable(in_use)
            try:
                return self._new_session(str(self._folder))
            except RuntimeError as error:
                if _holder(status) is not None:
                    raise WarehouseUnavailable(in_use) from error
                raise


def _holder(file: Path) -> str | None:
    """What the engine has written into the file that it keeps locked while it is open; None where nobody locks it."""
    try:
        with file.open(encoding="utf-8", errors="replace") as status:
            try:
                fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return status.read()
    except OSError:
        pass
    return None


def _with_ids(sql: str) -> str:
    return with_ids(sql, lambda name: f"(SELECT {{{name}:String}} AS text)")


def _literals(row: Sequence[Value]) -> bytes:
    """A row of VALUES, without a line break in it."""
    return b"(" + b",".join(_literal(value) for value in row) + b")"


def _literal(value: Value) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    text = value.encode() if isinstance(value, str) else value
    return b"'" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\n", b"\\n") + b"'"
