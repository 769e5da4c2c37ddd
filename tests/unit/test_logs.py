"""What is let into the logs of what the libraries say."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from openride_analytics.config import Log
from openride_analytics.ops import logs


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the service would write to standard output; pytest's own handlers are put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    logs.configure(Log(format="json"))
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def written(out: io.StringIO) -> list[dict[str, Any]]:
    """The lines since the last look."""
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    out.seek(0)
    out.truncate()
    return lines


def test_what_a_library_repeats_is_let_through_now_and_then_with_the_number_of_those_left_out(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(logs, "monotonic", lambda: now)
    for node in range(300):
        logging.getLogger("aiokafka").error("Unable to connect to node with id %s", node)
    (line,) = written(out)
    assert line["event"] == "Unable to connect to node with id 0"
    assert "left_out" not in line

    now += 31
    for place in ("aiokafka", "aiokafka.cluster"):
        logging.getLogger(place).error("Unable to connect")  # another place in the code
    logging.getLogger("asyncpg").error("Something else")
    assert [line["event"] for line in written(out)] == ["Unable to connect", "Something else"]


def test_the_number_of_those_left_out_stands_in_the_next_line(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(logs, "monotonic", lambda: now)

    def say() -> None:
        logging.getLogger("aiokafka").error("Unable to connect")

    for _ in range(300):
        say()
    now += 31
    say()
    assert [line.get("left_out") for line in written(out)] == [None, 299]


def test_of_what_a_library_warns_the_error_is_told_and_of_its_errors_the_way_there_too(
    out: io.StringIO,
) -> None:
    library = logging.getLogger("asyncpg.pool")
    refused = ConnectionRefusedError("nobody there")
    library.warning("Failed, retrying", exc_info=refused)
    library.error("Failed", exc_info=refused)
    warning, error = written(out)
    assert warning["error"] == "ConnectionRefusedError: nobody there"
    assert "exception" not in warning
    assert "nobody there" in error["exception"]


def test_our_own_lines_are_all_written(out: io.StringIO) -> None:
    for offset in range(300):
        structlog.get_logger("openride_analytics.ingest").error("records_lost", offset=offset)
    assert len(written(out)) == 300
