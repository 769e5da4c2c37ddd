"""The real taxi trips over HTTP into a service that has nothing but its own folder, against the truth."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import pytest
import zstandard

from tests.taxi.events import events

from .running import ServiceProcess, run_command
from .taxi_questions import CONFIG, QUESTIONS, Asked, differences_from_truth

Records = Sequence[bytes]
Way = Callable[[ServiceProcess, Records, Path], None]


def post_ndjson_in_gzip(service: ServiceProcess, records: Records, folder: Path) -> None:
    body = gzip.compress(b"\n".join(records), compresslevel=1)
    receipt = service.post_events(body, content_type="application/x-ndjson", content_encoding="gzip")
    assert receipt == {"accepted": len(records), "duplicates_possible": True, "rejected": []}


def post_json_array(service: ServiceProcess, records: Records, folder: Path) -> None:
    receipt = service.post_events(b"[" + b",".join(records) + b"]", content_type="application/json")
    assert receipt == {"accepted": len(records), "duplicates_possible": True, "rejected": []}


def ingest_gzip_file(service: ServiceProcess, records: Records, folder: Path) -> None:
    _ingest(service, records, folder / "trips.ndjson.gz", gzip.compress(b"\n".join(records), compresslevel=1))


def ingest_zstandard_file(service: ServiceProcess, records: Records, folder: Path) -> None:
    _ingest(service, records, folder / "trips.ndjson.zst", zstandard.compress(b"\n".join(records) + b"\n"))


def _ingest(service: ServiceProcess, records: Records, file: Path, packed: bytes) -> None:
    file.write_bytes(packed)
    assert f"{len(records)} accepted, 0 rejected" in run_command("ingest", "--url", service.url, str(file))


WAYS: Final[Sequence[Way]] = (
    post_ndjson_in_gzip,
    post_json_array,
    ingest_gzip_file,
    ingest_zstandard_file,
)


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    """All trips' events, in no order."""
    encoded = [msgspec.json.encode(event) for event in events()]
    Random(2019).shuffle(encoded)
    return encoded


@pytest.fixture(scope="module")
def service(records: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """It has taken in all trips, a quarter by each way."""
    with ServiceProcess(CONFIG) as service:
        service.wait_until_ready()
        for quarter, send in enumerate(WAYS):
            send(service, records[quarter :: len(WAYS)], tmp_path_factory.mktemp("files"))
        yield service
        assert service.terminate() == 0


@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
def test_every_answer_is_the_truth(asked: Asked, service: ServiceProcess) -> None:
    found = differences_from_truth(service, asked)
    assert not found, "\n".join(found)


def test_sending_all_once_more_by_another_way_changes_nothing(
    service: ServiceProcess, records: list[bytes], tmp_path: Path
) -> None:
    for quarter, send in enumerate([*WAYS[1:], WAYS[0]]):
        send(service, records[quarter :: len(WAYS)], tmp_path)
    found = differences_from_truth(service, QUESTIONS[0])
    assert not found, "\n".join(found)


def test_stores_without_an_address_are_no_missing_parts(service: ServiceProcess) -> None:
    assert service.get_json("/health/ready")["parts"] == {
        "clickhouse": "ok",
        "postgres": "ok",
        "migrations": "ok",
        "ingest": "ok",
        "redis": "off",
        "kafka": "off",
    }


def test_what_was_stored_is_there_after_a_new_start(service: ServiceProcess) -> None:
    assert service.terminate() == 0
    service.start()
    service.wait_until_ready()
    assert not differences_from_truth(service, QUESTIONS[0])
