"""Exports: what is stored and what is measured, as files that people open.

`http` streams them, `reports` writes them to disk; both say what with the name of a content (a dataset, `metrics.…`).
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from openride_analytics.config import Exports
from openride_analytics.exports.question import Format, Question, Written
from openride_analytics.warehouse import Warehouse

CONTENTS: tuple[str, ...] = ()
"""The names of all datasets and metrics that can be exported."""


def filters_of(content: str) -> frozenset[str]:
    """The filters that apply to a content; others leave it as it is."""
    raise NotImplementedError(content)


def file_name(contents: Sequence[str], question: Question, format: Format) -> str:
    """A name that says what is inside, such as `bookings_2026-03-01_2026-03-31_Lagos.xlsx`."""
    raise NotImplementedError


async def write_file(
    warehouse: Warehouse,
    contents: Sequence[str],
    question: Question,
    format: Format,
    path: Path,
    *,
    made_at: datetime,
    limits: Exports,
) -> Written:
    """Writes one file: a workbook with a sheet for each content and one that explains them, or one content as CSV or Parquet.

    The file is there as a whole, or not at all; cancelling stops the query in the store, too. Raises `TooManyRows` before
    anything is written, `ExportBroken`, and what `Warehouse` raises.
    """
    raise NotImplementedError
