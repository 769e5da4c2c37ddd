"""Schemathesis reads the OpenAPI document and tries to prove it wrong on a running service with stored events."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
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
    """A process with its own stores, access on, and an event of each type."""
    secret, audience = "a shared secret of more than 32 bytes", "openride-analytics"
    access = {
        "enabled": True,
        "requests_per_minute": 0,
        "jwt_secret": secret,
        "jwt_issuer": "tests",
        "jwt_audience": audience,
    }
    claims = {"iss": "tests", "aud": audience, "sub": "tests", "scope": "admin", "exp": time.time() + 86_400}
    with ServiceProcess({"auth": access}) as service:
        service.wait_until_ready()
        service.use_key(jwt.encode(claims, secret))  # a key might be found in the list and revoked
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
            *("--header", f"Authorization: {service.authorization}"),
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
        headers = {"Authorization": service.authorization}
        with httpx.stream("GET", service.url + path, headers=headers, trust_env=False, timeout=30) as stream:
            assert stream.status_code == 200
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            assert next(stream.iter_lines())
        refused = httpx.get(service.url + path, params={"no": "1"}, headers=headers, trust_env=False)
        assert refused.status_code == 400
