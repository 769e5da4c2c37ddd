"""What an export is asked for, what it may hold, and how it can fail."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from openride_analytics.analytics import funnel
from openride_analytics.metrics import question

Format = Literal["csv", "excel", "parquet"]
FORMATS: Final = get_args(Format)


@dataclass(frozen=True)
class Question(question.Question):
    """A question to a metrics endpoint, and what only `funnel_dropouts` is asked besides."""

    steps: tuple[str, ...] = funnel.DEFAULT_STEPS
    window_hours: int = funnel.DEFAULT_WINDOW_HOURS
    step: int | None = None
    """The number of the step behind which the users went no further, from 1; None: of any step."""


@dataclass(frozen=True)
class Written:
    """What a file holds: rows of data, and its size."""

    rows: int
    bytes: int


class TooManyRows(Exception):
    """The export has more rows than its format may have here. Nothing was written."""

    def __init__(self, rows: int, most: int) -> None:
        super().__init__(f"The export has {rows:,} rows; at most {most:,} are possible here.")
        self.rows = rows
        self.most = most


class ExportBroken(Exception):
    """The export could not be brought to its end. What was written of it is worthless."""
