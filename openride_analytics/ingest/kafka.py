"""Events from Kafka, at least once: an offset is committed only after its event is stored.

aiokafka may drop good records and still move its position when a fetch fails, so its position is never committed, only
offsets of records that are stored; partitions are fetched one by one, so that one that cannot be read takes nothing
from the others; and after any error of the whole the consumer is replaced by a new one, which begins at the committed
offsets. So is one that makes no progress. While the store is behind, what is fetched is left where it is.
"""

import asyncio
import contextlib
import random
import re
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic, time, time_ns
from typing import Any, Final

import structlog
from aiokafka import (
    AIOKafkaConsumer,
    ConsumerRebalanceListener,
    TopicPartition,
)
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from openride_analytics.config import Config
from openride_analytics.dialects import Dialects
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.pipeline import Failure, Origin, Pipeline, Traced
from openride_analytics.ingest.progress import InFlight, PartitionState, Progress
from openride_analytics.ingest.records import Turns, acceptance_now, decode_records
from openride_analytics.ingest.topics import connection
from openride_analytics.ingest.unpacking import in_lists
from openride_analytics.ops.metrics import Metrics
from openride_analytics.ops.tracing import OFF, Tracing

log = structlog.get_logger(__name__)

# While nothing has come: so short a pause at first, as more is on its way where there was something just now.
_FIRST_IDLE_SECONDS: Final = 0.005
_IDLE_SECONDS: Final = 0.05
_COMMIT_EVERY_SECONDS: Final = 0.1
_WATCH_EVERY_SECONDS: Final = 5.0
# A consumer that is not polled leaves its group after five minutes and never comes back: one that waits for the store, or has
# no partition yet. To poll one that nobody has throws nothing away; a paused one would lose what is fetched of it, megabytes.
_UNPOLLED_SECONDS: Final = 30.0
_NOBODYS: Final = TopicPartition("", 0)
_CALL_TIMEOUT_SECONDS: Final = 10.0
_START_TIMEOUT_SECONDS: Final = 30.0
# Shorter than the group waits for a member in a rebalance: what is not stored by then is left to the new owner.
_SETTLE_SECONDS: Final = 8.0
_REBALANCE_SECONDS: Final = 30.0
# So long a new topic, or a new partition of one, may go unnoticed.
_METADATA_SECONDS: Final = 5.0
_STUCK_AFTER_SECONDS: Final = 60.0
_HELD_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 5.0
_LOSSES_REMEMBERED: Final = 100


# What is wrong with one partition's records, or our right to them; other errors of Kafka's are the whole consumer's.
_OF_A_PARTITION: Final = (
    CorruptRecordException,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)


class _Stuck(Exception):
    """There are records to read, and none come."""


@dataclass(frozen=True)
class Loss:
    """Records that were gone before they were read: retention, or somebody, removed them."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    noticed_at: float


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Reads the event topics into the pipeline. Call `run` in a task of its own and `stop` to end it."""

    def __init__(
        self,
        config: Config,
        dialects: Dialects,
        pipeline: Pipeline,
        metrics: Metrics,
        tracing: Tracing = OFF,
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._dialects = dialects
        self._pipeline = pipeline
        self._metrics = metrics
        self._consumer: Any = None
        self._assigned: dict[TopicPartition, Progress] = {}
        self._others: list[PartitionState] = []
        self._progressed = 0.0
        self._stopping = asyncio.Event()
        self._committing = asyncio.Lock()
        self.connected = False
        self.losses: deque[Loss] = deque(maxlen=_LOSSES_REMEMBERED)
        self.last_failure: Failure | None = None
        self.lag_unknown_since: float | None = time()
        """Since when (Unix seconds) the lag of some partition is not known: Kafka does not say. None: all are known."""

    @property
    def state(self) -> str:
        """`ok`, `held` (some partition cannot be read) or `away`."""
        if not self.connected:
            return "away"
        return "held" if any(progress.error for progress in self._assigned.values()) else "ok"

    def partitions(self) -> list[PartitionState]:
        """The partitions of all topics, as of the last few seconds; none while Kafka is away."""
        now = time()
        ours = [PartitionState.of(partition, progress, now) for partition, progress in self._assigned.items()]
        assigned = {(state.topic, state.partition) for state in ours}
        others = [state for state in self._others if (state.topic, state.partition) not in assigned]
        return sorted([*ours, *others], key=lambda state: (state.topic, state.partition))

    async def run(self) -> None:
        """Consumes until `stop`, over as many consumers as it takes."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = monotonic()
            try:
                await self._consume()
            except Exception as error:  # a broker that answers garbage raises anything
                expected = isinstance(error, KafkaError | _Stuck | OSError | TimeoutError)
                if monotonic() - began > _STUCK_AFTER_SECONDS:
                    pause = _FIRST_PAUSE_SECONDS
                self.last_failure = Failure.of(error)
                log.warning(
                    "kafka_away",
                    error=f"{type(error).__name__}: {error}"[:300],
                    retry_seconds=pause,
                    exc_info=None if expected else error,
                )
                with contextlib.suppress(TimeoutError):
                    jitter = random.uniform(0.5, 1.5)  # noqa: S311  # not a secret
                    await asyncio.wait_for(self._stopping.wait(), pause * jitter)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Ends `run` soon: what is in flight is stored and committed first, if that does not take too long."""
        self._stopping.set()

    async def _consume(self) -> None:
        """One consumer's life."""
        settings = self._config.kafka
        consumer = self._consumer = AIOKafkaConsumer(
            **connection(settings),
            group_id=settings.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            value_deserializer=in_lists,
            metadata_max_age_ms=int(_METADATA_SECONDS * 1000),
            rebalance_timeout_ms=int(_REBALANCE_SECONDS * 1000),
            # aiokafka takes an answer apart in one turn of the loop: more than 1 ms a megabyte.
            max_partition_fetch_bytes=4 * 1_048_576,
            fetch_max_bytes=4 * 1_048_576,
            # A fetch waits for a good load, but not long: hundreds of small ones a second cost more than the events. And it
            # is the only one at its broker: a partition with much to read waits for the one that waits for the others.
            fetch_min_bytes=262_144,
            fetch_max_wait_ms=50,
        )
        self._assigned = {}
        # By a pattern: with a list aiokafka reads nothing at all while one of the topics is not there.
        consumer.subscribe(pattern=_any_of(self._dialects.topics), listener=self)
        try:
            await asyncio.wait_for(consumer.start(), _START_TIMEOUT_SECONDS)
            self.connected = True
            self._progressed = monotonic()
            log.info("kafka_connected", group_id=settings.group_id, topics=list(self._dialects.topics))
            await _until_one_ends(
                self._poll(consumer), self._commit_now_and_then(consumer), self._watch(consumer)
            )
            await self._settle(consumer)
        finally:
            self.connected = False
            self._assigned = {}
            self._others = []
            self._forget_lag()
            await _ended(consumer)

    async def _poll(self, consumer: Any) -> None:
        """Takes records in until `stop`."""
        pause = _FIRST_IDLE_SECONDS
        stays_until = monotonic() + _UNPOLLED_SECONDS
        while not self._stopping.is_set():
            # During a rebalance aiokafka's getmany waits for its end, however long that takes.
            async with asyncio.timeout(_STUCK_AFTER_SECONDS):
                taken = False
                for partition, progress in list(self._assigned.items()):
                    taken |= await self._poll_partition(consumer, partition, progress)
                if monotonic() > stays_until:
                    stays_until = monotonic() + _UNPOLLED_SECONDS
                    await consumer.getmany(_NOBODYS, timeout_ms=0)
            if taken:
                self._progressed = monotonic()
                pause = _FIRST_IDLE_SECONDS
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _IDLE_SECONDS)

    async def _poll_partition(self, consumer: Any, partition: TopicPartition, progress: Progress) -> bool:
        """Takes in what has been fetched of one partition; says whether there was anything."""
        if self._assigned.get(partition) is not progress:
            return False  # revoked meanwhile
        if not self._pipeline.has_room:
            self._progressed = monotonic()
            return False
        if progress.held_until > monotonic():
            return False
        try:
            fetched = await consumer.getmany(partition, timeout_ms=0, max_records=1)  # a list of them
        except Exception as error:  # a broken batch makes the unpacking raise anything
            if isinstance(error, KafkaError | ConsumerStoppedError) and not isinstance(
                error, _OF_A_PARTITION
            ):
                raise
            self._hold(partition, progress, error)
            return False
        for records in fetched.get(partition, ()):
            progress.taking_in = True
            try:
                await self._take_in(consumer, partition, progress, records)
            finally:
                progress.taking_in = False
        return partition in fetched

    def _hold(self, partition: TopicPartition, progress: Progress, error: Exception) -> None:
        """A partition that cannot be read on: it is fetched again at once, and then now and then. Nothing is skipped: that is
        for an operator to decide.
        """
        progress.failures += 1
        if progress.failures > 1:
            progress.held_until = monotonic() + _HELD_SECONDS
            progress.error = type(error).__name__
            self.last_failure = Failure.of(error)
            log.error(
                "partition_unreadable",
                topic=partition.topic,
                partition=partition.partition,
                offset=progress.expected,
                error=f"{type(error).__name__}: {error}"[:300],
                retry_seconds=_HELD_SECONDS,
            )

    async def _take_in(
        self, consumer: Any, partition: TopicPartition, progress: Progress, records: Sequence[Any]
    ) -> None:
        await self._check_continuity(consumer, partition, progress, records[0].offset)
        values = [record.value or b"" for record in records]
        decode = self._dialects.decoder(partition.topic)
        began_ns = time_ns()
        events, refused = await decode_records(
            values, acceptance_now(self._config), decode, took=self._metrics.decode_seconds.observe
        )
        traced = Traced(began_ns, time_ns()) if self._tracing.on else None
        now_ms = int(time() * 1000)
        # Of many records the first and the last say it well enough. A producer's clock may be anything, or there may be none;
        # nothing arrives after now.
        times_ms = [
            at_ms
            for record in (records[0], records[-1])
            if (at_ms := record.timestamp) is not None and at_ms > 0
        ] or [now_ms]
        letters, turns = [], Turns()
        for index, error in refused:
            letters.append(
                DeadLetter.of(
                    values[index],
                    error,
                    rejected_ms=now_ms,
                    topic=partition.topic,
                    partition=partition.partition,
                    offset=records[index].offset,
                    key=records[index].key or b"",
                    event_type=self._dialects.event_type(partition.topic, values[index]),
                )
            )
            await turns.after(values[index])
        bad = {index for index, _ in refused}
        first, last = records[0].offset, records[-1].offset
        offsets: Sequence[int] = range(first, last + 1)
        if bad or len(offsets) != len(records):  # transactions and compaction leave gaps
            offsets = [record.offset for index, record in enumerate(records) if index not in bad]
        stored = await self._pipeline.put_at_once(
            events,
            letters,
            min(now_ms, *times_ms),
            Origin(partition.topic, partition.partition, offsets),
            traced,
        )
        newest_ms = min(now_ms, times_ms[-1])
        progress.expected = last + 1
        progress.in_flight.append(InFlight(progress.expected, newest_ms, stored, traced))
        progress.error = ""
        progress.failures = 0

    async def _check_continuity(
        self, consumer: Any, partition: TopicPartition, progress: Progress, offset: int
    ) -> None:
        """Before the record at `offset` is taken in: are there records missing before it?"""
        if progress.expected == offset:
            return
        async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
            if progress.expected is None:
                progress.begins_at(await consumer.committed(partition))
            if progress.expected is None or progress.expected == offset:
                return
            if offset < progress.expected:
                log.warning(
                    "partition_began_anew",
                    topic=partition.topic,
                    partition=partition.partition,
                    expected_offset=progress.expected,
                    offset=offset,
                )
                progress.begins_anew()
                return
            # Transactions and compaction leave gaps too: only what lies before the log's start is lost.
            beginning = (await consumer.beginning_offsets([partition]))[partition]
            self._report_loss(partition, progress, progress.expected, min(beginning, offset))

    def _report_loss(
        self, partition: TopicPartition, progress: Progress, from_offset: int, to_offset: int
    ) -> None:
        from_offset = max(from_offset, progress.lost_before)
        if to_offset <= from_offset:
            return
        progress.lost_before = to_offset
        self.losses.append(Loss(partition.topic, partition.partition, from_offset, to_offset, time()))
        self._metrics.records_lost.labels(partition.topic).inc(to_offset - from_offset)
        log.error(
            "records_lost",
            topic=partition.topic,
            partition=partition.partition,
            from_offset=from_offset,
            to_offset=to_offset,
            records=to_offset - from_offset,
        )

    async def _commit_now_and_then(self, consumer: Any) -> None:
        while True:
            await asyncio.sleep(_COMMIT_EVERY_SECONDS)
            await self._commit_stored(consumer)

    async def _commit_stored(self, consumer: Any) -> None:
        """Commits, for each partition, up to the first record that is not stored yet."""
        async with self._committing:
            for progress in self._assigned.values():
                progress.collect_stored()
            offsets = {
                partition: (progress, progress.uncommitted)
                for partition, progress in self._assigned.items()
                if progress.uncommitted is not None
            }
            if not offsets:
                return
            began_ns = time_ns()
            try:
                async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
                    await consumer.commit({partition: at for partition, (_, at) in offsets.items()})
            except (CommitFailedError, IllegalStateError) as error:
                # No longer ours: the new owner reads these again, which changes nothing.
                log.info("commit_dropped", error=str(error)[:200])
                for progress, _ in offsets.values():
                    progress.uncommitted = None
                return
            except (KafkaError, TimeoutError) as error:
                self.last_failure = Failure.of(error)
                log.warning("commit_failed", error=f"{type(error).__name__}: {error}"[:200])
                return
            self._trace_commit([progress for progress, _ in offsets.values()], began_ns)
            for progress, at in offsets.values():
                progress.committed = at
                if progress.uncommitted == at:
                    progress.uncommitted = None

    def _trace_commit(self, committed: Sequence[Progress], began_ns: int) -> None:
        """The commit as a part of each batch whose offsets it holds."""
        ended_ns = time_ns()
        batches = {id(batch): batch for progress in committed for batch in progress.batches}
        for batch in batches.values():
            self._tracing.past("ingest.commit", batch, began_ns, ended_ns, {})
        for progress in committed:
            progress.batches.clear()

    async def _settle(self, consumer: Any) -> None:
        """Waits for what is in flight, so far as that goes, and commits it."""
        waiting = [item.stored for progress in self._assigned.values() for item in progress.in_flight]
        if waiting:
            await asyncio.wait(waiting, timeout=_SETTLE_SECONDS)
        await self._commit_stored(consumer)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Before a rebalance: finishes and commits what is in flight; what takes too long is left to the new owner."""
        if revoked:
            await self._settle(self._consumer)
        self._assigned = {}

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """After a rebalance: all partitions that are ours now."""
        self._assigned = {partition: Progress() for partition in assigned}
        self._progressed = monotonic()
        self._forget_lag()
        log.info("partitions_assigned", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))

    def _forget_lag(self) -> None:
        """Until it is measured again."""
        self._metrics.consumer_lag.clear()
        self._metrics.consumer_lag_seconds.clear()
        self._lag_is_known(yes=False)

    def _lag_is_known(self, *, yes: bool) -> None:
        if yes:
            self.lag_unknown_since = None
        elif self.lag_unknown_since is None:
            self.lag_unknown_since = time()

    async def _watch(self, consumer: Any) -> None:
        """Measures how far behind each partition is, and whether there is any progress."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_SECONDS)
            by_topic: dict[str, list[TopicPartition]] = {}
            for topic in sorted(consumer.subscription()):
                for number in consumer.partitions_for_topic(topic) or ():
                    by_topic.setdefault(topic, []).append(TopicPartition(topic, number))
            # Topic by topic: one that is gone must not hide the others.
            measured = await asyncio.gather(*(self._measure(consumer, tps) for tps in by_topic.values()))
            self._others = [state for states in measured for state in states or ()]
            behind = sum(progress.lag or 0 for progress in self._assigned.values() if not progress.error)
            unknown = any(progress.lag is None for progress in self._assigned.values())
            self._lag_is_known(yes=not unknown and None not in measured)
            if not behind and not unknown:
                self._progressed = monotonic()
            elif monotonic() - self._progressed > _STUCK_AFTER_SECONDS:
                raise _Stuck(f"{behind} records behind, none read for {_STUCK_AFTER_SECONDS:g} s")

    async def _measure(
        self, consumer: Any, partitions: Sequence[TopicPartition]
    ) -> list[PartitionState] | None:
        """Measures the partitions of one topic; returns the state of those that others read. None: Kafka does not say."""
        others = []
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_SECONDS):
                ends = await consumer.end_offsets(partitions)
                beginnings = await consumer.beginning_offsets(partitions)
                for partition in partitions:
                    progress = self._assigned.get(partition)
                    if progress is None:
                        self._metrics.lag_unknown(partition.topic, partition.partition)
                        committed = await consumer.committed(partition)
                        others.append(PartitionState.of_other(partition, committed, ends[partition]))
                        continue
                    began_at = time()
                    position = await consumer.position(partition)
                    if progress.expected is None:
                        progress.begins_at(await consumer.committed(partition))
                    if progress.expected is not None:
                        self._report_loss(partition, progress, progress.expected, beginnings[partition])
                    progress.end = ends[partition]
                    if progress.in_flight or progress.taking_in:
                        done = beginnings[partition] if progress.stored is None else progress.stored
                    else:  # past what is no record, too: the marks of transactions at the log's end
                        done = position
                    progress.lag = max(0, progress.end - done)
                    if not progress.lag:
                        progress.stored_through = began_at
                    self._metrics.lag(
                        partition.topic, partition.partition, progress.lag, progress.lag_seconds(time())
                    )
        except (KafkaError, TimeoutError, KeyError) as error:
            for partition in partitions:
                self._metrics.lag_unknown(partition.topic, partition.partition)
                if progress := self._assigned.get(partition):
                    progress.lag = progress.end = None  # not known to be caught up
            log.info("lag_not_measured", topic=partitions[0].topic, error=type(error).__name__)
            return None
        return others


def _any_of(topics: Iterable[str]) -> str:
    return f"^(?:{'|'.join(map(re.escape, topics))})$"


async def _ended(consumer: AIOKafkaConsumer) -> None:
    """Stops a consumer, in a task of its own: with a fetch under way aiokafka cancels that, and lets the cancellation out."""
    ending = asyncio.create_task(consumer.stop())
    await asyncio.wait([ending], timeout=_CALL_TIMEOUT_SECONDS)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    with contextlib.suppress(KafkaError, TimeoutError, OSError):
        # Which it then has not come to.
        await asyncio.wait_for(consumer._client.close(), _CALL_TIMEOUT_SECONDS)  # noqa: SLF001  # there is no other way


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Runs all until the first ends, cancels the others, and raises what it raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
