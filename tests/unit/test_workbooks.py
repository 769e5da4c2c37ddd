"""Workbooks beyond what one sheet holds, and what Excel cannot hold at all."""

from pathlib import Path

import openpyxl
import polars as pl
import pytest

from openride_analytics.exports import excel
from openride_analytics.exports.datasets import Column
from openride_analytics.exports.order import Order, Sheet

COLUMNS = (Column("name", "text", "A text."), Column("n", "whole", "A number."))


def written(folder: Path, parts: list[str], *, most_rows: int, title: str = "Things") -> Path:
    files = []
    for number, part in enumerate(parts):
        file = folder / f"part{number}"
        file.write_text(part, encoding="utf-8", newline="")
        files.append(str(file))
    rows = sum(part.count("\r\n") for part in parts)
    sheet = Sheet(title=title, description="", columns=COLUMNS, files=files, rows=rows)
    path = folder / "book.xlsx"
    order = Order(
        format="excel",
        path=str(path),
        sheets=[sheet, sheet],
        timezone="UTC",
        title=title,
        about=[("Made", "now")],
        definitions=[("Things", "name", "A text.", "text")],
    )
    excel.write(order, most_rows=most_rows)
    return path


def test_rows_beyond_a_sheet_go_on_on_the_next_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path, ["a,1\r\nb,2\r\nc,3\r\n", "d,4\r\ne,5\r\n"], most_rows=2)
    book = openpyxl.load_workbook(path)
    assert book.sheetnames[1:4] == ["Things", "Things (2)", "Things (3)"]
    assert len(book.sheetnames) == 8  # the second table has sheets of its own
    found = []
    for name in book.sheetnames[1:4]:
        head, *rows = book[name].iter_rows(values_only=True)
        assert head == ("name", "n")
        found += rows
    assert found == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]
    assert pl.read_excel(path, sheet_name="Things (2)").rows() == [("c", 3), ("d", 4)]


def test_a_table_without_rows_has_its_head(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(written(tmp_path, [""], most_rows=2))
    assert list(book["Things"].iter_rows(values_only=True)) == [("name", "n")]


def test_a_text_that_does_not_fit_into_a_cell_says_that_it_is_cut(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(written(tmp_path, [f"{'🚌' * 20_000},1\r\n"], most_rows=5))
    text = book["Things"]["A2"].value
    assert text == "🚌" * 16_000 + " … [cut at 16,000 characters]"


def test_what_is_written_on_the_way_lies_beside_the_workbook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere it would stay where a writer was killed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert openpyxl.load_workbook(written(tmp_path, ["a,1\r\n"], most_rows=5))["Things"]["A2"].value == "a"
