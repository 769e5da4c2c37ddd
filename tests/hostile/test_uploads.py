"""Hostile requests: whatever comes to the port, the service answers as the contract says, lives, and stays small."""

import asyncio
import gzip
import json
import os
import zlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest

from tests.integration.running import ServiceProcess
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST

from .records import SECRETS, Table, encoded
from .watch import Watch

GROWN_MEGABYTES = 700
LARGEST_BODY = 33_554_432
TINY_REQUESTS = 10_000
NDJSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def service(
    postgres_url_of_module: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """One process on the embedded engine for all tests of this module; at the end nothing may have gone wrong in it."""
    config = {"postgres": {"url": postgres_url_of_module}, "ingest": {"max_delay_seconds": 0.05}}
    with ServiceProcess(config) as service:
        service.wait_until_ready()
        with Watch(service) as watch:
            yield service
        print(f"grown by {watch.grown_megabytes:.0f} MB, slowest {watch.slowest_seconds:.2f} s")  # noqa: T201  # with -s
        assert watch.failures == []
        assert watch.grown_megabytes < GROWN_MEGABYTES
        log = service.logged()
        assert service.terminate() == 0
        assert "Traceback" not in log
        assert [json.loads(line) for line in log.splitlines() if '"level": "error"' in line] == []
        assert [secret for secret in SECRETS if secret in log] == []
