"""The audit log: who changed what, and when. It never holds secrets, nor personal data of the platform's users."""

import getpass
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec

What = Literal[
    "key.created",
    "key.revoked",
    "dead_letters.replayed",
    "user.erased",
    "derived.rebuilt",
    "schedule.created",
    "schedule.changed",
    "schedule.deleted",
    "report.asked_for",
]

_LONGEST_NAME: Final = 200


async def record(
    postgres: "asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]",
    who: str,
    what: str,
    details: Mapping[str, Any],
) -> None:
    """Writes an entry. What is to be recorded is recorded before it is done, or in the same transaction."""
    text = msgspec.json.encode(details).decode()
    await postgres.execute(_RECORD, who[:_LONGEST_NAME], what, text)


async def page(
    postgres: "asyncpg.Pool[asyncpg.Record]",
    *,
    before: int | None,
    start: datetime | None,
    end: datetime | None,
    limit: int,
) -> list[asyncpg.Record]:
    """Entries of a time, newest first, older than the entry `before`."""
    rows: list[asyncpg.Record] = await postgres.fetch(_PAGE, before, start, end, limit)
    return rows


def operator() -> str:
    """Who runs a command, as the audit log says it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        user = "unknown"
    return f"command:{user}@{socket.gethostname()}"


_RECORD: Final = """
INSERT INTO audit_log (who, what, details)
VALUES ($1, $2, $3::jsonb)
"""

_PAGE: Final = """
SELECT id, at, who, what, details
FROM audit_log
WHERE ($1::bigint IS NULL OR id < $1)
  AND ($2::timestamptz IS NULL OR at >= $2)
  AND ($3::timestamptz IS NULL OR at < $3)
ORDER BY id DESC
LIMIT $4
"""
