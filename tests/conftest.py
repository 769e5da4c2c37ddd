"""Fixtures for all tests: the real servers, each started when the first test asks for it."""

from tests.caches import cache, fragile_redis, patient
from tests.servers.clickhouse import clickhouse, clickhouse_url
from tests.servers.clickhouse_cluster import clickhouse_cluster, cluster_database, cluster_warehouse
from tests.servers.kafka import kafka
from tests.servers.postgres import postgres, postgres_url
from tests.servers.redis import redis_cluster, redis_server
from tests.servers.s3 import s3_server
from tests.servers.smtp import smtp, smtp_server
from tests.stores import embedded_folder, embedded_warehouse, server_warehouse

__all__ = [
    "cache",
    "clickhouse",
    "clickhouse_cluster",
    "clickhouse_url",
    "cluster_database",
    "cluster_warehouse",
    "embedded_folder",
    "embedded_warehouse",
    "fragile_redis",
    "kafka",
    "patient",
    "postgres",
    "postgres_url",
    "redis_cluster",
    "redis_server",
    "s3_server",
    "server_warehouse",
    "smtp",
    "smtp_server",
]
