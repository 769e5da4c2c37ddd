"""The service as an operator runs it: a process of its own, started with a configuration file.

For tests that see it only from outside: over HTTP, by signals, by its exit code and its log.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from openride_analytics.config import WELL_KNOWN
from tests.servers.process import HOST, LOG_TAIL_CHARACTERS, Server, ServerFailedError, free_port

Sections = Mapping[str, Mapping[str, Any]]

READY_SECONDS = 60.0
STOP_SECONDS = 25.0
POLL_SECONDS = 0.05

T = TypeVar("T")


class ServiceProcess(Server):
    """`openride-analytics serve` at `url`, with `config` over a free port, no drain time and a temporary `data_dir`.

    `start` returns when the process answers at all; `wait_until_ready` waits for its servers too. Nothing but `config`
    and `environment` configures it: what the environment of the tests says to a service is kept from it.
    """

    name = "Service"

    def __init__(self, config: Sections, environment: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.environment = dict(environment or {})
        own: dict[str, dict[str, Any]] = {
            "server": {"host": HOST, "port": self.port, "drain_seconds": 0},
            "storage": {"data_dir": "data"},
            "log": {"level": "info", "format": "json"},
        }
        self.config = {
            section: {**own.get(section, {}), **config.get(section, {})} for section in {**own, **config}
        }
        self._http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def command(self) -> list[str]:
        file = self.folder / "config.toml"
        file.write_text(_toml(self.config), encoding="utf-8")
        foreign = [name for name in os.environ if name in WELL_KNOWN or name.startswith("OPENRIDE_")]
        return [
            "env",
            *(part for name in foreign for part in ("-u", name)),
            *(f"{name}={value}" for name, value in self.environment.items()),
            *(*self.program(), "serve", "--config", str(file)),
        ]

    def program(self) -> Sequence[str]:
        """What runs the command line."""
        return _program()

    def ready(self) -> bool:
        try:
            # At all: health may be at a port of its own.
            return self.get("/health/live").status_code < 500
        except httpx.TransportError:
            return False

    def get(self, path: str, **parameters: str) -> httpx.Response:
        """One request, whatever its answer; `parameters` are the query's."""
        return self._http.get(path, params=parameters)

    @property
    def authorization(self) -> str:
        """The header of that name which requests carry."""
        return str(self._http.headers.get("Authorization", ""))

    def use_key(self, key: str) -> None:
        """Sends a key or token with each request from now on."""
        self._http.headers["Authorization"] = f"Bearer {key}"

    def made_key(self, *scopes: str) -> str:
        """A new key, made by command."""
        chosen = [part for scope in scopes for part in ("--scope", scope)]
        made = ["keys", "--config", str(self.folder / "config.toml"), "create", "--name", "test", *chosen]
        done = subprocess.run(
            [*self.program(), *made],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
            check=False,
        )
        if done.returncode:
            self._fail(f"made no key: {done.stderr}")
        return done.stdout.strip()

    def get_json(self, path: str, **parameters: str) -> Any:
        """The JSON of an answer that must be a success."""
        response = self.get(path, **parameters)
        if not response.is_success:
            self._fail(f"answered {response.url} with {response.status_code}: {response.text}")
        return response.json()

    def post_json(self, path: str, body: Any) -> Any:
        """The JSON of an answer that must be a success."""
        response = self._http.post(path, json=body)
        if not response.is_success:
            self._fail(f"answered {response.url} with {response.status_code}: {response.text}")
        return response.json()

    def post_events(self, body: bytes, **headers: str) -> Any:
        """The receipt for a body of events; headers with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self._http.post("/v1/events", content=body, headers=named)
        if response.status_code != httpx.codes.ACCEPTED:
            self._fail(f"refused events with {response.status_code}: {response.text}")
        return response.json()

    def metric(self, name: str) -> float:
        """A metric of `/metrics`, summed over its labels; 0 if it is not there (yet)."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Until `/health/ready` is a 200."""
        self.wait_until(lambda: self.get("/health/ready").is_success, "get ready", seconds)

    def wait_until_stored(self, events: int, refused: int = 0, seconds: float = READY_SECONDS) -> None:
        """Until it has stored so many events since its start, repeats included, and refused so many records."""

        def counted() -> tuple[int, int]:
            stored, rejected = (
                self.metric("openride_events_stored_total"),
                self.metric("openride_events_rejected_total"),
            )
            return int(stored), int(rejected)

        def enough() -> bool:
            return all(has >= wanted for has, wanted in zip(counted(), (events, refused), strict=True))

        try:
            self.wait_until(enough, f"store {events} events and refuse {refused}", seconds)
        except ServerFailedError as failure:
            failure.add_note(f"stored and refused: {counted()}")
            raise

    def wait_until(self, condition: Callable[[], T | None], what: str, seconds: float = READY_SECONDS) -> T:
        """The first true result of `condition`; fails, with the log's end, where there is none in time."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(httpx.TransportError):
                if result := condition():
                    return result
            if not self.running:
                self._fail("ended")
            if time.monotonic() > deadline:
                self._fail(f"did not {what} within {seconds:g} s")
            time.sleep(POLL_SECONDS)

    def signal_stop(self) -> None:
        """SIGTERM, as an orchestrator sends it; returns at once."""
        self._running().send_signal(signal.SIGTERM)

    def wait_for_exit(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code of a process that is ending; fails, with the log's end, if it takes longer."""
        assert self._leash is not None
        try:
            code = self._leash.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._fail(f"did not end within {seconds:g} s")
        self._release()
        return code

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, and the exit code."""
        self.signal_stop()
        return self.wait_for_exit(seconds)

    def run_to_its_end(self, seconds: float = READY_SECONDS) -> tuple[int, str]:
        """For a start that must fail: the exit code and what was printed."""
        done = subprocess.run(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            text=True,
            timeout=seconds,
            check=False,
        )
        return done.returncode, done.stdout

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The structured log lines with that event name."""
        lines = [json.loads(line) for line in self.logged().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._http.close()


def run_command(*arguments: str, seconds: float = READY_SECONDS) -> str:
    """What a command of the program printed, which must succeed."""
    done = subprocess.run(_program(*arguments), capture_output=True, text=True, timeout=seconds, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {said[-LOG_TAIL_CHARACTERS:]}"
    return said


def _program(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "openride_analytics", *arguments]


def _toml(sections: Sections) -> str:
    lines = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f"{key} = {_toml_value(value)}" for key, value in keys.items()), ""]
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    """JSON's texts, numbers, booleans and lists of them are TOML's as well; its objects are written otherwise."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    return json.dumps(value)
