"""Workbooks: a first sheet that says what this is, one or more for each table, and a last one with the definitions.

Rows leave memory as they are written (`constant_memory`), so a workbook takes no more of it than a part
of the lines. Excel knows neither time zones nor more than 15 digits: times are local ones of the zone that the first
sheet names, and amounts are numbers.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import polars as pl
import xlsxwriter
from xlsxwriter.format import Format
from xlsxwriter.utility import xl_col_to_name
from xlsxwriter.workbook import Workbook
from xlsxwriter.worksheet import Worksheet

from openride_analytics.exports import summary
from openride_analytics.exports.datasets import Column, Kind
from openride_analytics.exports.frames import lazily
from openride_analytics.exports.order import Order, Sheet

MOST_ROWS: Final = 1_048_575
"""Rows of data on a sheet: one is the head."""
_LONGEST_NAME: Final = 31
# A cell holds 32,767 units of UTF-16, of which a character may be two.
_LONGEST_TEXT: Final = 16_000

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
_HEAD: Final = {
    "bold": True,
    "bg_color": "#1F3864",
    "font_color": "#FFFFFF",
    "valign": "vcenter",
    "border": 0,
}
# Okabe and Ito's: told apart by everybody.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_CHART_LINES: Final = 4
_CHART_ROWS: Final = 19


def write(order: Order, *, most_rows: int = MOST_ROWS) -> None:
    """Writes the workbook."""
    # A killed writer leaves its pieces behind: they belong to where the whole is made, which is removed then.
    options = {"constant_memory": True, "tmpdir": str(Path(order.path).parent)}
    with xlsxwriter.Workbook(order.path, options) as workbook:
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
    page.write_string(
        0, 0, order.title, workbook.add_format({"bold": True, "font_size": 18, "font_color": "#1F3864"})
    )
    name = workbook.add_format({"bold": True, "valign": "top", "bottom": 4, "bottom_color": "#BFBFBF"})
    value = workbook.add_format({"text_wrap": True, "valign": "top", "bottom": 4, "bottom_color": "#BFBFBF"})
    for row, (label, text) in enumerate(order.about, 2):
        page.write_string(row, 0, label, name)
        page.write_string(row, 1, text[:_LONGEST_TEXT], value)
    _for_paper(page)


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
    _for_paper(page)


def _table(
    workbook: Workbook, sheet: Sheet, order: Order, head: Format, taken: set[str], most_rows: int
) -> None:
    """The rows on as many sheets as they need."""
    formats = [_format(workbook, sheet, column) for column in sheet.columns]
    frames = _frames(sheet, most_rows)
    for number in count(1):
        page = workbook.add_worksheet(_name(sheet.title, number, taken))
        here = min(sheet.rows - (number - 1) * most_rows, most_rows)
        _head(page, sheet, head, formats, here)
        written = 0
        while written < here:
            frame = next(frames)
            _append(page, sheet.columns, formats, order.timezone, written + 2, frame)
            written += frame.height
        if sheet.chart and here:
            _charts(workbook, page, sheet, here)
        if number * most_rows >= sheet.rows:
            return


def _frames(sheet: Sheet, most_rows: int) -> Iterator[pl.DataFrame]:
    """The rows in pieces, none of which lies on two sheets."""
    room = most_rows
    for file in sheet.files:
        frame = lazily(sheet.columns, [file]).collect()
        while frame.height:
            piece = frame.head(room)
            yield piece
            frame = frame.slice(piece.height)
            room = room - piece.height or most_rows


def _append(
    page: Worksheet,
    columns: Sequence[Column],
    formats: Sequence[Format | None],
    timezone: str,
    first: int,
    frame: pl.DataFrame,
) -> None:
    """Rows behind those of the page, the first one under this number of Excel's.

    The rows' XML is made by Polars, whole columns at a time, and put where xlsxwriter keeps that of its own rows. Its methods
    for single cells take 5 to 10 µs each, which are minutes for a workbook that people do ask for; and they take text
    from `<r>` to `</r>` for markup.
    """
    number = pl.int_range(first, first + frame.height).cast(pl.String)
    cells = [
        _cell(column, xl_col_to_name(index), formats[index], timezone, number)
        for index, column in enumerate(columns)
    ]
    row = pl.concat_str(pl.lit('<row r="'), number, pl.lit('">'), *cells, pl.lit("</row>"))
    page._write_single_row(first - 1)  # noqa: SLF001  # what xlsxwriter still holds of the rows before
    page.row_data_fh.write("".join(frame.select(row.alias("row"))["row"]))
    page._check_dimensions(first + frame.height - 2, len(columns) - 1)  # noqa: SLF001


def _head(page: Worksheet, sheet: Sheet, head: Format, formats: list[Format | None], rows: int) -> None:
    page.set_row(0, 20)
    for index, column in enumerate(sheet.columns):
        width = max(_WIDTHS[column.kind], min(len(column.name) + 4, 40))
        page.set_column(index, index, width, formats[index])
        page.write_string(0, index, column.name, head)
    page.freeze_panes(1, 1)
    page.autofilter(0, 0, rows, len(sheet.columns) - 1)
    page.repeat_rows(0)
    _for_paper(page)


def _for_paper(page: Worksheet) -> None:
    page.set_landscape()
    page.set_paper(9)
    page.fit_to_pages(1, 0)


def _format(workbook: Workbook, sheet: Sheet, column: Column) -> Format | None:
    number_format = _NUMBER_FORMATS.get(column.kind)
    if sheet.chart and column.kind == "time":
        number_format = "ddd yyyy-mm-dd hh:mm"
    return workbook.add_format({"num_format": number_format}) if number_format else None


def _cell(column: Column, letters: str, format: Format | None, timezone: str, number: pl.Expr) -> pl.Expr:
    """The XML of a column's cells; of unknown values there is none."""
    value = pl.col(column.name)
    style = f' s="{format._get_xf_index()}"' if format is not None else ""  # noqa: SLF001
    if column.kind in ("id", "text"):
        # Text, never a formula or a link, whatever it looks like.
        begin, text, end = ' t="inlineStr"><is><t xml:space="preserve">', _escaped(value), "</t></is></c>"
    elif column.kind == "flag":
        begin, text, end = ' t="b"><v>', value.cast(pl.Int8).cast(pl.String), "</v></c>"
    elif column.kind == "time":
        wall = value.dt.convert_time_zone(timezone).dt.replace_time_zone(None)
        days = (wall - pl.datetime(1899, 12, 30, time_unit="ms")).dt.total_milliseconds() / 86_400_000
        begin, text, end = "><v>", days.cast(pl.String), "</v></c>"
    else:
        begin, text, end = "><v>", value.cast(pl.String), "</v></c>"
    cell = pl.concat_str(pl.lit(f'<c r="{letters}'), number, pl.lit(f'"{style}{begin}'), text, pl.lit(end))
    return pl.when(value.is_not_null()).then(cell).otherwise(pl.lit(""))


def _escaped(text: pl.Expr) -> pl.Expr:
    """Text in XML, as Excel has it: control characters by their numbers, and no more than fits into a cell."""
    cut = pl.concat_str(text.str.slice(0, _LONGEST_TEXT), pl.lit(f" … [cut at {_LONGEST_TEXT:,} characters]"))
    fitting = pl.when(text.str.len_chars() > _LONGEST_TEXT).then(cut).otherwise(text)
    return fitting.str.replace_all("_(x[0-9A-Fa-f]{4}_)", "_x005F_${1}").str.replace_many(_ESCAPES)


_ESCAPES: Final = {
    **{chr(code): f"_x{code:04X}_" for code in range(32) if chr(code) not in "\t\n"},
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "\ufffe": "\ufffd",
    "\uffff": "\ufffd",
}


def _name(title: str, number: int, taken: set[str]) -> str:
    """A name that no other sheet has, of those that Excel allows."""
    ending = f" ({number})" if number > 1 else ""
    name = f"{title[: _LONGEST_NAME - len(ending)]}{ending}"
    if name in taken:
        return _name(title, number + 1, taken)
    taken.add(name)
    return name


def _charts(workbook: Workbook, page: Worksheet, sheet: Sheet, rows: int) -> None:
    """Counts, rates and amounts each in a chart of its own: under a short table, beside a long one."""
    groups: dict[Kind, list[int]] = {}
    for index, column in enumerate(sheet.columns):
        # Amounts of several currencies have no common axis.
        foreign = column.kind == "amount" and not column.name.endswith(f".{sheet.chart}")
        if column.kind in ("whole", "ratio", "amount") and not foreign:
            groups.setdefault(column.kind, []).append(index)
    titles: dict[Kind, str] = {"whole": "counts", "amount": f"amounts in {sheet.chart}", "ratio": "rates"}
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
        chart.set_title({"name": f"{sheet.title}: {titles[kind]}", "name_font": {"size": 12}})
        chart.set_x_axis({"date_axis": True, "num_format": "d mmm", "major_gridlines": {"visible": False}})
        chart.set_y_axis(
            {"num_format": _NUMBER_FORMATS[kind].split(".")[0] + ("%" if kind == "ratio" else "")}
        )
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": 620, "height": 340})
        at = next(place)
        if rows <= 2 * _CHART_ROWS:
            page.insert_chart(rows + 2, 0, chart, {"x_offset": 10 + at * 640})
        else:
            page.insert_chart(1 + at * _CHART_ROWS, len(sheet.columns) + 1, chart)
