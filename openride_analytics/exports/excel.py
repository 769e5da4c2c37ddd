"""Workbooks: a first sheet that says what this is, one or more for each table, and a last one with the definitions.

Rows are written in their order and leave memory at once (`constant_memory`), so a workbook takes no more of it than a part of
the lines. Excel knows neither time zones nor more than 15 digits: times are local ones of the zone that the first sheet
names, and amounts are numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Final

import polars as pl
import xlsxwriter
from xlsxwriter.format import Format
from xlsxwriter.workbook import Workbook
from xlsxwriter.worksheet import Worksheet

from openride_analytics.exports import summary
from openride_analytics.exports.datasets import Column, Kind
from openride_analytics.exports.frames import lazily
from openride_analytics.exports.order import Order, Sheet

MOST_ROWS: Final = 1_048_575
"""Rows of data on a sheet: one is the head."""
_LONGEST_NAME: Final = 31
_LONGEST_TEXT: Final = 32_767

_NUMBER_FORMATS: Final[dict[Kind, str]] = {
    "time": "yyyy-mm-dd hh:mm:ss",
    "whole": "#,##0",
    "number": "#,##0.00####",
    "ratio": "0.0%",
    "amount": "#,##0.00##",
}
_WIDTHS: Final[dict[Kind, int]] = {
    "id": 38,
    "text": 18,
    "time": 20,
    "whole": 11,
    "number": 13,
    "ratio": 11,
    "amount": 16,
    "flag": 9,
}
_HEAD: Final = {"bold": True, "bg_color": "#1F3864", "font_color": "#FFFFFF", "valign": "vcenter", "border": 0}
# Okabe and Ito's: told apart by everybody.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_CHART_LINES: Final = 4
_CHART_ROWS: Final = 19


def write(order: Order, *, most_rows: int = MOST_ROWS) -> None:
    """Writes the workbook."""
    with xlsxwriter.Workbook(order.path, {"constant_memory": True}) as workbook:
        workbook.set_properties({"title": order.title, "author": "OpenRide Analytics"})
        head = workbook.add_format(_HEAD)
        _about(workbook, order)
        if order.summary:
            summary.write(workbook, order.summary, order.compared_with, head)
        taken: set[str] = set()
        for sheet in order.sheets:
            _table(workbook, sheet, order, head, taken, most_rows)
        _definitions(workbook, order, head)


def _about(workbook: Workbook, order: Order) -> None:
    page = workbook.add_worksheet("About")
    page.hide_gridlines(2)
    page.set_column(0, 0, 24)
    page.set_column(1, 1, 110)
    page.set_row(0, 30)
    page.write_string(0, 0, order.title, workbook.add_format({"bold": True, "font_size": 18, "font_color": "#1F3864"}))
    name = workbook.add_format({"bold": True, "valign": "top", "bottom": 4, "bottom_color": "#BFBFBF"})
    value = workbook.add_format({"text_wrap": True, "valign": "top", "bottom": 4, "bottom_color": "#BFBFBF"})
    for row, (label, text) in enumerate(order.about, 2):
        page.write_string(row, 0, label, name)
        page.write_string(row, 1, text[:_LONGEST_TEXT], value)


def _definitions(workbook: Workbook, order: Order, head: Format) -> None:
    page = workbook.add_worksheet("Definitions")
    for column, (title, width) in enumerate((("Sheet", 20), ("Column", 34), ("Meaning", 90), ("Unit", 44))):
        page.set_column(column, column, width)
        page.write_string(0, column, title, head)
    wrapped = workbook.add_format({"text_wrap": True, "valign": "top"})
    for row, cells in enumerate(order.definitions, 1):
        for column, text in enumerate(cells):
            page.write_string(row, column, text, wrapped)
    page.freeze_panes(1, 0)
    page.autofilter(0, 0, len(order.definitions), 3)


def _table(
    workbook: Workbook, sheet: Sheet, order: Order, head: Format, taken: set[str], most_rows: int
) -> None:
    """The rows on as many sheets as they need."""
    rows = _rows(sheet, order.timezone)
    formats = [_format(workbook, sheet, column) for column in sheet.columns]
    for number in count(1):
        page = workbook.add_worksheet(_name(sheet.title, number, taken))
        begun = (number - 1) * most_rows
        here = min(sheet.rows - begun, most_rows)
        _head(page, sheet, head, formats, here)
        writers = [_writer(page, column.kind, format) for column, format in zip(sheet.columns, formats, strict=True)]
        for row, values in zip(range(1, here + 1), rows, strict=False):
            for index, value in enumerate(values):
                if value is not None:
                    writers[index](row, index, value)
        if sheet.chart and here:
            _charts(workbook, page, sheet, here)
        if begun + here >= sheet.rows:
            return


def _head(page: Worksheet, sheet: Sheet, head: Format, formats: list[Format | None], rows: int) -> None:
    page.set_row(0, 20)
    for index, column in enumerate(sheet.columns):
        width = max(_WIDTHS[column.kind], min(len(column.name) + 4, 40))
        page.set_column(index, index, width, formats[index])
        page.write_string(0, index, column.name, head)
    page.freeze_panes(1, 1)
    page.autofilter(0, 0, rows, len(sheet.columns) - 1)
    page.set_landscape()
    page.repeat_rows(0)
    page.fit_to_pages(1, 0)


def _format(workbook: Workbook, sheet: Sheet, column: Column) -> Format | None:
    number_format = _NUMBER_FORMATS.get(column.kind)
    if sheet.chart and column.kind == "time":
        number_format = "ddd yyyy-mm-dd hh:mm"
    return workbook.add_format({"num_format": number_format}) if number_format else None


def _writer(page: Worksheet, kind: Kind, format: Format | None) -> Callable[[int, int, Any], Any]:
    if kind in ("id", "text"):
        # Never a formula and never a link, whatever it looks like.
        return lambda row, column, value: page.write_string(row, column, value[:_LONGEST_TEXT])
    if kind == "flag":
        return lambda row, column, value: page.write_boolean(row, column, value)
    return lambda row, column, value: page.write_number(row, column, value, format)


def _rows(sheet: Sheet, timezone: str) -> Iterator[Sequence[Any]]:
    """The rows as what Excel knows: texts, numbers, flags, and times as days since its beginning."""
    cells = [_cell(column, timezone) for column in sheet.columns]
    for file in sheet.files:
        yield from lazily(sheet.columns, [file]).select(cells).collect().iter_rows()


def _cell(column: Column, timezone: str) -> pl.Expr:
    cell = pl.col(column.name)
    if column.kind == "amount":
        return cell.cast(pl.Float64)
    if column.kind == "time":
        wall = cell.dt.convert_time_zone(timezone).dt.replace_time_zone(None)
        return (wall - pl.datetime(1899, 12, 30, time_unit="ms")).dt.total_milliseconds() / 86_400_000
    return cell


def _name(title: str, number: int, taken: set[str]) -> str:
    """A name that no other sheet has, of those that Excel allows."""
    ending = f" ({number})" if number > 1 else ""
    name = f"{title[: _LONGEST_NAME - len(ending)]}{ending}"
    if name in taken:
        return _name(title, number + 1, taken)
    taken.add(name)
    return name


def _charts(workbook: Workbook, page: Worksheet, sheet: Sheet, rows: int) -> None:
    """Counts, rates and amounts each in a chart of its own: beside short tables under them, beside long ones at their top."""
    groups: dict[Kind, list[int]] = {}
    for index, column in enumerate(sheet.columns):
        if column.kind in ("whole", "ratio", "amount"):
            groups.setdefault(column.kind, []).append(index)
    titles: dict[Kind, str] = {"whole": "Counts", "amount": "Amounts", "ratio": "Rates"}
    place = count()
    for kind, indexes in groups.items():
        chart = workbook.add_chart({"type": "line" if rows > 1 else "column"})
        for index, colour in zip(indexes[:_CHART_LINES], _COLOURS, strict=False):
            chart.add_series(
                {
                    "name": [page.get_name(), 0, index],
                    "categories": [page.get_name(), 1, 0, rows, 0],
                    "values": [page.get_name(), 1, index, rows, index],
                    "line": {"color": colour, "width": 2},
                    "fill": {"color": colour},
                }
            )
        chart.set_title({"name": f"{sheet.title}: {titles[kind].lower()}", "name_font": {"size": 12}})
        chart.set_x_axis({"date_axis": True, "num_format": "d mmm", "major_gridlines": {"visible": False}})
        chart.set_y_axis({"num_format": _NUMBER_FORMATS[kind].split(".")[0] + ("%" if kind == "ratio" else "")})
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": 620, "height": 340})
        at = next(place)
        if rows <= 2 * _CHART_ROWS:
            page.insert_chart(rows + 2, 0, chart, {"x_offset": 10 + at * 640})
        else:
            page.insert_chart(1 + at * _CHART_ROWS, len(sheet.columns) + 1, chart)

