"""Looking for a user wherever the warehouse keeps anything, in tables that are there now or come later."""

from uuid import UUID

from openride_analytics.warehouse import Warehouse

# The record of the erasure itself.
RECORD = "erased_users"

COLUMNS = """
SELECT table, groupUniqArray(name) AS names
FROM system.columns
WHERE database = {stored_in:String} AND match(type, 'UUID|String') AND table IN
(
    SELECT name
    FROM system.tables
    WHERE database = {stored_in:String} AND has_own_data AND total_rows > 0
)
GROUP BY table
ORDER BY table
"""


async def traces_of(warehouse: Warehouse, user: str | UUID) -> dict[str, int]:
    """How many rows hold the user's id in any column of ids or text, in any case, with FINAL or without."""
    found = {}
    for row in await warehouse.query_hosts(COLUMNS):
        if row["table"] == RECORD:
            continue
        texts = ", ' ', ".join(f"toString({name})" for name in row["names"])
        counted = await warehouse.query(
            f"SELECT count() AS n FROM {row['table']}"
            f" WHERE positionCaseInsensitive(concat({texts}, ''), {{id:String}}) > 0",
            {"id": str(user)},
        )
        if counted[0]["n"]:
            found[row["table"]] = int(counted[0]["n"])
    return found
