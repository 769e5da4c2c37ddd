"""CSV lines of an export as Polars frames with the types of its columns."""

from pathlib import Path
from typing import Any, Final

import polars as pl

from openride_analytics.exports.datasets import Column, Kind

_TIME: Final = pl.Datetime("ms", "UTC")
TYPES: Final[dict[Kind, Any]] = {
    "id": pl.String,
    "text": pl.String,
    "time": _TIME,
    "whole": pl.Int64,
    "number": pl.Float64,
    "ratio": pl.Float64,
    "amount": pl.Decimal(38, 4),
    "flag": pl.Boolean,
}


def lazily(columns: tuple[Column, ...], files: list[str]) -> pl.LazyFrame:
    """The lines of the files, in their order; empty cells are null."""
    if not any(Path(file).stat().st_size for file in files):
        return pl.LazyFrame(schema={column.name: TYPES[column.kind] for column in columns})
    read = pl.scan_csv(
        files,
        has_header=False,
        schema={column.name: pl.String for column in columns},
        infer_schema=False,
        eol_char="\n",
    )
    return read.select(_typed(column) for column in columns)


def _typed(column: Column) -> pl.Expr:
    text = pl.col(column.name)
    if column.kind == "time":
        return text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ms").dt.replace_time_zone("UTC")
    if column.kind == "flag":
        return text == "true"
    return text if column.kind in ("id", "text") else text.cast(TYPES[column.kind])
