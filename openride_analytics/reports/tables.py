"""Reports as workbooks and CSV: the exports' files, with a summary of what was measured."""

import asyncio
import csv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from openride_analytics import exports
from openride_analytics.config import Exports
from openride_analytics.exports.question import Question, Written
from openride_analytics.exports.summary import Number
from openride_analytics.warehouse import Warehouse

_HEAD: Final = ("subject", "metric", "unit", "currency", "value", "period_before")


async def write_workbook(
    warehouse: Warehouse,
    title: str,
    contents: list[str],
    question: Question,
    path: Path,
    *,
    numbers: list[Number],
    compared_with: str | None,
    limits: Exports,
) -> Written:
    """One workbook: the summary, a sheet for each content, and what explains them. Raises as `exports.write_file`."""
    return await exports.write_file(
        warehouse,
        contents,
        question,
        "excel",
        path,
        made_at=question.now,
        limits=limits,
        title=title,
        summary=numbers,
        compared_with=compared_with,
    )


async def write_csv(
    warehouse: Warehouse,
    contents: list[str],
    question: Question,
    path: Path,
    *,
    numbers: list[Number] | None,
    limits: Exports,
) -> Written:
    """One CSV, or a zip of several where `path` ends so; `numbers` makes one more. Raises as `exports.write_file`."""
    if path.suffix == ".csv" and numbers is not None:
        return await asyncio.to_thread(_write_numbers, numbers, path)
    if path.suffix == ".csv":
        (content,) = contents
        return await exports.write_file(
            warehouse, [content], question, "csv", path, made_at=question.now, limits=limits
        )
    rows = 0
    with TemporaryDirectory(prefix=".csv-", dir=path.parent) as folder:
        files: list[Path] = []
        if numbers is not None:
            files.append(Path(folder) / "overview.csv")
            await asyncio.to_thread(_write_numbers, numbers, files[0])
            rows += len(numbers)
        for content in contents:
            file = Path(folder) / f"{content}.csv"
            written = await exports.write_file(
                warehouse, [content], question, "csv", file, made_at=question.now, limits=limits
            )
            rows += written.rows
            files.append(file)
        return await asyncio.to_thread(_zip, files, rows, path)


def _write_numbers(numbers: list[Number], path: Path) -> Written:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEAD)
        for number in numbers:
            cells = (number.currency, number.now, number.before)
            writer.writerow(
                (number.section, number.name, number.unit, *("" if cell is None else cell for cell in cells))
            )
    return Written(len(numbers), path.stat().st_size)


def _zip(files: list[Path], rows: int, path: Path) -> Written:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return Written(rows, path.stat().st_size)
