"""A disk that is full, clocks that are wrong."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .report import Report
from .stage import Stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
DISK = "96m"


@pytest.fixture
def small_disk(report: Report) -> Iterator[Stage]:
    """A stage whose ClickHouse has its data on a disk of its own."""
    stage = Stage(report)
    disk = stage.clickhouse.folder / "data"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a small disk: {mounted.stderr.strip()}")
    try:
        with stage:
            stage.producing.go_on()
            yield stage
            report.say(stage.table())
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65_536)
        except OSError:
            return filler


def test_a_full_disk_holds_ingestion_up_and_loses_nothing(small_disk: Stage) -> None:
    stage = small_disk
    stage.check()
    pids = [service.pid for service in stage.services]
    filler = fill(stage.clickhouse.folder / "data")
    for service in stage.services:
        service.wait_until(
            lambda service=service: service.get("/health/ready").json()["parts"]["ingest"] == "retrying",  # type: ignore[misc]
            "notice the full disk",
        )
        answer = service.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert service.metric("openride_insert_failures_total") > 0
    filler.unlink()
    stage.check()
    assert [service.pid for service in stage.services] == pids, "a service was started again"
    assert {service.get_json("/health/ready")["status"] for service in stage.services} == {"ok"}


def test_clocks_an_hour_off_change_no_figure(report: Report) -> None:
    """One service lives an hour ahead, the other an hour behind; they share the topics, the store and the cache."""
    with Stage(report) as stage:
        for right, seconds in zip(stage.services[:2], (3_600, -3_600), strict=True):
            stage.join(clock_seconds=seconds)
            stage.leave(right)
        stage.producing.go_on()
        for _ in range(2):
            stage.services[0].wait_until_stored(100)
            stage.check()
