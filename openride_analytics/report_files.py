"""`openride-analytics report`: one report as a file, from a running service or from the configured stores."""

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx
import msgspec

from openride_analytics.catalogue import ANSWERS
from openride_analytics.config import Config, ConfigError, time_zones
from openride_analytics.key_commands import authorization, refusal
from openride_analytics.metrics.question import Filters, Question
from openride_analytics.period import BadPeriod, Period, instant_text, parse
from openride_analytics.reports import content
from openride_analytics.reports.content import BadOrder, Order, RenderingFailed, Report
from openride_analytics.reports.sections import Subject
from openride_analytics.service import warehouse_of
from openride_analytics.warehouse import WarehouseError

_TIMEOUT_SECONDS: Final = 60.0
_UNKNOWN_TABLE: Final = "Code: 60."


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    contents: tuple[str, ...]
    format: content.Format
    name: str
    start_date: str | None
    end_date: str | None
    timezone: str | None
    filters: tuple[str, ...]
    output: Path


def report(wanted: Wanted, config: Config, *, url: str | None) -> int:
    """Makes the file, from the service at `url` or else from the stores; prints where it is, and returns 0, or 1."""
    order = _order(wanted, config)
    if url is not None and order.format not in ("pdf", "html"):
        raise ConfigError(f"--format {order.format}: is made from the stores, so it takes --config FILE")
    folder = wanted.output if wanted.output.is_dir() else wanted.output.parent
    try:
        with TemporaryDirectory(prefix=".report-", dir=folder) as beside:
            made = asyncio.run(_make(order, config, url, Path(beside)))
            target = wanted.output / made.file_name if wanted.output.is_dir() else wanted.output
            made.path.replace(target)
    except BadOrder as error:
        raise ConfigError(f"{error.field}: {error.message}") from None
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        said = refusal(status, "read") or f"{status}: {error.response.text[:300]}"
        print(f"no report: {url}: {said}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"no report: {url}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (WarehouseError, RenderingFailed, OSError, msgspec.MsgspecError) as error:
        said = (
            "the tables are not there: is this the right store? `openride-analytics migrate` makes them"
            if str(error).startswith(_UNKNOWN_TABLE)
            else f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        )
        print(f"no report: {said}", file=sys.stderr)
        return 1
    print(target)
    return 0


def _order(wanted: Wanted, config: Config) -> Order:
    zone = wanted.timezone or config.analytics.timezone
    if zone not in time_zones():
        raise ConfigError(f"--timezone: there is no time zone {zone!r}")
    now = datetime.now(UTC)
    try:
        period = parse(
            wanted.start_date, wanted.end_date, timezone=ZoneInfo(zone), granularity="none", now=now
        )
    except BadPeriod as error:
        raise ConfigError(f"--{error.field.replace('_', '-')}: {error.message}") from None
    given = dict(text.partition("=")[::2] for text in wanted.filters)
    try:
        filters = msgspec.convert({**given}, Filters, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--filter: {error}") from None
    if unknown := sorted(given.keys() - filters.given.keys()):
        raise ConfigError(f"--filter: there is no filter {unknown[0]!r}")
    return Order(
        name=wanted.name,
        contents=wanted.contents,
        period=period,
        filters=filters,
        format=wanted.format,
        now=now,
        currency=config.analytics.currency,
        on_time_minutes=config.analytics.on_time_minutes,
        limits=config.exports,
    )


async def _make(order: Order, config: Config, url: str | None, folder: Path) -> Report:
    if url is not None:
        return await _from_service(order, url, folder)
    warehouse = warehouse_of(config)
    try:
        return await content.make(warehouse, order, folder)
    finally:
        await warehouse.close()


async def _from_service(order: Order, url: str, folder: Path) -> Report:
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, headers=authorization()) as client:

        async def ask(subject: Subject, question: Question) -> Any:
            answer = await client.get(
                subject.endpoint,
                params={
                    **_days(question.period),
                    "timezone": question.period.timezone.key,
                    "granularity": question.period.granularity,
                    "compare": "previous",
                    **question.filters.given,
                },
            )
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=ANSWERS[subject.endpoint])

        return await content.make_pages(ask, order, folder)


def _days(period: Period) -> dict[str, str]:
    """The bounds as they were given: what is compared with depends on whether they are days."""
    if not period.whole_days:
        return {"start_date": instant_text(period.start), "end_date": instant_text(period.end)}
    last = period.end - timedelta(milliseconds=1)
    days = (at.astimezone(period.timezone).date() for at in (period.start, last))
    return dict(zip(("start_date", "end_date"), map(str, days), strict=True))
