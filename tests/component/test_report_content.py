"""Reports as people open them: PDF, HTML, workbooks and CSV are read back, and hold what the endpoints answer."""

import csv
import io
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import openpyxl
import pytest
import pytest_asyncio
from pypdf import PdfReader

from openride_analytics.exports.question import Question
from openride_analytics.metrics import bookings, payments
from openride_analytics.metrics.question import Filters
from openride_analytics.period import Granularity, parse
from openride_analytics.reports import content
from openride_analytics.reports.content import BadOrder, Format, Order, RenderingFailed, Report, check, make
from openride_analytics.reports.message import compose, webhook_body
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests import samples
from tests.stores import create_tables, empty, store

pytestmark = pytest.mark.asyncio(loop_scope="module")

LAGOS = ZoneInfo("Africa/Lagos")
NOW = datetime(2026, 3, 20, 9, 30, tzinfo=UTC)
ROUTE_NAME = 'Ọ̀yọ́ – Ìbàdàn <b>&"express"</b> ẹṣẹ'
NAME = "Weekly figures — ₦ for Ọlá"
UNSUBSCRIBE = "https://analytics.example.com/v1/reports/unsubscribe/" + "t" * 120
LINK = "https://analytics.example.com/v1/reports/1/file?expires=1&signature=x"


def _id(number: int) -> str:
    return str(UUID(int=0xB0000000_0000_4000_8000_000000000000 + number))


def _events() -> list[dict[str, Any]]:
    """Three weeks of bookings, more in each, paid in two currencies."""
    events = [samples.FULL["route.created"] | {"event_id": _id(1), "route_name": ROUTE_NAME}]
    number = 100
    for day in range(1, 20):
        for nth in range(1 + day // 4):
            number += 10
            at = f"2026-03-{day:02}T{8 + nth:02}:00:00Z"
            currency = "XOF" if number % 70 == 0 else "NGN"
            for step, event_type in enumerate(("booking.created", "booking.confirmed", "payment.success")):
                events.append(
                    samples.FULL[event_type]
                    | {
                        "event_id": _id(number + step),
                        "booking_id": _id(number + 5),
                        "rider_id": _id(number + 6),
                        "event_timestamp": at,
                        "currency": currency,
                    }
                    | ({"payment_id": _id(number + 7), "amount": "123456.50"} if step == 2 else {})
                    | ({"total_price": "123456.50"} if step < 2 else {})
                )
    return events


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warehouse(embedded_folder: Path) -> AsyncIterator[Warehouse]:
    embedded = EmbeddedWarehouse(embedded_folder, query_timeout_seconds=60, insert_timeout_seconds=60)
    await create_tables(embedded)
    await empty(embedded)
    await store(embedded, _events())
    yield embedded
    await empty(embedded)
    await embedded.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Made":
    return Made(tmp_path_factory)


class Made:
    """Reports that several tests look at, each made once."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._reports: dict[str, Report] = {}

    async def of(self, warehouse: Warehouse, order: Order) -> Report:
        key = f"{order.name} {order.format} {order.contents}"
        if key not in self._reports:
            self._reports[key] = await make(warehouse, order, self._folders.mktemp("report"))
        return self._reports[key]


def _order(
    format: Format,
    *contents: str,
    name: str = "Weekly figures",
    days: tuple[str, str] = ("2026-03-09", "2026-03-15"),
    granularity: Granularity = "day",
    **filters: str,
) -> Order:
    period = parse(*days, timezone=LAGOS, granularity=granularity, now=NOW)
    return Order(
        name=name,
        contents=contents or ("overview",),
        period=period,
        filters=Filters(**filters),
        format=format,
        now=NOW,
    )


async def _asked(warehouse: Warehouse, order: Order, module: Any) -> Any:
    question = Question(period=order.period, now=NOW, compare=True, filters=order.filters)
    return await module.ask(warehouse, question)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _words(pdf: Path) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(pdf).pages).split())


class _Page(HTMLParser):
    """Fails where a tag is not closed; keeps the text, tags and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags = set[str]()
        self.sources: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        assert tag != "img" or dict(attrs).get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


async def test_a_pdf_holds_the_numbers_of_the_endpoints(warehouse: Warehouse, made: Made) -> None:
    order = _order("pdf", "metrics.bookings", "metrics.payments", "metrics.routes", name=NAME)
    report = await made.of(warehouse, order)
    asked = await _asked(warehouse, order, payments)
    words = _words(report.path)
    assert report.file_name == "weekly-figures-for-ola_2026-03-09_2026-03-15.pdf"
    assert report.bytes == report.path.stat().st_size
    assert not report.empty
    reader = PdfReader(report.path)
    assert len(reader.pages) >= 4
    assert reader.metadata is not None
    assert reader.metadata.title == NAME
    assert "9–15 March 2026" in words
    assert "Compared with 2–8 March 2026" in words
    assert "Africa/Lagos (UTC+1)" in words
    assert f"₦{float(asked.summary.revenue['NGN']):,.2f}" in words
    assert f"XOF {float(asked.summary.revenue['XOF']):,.2f}" in words
    assert "– Ìbàdàn" in words
    assert "ẹṣẹ" in words
    assert "Distinct bookings with a booking.created." in words
    assert "\ufffd" not in words
    fonts = {
        str(font.get_object()["/BaseFont"])
        for page in reader.pages
        for font in page["/Resources"]["/Font"].values()  # type: ignore[index]  # a dictionary, by the format
    }
    assert all("Inter" in font for font in fonts), fonts
    assert _names(report.path.parent) == [report.file_name]


async def test_key_numbers_are_the_endpoints_and_compare_with_the_period_before(
    warehouse: Warehouse, made: Made
) -> None:
    order = _order("html", "metrics.bookings")
    report = await made.of(warehouse, order)
    asked: bookings.BookingsAnswer = await _asked(warehouse, order, bookings)
    assert asked.previous is not None
    created, before = asked.summary.created, asked.previous.summary.created
    first = report.key_numbers[0]
    assert (first.label, first.value, first.before) == ("Bookings created", str(created), str(before))
    assert first.change == f"+{(created - before) / before * 100:.1f}%"
    assert (first.direction, first.trend) == ("up", "better")
    (value,) = (number for number in report.key_numbers if number.label.startswith("Gross"))
    assert value.label == "Gross booking value, NGN"
    assert value.also.startswith("XOF")
    assert report.compared_with == "2–8 March 2026"


async def test_html_is_well_formed_escaped_and_loads_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    name = "<script>alert(1)</script> & co"
    report = await make(warehouse, _order("html", "metrics.bookings", "metrics.routes", name=name), tmp_path)
    page = _Page(report.path.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "b" in page.tags
    assert name in page.words
    assert ROUTE_NAME in page.words
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert "Sun 15 Mar 2026" in page.words


async def test_a_workbook_holds_the_numbers_as_numbers(warehouse: Warehouse, tmp_path: Path) -> None:
    order = _order("excel", "metrics.bookings", "bookings")
    report = await make(warehouse, order, tmp_path)
    asked: bookings.BookingsAnswer = await _asked(warehouse, order, bookings)
    book = openpyxl.load_workbook(report.path)
    assert {"About", "Summary", "Booking metrics", "Definitions"} <= set(book.sheetnames)
    rows = {
        (row[0], row[1], row[2] or None): row
        for row in book["Summary"].iter_rows(min_row=2, values_only=True)
    }
    assert asked.previous is not None
    row = rows["Bookings", "Created", None]
    assert row[3:5] == (asked.summary.created, asked.previous.summary.created)
    value = rows["Bookings", "Gross booking value", "NGN"]
    assert value[3] == float(asked.summary.gross_booking_value["NGN"])
    assert rows["Bookings", "Conversion rate", None][3] == asked.summary.conversion_rate
    assert report.media_type.endswith("spreadsheetml.sheet")
    assert report.charts


async def test_one_csv_is_a_file_and_several_are_a_zip(warehouse: Warehouse, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    one = await make(warehouse, _order("csv", "bookings"), alone)
    several = await make(warehouse, _order("csv", "overview", "bookings", "metrics.users"), together)
    assert (one.path.suffix, one.media_type) == (".csv", "text/csv")
    rows = list(csv.DictReader(io.StringIO(one.path.read_text(encoding="utf-8"))))
    assert len(rows) == one.rows > 0
    assert one.key_numbers[0].value == str(one.rows)
    with zipfile.ZipFile(several.path) as archive:
        assert sorted(archive.namelist()) == ["bookings.csv", "metrics.users.csv", "overview.csv"]
        assert archive.read("bookings.csv") == one.path.read_bytes()
        numbers = list(csv.DictReader(io.StringIO(archive.read("overview.csv").decode())))
    asked: bookings.BookingsAnswer = await _asked(warehouse, _order("csv"), bookings)
    (revenue,) = (n for n in numbers if n["metric"] == "gross_booking_value" and n["currency"] == "NGN")
    assert revenue["value"] == asked.summary.gross_booking_value["NGN"]


@pytest.mark.parametrize("format", content.FORMATS)
async def test_a_report_of_nothing_says_so(warehouse: Warehouse, tmp_path: Path, format: Format) -> None:
    order = _order(format, days=("2024-03-04", "2024-03-10"))
    report = await make(warehouse, order, tmp_path)
    assert report.empty
    assert not report.charts
    if format == "pdf":
        assert "Nothing happened in this period." in _words(report.path)
    mail = _composed(report, order)
    assert "Nothing happened in this period." in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]  # it has one


@pytest.mark.parametrize(
    ("days", "granularity"),
    [
        (("2026-03-10", "2026-03-10"), "none"),
        (("2025-03-20", "2026-03-20"), "day"),
    ],
)
async def test_any_number_of_buckets_and_a_very_long_name_can_be_laid_out(
    warehouse: Warehouse, tmp_path: Path, days: tuple[str, str], granularity: Granularity
) -> None:
    name = "Überlangername" * 12 + " and so on"
    order = _order(
        "pdf", "metrics.bookings", "metrics.payments", name=name, days=days, granularity=granularity
    )
    report = await make(warehouse, order, tmp_path)
    words = _words(report.path)
    if "2026-03-20" in days:
        assert "not over yet" in words
    assert len(report.file_name) < 100


async def test_what_cannot_be_made_is_refused_with_the_field() -> None:
    for order, field in (
        (_order("pdf", "bookings"), "contents"),
        (_order("pdf", "nothing"), "contents"),
        (replace(_order("pdf"), contents=()), "contents"),
        (_order("pdf", "overview", "overview"), "contents"),
        (_order("csv", "metrics.users", currency="NGN"), "filters"),
        (_order("pdf", name="two\nlines"), "name"),
        (_order("pdf", name=" "), "name"),
    ):
        with pytest.raises(BadOrder) as refused:
            check(order)
        assert refused.value.field == field


async def test_an_overview_says_what_a_filter_leaves_out(warehouse: Warehouse, tmp_path: Path) -> None:
    report = await make(warehouse, _order("html", payment_method="card"), tmp_path)
    words = _Page(report.path.read_text(encoding="utf-8")).words
    assert (
        "Left out, because a filter does not apply to them: users, bookings, trips, drivers, routes." in words
    )
    assert "Payment method card" in words


async def test_a_report_that_takes_too_long_is_given_up(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_RENDER_SECONDS", 0.01)
    with pytest.raises(RenderingFailed):
        await make(warehouse, _order("pdf", "metrics.bookings"), tmp_path)


def _composed(report: Report, order: Order, **options: Any) -> EmailMessage:
    composed = compose(
        report,
        order,
        options.pop("recipient", "boss@example.com"),
        **{
            "sender": "OpenRide Analytics <reports@openride.example>",
            "message_id": "run-1.recipient-1@openride.example",
            "download_link": None,
            "unsubscribe_link": UNSUBSCRIBE,
            **options,
        },
    )
    raw = composed.as_bytes()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert f"\r\nList-Unsubscribe: <{UNSUBSCRIBE}>\r\n".encode() in raw
    parsed = message_from_bytes(raw, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    return parsed


async def test_a_mail_says_the_same_in_text_and_html_and_carries_charts_and_file(
    warehouse: Warehouse, made: Made
) -> None:
    order = _order("pdf", "metrics.bookings", "metrics.payments", "metrics.routes", name=NAME)
    report = await made.of(warehouse, order)
    mail = _composed(report, order)
    assert mail["To"] == "boss@example.com"
    assert mail["Subject"] == f"{order.name}: 9–15 March 2026, Africa/Lagos"
    assert mail["Message-ID"] == "<run-1.recipient-1@openride.example>"
    assert mail["List-Unsubscribe"] == f"<{UNSUBSCRIBE}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Bcc"] is None
    assert mail["Date"].datetime == NOW
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert html is not None
    text = " ".join(plain.get_content().split())
    page = _Page(html.get_content())
    for number in report.key_numbers:
        assert number.value.replace("\u00a0", " ") in text
        assert " ".join(number.value.split()) in page.words
        assert number.change is None or number.change in text
    (attachment,) = mail.iter_attachments()
    assert attachment.get_filename() == report.file_name
    assert attachment.get_content_type() == "application/pdf"
    assert attachment.get_content() == report.path.read_bytes()
    images = {
        part["Content-ID"].strip("<>"): part for part in mail.walk() if part.get_content_type() == "image/png"
    }
    shown = {source.removeprefix("cid:") for source in page.sources if source.startswith("cid:")}
    assert shown == set(images)
    assert len(shown) == 2
    assert all(part.get_content().startswith(b"\x89PNG") for part in images.values())
    assert UNSUBSCRIBE in page.sources


async def test_a_large_report_is_linked(warehouse: Warehouse, made: Made) -> None:
    order = _order("html", "metrics.bookings")
    report = await made.of(warehouse, order)
    mail = _composed(report, order, attach=False, download_link=LINK)
    assert not list(mail.iter_attachments())
    html = mail.get_body(("html",))
    assert html is not None
    assert LINK in _Page(html.get_content()).sources
    assert "too large to attach" in html.get_content()
    with pytest.raises(ValueError, match="link"):
        compose(
            report,
            order,
            "boss@example.com",
            sender="a@example.com",
            message_id="1@example.com",
            download_link=None,
            unsubscribe_link=UNSUBSCRIBE,
            attach=False,
        )


async def test_nothing_can_be_put_into_a_header(warehouse: Warehouse, made: Made) -> None:
    order = _order("html", "metrics.bookings")
    report = await made.of(warehouse, order)
    for options in (
        {"recipient": "boss@example.com\r\nBcc: all@example.com"},
        {"recipient": "boss@example.com, all@example.com"},
        {"recipient": "boss"},
        {"recipient": ""},
        {"sender": "Reports\n<reports@example.com>"},
        {"message_id": "1@example.com>\r\nBcc: <all@example.com"},
        {"unsubscribe_link": "https://example.com/>\r\nBcc: all@example.com"},
    ):
        with pytest.raises(ValueError, match=r"address|header"):
            _composed(report, order, **options)
    mail = _composed(report, replace(order, name="a\r\nBcc: all@example.com"))
    assert mail["Bcc"] is None
    assert str(mail["Subject"]).startswith("a Bcc: all@example.com: ")


async def test_a_webhook_is_told_the_key_numbers_and_where_the_file_is(
    warehouse: Warehouse, made: Made
) -> None:
    order = _order("html", "metrics.bookings")
    report = await made.of(warehouse, order)
    order = replace(order, filters=Filters(city="Lekki"))
    told = webhook_body(report, order, report_id="r-1", download_link=LINK)
    assert b'"report_id":"r-1"' in told
    assert LINK.encode() in told
    assert b'"city":"Lekki"' in told
    assert report.file_name.encode() in told
