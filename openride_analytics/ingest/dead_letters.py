"""Records that could not be accepted: kept with their bytes, the reason and where they came from."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
from typing import Final, Literal

from openride_analytics.events import BadEvent, claimed_type, without_personal_data
from openride_analytics.warehouse import Warehouse

Source = Literal["kafka", "http"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused record. Personal fields inside it are blanked; all other bytes are as they came."""

    dead_letter_id: str
    rejected_ms: int
    source: Source
    topic: str
    partition: int
    offset: int
    key: bytes
    reason: str
    field: str
    detail: str
    event_type: str
    record: bytes

    @classmethod
    def of(
        cls,
        record: bytes,
        error: BadEvent,
        *,
        rejected_ms: int,
        topic: str = "",
        partition: int = -1,
        offset: int = -1,
        key: bytes = b"",
        event_type: str | None = None,
    ) -> "DeadLetter":
        """From Kafka (with a topic) or over HTTP. The id follows from the place in Kafka, or from the content.

        Without an `event_type` it is the one that the record claims.
        """
        place = f"{topic}\0{partition}\0{offset}".encode() if topic else b"http\0" + record
        return cls(
            dead_letter_id=blake2b(place, digest_size=16).hexdigest(),
            rejected_ms=rejected_ms,
            source="kafka" if topic else "http",
            topic=topic,
            partition=partition,
            offset=offset,
            key=key,
            reason=error.reason,
            field=error.field[:1000],
            detail=error.detail[:1000],
            event_type=event_type if event_type is not None else claimed_type(record),
            record=without_personal_data(record),
        )


_COLUMNS: Final = tuple(column.name for column in fields(DeadLetter))


async def store_dead_letters(warehouse: Warehouse, letters: Sequence[DeadLetter]) -> None:
    """Stores them; the same one again changes nothing. Raises what `Warehouse.insert` raises."""
    if letters:
        await warehouse.insert("dead_letters", _COLUMNS, [astuple(letter) for letter in letters])
