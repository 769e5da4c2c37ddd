"""What cases of hostile records are made of."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from tests.samples import FULL, Sample

PERSONAL = {
    "phone": "+2348030009911",
    "email": "ada.hostile@example.org",
    "full_name": "Ada Hostile-Obi",
    "card_last4": "9911-4242",
}
SECRETS = tuple(PERSONAL.values())
TEN_MEGABYTES = 10_000_000
DEEP = 5_000

_NAMES = UUID("5d7e8c1e-0000-4000-8000-000000000001")


class Case(NamedTuple):
    """One record. Without a reason it is accepted, and `row` says what some columns hold then, as text."""

    name: str
    record: bytes | None
    reason: str = ""
    field: str = ""
    row: Mapping[str, str] = MappingProxyType({})
    event_id: str = ""
    """Of an accepted record."""
    at_once: bool = False
    """True only at the very moment for which the table was made."""

    @property
    def kept(self) -> bytes:
        """The bytes that a dead letter keeps: as they came, personal fields blanked."""
        record = self.record or b""
        for secret in SECRETS:
            record = record.replace(json.dumps(secret).encode(), b'"-"')
        return record

    @property
    def is_a_line(self) -> bool:
        """Whether NDJSON can carry it as one record."""
        return bool(self.record) and b"\n" not in self.record and bool(self.record.strip())  # type: ignore[operator,union-attr]


class Maker:
    """Makes the cases for a moment; `run` keeps the ids of several runs apart."""

    def __init__(self, now: datetime, run: str = "") -> None:
        self.now = now
        self.run = run
        self.cases: list[Case] = []

    # What cases are made of

    def event(self, name: str, event_type: str, /, **changes: Any) -> Sample:
        """A complete event of an hour ago with personal data in front and an id of its own; `...` takes a field away."""
        event = {
            **PERSONAL,
            **FULL[event_type],
            "event_id": str(uuid5(_NAMES, f"{self.run} {name}")),
            "event_timestamp": (self.now - timedelta(hours=1)).isoformat(),
            **changes,
        }
        return {field: value for field, value in event.items() if value is not ...}

    def good(self, name: str, event_type: str = "booking.created", /, **changes: Any) -> bytes:
        """The same as bytes, compact and in UTF-8."""
        return encoded(self.event(name, event_type, **changes))

    def add(self, name: str, record: bytes | None, reason: str, field: str = "") -> None:
        """A record that is refused."""
        self.cases.append(Case(name, record, reason, field))

    def accept(self, name: str, record: bytes, **row: str) -> None:
        """A record made with this name that is accepted."""
        self.cases.append(Case(name, record, row=row, event_id=str(uuid5(_NAMES, f"{self.run} {name}"))))

    def value(
        self, name: str, event_type: str, field: str, json_text: str, *, stored: str | None = None
    ) -> None:
        """A field with a value as JSON spells it: invalid, unless it says what is stored."""
        record = self.good(name, event_type, **{field: "HERE"}).replace(b'"HERE"', json_text.encode())
        if stored is None:
            self.add(name, record, "invalid_field", field)
        else:
            self.accept(name, record, **{field: stored})


def encoded(event: Sample) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def ms_of(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
