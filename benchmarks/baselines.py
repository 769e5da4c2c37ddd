"""What `ingest.py` compares the service with, on the same topics and into tables of the same shape.

`first_design` is the stack that the service was first designed with, written fairly: confluent-kafka one message at a
time, Pydantic models (a union by the event's type, read straight from the bytes), clickhouse-connect with inserts of
1,000 rows over HTTP, and one commit at the end. It checks what the contract says of each field, as the service does,
and knows no dead letters, no derived ids, no clashes, and nothing that is derived from events. `kafka_engine` is the
practical limit: ClickHouse's own Kafka engine with materialized views, which checks nothing.
"""

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

import msgspec

from benchmarks.servers import Servers, cpu_seconds
from openride_analytics.contract import LOCATION_EVENT, TYPES
from openride_analytics.warehouse import Row
from openride_analytics.warehouse.server import ServerWarehouse

ROWS_AT_ONCE: Final = 1_000
PATIENCE_SECONDS: Final = 180.0

_COLUMNS: Final = """
SELECT name, type
FROM system.columns
WHERE database = currentDatabase() AND table = {table:String} AND name NOT IN ('content_rank', 'is_deleted')
ORDER BY position
"""


async def first_design(
    running: Servers, warehouse: ServerWarehouse, topics: Sequence[str], events: int
) -> tuple[float, float]:
    """CPU microseconds per event of the first design's process and of ClickHouse, reading the topics: all their `events`.

    All of them, as the client takes small topics first: of a part, too many would be bookings and payments, which cost more.
    """
    columns = {}
    for table in ("events", "driver_locations"):
        await warehouse.execute(f"CREATE TABLE first_{table} AS {table}")
        columns[table] = await warehouse.query(_COLUMNS, {"table": table})
    here, there = multiprocessing.Pipe()
    arguments = (running.kafka.address, running.clickhouse.http_port, list(topics), columns, events, there)
    process = multiprocessing.get_context("spawn").Process(target=_consume, args=arguments, daemon=True)
    before = cpu_seconds(running.clickhouse.pid)
    process.start()
    there.close()
    cpu_us: float = await asyncio.to_thread(here.recv)
    await asyncio.to_thread(process.join)
    return cpu_us, (cpu_seconds(running.clickhouse.pid) - before) / events * 1e6


def _consume(
    address: str,
    http_port: int,
    topics: list[str],
    columns: dict[str, list[Row]],
    events: int,
    result: Connection,
) -> None:
    """The first design's process."""
    import clickhouse_connect
    from confluent_kafka import Consumer

    validate = _models()
    # As the service does it: nothing is merged before it is written.
    settings = {"optimize_on_insert": 0}
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=http_port, database="openride", settings=settings
    )
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "first-design",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(topics)
    fields = {
        table: [(row["name"], _empty(row["type"])) for row in described]
        for table, described in columns.items()
    }
    # Made once, so that the columns' types are not asked for at each insert.
    contexts = {
        table: client.create_insert_context(f"first_{table}", column_names=[name for name, _ in pairs])
        for table, pairs in fields.items()
    }
    rows: dict[str, list[list[Any]]] = {table: [] for table in fields}
    taken = 0
    before = _own_cpu_seconds()
    while taken < events:
        message = consumer.poll(PATIENCE_SECONDS)
        if message is None:
            raise TimeoutError(f"{taken} of {events} events, and no more of them come")
        if message.error():
            continue
        event = validate(message.value())
        table = "driver_locations" if event.event_type == LOCATION_EVENT else "events"
        sent = event.__dict__
        rows[table].append(
            [empty if (value := sent.get(name)) is None else value for name, empty in fields[table]]
        )
        taken += 1
        if len(rows[table]) == ROWS_AT_ONCE:
            client.insert(data=rows[table], context=contexts[table])
            rows[table] = []
    for table, waiting in rows.items():
        if waiting:
            client.insert(data=waiting, context=contexts[table])
    consumer.commit(asynchronous=False)
    used = _own_cpu_seconds() - before
    consumer.close()
    result.send(used / taken * 1e6)


def _models() -> Any:
    """A validator of the bytes of any event: the contract's fields with its bounds, as Pydantic writes them."""
    from pydantic import AfterValidator, Field, TypeAdapter, create_model

    def translated(kind: Any) -> Any:
        if get_origin(kind) is Annotated:
            base, meta = get_args(kind)
            pattern = meta.pattern and meta.pattern.replace(r"\Z", r"\z")
            return Annotated[base, Field(ge=meta.ge, le=meta.le, lt=meta.lt, pattern=pattern)]
        if isinstance(kind, UnionType):
            return Union[tuple(map(translated, get_args(kind)))]  # noqa: UP007  # a union made at run time
        return kind

    amount = Annotated[Decimal, Field(ge=0, lt=10**14, decimal_places=4)]
    planned = Annotated[
        datetime, Field(ge=datetime(2015, 1, 1, tzinfo=UTC), lt=datetime(2100, 1, 1, tzinfo=UTC))
    ]
    models = []
    for event_type, struct in TYPES.items():
        fields: dict[str, Any] = {"event_type": (Literal[event_type], ...)}
        for field in msgspec.structs.fields(struct):
            kind: Any = UUID if field.name in struct.id_names else translated(field.type)
            default = struct.defaults.get(field.name, "NGN" if field.name == "currency" else None)
            if field.name == "event_timestamp":
                kind = Annotated[planned, AfterValidator(_not_ahead)]
            elif field.name in struct.times:
                kind = planned
            elif field.name in struct.money:
                kind = amount
            fields[field.name] = (kind, ...) if field.required else (kind | None, default)
        models.append(create_model(struct.__name__, **fields))
    any_event: Any = Annotated[
        Union[tuple(models)],  # noqa: UP007  # a union made at run time
        Field(discriminator="event_type"),
    ]
    return TypeAdapter(any_event).validate_json


def _not_ahead(at: datetime) -> datetime:
    if at > datetime.now(UTC) + timedelta(days=1):
        raise ValueError("The time is more than 24 hours ahead of now.")
    return at


def _empty(column_type: str) -> Any:
    """What stands for "not sent" in a column."""
    if column_type.startswith("Nullable"):
        return None
    empties = {"UUID": UUID(int=0), "Bool": False, "DateTime64(3, 'UTC')": datetime.fromtimestamp(0, UTC)}
    if column_type in empties:
        return empties[column_type]
    if column_type.startswith("Array"):
        return []
    return "" if "String" in column_type else 0


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def kafka_engine(
    running: Servers, warehouse: ServerWarehouse, topics: Sequence[str], events: int
) -> float:
    """CPU microseconds per event of ClickHouse, reading the topics itself: all their `events`."""
    locations = [topic for topic in topics if topic.endswith(".location")]
    read = {"events": [topic for topic in topics if topic not in locations], "driver_locations": locations}
    before = cpu_seconds(running.clickhouse.pid)
    for table, of_table in read.items():
        kinds = {row["name"]: row["type"] for row in await warehouse.query(_COLUMNS, {"table": table})}
        kinds["event_timestamp"] = "Int64"
        layout = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        columns = ", ".join(name for name in kinds if name != "event_timestamp")
        (made,) = await warehouse.query(_ORDER, {"table": table})
        # Without the Replacing, as nothing comes twice: the least that ClickHouse can do.
        await warehouse.execute(
            f"CREATE TABLE engine_{table} AS {table} ENGINE = MergeTree"
            f" PARTITION BY {made['partition_key']} PRIMARY KEY ({made['primary_key']}) ORDER BY ({made['sorting_key']})"
        )
        await warehouse.execute(
            f"""
            CREATE TABLE queue_{table} ({layout}) ENGINE = Kafka
            SETTINGS
                kafka_broker_list = '{running.kafka.address}',
                kafka_topic_list = '{",".join(of_table)}',
                kafka_group_name = 'kafka-engine-{table}',
                kafka_format = 'JSONEachRow',
                kafka_flush_interval_ms = 500,
                input_format_skip_unknown_fields = 1,
                date_time_input_format = 'best_effort'
            """
        )
        await warehouse.execute(
            f"""
            CREATE MATERIALIZED VIEW engine_to_{table} TO engine_{table} AS
            SELECT {columns}, fromUnixTimestamp64Milli(event_timestamp, 'UTC') AS event_timestamp
            FROM queue_{table}
            """
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await _arrived(warehouse) < events:
        if time.monotonic() > deadline:
            raise TimeoutError(f"ClickHouse has read {await _arrived(warehouse)} of {events} events")
        await asyncio.sleep(0.5)
    used = cpu_seconds(running.clickhouse.pid) - before
    for table in read:
        await warehouse.execute(f"DROP TABLE engine_to_{table}")
        await warehouse.execute(f"DROP TABLE queue_{table}")
        await warehouse.execute(f"DROP TABLE engine_{table}")  # its merges are not the next one's
    return used / events * 1e6


_ORDER: Final = """
SELECT partition_key, primary_key, sorting_key
FROM system.tables
WHERE database = currentDatabase() AND name = {table:String}
"""


async def _arrived(warehouse: ServerWarehouse) -> int:
    (row,) = await warehouse.query(
        "SELECT (SELECT count() FROM engine_events) + (SELECT count() FROM engine_driver_locations) AS events"
    )
    return int(row["events"])
