"""Records that could not be accepted: kept with their bytes, the reason and where they came from."""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
from typing import Final, Literal

from openride_analytics.events import MAX_RECORD_BYTES, BadEvent, claimed_type, without_personal_data
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
    ) -> "DeadLetter":
        """From Kafka (with a topic) or over HTTP. The id follows from the place in Kafka, or from the content."""
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
            event_type=claimed_type(record) if len(record) <= MAX_RECORD_BYTES else "",
            record=without_personal_data(record),
        )


_COLUMNS: Final = tuple(column.name for column in fields(DeadLetter))
_ID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_IDS_PER_QUERY: Final = 5_000

_ERASED: Final = "SELECT toString(user_id) AS id FROM erased_users WHERE user_id IN {ids:Array(UUID)}"


async def store_dead_letters(warehouse: Warehouse, letters: Sequence[DeadLetter]) -> None:
    """Stores them, but for those that name an erased user; the same one again changes nothing.

    Raises what `Warehouse.insert` and `Warehouse.query` raise.
    """
    named = [{found.lower().decode() for found in _ID.findall(_text(letter))} for letter in letters]
    ids = sorted(set().union(*named))
    erased = set[str]()
    for start in range(0, len(ids), _IDS_PER_QUERY):
        rows = await warehouse.query(_ERASED, {"ids": ids[start : start + _IDS_PER_QUERY]})
        erased.update(row["id"] for row in rows)
    kept = [letter for letter, of_letter in zip(letters, named, strict=True) if not of_letter & erased]
    if kept:
        await warehouse.insert("dead_letters", _COLUMNS, [astuple(letter) for letter in kept])


def _text(letter: DeadLetter) -> bytes:
    """All of it that may name somebody."""
    texts = f" {letter.field} {letter.detail} {letter.event_type}"
    return letter.key + b" " + letter.record + texts.encode(errors="replace")
