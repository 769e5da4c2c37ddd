"""The statements for a cluster: what becomes of each, compared with a reviewed file and read by the engine's parser.

Replication and `ON CLUSTER` need a Keeper, which the tests' servers have not: so their SQL is looked at, word by word.
"""

from pathlib import Path

import pytest

from openride_analytics.migrations import CLICKHOUSE_TABLE, load
from openride_analytics.warehouse import StatementRefused
from openride_analytics.warehouse.cluster import Cluster
from openride_analytics.warehouse.embedded import EmbeddedWarehouse

REVIEWED = Path(__file__).parents[1] / "data" / "replicated_cluster.sql"
REPLICATED = Cluster("rides", "openride", replicated=True)
SHARDED = Cluster("rides", "openride")
# What the service does to tables besides.
CHANGES = (
    (
        "ALTER TABLE events MODIFY TTL toDateTime(event_timestamp) + toIntervalDay(730)"
        " WHERE NOT (startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'))"
    ),
    "ALTER TABLE events MODIFY SETTING storage_policy = 'tiered'",
    "ALTER TABLE events REMOVE TTL",
    "ALTER TABLE events DELETE WHERE user_id IN (SELECT user_id FROM erased_users) SETTINGS mutations_sync = 0",
    "ALTER TABLE event_ids DELETE WHERE event_id NOT IN (SELECT event_id FROM events) SETTINGS mutations_sync = 0",
)


def made(cluster: Cluster) -> list[str]:
    """All that a cluster is laid out with, in its order."""
    statements = [
        CLICKHOUSE_TABLE,
        *(statement for migration in load("clickhouse") for statement in migration.statements),
        *CHANGES,
    ]
    return cluster.create_databases(2) + [
        text for statement in statements for text in cluster.placed(statement)
    ]


def test_a_replicated_cluster_is_laid_out_by_the_reviewed_statements() -> None:
    """After a change of the migrations, look at the difference and write the file anew.

    `python -m tests.component.test_cluster_sql` does that.
    """
    assert _file() == REVIEWED.read_text(encoding="utf-8")


@pytest.mark.parametrize("cluster", [REPLICATED, SHARDED], ids=["replicated", "sharded"])
async def test_the_engine_can_read_all_of_it(cluster: Cluster, embedded_warehouse: EmbeddedWarehouse) -> None:
    for statement in made(cluster):
        (row,) = await embedded_warehouse.query(
            "SELECT formatQuerySingleLine({statement:String}) AS text", {"statement": statement}
        )
        assert ("ON CLUSTER" in row["text"]) == cluster.replicated, row["text"]


@pytest.mark.parametrize(
    ("statement", "placed"),
    [
        pytest.param(
            "ALTER TABLE events DELETE WHERE user_id IN (SELECT user_id FROM erased_users)"
            " AND event_id IN (SELECT event_id FROM driver_locations)",
            [
                (
                    "ALTER TABLE openride_shard.events DELETE WHERE user_id GLOBAL IN"
                    " (SELECT user_id FROM openride.erased_users) AND event_id GLOBAL IN"
                    " (SELECT event_id FROM openride_shard.driver_locations)"
                )
            ],
            id="mutation",
        ),
        # What there is of a thing lies on several shards.
        pytest.param(
            "ALTER TABLE facts DELETE WHERE thing_id NOT IN\n(\n    SELECT thing_id FROM histories)",
            [
                (
                    "ALTER TABLE openride_shard.facts DELETE WHERE thing_id GLOBAL NOT IN\n(\n"
                    "    SELECT thing_id FROM openride.histories)"
                )
            ],
            id="mutation by the thing",
        ),
        # So do the events that make a row of a table that lies by another key.
        pytest.param(
            "ALTER TABLE hours DELETE WHERE hour NOT IN (SELECT hour FROM events)",
            [
                "ALTER TABLE openride_shard.hours DELETE WHERE hour GLOBAL NOT IN (SELECT hour FROM openride.events)"
            ],
            id="mutation of another table",
        ),
        pytest.param("TRUNCATE TABLE events", ["TRUNCATE TABLE openride_shard.events"], id="truncate"),
        pytest.param(
            "OPTIMIZE TABLE events FINAL", ["OPTIMIZE TABLE openride_shard.events FINAL"], id="optimize"
        ),
        pytest.param(
            "DELETE FROM events WHERE true", ["DELETE FROM openride_shard.events WHERE true"], id="delete"
        ),
        pytest.param(
            "ALTER TABLE events ADD COLUMN IF NOT EXISTS x UInt8",
            [
                "ALTER TABLE openride_shard.events ADD COLUMN IF NOT EXISTS x UInt8",
                "ALTER TABLE openride.events ADD COLUMN IF NOT EXISTS x UInt8",
            ],
            id="column",
        ),
        pytest.param(
            "ALTER TABLE events\n    ADD COLUMN x String DEFAULT concat('(,', y),\n    MODIFY ORDER BY (a, x),"
            "\n    DROP COLUMN y",
            [
                (
                    "ALTER TABLE openride_shard.events\n    ADD COLUMN x String DEFAULT concat('(,', y),"
                    "\n    MODIFY ORDER BY (a, x),\n    DROP COLUMN y"
                ),
                (
                    "ALTER TABLE openride.events\n    ADD COLUMN x String DEFAULT concat('(,', y),"
                    "\n    DROP COLUMN y"
                ),
            ],
            id="columns and key",
        ),
        pytest.param(
            "ALTER TABLE events ADD INDEX i user_id TYPE bloom_filter GRANULARITY 1",
            ["ALTER TABLE openride_shard.events ADD INDEX i user_id TYPE bloom_filter GRANULARITY 1"],
            id="index",
        ),
        pytest.param(
            "ALTER TABLE incoming ADD COLUMN x UInt8",
            ["ALTER TABLE openride.incoming ADD COLUMN x UInt8"],
            id="column of a landing table",
        ),
        pytest.param(
            "ALTER TABLE incoming_to_ids MODIFY QUERY SELECT 'FROM x' AS a FROM incoming",
            ["ALTER TABLE openride.incoming_to_ids MODIFY QUERY SELECT 'FROM x' AS a FROM openride.incoming"],
            id="query of a view",
        ),
        pytest.param(
            "DROP VIEW incoming_to_ids SYNC",
            [
                "DROP VIEW IF EXISTS openride.incoming_to_ids SYNC",
                "DROP VIEW IF EXISTS openride_shard.incoming_to_ids SYNC",
            ],
            id="drop",
        ),
        pytest.param(
            "CREATE VIEW busy AS WITH few AS (SELECT 1 AS n) SELECT n FROM few ARRAY JOIN [n] AS m JOIN events USING (n)",
            [
                (
                    "CREATE VIEW openride.busy AS WITH few AS (SELECT 1 AS n) SELECT n FROM few ARRAY JOIN [n] AS m"
                    " JOIN openride.events USING (n)"
                )
            ],
            id="view",
        ),
        # A view of stored rows is where they are, and sees all rows of other tables.
        pytest.param(
            "CREATE MATERIALIZED VIEW v TO hours AS SELECT e.hour AS hour FROM (SELECT hour FROM marks"
            " WHERE hour NOT IN (SELECT hour FROM done)) AS e",
            [
                (
                    "CREATE MATERIALIZED VIEW openride_shard.v TO openride.hours AS SELECT e.hour AS hour"
                    " FROM (SELECT hour FROM openride_shard.marks WHERE hour NOT IN (SELECT hour FROM openride.done)) AS e"
                )
            ],
            id="view of stored rows",
        ),
        # Of other keys than the events' all of it says where a row belongs.
        pytest.param(
            "CREATE TABLE IF NOT EXISTS hours\n(\n    hour DateTime, -- it's UTC; FROM here\n    n UInt64\n)\n"
            "ENGINE = SummingMergeTree\nORDER BY toStartOfHour(hour);\n",
            [
                (
                    "CREATE TABLE IF NOT EXISTS openride_shard.hours\n(\n    hour DateTime,\n    n UInt64\n)\n"
                    "ENGINE = SummingMergeTree\nORDER BY toStartOfHour(hour)"
                ),
                (
                    "CREATE TABLE IF NOT EXISTS openride.hours AS openride_shard.hours\n"
                    "ENGINE = Distributed('rides', 'openride_shard', 'hours', cityHash64(toStartOfHour(hour)))"
                ),
            ],
            id="table",
        ),
        pytest.param("INSERT INTO events SELECT * FROM events", [], id="insert"),
        pytest.param("SELECT 1", [], id="select"),
    ],
)
def test_each_statement_has_its_place(statement: str, placed: list[str]) -> None:
    assert SHARDED.placed(statement) == placed


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("CREATE TABLE IF NOT EXISTS t (n UInt8)\nENGINE = Memory", id="kept by one host"),
        pytest.param("CREATE TABLE IF NOT EXISTS t (n UInt8)\nENGINE = MergeTree", id="no key"),
        pytest.param("CREATE MATERIALIZED VIEW v TO t AS SELECT 1", id="of no table"),
        pytest.param(
            "CREATE TABLE IF NOT EXISTS t (n UInt8)\nENGINE = Null", id="not known as a landing table"
        ),
        pytest.param(
            "CREATE MATERIALIZED VIEW v ENGINE = Null AS SELECT n FROM incoming", id="with its own table"
        ),
        pytest.param(
            "CREATE MATERIALIZED VIEW v REFRESH EVERY 1 DAY TO t AS SELECT n FROM events", id="refreshed"
        ),
        pytest.param("RENAME TABLE a TO b", id="rename"),
        pytest.param("EXCHANGE TABLES a AND b", id="exchange"),
        pytest.param("CREATE DICTIONARY d (n UInt8) PRIMARY KEY n", id="dictionary"),
    ],
)
def test_what_has_no_place_is_refused(statement: str) -> None:
    with pytest.raises(StatementRefused, match="on a cluster"):
        SHARDED.placed(statement)


def test_the_engines_own_tables_are_asked_on_all_hosts() -> None:
    assert SHARDED.on_hosts("SELECT 1 FROM system.parts") == (
        "SELECT 1 FROM clusterAllReplicas('rides', system.parts)"
    )


def _file() -> str:
    return (
        "-- What a replicated cluster `rides` is laid out with, for the database `openride`: made from the migrations\n"
        "-- by `warehouse/cluster.py`, and compared with this file by tests/component/test_cluster_sql.py.\n\n"
        + ";\n\n".join(made(REPLICATED))
        + ";\n"
    )


if __name__ == "__main__":
    REVIEWED.write_text(_file(), encoding="utf-8")
