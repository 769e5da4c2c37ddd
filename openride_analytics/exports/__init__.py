"""Exports: what is stored and what is measured, as files that people open.

`http` streams CSV and sends the other formats as files, `reports` writes files to disk; both say what with the name of a
content: a dataset or `metrics.…`.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from openride_analytics import catalogue
from openride_analytics.config import Exports
from openride_analytics.exports import csv, metrics, worker
from openride_analytics.exports.csv import Lines
from openride_analytics.exports.datasets import DATASETS, Column
from openride_analytics.exports.metrics import METRICS
from openride_analytics.exports.order import Order, Sheet
from openride_analytics.exports.question import Format, Question, TooManyRows, Written
from openride_analytics.exports.summary import Number
from openride_analytics.metrics.question import data_through
from openride_analytics.warehouse import Warehouse

__all__ = [
    "CONTENTS",
    "ENDINGS",
    "MEDIA_TYPES",
    "Format",
    "Question",
    "TooManyRows",
    "Written",
    "csv_lines",
    "file_name",
    "filters_of",
    "title_of",
    "write_file",
]

CONTENTS: Final = (*DATASETS, *METRICS)
"""The names of all datasets and metrics that can be exported."""

ENDINGS: Final[dict[Format, str]] = {"csv": "csv", "excel": "xlsx", "parquet": "parquet"}
MEDIA_TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8",
    "excel": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "parquet": "application/vnd.apache.parquet",
}
# Of lines that the worker takes apart at once: it needs some fifteen times as much for it.
_PART_BYTES: Final = 4_000_000


def filters_of(content: str) -> frozenset[str]:
    """The filters that apply to a content; others leave it as it is."""
    return (DATASETS.get(content) or METRICS[content]).filters


def title_of(content: str) -> str:
    """What people call it."""
    return (DATASETS.get(content) or METRICS[content]).title


def file_name(contents: Sequence[str], question: Question, format: Format) -> str:
    """A name that says what is inside, such as `bookings_2026-03-01_2026-03-31_Africa-Lagos_city-Ikeja.xlsx`; plain ASCII."""
    period = question.period
    first = period.start.astimezone(period.timezone)
    last = (period.end - timedelta(milliseconds=1)).astimezone(period.timezone)
    what = "-and-".join(contents) if len(contents) <= 2 else "openride"
    form = "%Y-%m-%d" if period.whole_days else "%Y-%m-%dT%H%M"
    parts = [what, first.strftime(form), last.strftime(form), period.timezone.key]
    parts += [f"{name}-{value}" for name, value in question.filters.given.items()]
    if contents[0].startswith("metrics."):
        parts.insert(1, period.granularity)
    name = "_".join(parts)
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "-" for c in name)
    return f"{plain[:180]}.{ENDINGS[format]}"


@asynccontextmanager
async def csv_lines(
    warehouse: Warehouse, content: str, question: Question, *, raw: bool = False, limits: Exports
) -> AsyncIterator[tuple[tuple[Column, ...], Lines]]:
    """Columns and lines of one content. Raises `TooManyRows`; later `ExportBroken`, too, and what `Warehouse` raises."""
    if dataset := DATASETS.get(content):
        async with csv.lines(
            warehouse,
            dataset,
            question,
            raw=raw,
            most=limits.max_rows,
            timeout_seconds=limits.timeout_seconds,
        ) as lines:
            yield dataset.columns, lines
        return
    table = await metrics.table(warehouse, METRICS[content], question)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"".join(csv.row(row) for row in table.rows)

    yield table.columns, Lines(len(table.rows), pieces())


async def write_file(
    warehouse: Warehouse,
    contents: Sequence[str],
    question: Question,
    format: Format,
    path: Path,
    *,
    made_at: datetime,
    limits: Exports,
    title: str | None = None,
    summary: Sequence[Number] = (),
    compared_with: str | None = None,
) -> Written:
    """Writes one file: a workbook of several contents with sheets that explain them, or one content as CSV or Parquet.

    A workbook may have a title of its own, and a sheet of numbers that stand for the whole.

    The file is there as a whole, or not at all; cancelling stops the query in the store, too. Raises `TooManyRows` before
    anything is written, `ExportBroken`, and what `Warehouse` raises.
    """
    if format != "excel" and len(contents) != 1:
        raise ValueError(f"one content makes a {format} file, not {len(contents)}")
    most = min(limits.max_rows, limits.max_excel_rows) if format == "excel" else limits.max_rows
    bounded = Exports(max_rows=most, max_excel_rows=most, timeout_seconds=limits.timeout_seconds)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        whole = Path(folder) / "whole"
        if format == "csv":
            rows = await _write_csv(warehouse, contents[0], question, whole, bounded)
        else:
            sheets: list[Sheet] = []
            for content in contents:
                sheets.append(await _sheet(warehouse, content, question, Path(folder), bounded))
                if (rows := sum(sheet.rows for sheet in sheets)) > most:
                    raise TooManyRows(rows, most)
            rows = sum(sheet.rows for sheet in sheets)
            about = await _about(warehouse, contents, sheets, question, made_at) if format == "excel" else []
            await worker.carry_out(
                Order(
                    format=format,
                    path=str(whole),
                    sheets=sheets,
                    timezone=question.period.timezone.key,
                    title=title
                    or (
                        " and ".join(map(title_of, contents)) if len(contents) <= 2 else "OpenRide Analytics"
                    ),
                    about=about,
                    definitions=_definitions(contents, sheets),
                    summary=list(summary),
                    compared_with=compared_with,
                )
            )
        size = whole.stat().st_size
        whole.replace(path)
    return Written(rows, size)


async def _write_csv(
    warehouse: Warehouse, content: str, question: Question, path: Path, limits: Exports
) -> int:
    async with csv_lines(warehouse, content, question, limits=limits) as (columns, lines):
        with path.open("wb") as file:
            file.write(csv.head(columns))
            async for piece in lines.pieces:
                file.write(piece)
    return lines.rows


async def _sheet(
    warehouse: Warehouse, content: str, question: Question, folder: Path, limits: Exports
) -> Sheet:
    """One content in files that the worker reads one after the other."""
    files: list[str] = []
    async with csv_lines(warehouse, content, question, raw=True, limits=limits) as (columns, lines):
        held: list[bytes] = []
        async for piece in lines.pieces:
            held.append(piece)
            if sum(map(len, held)) >= _PART_BYTES:
                files.append(_part(folder, f"{content}-{len(files)}", held))
        files.append(_part(folder, f"{content}-{len(files)}", held))
    return Sheet(
        title=title_of(content),
        description=(DATASETS.get(content) or METRICS[content]).description,
        columns=columns,
        files=files,
        rows=lines.rows,
        chart=(question.filters.currency or question.default_currency) if content in METRICS else "",
    )


def _part(folder: Path, name: str, held: list[bytes]) -> str:
    path = folder / name
    path.write_bytes(b"".join(held))
    held.clear()
    return os.fspath(path)


async def _about(
    warehouse: Warehouse,
    contents: Sequence[str],
    sheets: list[Sheet],
    question: Question,
    made_at: datetime,
) -> list[tuple[str, str]]:
    """What the first sheet says."""
    period = question.period

    def local(at: datetime) -> str:
        return f"{at.astimezone(period.timezone):%A, %-d %B %Y, %H:%M:%S}"

    given = question.filters.given
    lines = [
        ("From", local(period.start)),
        ("Until (not included)", local(period.end)),
        ("Time zone", f"{period.timezone.key}; all times in this workbook are local times of this zone"),
        ("Filters", ", ".join(f"{name} = {value}" for name, value in given.items()) or "none"),
    ]
    if any(content in METRICS for content in contents):
        lines.insert(3, ("Size of the buckets", period.granularity))
    if "funnel_dropouts" in contents:
        lines.append(("Steps of the funnel", ", ".join(question.steps)))
        lines.append(("Window of the funnel", f"{question.window_hours} hours from step 1"))
    through = await data_through(warehouse)
    lines.append(("Made", local(made_at)))
    lines.append(
        ("Data through", local(datetime.fromisoformat(through)) if through else "nothing is stored yet")
    )
    for content, sheet in zip(contents, sheets, strict=True):
        rest = sorted(given.keys() - filters_of(content))
        ignored = f" Filters that do not apply here: {', '.join(rest)}." if rest else ""
        lines.append((sheet.title, f"{sheet.rows:,} rows. {sheet.description.replace('`', '')}{ignored}"))
    lines.append(
        (
            "Definitions",
            "The last sheet says what each column means. Things are counted once, however often they were reported.",
        )
    )
    return lines


_UNITS: Final = {
    "id": "id",
    "text": "text",
    "time": "local time",
    "whole": "whole number",
    "number": "number",
    "ratio": "ratio",
    "amount": "money",
    "flag": "true or false",
}


def _definitions(contents: Sequence[str], sheets: list[Sheet]) -> list[tuple[str, str, str, str]]:
    """What the last sheet says: of metrics what the catalogue says."""
    listed = {(one.endpoint, one.name): one for one in catalogue.definitions().metrics}
    found = []
    for content, sheet in zip(contents, sheets, strict=True):
        endpoint = f"/v1/{content.replace('.', '/')}"
        for column in sheet.columns:
            meaning, unit = column.description, _UNITS[column.kind]
            name = (
                column.name.rpartition(".")[0]
                if column.kind == "amount" and content in METRICS
                else column.name
            )
            if one := listed.get((endpoint, name)):
                unit = f"{one.unit}: {one.numerator} ÷ {one.denominator}" if one.numerator else one.unit
            found.append((sheet.title, column.name, meaning.replace("`", ""), unit))
    return found
