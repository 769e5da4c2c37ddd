"""Parquet: decimals as decimals, times as instants in UTC, unknown values as null."""

from pathlib import Path

from openride_analytics.exports.frames import lazily
from openride_analytics.exports.order import Sheet


def write(sheet: Sheet, path: Path) -> None:
    """Writes the file piece by piece, with what its columns mean in its metadata."""
    meanings = {column.name: column.description for column in sheet.columns}
    lazily(sheet.columns, sheet.files).sink_parquet(
        path, compression="zstd", metadata={"title": sheet.title, **meanings}
    )
