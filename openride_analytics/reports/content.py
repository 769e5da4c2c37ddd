"""What a report is: the order for one, its content, and the finished file.

The numbers are those of the endpoints: they come from the same functions. Rendering takes place in a process of its own,
so neither the event loop nor this process's memory is burdened with it.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, get_args

from openride_analytics.metrics.question import Filters
from openride_analytics.period import Period
from openride_analytics.reports.document import KeyNumber
from openride_analytics.warehouse import Warehouse

Format = Literal["excel", "csv", "pdf", "html"]
FORMATS: Final = get_args(Format)
OVERVIEW: Final = "overview"
METRICS: Final = tuple(
    f"metrics.{name}" for name in ("users", "bookings", "payments", "trips", "drivers", "routes")
)
DATASETS: Final = ("users", "routes", "bookings", "payments", "trips", "driver_earnings")
CONTENTS: Final = (OVERVIEW, *METRICS, *DATASETS)


class BadOrder(ValueError):
    """A report that cannot be made: the field at fault and a sentence that says how to mend it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class RenderingFailed(Exception):
    """The file could not be made, though the numbers were there. The message is for logs."""


@dataclass(frozen=True)
class Order:
    """One report to be made. `now` is when it was asked for; nothing further in looks at a clock.

    `contents`: `overview` (a summary of all metrics), `metrics.*`, or datasets (these as excel and csv only).
    """

    name: str
    contents: tuple[str, ...]
    period: Period
    filters: Filters
    format: Format
    now: datetime
    currency: str = "NGN"
    on_time_minutes: int = 10


@dataclass(frozen=True)
class Picture:
    """A chart as an image for a message: PNG in twice the size that it is shown in."""

    title: str
    alt: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Report:
    """A finished report. `empty`: nothing happened in the period, and no dataset has a row."""

    path: Path
    file_name: str
    media_type: str
    rows: int
    bytes: int
    empty: bool
    period_text: str
    compared_with: str | None
    key_numbers: tuple[KeyNumber, ...]
    charts: tuple[Picture, ...]


def check(order: Order) -> None:
    """Raises `BadOrder` where no report can be made: for a caller to ask before a schedule is saved."""
    raise NotImplementedError(order)


async def make(warehouse: Warehouse, order: Order, folder: Path) -> Report:
    """Makes the file in `folder` (the caller's, who deletes it) and returns what there is to say about it.

    Raises `BadOrder`, `RenderingFailed`, and what `Warehouse.query` raises. Bounded in time; when cancelled, it ends what
    it has started. It takes some 200 MB in a process of its own while it renders: callers bound how many run at a time.
    """
    raise NotImplementedError(warehouse, order, folder)
