"""What a report is: the order for one, its content, and the finished file.

The numbers are those of the endpoints: they come from the same functions. Charts and pages are made in a process of their own
(`render`), so neither the event loop nor this process's memory is burdened with them.
"""

import asyncio
import re
import sys
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from openride_analytics import exports
from openride_analytics.config import Exports
from openride_analytics.exports.question import ExportBroken, Question, TooManyRows
from openride_analytics.metrics.question import Filters
from openride_analytics.period import Granularity, Period
from openride_analytics.reports import tables, wording
from openride_analytics.reports.document import Chart, Document, KeyNumber
from openride_analytics.reports.sections import Seen, Subject
from openride_analytics.reports.subjects import SUBJECTS
from openride_analytics.warehouse import Warehouse

Format = Literal["excel", "csv", "pdf", "html"]
FORMATS: Final = get_args(Format)
OVERVIEW: Final = "overview"
METRICS: Final = tuple(f"metrics.{subject.name}" for subject in SUBJECTS)
DATASETS: Final = tuple(name for name in exports.CONTENTS if name not in METRICS)
CONTENTS: Final = (OVERVIEW, *METRICS, *DATASETS)


MEDIA_TYPES: Final = {
    "pdf": "application/pdf",
    "html": "text/html",
    "xlsx": exports.MEDIA_TYPES["excel"],
    "csv": "text/csv",
    "zip": "application/zip",
}
LONGEST_NAME: Final = 200

_PAGED: Final = ("pdf", "html")
_RENDER_SECONDS: Final = 120.0
_MOST_PICTURES: Final = 2
_PICTURE_SCALE: Final = 2


class BadOrder(ValueError):
    """A report that cannot be made: the field at fault and a sentence that says how to mend it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class RenderingFailed(Exception):
    """The file could not be made, though the numbers were there. The message is for logs."""


@dataclass(frozen=True)
class Order:
    """One report to be made. `now` is when it was asked for; nothing further in looks at a clock.

    `contents`: `overview` (a summary of all metrics), `metrics.*`, or datasets (these as excel and csv only). A period whose
    granularity is `none` gets buckets that suit its length.
    """

    name: str
    contents: tuple[str, ...]
    period: Period
    filters: Filters
    format: Format
    now: datetime
    currency: str = "NGN"
    on_time_minutes: int = 10
    limits: Exports = field(default_factory=Exports)


@dataclass(frozen=True)
class Picture:
    """A chart as an image for a message: PNG in twice the size that it is shown in."""

    title: str
    subtitle: str
    alt: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Report:
    """A finished report. `empty`: nothing happened in the period, and no dataset has a row."""

    path: Path
    file_name: str
    media_type: str
    rows: int
    bytes: int
    empty: bool
    period_text: str
    compared_with: str | None
    key_numbers: tuple[KeyNumber, ...]
    charts: tuple[Picture, ...]


def check(order: Order) -> None:
    """Raises `BadOrder` where no report can be made: for a caller to ask before a schedule is saved.

    A filter must mean something to everything that was asked for by name; an overview leaves out, and says so, what a filter
    means nothing to.
    """
    if not order.name.strip() or len(order.name) > LONGEST_NAME or not order.name.isprintable():
        raise BadOrder("name", f"Give a name of 1 to {LONGEST_NAME} printable characters.")
    if not order.contents or len(set(order.contents)) != len(order.contents):
        raise BadOrder("contents", "Name at least one content, and each once.")
    for name in order.contents:
        if name not in CONTENTS:
            raise BadOrder("contents", f"There is no {name!r}; there are {', '.join(CONTENTS)}.")
        if name in DATASETS and order.format in _PAGED:
            raise BadOrder("contents", f"The dataset {name!r} comes as excel or csv only.")
    given = order.filters.given
    for name in order.contents:
        foreign = sorted(given.keys() - exports.filters_of(name)) if name != OVERVIEW else []
        if foreign:
            raise BadOrder("filters", f"{name} has no filter {', '.join(foreign)}.")
    if OVERVIEW in order.contents and not any(given.keys() <= subject.filters for subject in SUBJECTS):
        raise BadOrder("filters", "Nothing in the overview has all of these filters.")


Ask = Callable[[Subject, Question], Awaitable[Any]]
"""Where the answer of a metrics endpoint comes from."""


async def make(warehouse: Warehouse, order: Order, folder: Path) -> Report:
    """Makes the file in `folder` (the caller's, empty, who deletes it) and returns what there is to say about it.

    Raises `BadOrder`, `RenderingFailed`, and what `Warehouse.query` raises. Bounded in time; when cancelled, it ends what
    it has started. It takes some 200 MB in a process of its own while it renders: callers bound how many run at a time.
    """

    async def ask(subject: Subject, question: Question) -> Any:
        return await subject.ask(warehouse, question)

    return await _made(ask, warehouse, order, folder)


async def make_pages(ask: Ask, order: Order, folder: Path) -> Report:
    """The same for pdf and html, from answers of a service that runs elsewhere. Raises what `ask` does, too."""
    return await _made(ask, None, order, folder)


async def _made(ask: Ask, warehouse: Warehouse | None, order: Order, folder: Path) -> Report:
    check(order)
    seen = await _answers(ask, order)
    document = _document(order, seen)
    path = folder / f"{_slug(order)}.{_ending(order)}"
    paged = order.format in _PAGED
    if paged or document.pictures:
        work = {"document": document, "format": order.format if paged else None, "path": str(path)}
        await _render(msgspec.json.encode(work))
    if paged or warehouse is None:
        rows, of_datasets = sum(len(t.rows) for section in document.sections for t in section.tables), 0
    else:
        rows, of_datasets = await _write_tables(warehouse, order, seen, path)
    charts = []
    for number, chart in enumerate(document.pictures):
        file = folder / f"picture-{number}.png"
        charts.append(_picture(chart, file.read_bytes()))
        file.unlink()
    return Report(
        path=path,
        file_name=path.name,
        media_type=MEDIA_TYPES[_ending(order)],
        rows=rows,
        bytes=path.stat().st_size,
        empty=not of_datasets and all(one.is_empty for one in seen),
        period_text=f"{document.period}, {order.period.timezone.key}",
        compared_with=_compared_with(order, seen),
        key_numbers=(
            document.headline
            or tuple(number for section in document.sections for number in section.key_numbers)
            or (KeyNumber(label="Rows", value=wording.count(of_datasets)),)
        ),
        charts=tuple(charts),
    )


async def _answers(ask: Ask, order: Order) -> list[Seen]:
    """The endpoints' answers, one after the other: a report has time."""
    question = _question(order)
    return [
        Seen(
            subject,
            await ask(subject, question),
            question,
            detailed=f"metrics.{subject.name}" in order.contents,
        )
        for subject in SUBJECTS
        if f"metrics.{subject.name}" in order.contents or _in_overview(subject, order)
    ]


async def _write_tables(warehouse: Warehouse, order: Order, seen: list[Seen], path: Path) -> tuple[int, int]:
    """How many rows were written, and how many of them are of datasets."""
    question = replace(_question(order), compare=False)  # the comparison is in the summary
    contents = [name for name in order.contents if name != OVERVIEW]
    numbers = [number for one in seen for number in one.numbers()]
    metrics = {f"metrics.{one.subject.name}": len(one.answer.series) or 1 for one in seen}
    try:
        if order.format == "excel":
            contents += [name for name in metrics if name not in contents]
            written = await tables.write_workbook(
                warehouse,
                order.name,
                contents,
                question,
                path,
                numbers=numbers,
                compared_with=_compared_with(order, seen),
                limits=order.limits,
            )
            summary = 0
        else:
            summary = len(numbers) if OVERVIEW in order.contents else 0
            written = await tables.write_csv(
                warehouse,
                contents,
                question,
                path,
                numbers=numbers if OVERVIEW in order.contents else None,
                limits=order.limits,
            )
    except TooManyRows as error:
        raise BadOrder("contents", str(error)) from None
    except ExportBroken as error:
        raise RenderingFailed(str(error)) from error
    measured = sum(rows for name, rows in metrics.items() if name in contents)
    return written.rows, written.rows - measured - summary


def _question(order: Order) -> Question:
    return Question(
        period=order.period if order.period.granularity != "none" else _bucketed(order.period),
        now=order.now,
        compare=True,
        filters=order.filters,
        default_currency=order.currency,
        on_time_minutes=order.on_time_minutes,
    )


def _ending(order: Order) -> str:
    if order.format == "excel":
        return "xlsx"
    return "zip" if order.format == "csv" and len(order.contents) > 1 else order.format


def _in_overview(subject: Subject, order: Order) -> bool:
    return OVERVIEW in order.contents and order.filters.given.keys() <= subject.filters


def _bucketed(period: Period) -> Period:
    length = period.end - period.start
    sizes: tuple[tuple[int, Granularity], ...] = ((2, "hour"), (92, "day"), (366, "week"))
    for days, granularity in sizes:
        if length <= timedelta(days=days, hours=1):  # a day of a clock change has 25 hours
            return replace(period, granularity=granularity)
    return replace(period, granularity="month")


def _document(order: Order, seen: list[Seen]) -> Document:
    zone = order.period.timezone
    sections = tuple(one.section() for one in seen)
    compared_with = _compared_with(order, seen)
    through = seen[0].answer.data_through if seen else None
    facts = [
        ("Time zone", wording.zone(zone, order.period.start)),
        *([("Compared with", compared_with)] if compared_with else []),
        *((name.replace("_", " ").capitalize(), value) for name, value in order.filters.given.items()),
        (
            "Data up to",
            wording.moment(datetime.fromisoformat(through), zone) if through else "nothing stored yet",
        ),
        ("Made", wording.moment(order.now, zone)),
    ]
    notes = []
    if order.period.start <= order.now < order.period.end:
        notes.append("This period is not over yet. It is compared with the same part of the period before.")
    left_out = [
        s.title.lower() for s in SUBJECTS if OVERVIEW in order.contents and s not in {o.subject for o in seen}
    ]
    if left_out:
        notes.append(f"Left out, because a filter does not apply to them: {', '.join(left_out)}.")
    if seen and all(one.is_empty for one in seen):
        notes.append("Nothing happened in this period.")
    several = len(seen) > 1
    pictures = [chart for section in sections for chart in section.charts[: 1 if several else _MOST_PICTURES]]
    if several and OVERVIEW in order.contents:
        # What stands for the whole: how much is booked, and what it brings in.
        preferred = {"Bookings": 0, "Payments": 1}
        pictures = [
            section.charts[0]
            for section in sorted(sections, key=lambda s: preferred.get(s.title, 2))
            if section.charts
        ]
    return Document(
        title=order.name.strip(),
        period=wording.span(order.period),
        facts=tuple(facts),
        notes=tuple(notes),
        headline=tuple(n for one in seen for n in one.key_numbers(headline=True) if not one.is_empty)
        if several
        else (),
        pictures=tuple(pictures[:_MOST_PICTURES]),
        sections=sections,
        definitions=tuple(definition for one in seen for definition in one.definitions()),
    )


def _compared_with(order: Order, seen: list[Seen]) -> str | None:
    previous = seen[0].answer.previous if seen else None
    if previous is None:
        return None
    start, end = (
        datetime.fromisoformat(text).astimezone(UTC) for text in (previous.period.start, previous.period.end)
    )
    return wording.span(replace(order.period, start=start, end=end))


def _slug(order: Order) -> str:
    """weekly-figures_2026-11-16_2026-11-22: what is inside, in characters that every system takes."""
    plain = unicodedata.normalize("NFKD", order.name).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-") or "report"
    first = order.period.start.astimezone(order.period.timezone).date()
    last = (order.period.end - timedelta(milliseconds=1)).astimezone(order.period.timezone).date()
    return f"{name}_{first}" if first == last else f"{name}_{first}_{last}"


def _picture(chart: Chart, png: bytes) -> Picture:
    # The size stands in the first chunk of every PNG.
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    return Picture(
        chart.title, chart.subtitle, chart.alt, png, width // _PICTURE_SCALE, height // _PICTURE_SCALE
    )


async def _render(work: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        # Without the folder that the service runs in: whatever lies there is no module of ours.
        *(sys.executable, "-P", "-m", "openride_analytics.reports.render"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RENDER_SECONDS):
            _, complaint = await process.communicate(work)
    except TimeoutError:
        raise RenderingFailed(f"took longer than {_RENDER_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RenderingFailed(complaint.decode(errors="replace").strip()[-500:])
