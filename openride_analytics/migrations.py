"""Database migrations: SQL files under `migrations/`, applied once, in order, whoever starts first.

A transaction of PostgreSQL holds the lock for both stores, so several instances may start together. PostgreSQL's own
migrations are all or nothing in another one, which has ended before ClickHouse's begin: these may take hours, and older
instances use the tables meanwhile. ClickHouse's statements are written to be repeatable (`IF NOT EXISTS`), so one that was
cut off half-way is simply run again. An applied file must never change: its checksum is compared at each start.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from openride_analytics.warehouse import Warehouse

log = structlog.get_logger(__name__)

_LOCK: Final = 0x0_9E4_21DE  # any number of our own
# A statement may fill a table from all that is stored. Bounded like a batch, it would fail at each start anew.
STATEMENT_SECONDS: Final = 6 * 3_600.0


class MigrationError(Exception):
    """The stores do not fit this version of the service. The message says what to do."""


@dataclass(frozen=True)
class Migration:
    """One file: `0001_name.sql`."""

    version: int
    name: str
    checksum: str
    statements: tuple[str, ...]


def load(store: str) -> list[Migration]:
    """The migrations of `clickhouse` or `postgres`, in order."""
    found = []
    for path in sorted((_folder() / store).glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        found.append(
            Migration(
                version=int(path.name.split("_", 1)[0]),
                name=path.stem,
                checksum=hashlib.sha256(text.encode()).hexdigest(),
                statements=tuple(
                    statement
                    for statement in re.split(r";[ \t]*\n", text)
                    if _COMMENTS.sub("", statement).strip()
                ),
            )
        )
    if not found:
        raise MigrationError(f"no migrations for {store}: the installation is incomplete")
    return found


async def migrate(
    postgres: "asyncpg.Pool[asyncpg.Record]",
    warehouse: Warehouse,
    begins: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Applies what is missing in both stores and returns the names of it. `begins` hears each name before it is applied.

    Raises `MigrationError` where an applied file has changed, TimeoutError while another instance applies them, and
    whatever the stores raise: then it can be repeated.
    """
    async with postgres.acquire() as holder, holder.transaction():
        try:
            await holder.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        except TimeoutError:
            raise TimeoutError("another instance applies migrations just now") from None
        # Nothing is asked of this connection until the last statement of ClickHouse has ended.
        await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        return await _migrate_postgres(postgres, begins) + await _migrate_clickhouse(warehouse, begins)


async def _migrate_postgres(
    postgres: "asyncpg.Pool[asyncpg.Record]", begins: Callable[[str], None]
) -> list[str]:
    applied = []
    async with postgres.acquire() as connection, connection.transaction():
        await connection.execute(_POSTGRES_TABLE)
        known = {
            row["version"]: row["checksum"]
            for row in await connection.fetch("SELECT version, checksum FROM schema_migrations")
        }
        for migration in _missing(load("postgres"), known):
            name = f"postgres/{migration.name}"
            begins(name)
            for statement in migration.statements:
                await connection.execute(statement)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
            applied.append(name)
    for name in applied:
        log.info("migrated", migration=name)
    return applied


async def _migrate_clickhouse(warehouse: Warehouse, begins: Callable[[str], None]) -> list[str]:
    applied = []
    await warehouse.create_database()
    hosts = {row["name"]: row["hosts"] for row in await warehouse.query_hosts(_CLICKHOUSE_HOSTS)}
    # A host that has joined a cluster has none of the tables: they are made where they are missing.
    everywhere_alike = len(set(hosts.values())) == 1
    if not (everywhere_alike and "schema_migrations" in hosts):
        await warehouse.execute(CLICKHOUSE_TABLE)
    known = {row["version"]: row["checksum"] for row in await warehouse.query(_CLICKHOUSE_KNOWN)}
    missing = _missing(load("clickhouse"), known)
    for migration in missing if everywhere_alike else load("clickhouse"):
        name = f"clickhouse/{migration.name}"
        begins(name)
        log.info("migrating", migration=name)
        for statement in migration.statements:
            if migration.version in known and _fills_tables(statement):
                continue
            await warehouse.execute(f"-- migrations.apply\n{statement}", timeout_seconds=STATEMENT_SECONDS)
        await warehouse.execute(
            "-- migrations.record\nINSERT INTO schema_migrations (version, name, checksum)"
            " SELECT {version:UInt32}, {name:String}, {checksum:String}",
            {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
        )
        log.info("migrated", migration=name)
        applied.append(name)
    return applied


async def pending(postgres: "asyncpg.Pool[asyncpg.Record]", warehouse: Warehouse) -> list[str]:
    """The migrations that are not applied yet. Raises what the stores raise, also where nothing was ever applied."""
    in_postgres = {row["version"] for row in await postgres.fetch("SELECT version FROM schema_migrations")}
    in_clickhouse = {row["version"] for row in await warehouse.query(_CLICKHOUSE_KNOWN)}
    return [f"postgres/{m.name}" for m in load("postgres") if m.version not in in_postgres] + [
        f"clickhouse/{m.name}" for m in load("clickhouse") if m.version not in in_clickhouse
    ]


def _missing(migrations: list[Migration], known: dict[int, str]) -> list[Migration]:
    for migration in migrations:
        if known.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"migration {migration.name} was changed after it had been applied: restore the file and put the change "
                "into a new one"
            )
    return [migration for migration in migrations if migration.version not in known]


def _fills_tables(statement: str) -> bool:
    """Whether it is about rows: once is enough, as a host that joins has none or those of its replicas."""
    return _COMMENTS.sub("", statement).lstrip().startswith("INSERT")


def _folder() -> Path:
    """Inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


_COMMENTS: Final = re.compile(r"--.*")

_POSTGRES_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
)
"""

CLICKHOUSE_TABLE: Final = """
-- migrations.table
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version     UInt32,
    name        String,
    checksum    String,
    applied_at  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY version
"""

# How many hosts there are, and how many of them have each table.
_CLICKHOUSE_HOSTS: Final = """
-- migrations.hosts
SELECT '' AS name, count() AS hosts
FROM system.one

UNION ALL

SELECT name, count() AS hosts
FROM system.tables
WHERE database = {stored_in:String}
GROUP BY name
"""

_CLICKHOUSE_KNOWN: Final = """
-- migrations.known
SELECT version, checksum
FROM schema_migrations FINAL
ORDER BY version
"""
