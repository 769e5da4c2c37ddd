"""`openride-analytics erase` and `rebuild`: what operators do to the stored data, while the service runs.

With embedded stores the folder belongs to one process: the service has to be stopped for it.
"""

import re
import sys
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from openride_analytics import erasure, postgres, rebuild
from openride_analytics.access import audit
from openride_analytics.cache import Cache, MemoryCache, RedisCache
from openride_analytics.config import Config, ConfigError
from openride_analytics.erasure import CacheAway
from openride_analytics.service import warehouse_of
from openride_analytics.warehouse import Warehouse, WarehouseError

# No single statement takes longer than this; what may take longer is only looked at.
_STATEMENT_SECONDS: Final = 600.0
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def user_id(text: str) -> UUID:
    """A user's id as an operator writes it, or `ConfigError`. The nil UUID stands for nobody."""
    if not _ID.fullmatch(text) or not UUID(text).int:
        raise ConfigError(f"--user: {text!r} is not a user's id (a UUID, 8-4-4-4-12 digits)")
    return UUID(text)


async def erase_user(config: Config, user: UUID) -> int:
    """Erases a user, prints what was removed, and returns 0, or 1 where it has to be run again."""

    async def work(warehouse: Warehouse, cache: Cache) -> None:
        await _recorded(config, "user.erased")  # who that was stands in `erased_users` alone
        removed = await erasure.erase(warehouse, cache, user, say=_say)
        for name, rows in removed.items():
            print(f"{name:<28}{rows:>12,}")
        if removed:
            print(f"user {user} is erased; events of theirs that come later are left out")
        else:
            print(f"nothing is stored of user {user}; events of theirs that come later are left out")
        if not config.redis.url and config.clickhouse.url:
            print(
                "without Redis, running instances keep their answers for up to "
                f"{max(config.cache.fresh_seconds, config.cache.stale_seconds):g} s"
            )

    return await _on_stores(config, work)


async def rebuild_all(config: Config) -> int:
    """Recomputes what is derived and returns 0, or 1 where it has to be run again."""

    async def work(warehouse: Warehouse, cache: Cache) -> None:
        await _recorded(config, "derived.rebuilt")
        await rebuild.rebuild(warehouse, cache, say=_say)
        print("rebuilt")

    return await _on_stores(config, work)


async def _on_stores(config: Config, work: Callable[[Warehouse, Cache], Awaitable[None]]) -> int:
    cache: Cache = (
        RedisCache(config.redis.url, cluster=config.redis.cluster) if config.redis.url else MemoryCache()
    )
    patient = msgspec.structs.replace(
        config.clickhouse, query_timeout_seconds=_STATEMENT_SECONDS, insert_timeout_seconds=_STATEMENT_SECONDS
    )
    warehouse = warehouse_of(msgspec.structs.replace(config, clickhouse=patient))
    try:
        if await warehouse.query(_MIGRATED):
            await work(warehouse, cache)
            return 0
        said = "the tables are not there: is this the right store, and is it migrated?"
    except asyncpg.UndefinedTableError:
        said = "the tables of PostgreSQL are not there: run `openride-analytics migrate`"
    except (WarehouseError, CacheAway, *postgres.AWAY) as error:
        said = f"not done, to be run again: {' '.join(str(error).split())[:500]}"
    finally:
        await cache.close()
        await warehouse.close()
    print(f"openride-analytics: {said}", file=sys.stderr)
    return 1


async def _recorded(config: Config, what: audit.What) -> None:
    """Writes into the audit log what is about to be done: what cannot be recorded is not done."""
    async with postgres.opened(config) as pool:
        await audit.record(pool, audit.operator(), what, {})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_MIGRATED: Final = """
-- migrations.applied
SELECT name
FROM system.tables
WHERE database = currentDatabase() AND name = 'incoming_to_ingest_log'
"""
