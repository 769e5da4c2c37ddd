"""A look at the service from beside: does it live, and how much memory does it take, while a test is hard on it?"""

import threading
import time
from types import TracebackType
from typing import Self

import httpx
import psutil

from tests.integration.running import ServiceProcess

EVERY_SECONDS = 0.1
# Far above what an idle machine needs, far below what a blocked event loop would show.
SLOWEST_SECONDS = 5.0


class Watch:
    """Asks for `/health/live` and measures the memory as long as the block lasts."""

    def __init__(self, service: ServiceProcess) -> None:
        self._url = f"{service.url}/health/live"
        self._process = psutil.Process(service.pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._first_bytes = self._process.memory_info().rss
        self.peak_bytes = self._first_bytes
        self.slowest_seconds = 0.0
        self.failures: list[str] = []

    @property
    def grown_megabytes(self) -> float:
        """From the block's beginning to the highest point."""
        return float(self.peak_bytes - self._first_bytes) / 1e6

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=SLOWEST_SECONDS) as client:
            while not self._ended.wait(EVERY_SECONDS):
                began = time.monotonic()
                try:
                    client.get(self._url).raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
