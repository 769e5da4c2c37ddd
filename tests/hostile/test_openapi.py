"""Schemathesis reads the OpenAPI document and tries to prove it wrong on a running service with stored events."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.running import ServiceProcess
from tests.samples import FULL

from .records import Table

# `make fuzz` takes as long as it is told.
SECONDS = int(os.environ.get("OPENRIDE_SCHEMATHESIS_SECONDS", "25"))
CONFIG = Path(__file__).with_name("schemathesis.toml")
ROOT = Path(__file__).parents[2]
# Start-up, and what is under way when the time is over.
SLACK_SECONDS = 120


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """A process with its own stores and an event of each type."""
    with ServiceProcess({}) as service:
        service.wait_until_ready()
        table = Table(datetime.now(UTC), "openapi")
        events = [
            table.good(f"{event_type} {number}", event_type) for event_type in FULL for number in range(10)
        ]
        assert service.post_events(b"\n".join(events))["accepted"] == len(events)
        yield service


def operations(service: ServiceProcess) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in service.get_json("/schema")["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def is_stream(operation: dict[str, Any]) -> bool:
    return any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())


@pytest.mark.timeout(SECONDS + 2 * SLACK_SECONDS)
def test_schemathesis_finds_nothing(service: ServiceProcess, tmp_path: Path) -> None:
    streams = [path for path, _, operation in operations(service) if is_stream(operation)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{service.url}/schema", "--no-color"),
            # It would read a stream to its end, which it has none of.
            *(part for path in streams for part in ("--exclude-path", path)),
            *("--max-time", str(SECONDS), "--request-timeout", "60", "--continue-on-failure"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=SECONDS + SLACK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None, done.stdout
    assert int(tested[1]) == sum(not is_stream(operation) for _, _, operation in operations(service))
    assert "Traceback" not in service.logged()


def test_streams_begin_as_documented(service: ServiceProcess) -> None:
    streams = [path for path, _, operation in operations(service) if is_stream(operation)]
    assert streams
    for path in streams:
        with httpx.stream("GET", service.url + path, trust_env=False, timeout=30) as stream:
            assert stream.status_code == 200
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            assert next(stream.iter_lines())
        assert httpx.get(service.url + path, params={"no": "1"}, trust_env=False).status_code == 400
