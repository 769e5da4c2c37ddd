"""ClickHouse's engine inside the process (chdb-core), for the demo and for small installations.

One folder belongs to one process. The engine releases the interpreter's lock while it works; each of
a few threads keeps a session of its own, because one session serialises its queries.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from openride_analytics.warehouse import (
    SETTINGS,
    Parameters,
    QueryTooLong,
    Row,
    Value,
    WarehouseUnavailable,
    failure,
    parameter_text,
)

Session = Any  # chdb.session.Session, which comes without types

_THREADS = 4
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

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query`."""
        bound = {name: parameter_text(value) for name, value in (parameters or {}).items()}

        def run(session: Session) -> list[Row]:
            result = session.query(sql, "JSONCompact", params=bound)
            answer = msgspec.json.decode(result.bytes())
            names = [column["name"] for column in answer["meta"]]
            return [dict(zip(names, row, strict=True)) for row in answer["data"]]

        return await self._in_thread(run, self._query_timeout)

    async def execute(self, statement: str, parameters: Parameters | None = None) -> None:
        """See `Warehouse.execute`."""
        bound = {name: parameter_text(value) for name, value in (parameters or {}).items()}
        await self._in_thread(lambda session: session.query(statement, params=bound), self._insert_timeout)

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

    async def close(self) -> None:
        """See `Warehouse.close`."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    async def _in_thread(self, work: Callable[[Session], T], timeout_seconds: float) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_seconds + 1):  # the engine's own limit comes first
                return await loop.run_in_executor(self._threads, self._run, work, timeout_seconds)
        except TimeoutError:
            raise QueryTooLong("the embedded engine did not answer in time") from None
        except RuntimeError as error:
            code = _CODE.match(str(error))
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
            self._local.session = session
            self._sessions.append(session)
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


def _literals(row: Sequence[Value]) -> bytes:
    """A row of VALUES, without a line break in it."""
    return b"(" + b",".join(_literal(value) for value in row) + b")"


def _literal(value: Value) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    text = value.encode() if isinstance(value, str) else value
    return b"'" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\n", b"\\n") + b"'"
