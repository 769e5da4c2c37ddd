"""Links to reports: ours, for one thing and for a time."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from openride_analytics.config import Config
from openride_analytics.reports.links import Links
from tests.component.test_reports import pool

__all__ = ["pool"]


@pytest.fixture
def links(tmp_path: Path) -> Links:
    return Links(Config(), b"secret")


def test_links_are_ours_for_one_thing_and_a_time(links: Links) -> None:
    report_id, other = UUID(int=1), UUID(int=2)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    url, ends = links.file(report_id, now)
    query = dict(part.split("=") for part in url.partition("?")[2].split("&"))
    expires, signature = query["expires"], query["signature"]
    assert url.startswith("http://127.0.0.1:8097/v1/reports/00000000-0000-0000-0000-000000000001/file?")
    assert ends == now + timedelta(days=14)
    assert links.opens_file(report_id, expires, signature, ends - timedelta(seconds=1))
    assert not links.opens_file(report_id, expires, signature, ends)
    assert not links.opens_file(other, expires, signature, now)
    assert not links.opens_file(report_id, str(int(expires) + 1), signature, now)
    assert not Links(Config(), b"other").opens_file(report_id, expires, signature, now)
    token = links.unsubscribe(report_id).partition("token=")[2]
    assert links.unsubscribes(token) == report_id
    for bad in (
        "",
        "x",
        token[:-1],
        token + "x",
        token[1:] + token[0],
        "é" * 44,
        f"{links.unsubscribe(other)[-44:-22]}{token[22:]}",
    ):
        assert links.unsubscribes(bad) is None


async def test_the_instances_share_one_secret(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    made = await asyncio.gather(*(Links.of(Config(), pool) for _ in range(5)))
    assert len({links.unsubscribe(UUID(int=1)) for links in made}) == 1
