"""A workbook's sheet of what stands for the whole: each number, the one of the period before, and the change."""

from typing import Any, Final

from msgspec import Struct
from xlsxwriter.format import Format
from xlsxwriter.workbook import Workbook


class Number(Struct, kw_only=True):
    """A number of a period; amounts are decimal text, as they are exact."""

    section: str
    name: str
    label: str
    unit: str
    currency: str | None
    now: int | float | str | None
    before: int | float | str | None


_HEAD: Final = ("Subject", "Metric", "Currency", "This period", "Period before", "Change")
_WIDTHS: Final = (14, 38, 10, 20, 20, 16)
_UNITS: Final = {
    "ratio": "0.0%",
    "minutes": '#,##0.0" min"',
    "kilometres": '#,##0.0" km"',
    "milliseconds": '#,##0" ms"',
}
_POINTS: Final = '+0.0" points";-0.0" points";0.0" points"'
_PERCENT: Final = "+0.0%;-0.0%;0.0%"


def write(workbook: Workbook, numbers: list[Number], compared_with: str | None, head: Format) -> None:
    """Adds the sheet."""
    page = workbook.add_worksheet("Summary")
    page.hide_gridlines(2)
    plain = workbook.add_format({"bold": True, "font_color": "#1F3864", "top": 1, "top_color": "#BFBFBF"})
    right = workbook.add_format(
        {"bold": True, "bg_color": "#1F3864", "font_color": "#FFFFFF", "align": "right"}
    )
    formats: dict[tuple[str, bool], Format] = {}

    def styled(number_format: str, *, first: bool) -> Format:
        if (number_format, first) not in formats:
            line = {"top": 1, "top_color": "#BFBFBF"} if first else {}
            formats[number_format, first] = workbook.add_format(
                {**({"num_format": number_format} if number_format else {}), "align": "right", **line}
            )
        return formats[number_format, first]

    text, text_first = workbook.add_format(), workbook.add_format({"top": 1, "top_color": "#BFBFBF"})
    for column, (title, width) in enumerate(zip(_HEAD, _WIDTHS, strict=True)):
        page.set_column(column, column, width)
        page.write_string(0, column, title, head if column < 3 else right)
    section = ""
    for row, number in enumerate(numbers, 1):
        first = number.section != section
        section = number.section
        page.write_string(row, 0, section, plain if first else text)
        page.write_string(row, 1, number.label, text_first if first else text)
        page.write_string(row, 2, number.currency or "", text_first if first else text)
        now, before = _number(number.now), _number(number.before)
        style = styled(_format(number), first=first)
        for column, value in ((3, now), (4, before)):
            if value is None:
                page.write_string(row, column, "–", style)
            else:
                page.write_number(row, column, value, style)
        change, form = _change(number.unit, now, before)
        if change is None:
            page.write_string(row, 5, "–", styled("", first=first))
        else:
            page.write_number(row, 5, change, styled(form, first=first))
    note = f"Period before: {compared_with}." if compared_with else ""
    page.write_string(
        len(numbers) + 2, 0, note, workbook.add_format({"font_color": "#5B6875", "italic": True})
    )
    page.freeze_panes(1, 2)
    page.autofilter(0, 0, len(numbers), len(_HEAD) - 1)
    page.set_landscape()
    page.repeat_rows(0)
    page.fit_to_pages(1, 0)


def _number(value: float | str | None) -> float | None:
    return float(value) if isinstance(value, str) else value


def _format(number: Number) -> str:
    if number.currency:
        return "#,##0.00"
    if number.unit in _UNITS:
        return _UNITS[number.unit]
    return "#,##0" if isinstance(number.now, int) or isinstance(number.before, int) else "#,##0.00"


def _change(unit: str, now: Any, before: Any) -> tuple[float | None, str]:
    if now is None or before is None:
        return None, ""
    if unit == "ratio":
        return (now - before) * 100, _POINTS
    return ((now - before) / before if before > 0 else 0.0 if now == before else None), _PERCENT
