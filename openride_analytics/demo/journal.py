"""What the made-up platform has written and not yet sent: events, each waiting for its time to arrive.

Also the one source of chance, so that a seed decides everything. `platform` owns the journal and hands
it to the parts that write.
"""

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter
from random import Random
from typing import Any, Final

from openride_analytics.demo.cast import DAY, MINUTE

_SHARE_LATE: Final = 0.008
_SHARE_TWICE: Final = 0.004

Event = dict[str, Any]


class Journal:
    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        # (when it arrives, running number, event); the number keeps the order of equal times.
        self._pending: list[tuple[int, int, Event]] = []
        self._written = 0

    def new_id(self) -> str:
        """A random UUID as text; a `uuid.UUID` would cost five times as much."""
        h = f"{self.rng.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    def write(self, event_type: str, at_ms: int, fields: Event) -> None:
        """Files one event under its arrival: nearly always at once, sometimes late, sometimes twice."""
        event = {"event_type": event_type, "event_id": self.new_id(), "event_timestamp": at_ms, **fields}
        arrival_ms = at_ms
        chance = self.rng.random()
        if chance < _SHARE_LATE:
            arrival_ms += min(DAY, int(self.rng.lognormvariate(3.0, 1.5) * MINUTE))
        elif chance > 1 - _SHARE_TWICE:
            self._written += 1
            again_ms = at_ms + self.rng.randrange(500, 10 * MINUTE)
            self._pending.append((again_ms, self._written, event))
        self._written += 1
        self._pending.append((arrival_ms, self._written, event))

    def take(self, until_ms: int) -> Iterator[Event]:
        """Removes and gives what has arrived by then, in that order."""
        pending = self._pending
        pending.sort()
        count = bisect_right(pending, until_ms, key=itemgetter(0))
        arrived = pending[:count]
        del pending[:count]
        return map(itemgetter(2), arrived)
