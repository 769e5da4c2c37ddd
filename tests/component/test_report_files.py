"""Where reports are kept: a folder and a bucket keep the same promises."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from openride_analytics.config import Config, Reports, Storage
from openride_analytics.reports.files import FilesUnavailable, ReportFiles
from tests.servers.process import HOST, free_port
from tests.servers.s3 import S3Server

KEY = "2026/11/0f8c2d1e/weekly-figures.pdf"
LARGE_BYTES = 12_000_000


def _in_bucket(url: str, bucket: str = S3Server.bucket) -> ReportFiles:
    return ReportFiles.configured(
        Config(
            reports=Reports(
                s3_bucket=bucket,
                s3_prefix="of/tests",
                s3_endpoint=url,
                s3_access_key_id="key",
                s3_secret_access_key="secret",
            )
        )
    )


@pytest_asyncio.fixture(params=["folder", "s3"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReportFiles]:
    kind: Literal["folder", "s3"] = request.param
    if kind == "folder":
        yield ReportFiles.configured(Config(storage=Storage(data_dir=str(tmp_path / "data"))))
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        yield _in_bucket(server.url)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


async def _read(files: ReportFiles, key: str) -> bytes:
    return b"".join([piece async for piece in await files.read(key)])


async def test_what_is_put_is_read_in_pieces_until_it_is_deleted(files: ReportFiles, tmp_path: Path) -> None:
    made = tmp_path / "made.pdf"
    content = bytes(range(256)) * (LARGE_BYTES // 256)
    made.write_bytes(content)
    await files.put(KEY, made)
    pieces = [piece async for piece in await files.read(KEY)]
    assert b"".join(pieces) == content
    assert len(pieces) > 1
    await files.delete(KEY)
    with pytest.raises(FileNotFoundError):
        await files.read(KEY)
    await files.delete(KEY)


async def test_a_file_of_the_same_key_is_replaced_as_a_whole(files: ReportFiles, tmp_path: Path) -> None:
    made = tmp_path / "made.csv"
    for content in (b"the first and longer one", b"the second"):
        made.write_bytes(content)
        await files.put(KEY, made)
    assert await _read(files, KEY) == b"the second"
    await files.delete(KEY)


async def test_a_file_that_does_not_exist_can_be_neither_put_nor_read(
    files: ReportFiles, tmp_path: Path
) -> None:
    with pytest.raises(FilesUnavailable):
        await files.put(KEY, tmp_path / "never made")
    with pytest.raises(FileNotFoundError):
        await files.read("2026/11/none")


async def test_the_folder_holds_files_only_as_a_whole(tmp_path: Path) -> None:
    files = ReportFiles.configured(Config(storage=Storage(data_dir=str(tmp_path))))
    made = tmp_path / "made.pdf"
    made.write_bytes(b"%PDF")
    await files.put(KEY, made)
    assert _files(tmp_path / "reports") == {tmp_path / "reports" / KEY}


@pytest.mark.parametrize("key", ["../outside.pdf", "/etc/passwd", "2026/../../outside.pdf"])
async def test_a_key_never_leaves_the_folder(key: str, tmp_path: Path) -> None:
    files = ReportFiles.configured(Config(storage=Storage(data_dir=str(tmp_path / "data"))))
    made = tmp_path / "made.pdf"
    made.write_bytes(b"%PDF")
    with contextlib.suppress(ValueError):
        await files.put(key, made)
    assert _files(tmp_path) - _files(tmp_path / "data" / "reports") == {made}


async def test_a_bucket_that_is_not_there_is_said_to_be_unavailable(
    s3_server: S3Server, tmp_path: Path
) -> None:
    made = tmp_path / "made.pdf"
    made.write_bytes(b"%PDF")
    with pytest.raises(FilesUnavailable) as refused:
        await _in_bucket(s3_server.url, "elsewhere").put(KEY, made)
    assert "secret" not in str(refused.value)


async def test_a_server_that_is_away_is_given_up_in_bounded_time(tmp_path: Path) -> None:
    made = tmp_path / "made.pdf"
    made.write_bytes(b"%PDF")
    files = _in_bucket(f"http://{HOST}:{free_port()}")
    async with asyncio.timeout(60):
        with pytest.raises(FilesUnavailable):
            await files.put(KEY, made)
