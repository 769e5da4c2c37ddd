"""A report's content, ready to be laid out: texts, formatted numbers and specifications of charts.

It goes as JSON to the process that renders, so it holds plain values only.
"""

from typing import Any, Literal

from msgspec import Struct

Trend = Literal["better", "worse", "neutral"]


class KeyNumber(Struct, frozen=True, kw_only=True):
    """A number that matters, as people read it, and its change against the period before (None: not comparable)."""

    label: str
    value: str
    change: str | None = None  # "+12.4%", "−1.2 points", "no change"
    before: str | None = None
    also: str = ""  # the same in other currencies
    direction: Literal["up", "down", "level"] | None = None
    trend: Trend = "neutral"  # whether that direction is welcome


class Column(Struct, frozen=True):
    """Of a table."""

    title: str
    right: bool = False


class Table(Struct, frozen=True, kw_only=True):
    """Cells are text; `note` says what a reader must know, such as how much was left out."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Chart(Struct, frozen=True, kw_only=True):
    """A Vega-Lite specification, with the words that stand for it where it cannot be seen."""

    title: str
    subtitle: str
    alt: str
    spec: dict[str, Any]


class Section(Struct, frozen=True, kw_only=True):
    """What there is to say about one metrics endpoint."""

    title: str
    lead: str
    key_numbers: tuple[KeyNumber, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]


class Definition(Struct, frozen=True):
    """What a number of the report means."""

    section: str
    name: str
    meaning: str
    unit: str


class Document(Struct, frozen=True, kw_only=True):
    """A whole report. `facts`: name and value of what must be known to read it, such as the time zone.

    `pictures`: the charts that stand for the whole, also in a message.
    """

    title: str
    period: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    headline: tuple[KeyNumber, ...]
    pictures: tuple[Chart, ...]
    sections: tuple[Section, ...]
    definitions: tuple[Definition, ...]
