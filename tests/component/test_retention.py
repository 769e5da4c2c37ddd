"""Retention: the tables' TTL follow the configuration, and users and routes outlive it."""

from openride_analytics.config import Retention
from openride_analytics.warehouse import Warehouse, retention
from openride_analytics.warehouse.server import ServerWarehouse
from tests.samples import full
from tests.stores import store

AGING = ["dead_letters", "driver_locations", "event_ids", "events"]


async def _rules(warehouse: Warehouse, table: str) -> str:
    (row,) = await warehouse.query(
        "SELECT create_table_query AS text FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        {"name": table},
    )
    _, _, after = str(row["text"]).partition(" TTL ")
    return after.partition(" SETTINGS ")[0]


async def test_the_rules_are_set_changed_and_removed_as_configured(server_warehouse: ServerWarehouse) -> None:
    assert sorted(await retention.apply(server_warehouse, Retention(hot_days=90, cold_days=730))) == AGING
    assert "toIntervalDay(730)" in await _rules(server_warehouse, "events")
    assert (
        await _rules(server_warehouse, "driver_locations")
        == "toDateTime(event_timestamp) + toIntervalDay(730)"
    )

    assert sorted(await retention.apply(server_warehouse, Retention(hot_days=30, cold_days=365))) == AGING
    assert "toIntervalDay(365)" in await _rules(server_warehouse, "events")

    assert sorted(await retention.apply(server_warehouse, Retention(hot_days=0, cold_days=0))) == AGING
    assert await _rules(server_warehouse, "events") == ""


async def test_applying_the_same_rules_again_changes_nothing(server_warehouse: ServerWarehouse) -> None:
    await retention.apply(server_warehouse, Retention(hot_days=90, cold_days=730))
    assert await retention.apply(server_warehouse, Retention(hot_days=90, cold_days=730)) == []


async def test_old_bookings_and_locations_go_and_old_users_and_routes_stay(
    server_warehouse: ServerWarehouse,
) -> None:
    old = "2020-03-01T07:05:00Z"
    kinds = ("booking.created", "driver.location.updated", "user.registered", "route.created")
    for number, kind in enumerate(kinds):
        event_id = f"00000000-0000-4000-8000-{number:012}"
        await store(server_warehouse, [full(kind, event_id=event_id, event_timestamp=old)])
    await retention.apply(server_warehouse, Retention(hot_days=90, cold_days=730))
    for table in ("events", "driver_locations"):
        await server_warehouse.execute(f"OPTIMIZE TABLE {table} FINAL")
    left = await server_warehouse.query("SELECT event_type FROM events FINAL ORDER BY event_type")
    assert [row["event_type"] for row in left] == ["route.created", "user.registered"]
    assert await server_warehouse.query("SELECT count() AS n FROM driver_locations") == [{"n": 0}]
