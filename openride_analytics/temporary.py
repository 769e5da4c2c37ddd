"""Temporary folders that a killed process leaves behind for no longer than until the next one starts.

Whoever makes one holds a lock on it while it is used. The kernel takes that lock back when the process ends, however it ends,
so a folder whose lock can be had is nobody's, also where several instances share a machine or containers a volume.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "openride-analytics-"


class TemporaryFolder:
    """A context manager: an empty folder, gone afterwards with all that is in it. Raises OSError where it cannot be made.

    As an asynchronous one it removes the folder beside the event loop, also when it is cancelled meanwhile.
    """

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose

    def __enter__(self) -> Path:
        while True:
            self._path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{self._purpose}-"))
            lock = _locked(self._path)
            if lock is not None and self._path.exists():
                self._lock = lock
                return self._path
            if lock is not None:  # somebody who looked for folders like this found it before it was locked
                os.close(lock)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)

    async def __aenter__(self) -> Path:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self.__exit__))


def remove_abandoned() -> int:
    """Removes the folders of processes that have ended without removing them, and says how many there were."""
    removed = 0
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if (lock := _locked(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            removed += not path.exists()
    return removed


def _locked(path: Path) -> int | None:
    """What holds the lock on a folder until it is closed; None where somebody else has it, or there is no such folder."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or another user's
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(folder)
        return None
    return folder
