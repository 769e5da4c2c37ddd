"""What a real broker hands over, good or bad: everything is stored or accounted for, and nothing is skipped in silence."""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.errors import KafkaConnectionError
from cryptography.hazmat.primitives import serialization

from openride_analytics.config import Kafka
from openride_analytics.events import BadEvent
from openride_analytics.ingest import kafka as kafka_module
from openride_analytics.ingest import topics as topics_module
from openride_analytics.ingest import unpacking
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.topics import DeadLetterTopic
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse import WarehouseUnavailable
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.readings import Reading, Topic, reading, until
from tests.servers.kafka import KafkaServer, admin
from tests.servers.process import HOST, free_port, lent


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_module, "_WATCH_EVERY_SECONDS", 0.3)
    monkeypatch.setattr(kafka_module, "_HELD_SECONDS", 1.0)
    monkeypatch.setattr(kafka_module, "_METADATA_SECONDS", 1.0)


@pytest.fixture
def topic(kafka: KafkaServer) -> Topic:
    kafka.ensure_running()
    return Topic(kafka)


class TestWhatABrokerHandsOver:
    async def test_all_codecs_are_read(self, topic: Topic, embedded_warehouse: EmbeddedWarehouse) -> None:
        sent = set[str]()
        for codec in (None, "gzip", "snappy", "lz4", "zstd"):
            sent |= await topic.send(3, compression_type=codec)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(sent)
            assert await work.stored() == sent

    async def test_it_goes_on_in_the_middle_of_a_batch(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        sent = sorted(await topic.send(10))
        async with AIOKafkaConsumer(
            bootstrap_servers=topic.address, group_id=topic.settings.group_id, enable_auto_commit=False
        ) as former:
            former.assign([topic.partition()])
            await former.commit({topic.partition(): 4})
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_committed({0: 10})
            assert await work.stored() == set(sent[4:])

    async def test_records_without_a_time_came_just_now(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        sent = await topic.send(3, timestamp_ms=-1)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(sent)
            await work.until_committed({0: 3})
            assert work.count("openride_ingest_lag_seconds_count") > 0
            assert work.count("openride_ingest_lag_seconds_sum") < 3600

    async def test_records_without_value_or_key_are_dead_letters(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        await topic.send_raw(None, b"")
        sent = await topic.send(1)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(sent)
            await work.until_committed({0: 3})
            assert await work.letters() == [
                (topic.name, 0, 0, "invalid_json"),
                (topic.name, 0, 1, "invalid_json"),
            ]
            assert work.metrics.rejected_by_reason() == {"invalid_json": 2}

    async def test_what_is_read_is_counted_by_topic_and_what_is_not_stored_yet_is_the_lag(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        sent = await topic.send(5)
        await topic.send_raw(b"{")
        consumed, place = "openride_events_consumed_total", {"topic": topic.name, "partition": "0"}
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(sent)
            await work.until_committed({0: 6})
            assert work.count(consumed, topic=topic.name, event_type="booking.created") == 5
            assert work.count(consumed, topic=topic.name, event_type="unknown") == 1
            labels = {"topic": topic.name, "reason": "invalid_json", "event_type": "unknown"}
            assert work.count("openride_events_rejected_total", **labels) == 1
            assert 1 <= work.count("openride_decode_seconds_count") <= 6

            async def measured() -> bool:
                return work.metrics.registry.get_sample_value("openride_consumer_lag_events", place) == 0

            await until(measured, "measure its lag")
            assert work.metrics.registry.get_sample_value("openride_consumer_lag_seconds", place) == 0

    async def test_while_kafka_does_not_say_the_lag_is_not_known_and_no_old_one_is_told(
        self,
        kafka: KafkaServer,
        topic: Topic,
        embedded_warehouse: EmbeddedWarehouse,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        kafka.must_be_ours()
        monkeypatch.setattr(kafka_module, "_CALL_TIMEOUT_SECONDS", 3.0)
        monkeypatch.setattr(kafka_module, "_START_TIMEOUT_SECONDS", 5.0)
        sent = await topic.send(3)
        async with reading(topic.settings, embedded_warehouse) as work:

            def told() -> set[float | None]:
                names = ("openride_consumer_lag_events", "openride_consumer_lag_seconds")
                place = {"topic": topic.name, "partition": "0"}
                return {work.metrics.registry.get_sample_value(name, place) for name in names}

            async def known() -> bool:
                return told() == {0} and work.source.lag_unknown_since is None

            async def unknown() -> bool:
                return told() == {None} and work.source.lag_unknown_since is not None

            async def away() -> bool:
                return work.source.state == "away"

            assert await unknown(), "nobody has asked yet"
            await work.until_stored(sent)
            await until(known, "measure")
            kafka.pause()
            try:
                await until(unknown, "notice that nobody answers")
                since = work.source.lag_unknown_since
                (state,) = work.source.partitions()
                assert (state.lag_events, state.lag_seconds, state.end_offset) == (None, None, None)
                monkeypatch.setattr(kafka_module, "_STUCK_AFTER_SECONDS", 0.1)
                await until(away, "give the consumer up")
                assert await unknown()
                assert work.source.partitions() == []
                assert work.source.lag_unknown_since == since
            finally:
                monkeypatch.setattr(kafka_module, "_STUCK_AFTER_SECONDS", 60.0)
                kafka.resume()
            await until(known, "measure again")

    async def test_a_consumer_that_lets_a_cancellation_out_when_it_stops_is_replaced_all_the_same(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As aiokafka does when the broker went away during a fetch."""
        stopped = list[AIOKafkaConsumer]()
        stop, getmany = AIOKafkaConsumer.stop, AIOKafkaConsumer.getmany

        async def stop_and_cancel(consumer: AIOKafkaConsumer) -> None:
            await stop(consumer)
            stopped.append(consumer)
            raise asyncio.CancelledError

        async def fail(consumer: AIOKafkaConsumer, *_: Any, **__: Any) -> Any:
            raise KafkaConnectionError

        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(await topic.send(1))
            monkeypatch.setattr(AIOKafkaConsumer, "stop", stop_and_cancel)
            monkeypatch.setattr(AIOKafkaConsumer, "getmany", fail)

            async def given_up() -> bool:
                return bool(stopped)

            await until(given_up, "give the consumer up")
            monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
            await work.until_stored(await topic.send(1))

    async def test_only_committed_transactions_are_read_and_their_marks_are_no_lag_and_no_loss(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        await topic.create()
        kept, aborted = set[str](), set[str]()
        async with AIOKafkaProducer(
            bootstrap_servers=topic.address, transactional_id=f"{topic.name}-writer"
        ) as producer:
            for number in range(6):
                async with contextlib.AsyncExitStack() as undone:
                    await producer.begin_transaction()
                    undone.push_async_callback(
                        producer.abort_transaction if number % 2 else producer.commit_transaction
                    )
                    for _ in range(2):
                        event_id, value = topic.record()
                        (aborted if number % 2 else kept).add(event_id)
                        await producer.send_and_wait(topic.name, value, partition=0)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(kept)
            await work.until_caught_up()
            assert await work.stored() == kept
            kept |= await topic.send(2)
            await work.until_stored(kept)
            assert not work.source.losses

    async def test_an_open_transaction_holds_back_what_follows_and_nothing_else(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        before = await topic.send(2)
        async with AIOKafkaProducer(
            bootstrap_servers=topic.address, transactional_id=f"{topic.name}-writer"
        ) as producer:
            await producer.begin_transaction()
            event_id, value = topic.record()
            await producer.send_and_wait(topic.name, value, partition=0)
            after = await topic.send(2)
            async with reading(topic.settings, embedded_warehouse) as work:
                await work.until_stored(before)
                await work.until_caught_up()
                assert await work.stored() == before
                await producer.commit_transaction()
                await work.until_stored({event_id, *before, *after})


class TestWhatIsMissing:
    async def test_records_that_retention_removed_unread_are_counted_and_the_rest_is_stored(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        first = await topic.send(5)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(first)
            await work.until_committed({0: 5})
        await topic.send(7)
        async with admin(topic.address) as client:
            await client.delete_records({topic.partition(): RecordsToDelete(before_offset=12)})
        last = await topic.send(3)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(last)
            await work.until_committed({0: 15})
            (loss,) = work.source.losses
            assert (loss.topic, loss.partition, loss.from_offset, loss.to_offset) == (topic.name, 0, 5, 12)
            assert work.count("openride_records_lost_total", topic=topic.name) == 7
            assert await work.stored() == first | last

    async def test_a_gap_is_noticed_also_where_nothing_comes_after_it(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        first = await topic.send(2)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(first)
            await work.until_committed({0: 2})
        await topic.send(4)
        async with admin(topic.address) as client:
            await client.delete_records({topic.partition(): RecordsToDelete(before_offset=6)})
        async with reading(topic.settings, embedded_warehouse) as work:

            async def noticed() -> bool:
                return bool(work.source.losses)

            await until(noticed, "notice the gap")
            assert work.count("openride_records_lost_total", topic=topic.name) == 4
            await work.until_caught_up()
            assert len(work.source.losses) == 1

    async def test_a_topic_that_is_deleted_and_made_again_is_read_from_its_beginning(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        sent = await topic.send(50)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(sent)
            await work.until_committed({0: 50})
            async with admin(topic.address) as client:
                await client.delete_topics([topic.name])
            # the reader's own requests make it again
            sent |= await topic.send(5)
            await work.until_stored(sent)
            await work.until_committed({0: 5})

    async def test_added_partitions_are_read(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = await topic.send(2)
        async with reading(topic.settings, embedded_warehouse) as work:
            await work.until_stored(sent)
            async with admin(topic.address) as client:
                await client.create_partitions({topic.name: NewPartitions(3)})
            sent |= await topic.send(2, partition=2)
            await work.until_stored(sent)
            await work.until_committed({0: 2, 1: None, 2: 2})  # type: ignore[dict-item]


class TestABrokenBatch:
    async def test_it_holds_its_partition_and_takes_nothing_from_another(
        self, embedded_warehouse: EmbeddedWarehouse, kafka: KafkaServer
    ) -> None:
        with lent(KafkaServer()) as broker:
            topic = Topic(broker)
            await topic.create(partitions=2)
            before = await topic.send(3)
            spoiled = await topic.send(1)
            await topic.send(2)
            beside = await topic.send(500, partition=1)
            await asyncio.to_thread(broker.stop)
            _spoil(broker.folder / "data" / f"{topic.name}-0", next(iter(spoiled)))
            await asyncio.to_thread(broker.start)
            async with reading(topic.settings, embedded_warehouse) as work:
                await work.until_stored(before | beside)

                async def held() -> bool:
                    return work.source.state == "held"

                await until(held, "say that a partition cannot be read")
                later = await topic.send(500, partition=1)
                await work.until_stored(before | beside | later)
                await work.until_committed({0: 3, 1: 1000})
                assert await work.stored() == before | beside | later
                (error,) = {state.error for state in work.source.partitions()} - {""}
                assert error == "CorruptRecordException"


def _spoil(log_folder: Path, event_id: str) -> None:
    """Changes a letter of an event on the broker's disk, so that its batch's checksum does not fit any more."""
    for segment in log_folder.glob("*.log"):
        data = segment.read_bytes()
        at = data.find(event_id.encode())
        if at >= 0:
            with segment.open("r+b") as file:
                file.seek(at)
                file.write(b"f")
                os.fsync(file.fileno())
            return
    raise AssertionError("the event is not in the log")


class TestSeveralInstances:
    async def test_they_join_and_leave_and_all_is_stored_and_committed(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        await topic.create(partitions=4)
        sent = set[str]()
        async with reading(topic.settings, embedded_warehouse) as first:
            for _ in range(3):
                async with reading(topic.settings, embedded_warehouse) as other:
                    for partition in range(4):
                        sent |= await topic.send(25, partition=partition)

                    async def shared(other: Reading = other) -> bool:
                        ours = sum(state.assigned for state in other.source.partitions())
                        return ours == 2 and sum(s.assigned for s in first.source.partitions()) == 2

                    await until(shared, "share the partitions")
            await first.until_stored(sent)
            await first.until_committed(dict.fromkeys(range(4), 75))
        assert await first.stored() == sent

    async def test_what_was_in_flight_when_a_partition_was_revoked_is_not_committed_by_its_former_owner(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_module, "_SETTLE_SECONDS", 0.1)
        await topic.create(partitions=1)
        go = asyncio.Event()
        insert = embedded_warehouse.insert

        async def held_back(table: str, columns: Sequence[str], rows: Any) -> None:
            await go.wait()
            await insert(table, columns, rows)

        async with reading(topic.settings, embedded_warehouse) as first:
            await first.until_caught_up()
            monkeypatch.setattr(embedded_warehouse, "insert", held_back)
            sent = await topic.send(10)

            async def in_flight() -> bool:
                return any(progress.in_flight for progress in first.source._assigned.values())

            await until(in_flight, "take the records in")
            former = next(iter(first.source._assigned.values()))
            first.source._assigned = {}  # as a revocation that did not wait
            go.set()
            await first.until_stored(sent)
            await asyncio.sleep(0.5)  # several times the interval of commits
            assert former.committed is None
            async with AIOKafkaConsumer(
                bootstrap_servers=topic.address, group_id=topic.settings.group_id, enable_auto_commit=False
            ) as consumer:
                assert await consumer.committed(topic.partition()) is None


class TestTwoBatchesAtOnce:
    async def test_what_a_younger_one_has_stored_is_not_committed_before_an_older_one_is(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unpacking, "MANY_RECORDS", 1)
        first = await topic.send(1)
        later = await topic.send(4)
        away = True
        insert = embedded_warehouse.insert

        async def away_for_the_first(table: str, columns: Sequence[str], rows: Any) -> None:
            if away and any(next(iter(first)).encode() in row[-1] for row in rows):
                raise WarehouseUnavailable("away for this one")
            await insert(table, columns, rows)

        monkeypatch.setattr(embedded_warehouse, "insert", away_for_the_first)
        async with reading(topic.settings, embedded_warehouse, max_batch_events=1) as work:
            await work.until_stored(later)
            await asyncio.sleep(0.5)  # several times the interval of commits
            (progress,) = work.source._assigned.values()
            assert (progress.stored, progress.committed) == (None, None)
            assert work.pipeline.retrying
            away = False
            await work.until_committed({0: 5})
            assert await work.stored() == first | later


class TestStayingInTheGroup:
    """Who is not polled leaves it, here after two seconds, and then reads nothing more."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kafka_module, "_UNPOLLED_SECONDS", 0.2)
        impatient = partial(
            AIOKafkaConsumer, max_poll_interval_ms=2_000, session_timeout_ms=6_000, heartbeat_interval_ms=100
        )
        monkeypatch.setattr(kafka_module, "AIOKafkaConsumer", impatient)

    async def test_while_the_store_is_behind_and_nothing_is_lost(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unpacking, "MANY_RECORDS", 10)
        sent = await topic.send(300)
        held = asyncio.Event()
        insert = embedded_warehouse.insert

        async def hold(table: str, columns: Sequence[str], rows: Any) -> None:
            await held.wait()
            await insert(table, columns, rows)

        monkeypatch.setattr(embedded_warehouse, "insert", hold)
        async with reading(topic.settings, embedded_warehouse, max_batch_events=20) as work:

            async def is_full() -> bool:
                return not work.pipeline.has_room

            await until(is_full, "fill up")
            before = dict(work.source._assigned)
            await asyncio.sleep(5)
            assert work.source._assigned == before
            assert await _members(topic) == 1
            held.set()
            await work.until_stored(sent)
            await work.until_committed({0: 300})
            assert await work.stored() == sent

    async def test_while_there_is_no_topic_yet(
        self, topic: Topic, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        async with reading(topic.settings, embedded_warehouse) as work:

            async def connected() -> bool:
                return work.source.connected

            await until(connected, "connect")
            await asyncio.sleep(5)
            sent = await topic.send(5)
            await work.until_stored(sent)
            await work.until_committed({0: 5})


async def _members(topic: Topic) -> int:
    async with admin(topic.address) as client:
        (answer,) = await client.describe_consumer_groups([topic.settings.group_id])
    (group,) = answer.groups
    return len(group[5])


class TestConnections:
    @pytest.fixture
    def guarded(self, kafka: KafkaServer, tmp_path: Path) -> Iterator[tuple[KafkaServer, dict[str, Kafka]]]:
        """A broker that asks for names and speaks TLS, and what a service has to know for each of its doors."""
        authority = trustme.CA()
        chain = tmp_path / "broker.pem"
        issued = authority.issue_cert(HOST)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        chain.write_bytes(
            key.private_bytes(  # Java reads no other form
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + b"".join(part.bytes() for part in issued.cert_chain_pems)
        )
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(ca)
        client = tmp_path / "client.pem"
        authority.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(client)
        plain, tls, sasl, both, controller = (free_port() for _ in range(5))
        doors = {"PLAINTEXT": plain, "SSL": tls, "SASL_PLAINTEXT": sasl, "SASL_SSL": both}
        listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in doors.items())
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        broker = KafkaServer(
            properties={
                "listeners": f"{listeners},CONTROLLER://{HOST}:{controller}",
                "advertised.listeners": listeners,
                "controller.quorum.voters": f"1@{HOST}:{controller}",
                "listener.security.protocol.map": ",".join(
                    ["CONTROLLER:PLAINTEXT", *(f"{door}:{door}" for door in doors)]
                ),
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(chain),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(ca),
                "listener.name.ssl.ssl.client.auth": "required",
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                **{
                    f"listener.name.{door}.plain.sasl.jaas.config": f'{login} user_analytics="pl,a=in";'
                    for door in ("sasl_plaintext", "sasl_ssl")
                },
                **{
                    f"listener.name.{door}.scram-sha-512.sasl.jaas.config": scram
                    for door in ("sasl_plaintext", "sasl_ssl")
                },
            },
            users={"reporter": "scram!"},
        )
        named = {"sasl_username": "analytics", "sasl_password": "pl,a=in"}
        ways = {
            "SSL": {"ssl_ca_file": str(ca), "ssl_cert_file": str(client)},
            "SASL_PLAINTEXT": named,
            "SASL_SSL": {
                "ssl_ca_file": str(ca),
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_username": "reporter",
                "sasl_password": "scram!",
            },
        }
        broker.address = f"{HOST}:{plain}"
        with lent(broker):
            yield (
                broker,
                {
                    door: msgspec.convert(
                        {"bootstrap_servers": f"{HOST}:{doors[door]}", "security_protocol": door, **way},
                        Kafka,
                    )
                    for door, way in ways.items()
                },
            )

    async def test_names_passwords_and_certificates_open_the_doors_they_are_for(
        self, guarded: tuple[KafkaServer, dict[str, Kafka]], embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        broker, ways = guarded
        topic = Topic(broker)
        sent = await topic.send(3)
        for door, way in ways.items():
            settings = msgspec.structs.replace(way, topics=(topic.name,), group_id=f"group-{door}")
            async with reading(settings, embedded_warehouse) as work:
                await work.until_caught_up()
                assert await work.stored() == sent
        wrong = msgspec.structs.replace(
            ways["SASL_PLAINTEXT"], topics=(topic.name,), group_id="group-wrong", sasl_password="guessed"
        )
        async with reading(wrong, embedded_warehouse) as work:

            async def refused() -> bool:
                return work.source.last_failure is not None

            await until(refused, "be refused")
            assert work.source.state == "away"

    async def test_a_stranger_at_the_brokers_address_is_away_not_a_crash(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"\x00\x00\x00\x20" + os.urandom(32) + b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(babble, HOST, 0) as stranger:
            port = stranger.sockets[0].getsockname()[1]
            settings = Kafka(bootstrap_servers=f"{HOST}:{port}", group_id="group", dialects={})
            async with reading(settings, embedded_warehouse) as work:

                async def failed() -> bool:
                    return work.source.last_failure is not None

                await until(failed, "notice")
                assert work.source.state == "away"


async def test_a_dead_letter_topic_that_is_away_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topics_module, "_PUBLISH_SECONDS", 0.5)
    metrics = Metrics()
    topic = DeadLetterTopic(Kafka(bootstrap_servers=f"{HOST}:{free_port()}"), metrics)
    letter = DeadLetter.of(b"{", BadEvent("invalid_json", "It breaks off."), rejected_ms=0)
    loop = asyncio.get_running_loop()
    await topic.publish([letter])
    began = loop.time()
    for _ in range(100):
        await topic.publish([letter, letter])
    assert loop.time() - began < 0.5
    assert metrics.registry.get_sample_value("openride_dead_letters_not_published_total") == 201
    await topic.close()
