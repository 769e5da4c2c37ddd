"""Hostile records over Kafka and over HTTP, between good ones: each ends as the table says, and nothing else happens."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from openride_analytics.events import Acceptance, BadEvent, Events, decode, decode_all
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess
from tests.integration.streaming import EventTopics
from tests.servers.kafka import KafkaServer

from .records import SECRETS, TEN_MEGABYTES, Case, encoded, hand_written, wrong_types
from .watch import Watch

PARTITIONS = 3
LARGEST_RECORD = 2 * TEN_MEGABYTES
BODY_BYTES = 16_000_000
GROWN_MEGABYTES = 400
LONGEST_DETAIL = 300
LOCATION_COLUMNS = {"bearing", "speed_kmh"}
TIME_COLUMNS = {"event_timestamp", "scheduled_departure"}


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def served(run: str) -> list[Case]:
    """The cases for a service that takes them in a little later."""
    moment = now()
    cases = [case for case in hand_written(moment, run) if not case.at_once]
    return [*cases, *wrong_types(moment, run)]


# At the very moment, in this process


def test_the_table_is_long_and_names_each_record_once() -> None:
    cases = hand_written(now())
    assert len(cases) >= 150
    assert len({case.name for case in cases}) == len({case.record for case in cases}) == len(cases)
    assert len(list(wrong_types(now()))) > 1_000


@pytest.mark.parametrize("cases", [hand_written, wrong_types])
def test_each_record_ends_as_the_table_says(cases: Any) -> None:
    moment = now()
    acceptance = Acceptance.at(moment, currency="NGN", keep_days=730)
    wrong, longest = [], 0
    for case in cases(moment):
        try:
            event = decode(case.record or b"", acceptance)
            outcome = ("", "")
            alike: list[Events | None] = [None, Events.of([event, event])]
        except BadEvent as error:
            outcome = (error.reason, error.field)
            longest = max(longest, len(error.detail))
            alike = [None]
        assert decode_all([case.record or b""] * 2, acceptance) in alike, case.name
        if outcome != (case.reason, case.field):
            wrong.append((case.name, outcome))
    assert wrong == []
    assert 0 < longest <= LONGEST_DETAIL


# Through a running service


@pytest.fixture
def topics(kafka: KafkaServer) -> EventTopics:
    kafka.ensure_running()
    return EventTopics.fresh(kafka)


@pytest_asyncio.fixture
async def warehouse(clickhouse_url: str) -> AsyncIterator[ServerWarehouse]:
    """The service's database."""
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30)
    yield warehouse
    await warehouse.close()


async def test_each_record_ends_as_the_table_says_over_kafka_and_over_http(
    topics: EventTopics, warehouse: ServerWarehouse, clickhouse_url: str, postgres_url: str
) -> None:
    names = [*topics.names, topics.dead_letters]
    await topics.create(*names, partitions=PARTITIONS, largest_bytes=LARGEST_RECORD)
    runs = {run: served(run) for run in ("kafka", "http", "array")}
    runs["http"] = [case for case in runs["http"] if case.is_a_line]
    runs["array"] = [case for case in runs["array"] if is_json(case)]
    assert min(map(len, runs.values())) > 1_000
    good = Good()
    config = {
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "kafka": topics.config(),
        "retention": {"hot_days": 0, "cold_days": 730},
    }
    with ServiceProcess(config) as service:
        service.wait_until_ready()
        with Watch(service) as watch:
            await produce(topics, runs["kafka"], good)
            for body, sent in lines(runs["http"], good):
                check(service.post_events(body, content_type="application/x-ndjson"), sent)
            for body, sent in arrays(runs["array"], good):
                check(service.post_events(body, content_type="application/json"), sent)
            every = [case for cases in runs.values() for case in cases]
            refused = sum(1 for case in every if case.reason)
            service.wait_until_stored(good.count + len(every) - refused, refused=refused)
        print(f"grown by {watch.grown_megabytes:.0f} MB, slowest {watch.slowest_seconds:.2f} s")  # noqa: T201  # with -s
        assert watch.failures == []
        assert watch.grown_megabytes < GROWN_MEGABYTES
        assert service.metric("openride_events_stored_total") == good.count + len(every) - refused
        assert service.metric("openride_events_rejected_total") == refused
        assert service.get_json("/v1/metrics/users")["summary"]["registrations"] >= good.count
        log = service.logged()
        assert service.terminate() == 0

    assert [secret for secret in SECRETS if secret in log] == []
    assert "Traceback" not in log
    said = [json.loads(line) for line in log.splitlines()]
    # Lines with a `logger` are aiokafka's, about a coordinator that is not there yet.
    assert [line for line in said if line["level"] == "error" and "logger" not in line] == []
    await check_rows(warehouse, every, good)
    await check_letters(warehouse, runs)
    await check_privacy(warehouse)


class Good:
    """Registrations that stand around the hostile records."""

    def __init__(self) -> None:
        self.users: set[str] = set()

    @property
    def count(self) -> int:
        return len(self.users)

    def record(self) -> bytes:
        user = str(uuid4())
        self.users.add(user)
        at = now().isoformat()
        return encoded(
            {"event_type": "user.registered", "event_timestamp": at, "user_id": user, "role": "RIDER"}
        )


def is_json(case: Case) -> bool:
    """Whether it can be an element of an array."""
    try:
        msgspec.json.decode(case.record or b"", type=msgspec.Raw)
        msgspec.json.decode(b"[" + (case.record or b"") + b"]", type=list[msgspec.Raw])
        return (case.record or b"").decode().strip() != ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


async def produce(topics: EventTopics, cases: Sequence[Case], good: Good) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=topics.address, max_request_size=LARGEST_RECORD, linger_ms=5
    ) as producer:
        sent = []
        for number, case in enumerate(cases):
            key = f"key {number}".encode() if number % 2 or case.record is None else None
            topic, partition = topics.names[number % len(topics.names)], number % PARTITIONS
            sent.append(await producer.send(topic, good.record(), partition=partition))
            sent.append(await producer.send(topic, case.record, key=key, partition=partition))
            sent.append(await producer.send(topic, good.record(), partition=partition))
        for acknowledged in sent:
            await acknowledged


def lines(cases: Sequence[Case], good: Good) -> Iterator[tuple[bytes, list[Case | None]]]:
    """Bodies of NDJSON with good events around the cases (None in what was sent), ends of lines of both kinds."""
    body, sent = bytearray(), list[Case | None]()
    for case in cases:
        body += good.record() + b"\r\n" + (case.record or b"") + b"\n"
        sent += [None, case]
        if len(body) > BODY_BYTES:
            yield bytes(body + good.record()), [*sent, None]
            body, sent = bytearray(), []
    yield bytes(body + good.record()), [*sent, None]


def arrays(cases: Sequence[Case], good: Good) -> Iterator[tuple[bytes, list[Case | None]]]:
    """The same as JSON arrays."""
    for start in range(0, len(cases), 400):
        part = cases[start : start + 400]
        sent: list[Case | None] = [case for each in part for case in (None, each)]
        items = [case.record or b"" if case else good.record() for case in sent]
        yield b" \n[" + b",\n".join(items) + b"]\n", sent


def check(receipt: Any, sent: Sequence[Case | None]) -> None:
    """Each refusal is told with its line; accepted and refused are all that was sent."""
    told = [(each["line"], each["reason"], each["field"]) for each in receipt["rejected"]]
    expected = [
        (line, case.reason, case.field)
        for line, case in enumerate(sent, 1)
        if case is not None and case.reason
    ]
    assert told == expected
    assert receipt["accepted"] == len(sent) - len(expected)
    text = json.dumps(receipt, ensure_ascii=False)
    assert [secret for secret in SECRETS if secret in text] == []


async def check_rows(warehouse: ServerWarehouse, cases: Sequence[Case], good: Good) -> None:
    accepted = [case for case in cases if not case.reason]
    found: dict[str, dict[str, str]] = {}
    named = {column for case in accepted for column in case.row}
    for table, columns in (
        ("events", sorted(named - LOCATION_COLUMNS)),
        ("driver_locations", sorted(named & LOCATION_COLUMNS)),
    ):
        values = [f"hex(ifNull(toString({as_sql(name)}), 'NULL')) AS {name}" for name in columns]
        rows = await warehouse.query(
            f"""
            SELECT toString(event_id) AS id, {", ".join(values)}
            FROM {table} FINAL
            WHERE event_id IN {{ids:Array(UUID)}}
            """,
            {"ids": [case.event_id for case in accepted]},
        )
        for row in rows:
            found[row["id"]] = {name: bytes.fromhex(row[name]).decode() for name in columns}
    assert len(found) == len(accepted)
    wrong = [
        (case.name, name, found[case.event_id][name][:100])
        for case in accepted
        for name, value in case.row.items()
        if found[case.event_id][name] != value
    ]
    assert wrong == []
    (row,) = await warehouse.query(
        "SELECT uniqExact(user_id) AS users FROM events FINAL WHERE event_type = 'user.registered' AND referral_code = ''"
    )
    assert row["users"] == good.count
    (row,) = await warehouse.query(
        "SELECT (SELECT count() FROM events FINAL) + (SELECT count() FROM driver_locations FINAL) AS events"
    )
    assert row["events"] == good.count + len(accepted)


def as_sql(column: str) -> str:
    return f"toUnixTimestamp64Milli({column})" if column in TIME_COLUMNS else column


async def check_letters(warehouse: ServerWarehouse, runs: dict[str, list[Case]]) -> None:
    sent = {"kafka": runs["kafka"], "http": [*runs["http"], *runs["array"]]}
    for source, cases in sent.items():
        letters = await warehouse.query(
            """
            SELECT hex(record) AS record, reason, field, detail
            FROM dead_letters FINAL
            WHERE source = {source:String}
            """,
            {"source": source},
        )
        kept = [(bytes.fromhex(each["record"]), each["reason"], each["field"]) for each in letters]
        expected = [(case.kept, case.reason, case.field) for case in cases if case.reason]
        if source == "http":
            # Without a place of their own, equal records are one letter; a line's carriage return is its end.
            kept = list(set(kept))
            expected = list({(record.rstrip(b"\r"), reason, field) for record, reason, field in expected})
        assert sorted(kept) == sorted(expected)
        assert all(each["detail"] for each in letters)


async def check_privacy(warehouse: ServerWarehouse) -> None:
    """No secret anywhere in the store."""
    for table in ("events", "driver_locations", "dead_letters"):
        (row,) = await warehouse.query(
            f"""
            SELECT countIf(multiSearchAny(formatRow('JSONEachRow', *), {{secrets:Array(String)}})) AS rows
            FROM {table}
            """,
            {"secrets": list(SECRETS)},
        )
        assert row["rows"] == 0, table
