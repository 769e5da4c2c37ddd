"""A report as one HTML file: nothing is loaded from anywhere, nothing runs, and it prints well."""

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from openride_analytics.reports.document import Chart, Definition, Document, KeyNumber, Section, Table

_STYLE: Final = Path(__file__).with_name("report.css")
_ARROWS: Final = {"up": "▲ ", "down": "▼ ", "level": ""}


def write(document: Document, charts: dict[int, Path], path: Path) -> None:
    """Writes the file. `charts`: the drawn charts as SVG, by the id of their `Chart`."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in document.facts)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in document.notes)
    glance = ""
    if document.headline:
        glance = f"<h3>At a glance</h3>{_cards(document.headline)}{_charts(document.pictures, charts)}"
    sections = "".join(_section(section, charts) for section in document.sections)
    path.write_text(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(document.title)} · {escape(document.period)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<header>
<div class="brand">OpenRide Analytics</div>
<h1>{escape(document.title)}</h1>
<div class="period">{escape(document.period)}</div>
<dl>{facts}</dl>
</header>
{notes}
{glance}
{sections}
{_definitions(document.definitions)}
</main>
</body>
</html>
""",
        encoding="utf-8",
    )


def _section(section: Section, charts: dict[int, Path]) -> str:
    tables = "".join(_table(table) for table in section.tables)
    return (
        f'<section>\n<h2>{escape(section.title)}</h2>\n<p class="lead">{escape(section.lead)}</p>\n'
        f"{_cards(section.key_numbers)}{_charts(section.charts, charts)}{tables}</section>\n"
    )


def _cards(numbers: Iterable[KeyNumber]) -> str:
    cards = "".join(
        f'<li><div class="label">{escape(number.label)}</div><div class="value">{escape(number.value)}</div>'
        f"{_change(number)}{_also(number)}</li>\n"
        for number in numbers
    )
    return f'<ul class="cards">\n{cards}</ul>\n' if cards else ""


def _change(number: KeyNumber) -> str:
    if number.before is None:
        return ""
    if number.change is None:
        return f'<div class="change">before: {escape(number.before)}</div>'
    arrow = _ARROWS[number.direction or "level"]
    return f'<div class="change {number.trend}"><b>{arrow}{escape(number.change)}</b> from {escape(number.before)}</div>'


def _also(number: KeyNumber) -> str:
    return f'<div class="change">also {escape(number.also)}</div>' if number.also else ""


def _charts(items: Iterable[Chart], charts: dict[int, Path]) -> str:
    figures = "".join(
        f"<figure><figcaption>{escape(chart.title)}<span>{escape(chart.subtitle)}</span></figcaption>"
        f'<img alt="{escape(chart.alt)}" src="data:image/svg+xml;base64,'
        f'{b64encode(charts[id(chart)].read_bytes()).decode()}"></figure>\n'
        for chart in items
    )
    return f'<div class="charts">\n{figures}</div>\n' if figures else ""


def _table(table: Table) -> str:
    sides = ["right" if column.right else "left" for column in table.columns]
    head = "".join(
        f'<th scope="col" class="{side}">{escape(column.title)}</th>'
        for side, column in zip(sides, table.columns, strict=True)
    )
    body = "".join(
        "<tr>"
        f'<th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td class="{side}">{escape(cell)}</td>' for side, cell in zip(sides[1:], row[1:], strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    note = f"<p><small>{escape(table.note)}</small></p>" if table.note else ""
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>{note}\n"
    )


def _definitions(definitions: Iterable[Definition]) -> str:
    tables = "".join(
        f'<h3>{escape(section)}</h3>\n<div class="wide"><table>\n<thead><tr><th scope="col">Metric</th>'
        '<th scope="col">Meaning</th><th scope="col">Unit</th></tr></thead>\n<tbody>\n'
        + "".join(
            f'<tr><th scope="row">{escape(one.name)}</th><td>{escape(one.meaning)}</td>'
            f'<td class="unit">{escape(one.unit)}</td></tr>\n'
            for one in items
        )
        + "</tbody>\n</table></div>\n"
        for section, items in groupby(definitions, lambda one: one.section)
    )
    if not tables:
        return ""
    return (
        '<section>\n<h2>What the numbers mean</h2>\n<p class="lead">Counts are of distinct things, rates are ratios of '
        f"sums, and money is never added across currencies.</p>\n{tables}</section>\n"
    )
