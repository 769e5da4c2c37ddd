"""Temporary folders: gone when they are done with, and those of killed processes when another one starts."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from openride_analytics.temporary import TemporaryFolder, remove_abandoned

HOLDER = """
import sys
from openride_analytics.temporary import TemporaryFolder
with TemporaryFolder("report") as folder:
    (folder / "whole").write_bytes(b"x" * 1_000)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, here and in the processes started here."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def left(folder: Path) -> list[Path]:
    """What is in it."""
    return sorted(folder.iterdir())


@contextmanager
def another_process() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """One that uses a folder until it ends, and the folder."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_a_killed_process_leaves_a_folder_until_another_one_looks(there: Path) -> None:
    with another_process() as (process, folder):
        assert (folder / "whole").exists()
        assert remove_abandoned() == 0
        assert (folder / "whole").exists()
        process.send_signal(signal.SIGKILL)
    assert left(there) == [folder]
    assert remove_abandoned() == 1
    assert left(there) == []


def test_a_process_that_ends_by_itself_leaves_nothing(there: Path) -> None:
    with another_process():
        pass
    assert left(there) == []


async def test_what_the_own_process_uses_is_not_touched(there: Path) -> None:
    async with TemporaryFolder("export") as one:
        with TemporaryFolder("export") as other:
            (one / "file").touch()
            assert remove_abandoned() == 0
            assert left(there) == sorted((one, other))
    assert left(there) == []


async def test_a_task_that_is_cancelled_again_and_again_leaves_nothing(there: Path) -> None:
    async def use() -> None:
        async with TemporaryFolder("export") as folder:
            (folder / "file").touch()
            entered.set()
            await asyncio.Event().wait()

    entered, free = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, free.wait)  # so that removing has to wait for its turn
    task = asyncio.create_task(use())
    await entered.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert left(there)
    free.set()
    await busy
    await loop.shutdown_default_executor()
    assert left(there) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_is_found_before_it_is_locked_is_made_anew(
    there: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """By somebody who looks for abandoned ones just then: before or after it is opened."""
    stands: dict[str, tuple[Any, Callable[..., Any]]] = {
        "before": (os, os.open),
        "after": (fcntl, fcntl.flock),
    }
    at, real = stands[when]
    found: list[Path] = []

    def late(*arguments: Any, **named: Any) -> Any:
        if not found:
            found.extend(left(there))
            assert remove_abandoned() == 1
        return real(*arguments, **named)

    monkeypatch.setattr(at, real.__name__, late)
    with TemporaryFolder("export") as folder:
        assert left(there) == [folder]
        assert [folder] != found


def test_nothing_else_is_removed(there: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").touch()
    (there / "openride-analytics-link").symlink_to(elsewhere)
    (there / "openride-analytics-file").touch()
    (there / "openride-clickhouse").mkdir()
    assert remove_abandoned() == 0
    assert len(left(there)) == 3
    assert (elsewhere / "file").exists()
