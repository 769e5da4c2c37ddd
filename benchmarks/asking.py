"""Who asks in the benchmarks: one kept connection, times as the asker sees them, and their percentiles."""

import http.client
import time
from collections.abc import Mapping, Sequence
from statistics import quantiles
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

PATIENCE_SECONDS: Final = 60.0


class Asked(NamedTuple):
    """One request, from before it was sent until the last byte of its answer."""

    seconds: float
    status: int
    source: str
    """`hit`, `stale`, `miss`, or nothing where no cache is asked."""


class Asker:
    """One client with one connection; plain `http.client`, so that little of the time is the client's own."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_SECONDS)

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Asked:
        """Asks, and reads the answer to its end."""
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        began = time.perf_counter()
        try:
            try:
                status, source = self._get(target)
            except ConnectionError:  # the server closes connections that are idle for some seconds
                self._connection.close()
                status, source = self._get(target)
        except (http.client.HTTPException, OSError):
            self._connection.close()  # the next request opens it again
            status, source = 0, ""
        return Asked(time.perf_counter() - began, status, source)

    def _get(self, target: str) -> tuple[int, str]:
        self._connection.request("GET", target)
        response = self._connection.getresponse()
        response.read()
        return response.status, response.headers.get("X-Cache", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()


def percentiles_ms(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """`<name>_p50_ms`, `_p95_ms`, `_p99_ms` and `_max_ms`; nothing where there are too few."""
    if len(seconds) < 2:  # there are no quantiles of one
        return {}
    cuts = quantiles(seconds, n=100, method="inclusive")
    figures = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {f"{name}_{figure}_ms": value * 1000 for figure, value in figures.items()}
