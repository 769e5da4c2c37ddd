"""What the worker is told to make, and of what."""

from typing import Literal

from msgspec import Struct

from openride_analytics.exports.datasets import Column
from openride_analytics.exports.summary import Number


class Sheet(Struct, kw_only=True):
    """One table: its columns, and files of CSV lines without a head, in their order."""

    title: str
    description: str
    columns: tuple[Column, ...]
    files: list[str]
    rows: int
    chart: str = ""
    """The currency whose amounts are drawn, in charts of counts, rates and amounts; empty: there are none."""


class Order(Struct, kw_only=True):
    """What to make of them."""

    format: Literal["excel", "parquet"]
    path: str
    sheets: list[Sheet]
    timezone: str
    title: str
    about: list[tuple[str, str]]
    """What the first sheet of a workbook says, by name."""
    definitions: list[tuple[str, str, str, str]]
    """What the last sheet of a workbook says: sheet, column, meaning, unit or quotient."""
    summary: list[Number] = []
    """What a sheet after the first says, if there is something."""
    compared_with: str | None = None
