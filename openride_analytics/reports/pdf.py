"""A report as PDF, typeset by Typst from `report.typ`: tagged for screen readers, with its fonts inside."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import typst

from openride_analytics.reports.document import Document

FONTS: Final = Path(__file__).with_name("fonts")
_TEMPLATE: Final = Path(__file__).with_name("report.typ")
_LONGEST_FOOTER: Final = 60
_LONG_WORD: Final = re.compile(r"[^\s\u200b]{29,}")
_PIECE: Final = re.compile(r".{24}(?=.)")


def write(document: Document, charts: dict[int, Path], path: Path) -> None:
    """Writes the file. `charts`: the drawn charts as SVG, by the id of their `Chart`; all in one folder."""
    folder = path.parent
    content = folder / "document.json"
    content.write_bytes(msgspec.json.encode(_content(document, charts)))
    compiler = typst.Compiler(root=folder, font_paths=[FONTS])
    made = compiler.compile(_TEMPLATE.read_bytes(), format="pdf", pdf_standards="ua-1")
    path.write_bytes(cast("bytes", made))  # pictures alone come page by page
    content.unlink()


def _content(document: Document, charts: dict[int, Path]) -> dict[str, Any]:
    def drawn(charts_of: Any) -> list[dict[str, str]]:
        return [
            {
                "title": chart.title,
                "subtitle": chart.subtitle,
                "alt": chart.alt,
                "file": charts[id(chart)].name,
            }
            for chart in charts_of
        ]

    sections = [
        {**msgspec.to_builtins(section), "charts": drawn(section.charts)} for section in document.sections
    ]
    content = {
        "title": document.title,
        "period": document.period,
        "facts": document.facts,
        "footer": f"{_short(document.title)} · {document.period}",
        "notes": document.notes,
        "headline": document.headline,
        "pictures": drawn(document.pictures if document.headline else ()),
        "sections": sections,
        "definitions": [
            (section, list(items)) for section, items in groupby(document.definitions, lambda d: d.section)
        ],
    }
    broken: dict[str, Any] = _breakable(msgspec.to_builtins(content))
    return broken


def _short(title: str) -> str:
    return title if len(title) <= _LONGEST_FOOTER else f"{title[: _LONGEST_FOOTER - 1].rstrip()}…"


def _breakable(value: Any) -> Any:
    """Words that would not fit into a line get places where they may be broken."""
    if isinstance(value, str):
        return _LONG_WORD.sub(lambda word: _PIECE.sub("\\g<0>\u200b", word[0]), value)
    if isinstance(value, dict):
        return {key: item if key in ("file", "alt") else _breakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_breakable(item) for item in value]
    return value
