"""Fetches what a server is made of, once for all test runs, through the registry's own client."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.servers.process import ServerUnavailableError

FETCH_SECONDS = 900


def cached(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, filled by `fetch` if it is not there yet.

    It appears whole or not at all, and a second test process waits for the first one's instead of fetching
    it again. `fetch` gets an empty folder.
    """
    cache = Path(os.environ.get("OPENRIDE_TEST_CACHE") or "~/.cache/openride-analytics-tests").expanduser()
    kept = cache / name
    if kept.is_dir():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as unfinished:
                whole = Path(unfinished) / name
                whole.mkdir()
                fetch(whole)
                whole.rename(kept)
    return kept


def run_client(command: Sequence[str | Path]) -> None:
    """Run a registry's client to its end, or raise `ServerUnavailableError` with the last it said."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerUnavailableError(f"{command[0]} did not end within {FETCH_SECONDS} s") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-1_500:]
        raise ServerUnavailableError(f"{command[0]} ended with {done.returncode}: {said}")
