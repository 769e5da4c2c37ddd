"""Fetches in lists of records: the same records as aiokafka hands out one by one, and at the same places."""

from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from openride_analytics.ingest import unpacking
from openride_analytics.ingest.unpacking import in_lists

PARTITION = TopicPartition("a-topic", 0)
READ_COMMITTED = 1


@dataclass(frozen=True)
class Batch:
    """What a producer sent at once."""

    records: int
    magic: int
    codec: int
    producer: int  # of a transaction; -1: none

    def bytes_at(self, offset: int) -> bytes:
        """Its bytes in a log where it begins at an offset."""
        if self.magic == 2:
            builder: Any = DefaultRecordBatchBuilder(
                2, self.codec, int(self.producer >= 0), self.producer, 0, 0, 1 << 20
            )
            for index in range(self.records):
                builder.append(index, 1_000 + index, b"key", f"value {offset + index}".encode(), [])
            return offset.to_bytes(8, "big") + bytes(builder.build())[8:]
        codec = min(self.codec, 2 + self.magic)  # no LZ4 before format 1, no Zstandard before 2
        builder = LegacyRecordBatchBuilder(self.magic, codec, 1 << 20)
        begin = 0 if codec and self.magic == 1 else offset
        for index in range(self.records):
            builder.append(begin + index, 1_000 + index, b"key", f"value {offset + index}".encode())
        if not codec:
            return bytes(builder.build())
        # The broker gives the whole the offset of its last one.
        return (offset + self.records - 1).to_bytes(8, "big") + bytes(builder.build())[8:]


def batches(magic: int) -> st.SearchStrategy[list[Batch]]:
    batch = st.builds(
        Batch,
        records=st.integers(1, 30),
        magic=st.just(magic),
        codec=st.sampled_from((0, 1, 2, 3, 4)),
        producer=st.integers(-1, 2),
    )
    return st.lists(batch, min_size=1, max_size=6)


def log_of(sent: list[Batch]) -> tuple[bytes, list[int]]:
    """The bytes of batches one after the other, and where each begins."""
    begins, offset, log = [], 0, b""
    for batch in sent:
        begins.append(offset)
        log += batch.bytes_at(offset)
        offset += batch.records
    return log, [*begins, offset]


def unpacked(log: bytes, begin: int, aborted: list[tuple[int, int]], *, lists: bool) -> Any:
    return fetcher.PartitionRecords(
        PARTITION, MemoryRecords(log), aborted, begin, None, in_lists if lists else None, True, READ_COMMITTED
    )


def told(record: Any) -> tuple[int, int | None, bytes, bytes]:
    return record.offset, record.timestamp, record.key, record.value


def they_come_up_to(bad: int, log: bytes, many: int) -> None:
    """All before the offset come, and then an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacking, "MANY_RECORDS", many)
        together = unpacked(log, 0, [], lists=True)
        offsets: list[int] = []
        with pytest.raises(CorruptRecordException):
            offsets.extend(record.offset for some in together for record in some)
    assert offsets == list(range(bad))
    assert together.next_fetch_offset == bad


@given(sent=st.sampled_from((0, 1, 2)).flatmap(batches), many=st.integers(1, 40), data=st.data())
def test_they_have_the_records_that_come_one_by_one(
    sent: list[Batch], many: int, data: st.DataObject
) -> None:
    log, begins = log_of(sent)
    begin = data.draw(st.integers(0, begins[1] - 1), label="begin")
    aborted = data.draw(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(begins[:-1])), max_size=3, unique=True),
        label="aborted",
    )
    alone = unpacked(log, begin, aborted, lists=False)
    expected = [told(record) for record in alone]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacking, "MANY_RECORDS", many)
        together = unpacked(log, begin, aborted, lists=True)
        lists = []
        for some in together:
            lists.append([told(record) for record in some])
            # Else aiokafka would take the rest for records of another fetch.
            assert together.next_fetch_offset > some[-1].offset
    assert [record for some in lists for record in some] == expected
    assert all(lists)
    assert all(len(some) >= many for some in lists[:-1])
    assert all(len(some) < 2 * many for some in lists)
    assert together.next_fetch_offset == alone.next_fetch_offset


@given(sent=batches(2), many=st.integers(1, 40), data=st.data())
def test_those_before_a_bad_place_come_before_its_error(
    sent: list[Batch], many: int, data: st.DataObject
) -> None:
    log, begins = log_of(sent)
    bad = data.draw(st.integers(0, len(sent) - 1), label="bad")
    before, _ = log_of(sent[:bad])
    spoiled = bytearray(log)
    spoiled[len(before) + 60] ^= 1
    they_come_up_to(begins[bad], bytes(spoiled), many)


@given(records=st.integers(1, 30), many=st.integers(1, 40), data=st.data())
def test_those_before_it_in_its_batch_too(records: int, many: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, records - 1), label="bad")
    log = bytearray(Batch(records, magic=2, codec=0, producer=-1).bytes_at(0))
    lengths = b"key" + bytes([2 * len(f"value {bad}")])  # as Kafka writes small numbers
    at = log.index(lengths + f"value {bad}".encode()) + len(lengths) - 1
    log[at] = 2 * 60  # longer than its record
    log[17:21] = calc_crc32c(bytes(log[21:])).to_bytes(4, "big")
    they_come_up_to(bad, bytes(log), many)
