"""How long events stay: hot, then on a `cold` volume where there is one, then gone.

Applied at start from the configuration, as the tables' TTL. The registrations of users and the states of routes are
never deleted by age: cumulative numbers (total users, active routes, a route's city) rest on them.
"""

from collections.abc import Mapping
from typing import Final

from openride_analytics.config import Retention
from openride_analytics.warehouse import Warehouse

# By table: its time as DateTime, and what is never deleted by age.
_TIMES: Final = {
    "events": "toDateTime(event_timestamp)",
    "driver_locations": "toDateTime(event_timestamp)",
    "event_ids": "toDateTime(event_timestamp)",
    "histories": "toDateTime(event_timestamp)",
    "facts": "toDateTime(event_timestamp)",
    "buried": "toDateTime(event_timestamp)",
    # A day goes with its last event, as does an hour.
    "active_days": "toDateTime(fromUnixTimestamp64Milli((day + 1) * 86400000, 'UTC'))",
    "doubtful_hours": "toDateTime(fromUnixTimestamp64Milli((hour + 1) * 3600000, 'UTC'))",
    "dead_letters": "toDateTime(intDiv(rejected_ms, 1000))",
    "dead_letter_replays": "toDateTime(intDiv(replayed_ms, 1000))",
}
_DELETE_ONLY: Final = {
    "events": " WHERE NOT (startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'))",
    "event_ids": " WHERE NOT (startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'))",
    "active_days": " WHERE kind != 'lasting'",
    "doubtful_hours": " WHERE kind != 'lasting'",
}
_MOVED: Final = frozenset({"events", "driver_locations", "histories", "facts"})

_TABLES: Final = """
-- ttl.tables
SELECT name, create_table_query, storage_policy
FROM system.tables
WHERE database = {stored_in:String} AND name IN {names:Array(String)}
"""

_POLICIES: Final = """
-- ttl.policies
SELECT policy_name, groupArray(volume_name) AS volumes
FROM system.storage_policies
GROUP BY policy_name
ORDER BY policy_name
"""


async def apply(warehouse: Warehouse, retention: Retention) -> list[str]:
    """Brings the tables' TTL in line with the configuration; returns the tables that had to be changed.

    Data moves only where the server has a storage policy with a volume named `cold` that the event tables can be put on.
    """
    tables = await warehouse.query_hosts(_TABLES, {"names": list(_TIMES)})
    policies = {row["policy_name"]: set(row["volumes"]) for row in await warehouse.query_hosts(_POLICIES)}
    changed = []
    for name, time in _TIMES.items():
        rules = []
        on_hosts = [table for table in tables if table["name"] == name]
        policy = on_hosts[0]["storage_policy"]
        if retention.hot_days and name in _MOVED and (cold := _cold_policy(policy, policies)):
            if any(table["storage_policy"] != cold for table in on_hosts):
                await warehouse.execute(
                    f"-- ttl.apply\nALTER TABLE {name} MODIFY SETTING storage_policy = '{cold}'"
                )
            rules.append(f"{time} + toIntervalDay({retention.hot_days}) TO VOLUME 'cold'")
        if retention.cold_days:
            rules.append(f"{time} + toIntervalDay({retention.cold_days}){_DELETE_ONLY.get(name, '')}")
        wanted = ", ".join(rules)
        if all(_ttl(table["create_table_query"]) == wanted for table in on_hosts):
            continue
        await warehouse.execute(
            f"-- ttl.apply\nALTER TABLE {name} {f'MODIFY TTL {wanted}' if wanted else 'REMOVE TTL'}"
        )
        changed.append(name)
    return changed


def _cold_policy(now: str, policies: Mapping[str, set[str]]) -> str | None:
    """A policy with a volume `cold` for a table: its own, or one with all volumes of its own, else ClickHouse refuses."""
    needed = policies.get(now, set()) | {"cold"}
    fitting = [name for name, volumes in policies.items() if volumes >= needed]
    return now if now in fitting else next(iter(fitting), None)


def _ttl(create_table_query: str) -> str:
    """The table's TTL as the engine prints it."""
    _, _, after = create_table_query.partition(" TTL ")
    return after.partition(" SETTINGS ")[0]
