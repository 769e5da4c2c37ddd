"""How far an instance has got with each partition: what is taken in, stored and committed, and how much lies before it.

`kafka.py` moves it on; operators see it as the state of each partition.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from aiokafka import TopicPartition

from openride_analytics.ingest.pipeline import Stored, Traced
from openride_analytics.ops.tracing import Span

_BATCHES_TRACED: Final = 16


@dataclass
class InFlight:
    """Records of one partition on their way into the store."""

    next_offset: int
    newest_ms: int
    stored: Stored
    traced: Traced | None


@dataclass
class Progress:
    """How far this instance has got with one partition, from its assignment to its revocation.

    Offsets are those of the next record: to be taken in, to be stored, to be committed, and as committed. None: not
    known yet, or nothing was ever committed.
    """

    expected: int | None = None
    taking_in: bool = False  # some that are fetched and not in flight yet
    in_flight: "deque[InFlight]" = field(default_factory=deque)
    stored: int | None = None
    uncommitted: int | None = None
    # The last batches whose offsets are not committed, where they are traced.
    batches: "deque[Span]" = field(default_factory=lambda: deque(maxlen=_BATCHES_TRACED))
    committed: int | None = None
    lost_before: int = 0
    end: int | None = None
    lag: int | None = None
    # Nothing that came before this moment (Unix seconds) is still to be stored.
    stored_through: float | None = None
    # Failures since the last records, and before which moment of the monotonic clock it is not tried again.
    failures: int = 0
    held_until: float = 0.0
    error: str = ""

    def begins_at(self, committed: int | None) -> None:
        """The group's committed offset, once it is known."""
        if self.expected is None:
            self.expected = self.stored = self.committed = committed

    def begins_anew(self) -> None:
        """The log was cut, or the topic was deleted and made again: what its former life's offsets said counts no more."""
        self.in_flight.clear()
        self.stored = self.uncommitted = None
        self.lost_before = 0

    def collect_stored(self) -> None:
        """Moves what is stored out of `in_flight`, in order."""
        while self.in_flight and self.in_flight[0].stored.done():
            item = self.in_flight.popleft()
            self.stored = self.uncommitted = item.next_offset
            if item.traced is not None and item.traced.batch is not None:
                self.batches.append(item.traced.batch)
            self.stored_through = max(self.stored_through or 0.0, item.newest_ms / 1000)

    def lag_seconds(self, now: float) -> float | None:
        """How long the oldest record that is not stored yet has waited, at most; None: not known."""
        if self.lag is None:
            return None
        if not self.lag:
            return 0.0
        return None if self.stored_through is None else max(0.0, now - self.stored_through)


@dataclass(frozen=True)
class PartitionState:
    """One partition as operators see it. `lag_events` are those not stored yet; None: not known."""

    topic: str
    partition: int
    assigned: bool
    committed_offset: int | None
    end_offset: int | None
    lag_events: int | None
    lag_seconds: float | None
    error: str

    @classmethod
    def of(cls, partition: TopicPartition, progress: Progress, now: float) -> "PartitionState":
        """One that this instance reads."""
        return cls(
            topic=partition.topic,
            partition=partition.partition,
            assigned=True,
            committed_offset=progress.committed,
            end_offset=progress.end,
            lag_events=progress.lag,
            lag_seconds=progress.lag_seconds(now),
            error=progress.error,
        )

    @classmethod
    def of_other(cls, partition: TopicPartition, committed: int | None, end: int) -> "PartitionState":
        """One that another instance reads."""
        return cls(
            topic=partition.topic,
            partition=partition.partition,
            assigned=False,
            committed_offset=committed,
            end_offset=end,
            lag_events=None if committed is None else max(0, end - committed),
            lag_seconds=None,
            error="",
        )
