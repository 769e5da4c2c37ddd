"""Reports for tests: a schedule as its maker would write it, and reports that are made in no time."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from openride_analytics import postgres
from openride_analytics.migrations import load
from openride_analytics.reports.content import Order, Report
from openride_analytics.reports.document import KeyNumber
from openride_analytics.reports.schedules import Definition, Draft, Recipient
from openride_analytics.warehouse import Warehouse

OWNER = "owner@openride.test"
SECRET = "a-secret-of-sixteen-or-more"


async def connected(url: str) -> "asyncpg.Pool[asyncpg.Record]":
    """PostgreSQL with the service's tables."""
    pool = await postgres.connect(url)
    for migration in load("postgres"):
        for statement in migration.statements:
            await pool.execute(statement)
    return pool


def body(**fields: Any) -> dict[str, Any]:
    """A schedule over HTTP, daily at seven."""
    return {
        "name": "Daily numbers",
        "owner": OWNER,
        "contents": ["overview"],
        "period": "yesterday",
        "format": "html",
        "frequency": "daily",
        "time": "07:00",
        "recipients": [{"email": "ada@openride.test"}],
    } | fields


def draft(*recipients: str, paused: bool = False, **fields: Any) -> Draft:
    """The same for who needs no HTTP; a recipient that begins with http is a webhook."""
    known = {
        "name": "Daily numbers",
        "owner": OWNER,
        "contents": ("overview",),
        "period": "yesterday",
        "format": "html",
        "timezone": "Africa/Lagos",
        "frequency": "daily",
        "time": "07:00",
    }
    return Draft(
        definition=Definition(**{**known, **fields}),
        recipients=tuple(
            Recipient(kind="webhook", address=one, secret=SECRET)
            if one.startswith("http")
            else Recipient(kind="email", address=one)
            for one in recipients or ("ada@openride.test",)
        ),
        paused=paused,
    )


class Making:
    """In the place of `content.make`: a small file at once, or what `before` does or raises."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.empty = False
        self.bytes = 20
        self.before: Callable[[Order], Awaitable[None]] | None = None

    async def __call__(self, _: Warehouse, order: Order, folder: Path) -> Report:
        self.orders.append(order)
        if self.before is not None:
            await self.before(order)
        path = folder / "daily-numbers.html"
        await asyncio.to_thread(path.write_bytes, b"<p>made</p>".ljust(self.bytes))
        return Report(
            path=path,
            file_name="daily-numbers.html",
            media_type="text/html",
            rows=0 if self.empty else 3,
            bytes=self.bytes,
            empty=self.empty,
            period_text="24 November 2026",
            compared_with=None,
            key_numbers=(KeyNumber(label="Bookings", value="1,200"),),
            charts=(),
        )
