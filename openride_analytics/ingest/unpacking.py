"""How aiokafka takes fetches apart: for a consumer that asks for it in lists of records, as fast as they can be read.

Its own way makes an object for each record twice and hands them on one by one, which costs as much as their parsing.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher

# So many at least are unpacked without a pause where there are as many (less than twice as many at most, as batches of
# producers stay whole), in a quarter of a millisecond. Of more the first are cold when they are parsed.
MANY_RECORDS: Final = 500


class _Some(list[Any]):
    """Records of one batch, which go through aiokafka as if they were one: one by one they take twice as long."""

    @property
    def offset(self) -> int:
        """Of the last one."""
        return int(self[-1].offset)


class _Batch:
    """A batch as aiokafka has read it that hands out its records in lists."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[_Some]:
        records = chain(self._batch)  # which may be begun once only
        while True:
            some = _Some()
            try:
                some.extend(islice(records, MANY_RECORDS))
            except Exception:
                if some:
                    yield some
                raise
            if not some:
                return
            yield some


class _Batches:
    """The batches of a fetch, each as a `_Batch`."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def next_batch(self) -> _Batch:
        return _Batch(self._batches.next_batch())


class _Records(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """A fetch that is handed out in lists of many records, as they were read: they have all that is asked of a
    `ConsumerRecord`, which costs as much again as the reading. Those before a bad place come before its error.
    """

    def __init__(self, tp: TopicPartition, records: Any, *others: Any) -> None:
        super().__init__(tp, _Batches(records), *others)
        self._lists = self._gathered()

    def __iter__(self) -> Iterator[list[Any]]:
        return self._lists

    def _gathered(self) -> Iterator[list[Any]]:
        gathered: list[Any] = []
        try:
            for some in self._records_iterator:
                gathered += some
                if len(gathered) >= MANY_RECORDS:
                    yield gathered
                    gathered = []
        except Exception:
            if gathered:
                yield gathered
            raise
        if gathered:
            yield gathered

    def _consumer_record(self, _: TopicPartition, some: _Some) -> list[Any]:
        if some[0].offset >= self.next_fetch_offset:
            return some
        return [record for record in some if record.offset >= self.next_fetch_offset]


def in_lists(value: bytes) -> bytes:
    """As the `value_deserializer` of a consumer: it hands out lists of records, each of them for one of `max_records`."""
    return value


def _partition_records(tp: TopicPartition, records: Any, *others: Any) -> Any:
    return (_Records if in_lists in others else _AsEver)(tp, records, *others)


# There is no other way to tell aiokafka, which is held below 0.15 for it.
_AsEver: Final = fetcher.PartitionRecords
fetcher.PartitionRecords = _partition_records
