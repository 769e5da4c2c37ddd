"""moto as a server that speaks S3: it keeps everything in memory."""

import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.servers.process import HOST, Server, free_port, lent


class S3Server(Server):
    """A server at `url`; `bucket` is there once it runs."""

    name = "S3"
    bucket = "reports"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]

    def ready(self) -> bool:
        try:
            return httpx.put(f"{self.url}/{self.bucket}", timeout=2.0).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3-compatible server for the whole session."""
    with lent(S3Server()) as server:
        yield server
