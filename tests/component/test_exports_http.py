"""Exports as their clients see them: over HTTP, on the embedded engine, read back by what people read them with."""

import asyncio
import contextlib
import csv
import io
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import openpyxl
import polars as pl
import pytest
from openpyxl.utils.escape import unescape

from openride_analytics.exports import CONTENTS
from openride_analytics.exports.datasets import DATASETS
from openride_analytics.warehouse import Block, WarehouseUnavailable
from tests.component.test_http import App, anywhere, app, faults, lines, problem
from tests.samples import full, minimal

__all__ = ["app"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARCH = {"start_date": "2026-03-01", "end_date": "2026-03-31", "timezone": "Africa/Lagos"}
FORMATS = ("csv", "excel", "parquet")
FORMULAS = ["=1+1", "+SUM(A1)", "-2+3", "@A1", "\tx", "\rx", "\nx", "＝1"]
TEXTS = [
    *FORMULAS,
    'He said "no", twice',
    "two\r\nlines",
    "Ìkẹjà 🚌 東京",
    "  spaces  ",
    "<r><t>x</t></r>",
    "a & b < c",
    "_x000D_",
    "\x01\x1f\ufffe",
    "'quoted",
    "-5",
    "http://example.com",
    "007",
]


async def download(app: App, format: str, dataset: str, **parameters: str) -> httpx.Response:
    response = await app.get(f"/v1/exports/{format}", dataset=dataset, **(MARCH | parameters))
    assert response.status_code == 200, response.text
    return response


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


async def cancelled_with(app: App, reasons: list[str]) -> str:
    """A route on which each reason has cancelled a booking; the route's id."""
    route = str(uuid4())
    events: list[dict[str, Any]] = []
    for number, reason in enumerate(reasons):
        ids = {"route_id": route, "booking_id": str(uuid4())}
        at = f"2026-03-02T10:{number:02}:00Z"
        created = full("booking.created", **ids, event_id=str(uuid4()), event_timestamp=at, total_price="-0")
        created["total_price"] = "1234567890.1234"
        events.append(created)
        events.append(
            full(
                "booking.cancelled",
                **ids,
                event_id=str(uuid4()),
                event_timestamp=at,
                cancellation_reason=reason,
            )
        )
    assert (await app.post(lines(events))).status_code == 202
    return route


async def test_every_content_comes_with_its_name_and_its_number_of_rows(app: App) -> None:
    await cancelled_with(app, ["x"])
    for content in CONTENTS:
        for kind, ending in zip(FORMATS, ("csv", "xlsx", "parquet"), strict=True):
            if kind != "csv" and content not in ("trips", "metrics.trips"):
                continue  # they are made of the same lines
            response = await download(app, kind, content)
            name = response.headers["Content-Disposition"]
            assert name.startswith(f'attachment; filename="{content}_')
            assert name.endswith(f'_2026-03-01_2026-03-31_Africa-Lagos.{ending}"')
            announced = int(response.headers["X-Total-Rows"])
            if kind == "csv":
                assert len(rows_of(response.text)) == announced
            elif kind == "parquet":
                assert pl.read_parquet(io.BytesIO(response.content)).height == announced
            else:
                book = openpyxl.load_workbook(io.BytesIO(response.content), read_only=True)
                assert book.sheetnames[0] == "About"
                assert book.sheetnames[-1] == "Definitions"


async def test_csv_is_rfc_4180_and_holds_every_text_as_it_was_unless_it_would_run(app: App) -> None:
    route = await cancelled_with(app, TEXTS)
    response = await download(app, "csv", "bookings", route_id=route)
    assert response.content.count(b"\r\n") >= len(TEXTS) + 1
    assert response.content.endswith(b"\r\n")
    expected = [f"'{text}" if text in FORMULAS or text == "-5" else text for text in TEXTS]
    found = rows_of(response.text)
    assert [row["cancellation_reason"] for row in found] == expected
    assert {row["total_price"] for row in found} == {"1234567890.1234"}
    assert found[0]["created_at"] == "2026-03-02T10:00:00.000Z"
    raw = await download(app, "csv", "bookings", route_id=route, raw="true")
    assert [row["cancellation_reason"] for row in rows_of(raw.text)] == TEXTS
    marked = await download(app, "csv", "bookings", route_id=route, raw="true", bom="true")
    assert marked.content == b"\xef\xbb\xbf" + raw.content
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"


async def test_negative_numbers_stay_numbers(app: App) -> None:
    route = str(uuid4())
    created = full(
        "booking.created", event_id=str(uuid4()), booking_id=str(uuid4()), route_id=route, pickup_lat=-33.9
    )
    assert (await app.post(lines([created]))).status_code == 202
    (row,) = rows_of((await download(app, "csv", "bookings", route_id=route)).text)
    assert row["pickup_lat"] == "-33.9"


async def test_parquet_has_decimals_instants_and_nulls(app: App) -> None:
    route = await cancelled_with(app, TEXTS)
    frame = pl.read_parquet(io.BytesIO((await download(app, "parquet", "bookings", route_id=route)).content))
    assert frame.columns == [column.name for column in DATASETS["bookings"].columns]
    assert frame["cancellation_reason"].to_list() == TEXTS
    assert frame["total_price"].to_list() == [Decimal("1234567890.1234")] * len(TEXTS)
    assert frame.schema["created_at"] == pl.Datetime("ms", "UTC")
    assert frame["created_at"][0].isoformat() == "2026-03-02T10:00:00+00:00"
    assert frame["confirmed_at"].null_count() == len(TEXTS)


async def test_a_workbook_has_typed_cells_local_times_and_text_that_never_runs(app: App) -> None:
    route = await cancelled_with(app, TEXTS)
    content = (await download(app, "excel", "bookings", route_id=route)).content
    book = openpyxl.load_workbook(io.BytesIO(content))
    assert book.sheetnames == ["About", "Bookings", "Definitions"]
    page = book["Bookings"]
    assert page.freeze_panes == "B2"
    assert page.auto_filter.ref.startswith("A1:AA")
    head = [cell.value for cell in page[1]]
    assert head == [column.name for column in DATASETS["bookings"].columns]
    reasons = [page.cell(2 + number, 1 + head.index("cancellation_reason")) for number in range(len(TEXTS))]
    assert {cell.data_type for cell in reasons} == {"s"}
    # What XML does not allow is replaced; openpyxl reads \r\n as it stands in the file.
    assert [_unescaped(cell.value) for cell in reasons] == [
        text.replace("\ufffe", "\ufffd") for text in TEXTS
    ]
    created = page.cell(2, 1 + head.index("created_at"))
    assert created.value == datetime(2026, 3, 2, 11)  # noqa: DTZ001  # Lagos; Excel has no zones
    price = page.cell(2, 1 + head.index("total_price"))
    assert (price.value, price.number_format) == (1234567890.1234, "#,##0.00##")
    about = {row[0].value: row[1].value for row in book["About"].iter_rows(min_row=3)}
    assert about["From"] == "Sunday, 1 March 2026, 00:00:00"
    assert about["Time zone"].startswith("Africa/Lagos")
    assert about["Filters"] == f"route_id = {route}"
    assert about["Bookings"].startswith(f"{len(TEXTS)} rows.")
    defined = {row[1].value: row[2].value for row in book["Definitions"].iter_rows(min_row=2)}
    assert defined["confirmed_price"] == "Price confirmed: what counts as booking value."


def _unescaped(text: str) -> str:
    return str(unescape(text))


async def test_metrics_hold_the_numbers_of_their_endpoint_and_a_chart(app: App) -> None:
    await cancelled_with(app, ["x"])
    for name in ("users", "bookings", "payments", "trips", "drivers", "routes"):
        answer = await app.get_json(f"/v1/metrics/{name}", **MARCH, granularity="week")
        found = rows_of((await download(app, "csv", f"metrics.{name}", granularity="week")).text)
        assert [row["start"] for row in found] == [bucket["start"] for bucket in answer["series"]]
        for row, bucket in zip(found, answer["series"], strict=True):
            flat = dict(_flat(bucket))
            assert flat.keys() <= row.keys()
            for field, text in row.items():
                expected = flat.get(field)
                assert text == ("" if expected is None else str(expected).replace("False", "false")), field
        (whole,) = rows_of((await download(app, "csv", f"metrics.{name}", granularity="none")).text)
        summary = dict(_flat(answer["summary"]))
        assert all(
            text == ("" if summary.get(f) is None else str(summary[f])) for f, text in list(whole.items())[2:]
        )
        if name != "bookings":
            continue  # the sheets of all are made alike
        book = openpyxl.load_workbook(
            io.BytesIO((await download(app, "excel", f"metrics.{name}", granularity="week")).content)
        )
        page = book[book.sheetnames[1]]
        assert page._charts
        assert page.cell(2, 1).value == datetime(2026, 3, 1)  # noqa: DTZ001
        assert [cell.value for cell in page[1]] == list(found[0])


def _flat(item: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in item.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return found


async def test_libreoffice_opens_a_workbook_as_it_is_meant(app: App, tmp_path: Path) -> None:
    soffice = shutil.which("soffice")
    if soffice is None:
        pytest.skip("there is no soffice on the PATH, and the project cannot fetch it")
    texts = ["=1+1", "Ìkẹjà 🚌", "<r><t>x</t></r>", 'a "b", c', "007"]
    route = await cancelled_with(app, texts)
    file = tmp_path / "export.xlsx"
    file.write_bytes((await download(app, "excel", "bookings", route_id=route)).content)
    # Sheet 2 as CSV: comma, quote, UTF-8, from the first line, values as they are shown.
    form = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false,false,false,2"
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = [soffice, profile, "--headless", "--convert-to", form, str(file)]

    def convert() -> None:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)

    await asyncio.to_thread(convert)
    (made,) = (path for path in tmp_path.glob("export*.csv"))  # noqa: ASYNC240
    found = rows_of(made.read_text(encoding="utf-8"))
    assert [row["cancellation_reason"] for row in found] == texts
    assert found[0]["created_at"] == "2026-03-02 11:00:00"
    assert found[0]["total_price"].replace(",", "") == "1234567890.1234"


async def test_dropouts_of_a_funnel_are_those_between_its_steps(app: App) -> None:
    city = anywhere()
    events = []
    for number in range(3):
        user = str(uuid4())
        named = {"event_id": str(uuid4()), "event_timestamp": "2026-03-02T10:00:00Z"}
        events.append(minimal("user.registered", **named, user_id=user, city=city))
        if number:
            named = {"event_id": str(uuid4()), "event_timestamp": "2026-03-03T10:00:00Z"}
            events.append(minimal("booking.created", **named, booking_id=str(uuid4()), rider_id=user))
    assert (await app.post(lines(events))).status_code == 202
    asked = {"city": city, "steps": "user.registered,booking.created,booking.confirmed"}
    users = [
        step["users"] for step in (await app.get_json("/v1/analytics/funnel", **MARCH, **asked))["steps"]
    ]
    assert users == [3, 2, 0]
    found = rows_of((await download(app, "csv", "funnel_dropouts", **asked)).text)
    assert [row["step"] for row in found] == ["1", "2", "2"]
    second = rows_of((await download(app, "csv", "funnel_dropouts", **asked, step="2")).text)
    assert second == found[1:]
    assert {row["event_type"] for row in second} == {"booking.created"}
    assert {row["still_open"] for row in second} == {"false"}


@pytest.mark.parametrize(
    ("format", "parameters", "field"),
    [
        ("csv", {}, "dataset"),
        ("csv", {"dataset": "events"}, "dataset"),
        ("csv", {"dataset": "users", "currency": "NGN"}, "currency"),
        ("csv", {"dataset": "users", "granularity": "day"}, "granularity"),
        ("csv", {"dataset": "users", "step": "1"}, "step"),
        ("csv", {"dataset": "funnel_dropouts", "step": "4"}, "step"),
        ("csv", {"dataset": "users", "raw": "yes"}, "raw"),
        ("csv", {"dataset": "users", "compare": "previous"}, "compare"),
        ("excel", {"dataset": "users", "bom": "true"}, "bom"),
        ("parquet", {"dataset": "users", "timezone": "Nowhere"}, "timezone"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(
    app: App, format: str, parameters: dict[str, str], field: str
) -> None:
    assert field in faults(await app.get(f"/v1/exports/{format}", **parameters))


async def test_too_many_rows_are_refused_before_the_first_byte(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = await cancelled_with(app, ["a", "b", "c"])
    limits = app.service.config.exports
    small = type(limits)(max_rows=2, max_excel_rows=1)
    monkeypatch.setattr(app.service, "config", _with(app.service.config, exports=small))
    for kind in FORMATS:
        response = await app.get(f"/v1/exports/{kind}", dataset="bookings", route_id=route, **MARCH)
        details = problem(response, 413)
        assert "3 rows" in details["detail"]


def _with(config: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(config, **changes)


class _Cut:
    """The blocks of a stream, one at a time to a caller who waits, with a failure after the second."""

    def __init__(self, blocks: AsyncIterator[Block], *, fails: bool) -> None:
        self._blocks = blocks
        self._count = 0
        self._fails = fails

    def __aiter__(self) -> "_Cut":
        return self

    async def __anext__(self) -> Block:
        self._count += 1
        if self._count == 3:
            if self._fails:
                raise WarehouseUnavailable("SELECT the engine is gone")
            raise StopAsyncIteration
        return await anext(self._blocks)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_failure_in_the_middle_breaks_the_connection(
    app: App,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,  # noqa: FBT001
) -> None:
    """Also where rows are missing without any error."""
    await many_users(app)
    stream = app.service.warehouse.stream

    @contextlib.asynccontextmanager
    async def cut(*arguments: Any, **named: Any) -> AsyncIterator[AsyncIterator[Block]]:
        async with stream(*arguments, **named) as blocks:
            yield _Cut(blocks, fails=fails)

    monkeypatch.setattr(app.service.warehouse, "stream", cut)
    come = b""
    with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012  # the beginning of it is good
        async with app.client.stream(
            "GET", "/v1/exports/csv", params={"dataset": "users", "city": "Many", **MARCH}
        ) as response:
            assert response.status_code == 200
            assert response.headers["X-Total-Rows"] == "40000"
            async for piece in response.aiter_raw():
                come += piece
    assert come.startswith(b"user_id,")
    assert b"problem" not in come
    monkeypatch.undo()
    # A file that is made first is a problem instead.
    monkeypatch.setattr(app.service.warehouse, "stream", cut)
    response = await app.get("/v1/exports/parquet", dataset="users", city="Many", **MARCH)
    problem(response, 503 if fails else 500)


async def many_users(app: App) -> None:
    await app.service.warehouse.execute(
        "INSERT INTO events (event_type, event_id, event_timestamp, user_id, role, city)"
        " SELECT 'user.registered', reinterpretAsUUID(sipHash128('many', number)),"
        " fromUnixTimestamp64Milli(toInt64(1772600000000 + number)), reinterpretAsUUID(sipHash128('m', number)),"
        " 'RIDER', 'Many' FROM numbers(40000)"
    )


async def test_a_client_that_goes_away_stops_the_query(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "SELECT toString(number) AS line, toUInt64(1000000000000) AS total FROM numbers(1000000000000)"
    monkeypatch.setattr(
        "openride_analytics.exports.csv.select", lambda *_, **__: f"{slow} SETTINGS max_block_size = 8192"
    )
    limits = type(app.service.config.exports)(max_rows=10**13)
    monkeypatch.setattr(app.service, "config", _with(app.service.config, exports=limits))
    for _ in range(6):  # more than there are places: each is given back
        async with app.client.stream("GET", "/v1/exports/csv", params={"dataset": "users"}) as response:
            assert response.status_code == 200
            assert await anext(response.aiter_raw())
        async with asyncio.timeout(60):
            while await _running(app):  # noqa: ASYNC110  # the engine's state
                await asyncio.sleep(0.02)
    assert (await app.get("/health/live")).status_code == 200


async def _running(app: App) -> int:
    (row,) = await app.service.warehouse.query(
        "SELECT count() AS n FROM system.processes WHERE position(query, 'numbers(1000000000000)') > 0"
        " AND position(query, 'count()') = 0"
    )
    return int(row["n"])


async def test_the_documentation_names_every_column(app: App) -> None:
    paths = (await app.get_json("/schema"))["paths"]
    for kind in FORMATS:
        operation = paths[f"/v1/exports/{kind}"]["get"]
        named = {parameter["name"]: parameter for parameter in operation["parameters"]}
        assert named["dataset"]["required"] is True
        assert named["dataset"]["schema"]["enum"] == list(CONTENTS)
        for dataset in DATASETS.values():
            for column in dataset.columns:
                assert f"| `{column.name}` |" in operation["description"]
                assert column.description in operation["description"]
