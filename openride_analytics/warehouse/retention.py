"""How long events stay: hot, then on a `cold` volume where there is one, then gone.

Applied at start from the configuration, as the tables' TTL. The registrations of users and the states of routes are
never deleted by age: cumulative numbers (total users, active routes, a route's city) rest on them.
"""

from typing import Final

from openride_analytics.config import Retention
from openride_analytics.warehouse import Warehouse

# By table: its time as DateTime, and what is never deleted by age.
_TIMES: Final = {
    "events": "toDateTime(event_timestamp)",
    "driver_locations": "toDateTime(event_timestamp)",
    "event_ids": "toDateTime(event_timestamp)",
    "dead_letters": "toDateTime(intDiv(rejected_ms, 1000))",
}
_DELETE_ONLY: Final = {
    "events": " WHERE NOT (startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'))",
    "event_ids": " WHERE NOT (startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'))",
}
_MOVED: Final = frozenset({"events", "driver_locations"})

_TABLES: Final = """
SELECT name, create_table_query, storage_policy
FROM system.tables
WHERE database = currentDatabase() AND name IN {names:Array(String)}
"""

_COLD_POLICIES: Final = (
    "SELECT policy_name FROM system.storage_policies WHERE volume_name = 'cold' ORDER BY policy_name"
)


async def apply(warehouse: Warehouse, retention: Retention) -> list[str]:
    """Brings the tables' TTL in line with the configuration; returns the tables that had to be changed.

    Data moves only where the server has a storage policy with a volume named `cold`; the event tables are put on it.
    """
    tables = {row["name"]: row for row in await warehouse.query(_TABLES, {"names": list(_TIMES)})}
    policies = [row["policy_name"] for row in await warehouse.query(_COLD_POLICIES)]
    changed = []
    for name, time in _TIMES.items():
        moves = bool(policies) and name in _MOVED
        if moves and tables[name]["storage_policy"] not in policies:
            await warehouse.execute(f"ALTER TABLE {name} MODIFY SETTING storage_policy = '{policies[0]}'")
        rules = []
        if moves and retention.hot_days:
            rules.append(f"{time} + toIntervalDay({retention.hot_days}) TO VOLUME 'cold'")
        if retention.cold_days:
            rules.append(f"{time} + toIntervalDay({retention.cold_days}){_DELETE_ONLY.get(name, '')}")
        now = _ttl(tables[name]["create_table_query"])
        wanted = ", ".join(rules)
        if now == wanted:
            continue
        await warehouse.execute(f"ALTER TABLE {name} {f'MODIFY TTL {wanted}' if wanted else 'REMOVE TTL'}")
        changed.append(name)
    return changed


def _ttl(create_table_query: str) -> str:
    """The table's TTL as the engine prints it."""
    _, _, after = create_table_query.partition(" TTL ")
    return after.partition(" SETTINGS ")[0]
