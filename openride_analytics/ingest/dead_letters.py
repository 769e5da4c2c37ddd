"""Records that could not be accepted: kept with their bytes, the reason and where they came from, listed by page.

A letter is one record. Its id follows from what is kept of the record and where it came from, so one that is read, sent or
replayed again and rejected again stays the letter that it was. Replays leave letters as they are; what became of them is in
a table of its own.
"""

import re
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated, Final, Literal, NamedTuple, Self

from msgspec import Meta, Struct

from openride_analytics.events import BadEvent, claimed_type
from openride_analytics.ingest.records import Turns
from openride_analytics.period import from_milliseconds, instant_text
from openride_analytics.personal_data import without_personal_data
from openride_analytics.warehouse import Parameter, Row, Warehouse

Source = Literal["kafka", "http"]
Status = Literal["open", "replayed"]
OVER_HTTP: Final = "http"
"""What stands for the topic of a letter that came without one."""

IDS_PER_QUERY: Final = 5_000
# What a page shows of each letter: a thousand letters of megabytes are a page of a few.
SHOWN_RECORD_BYTES: Final = 2_048
SHOWN_KEY_BYTES: Final = 256
_ALL_BYTES: Final = 2**31 - 1


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
        """From Kafka (with a topic) or over HTTP. The id follows from what is kept, and from the place in Kafka.

        The place alone would not do: a topic that is made anew has the same places again. From what is blanked it must not
        follow, or the few values that it can have could be tried.

        Without an `event_type` it is the one that the record claims.
        """
        place = f"{topic}\0{partition}\0{offset}\0" if topic else "http\0"
        kept = without_personal_data(record)
        return cls(
            dead_letter_id=blake2b(place.encode() + kept, digest_size=16).hexdigest(),
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
            record=kept,
        )


_COLUMNS: Final = tuple(column.name for column in fields(DeadLetter))
_row: Final = attrgetter(*_COLUMNS)
# From the first hyphen on, of which there are few: 200 times as fast in what is nothing but hexadecimal digits.
_ID: Final = re.compile(rb"-(?<=[0-9a-f]{8}-)[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_DIGITS_BEFORE: Final = 8

_ERASED: Final = """
-- dead_letters.erased
SELECT toString(user_id) AS id
FROM erased_users
WHERE user_id IN {ids:Array(UUID)}
"""


async def store_dead_letters(warehouse: Warehouse, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Stores them; one that is stored already stays as it is, with the time of its first rejection.

    So nobody who turns the pages meets a letter twice, or misses one that moved to the front meanwhile. What names an
    erased user is not kept: returns the others. Raises what `Warehouse.insert` and `query` raise.
    """
    letters = await _without_erased_users(warehouse, letters)
    for start in range(0, len(letters), IDS_PER_QUERY):
        some = letters[start : start + IDS_PER_QUERY]
        rows = await warehouse.query(_KNOWN, {"ids": [letter.dead_letter_id for letter in some]})
        known = {row["dead_letter_id"] for row in rows}
        if new := [_row(letter) for letter in some if letter.dead_letter_id not in known]:
            await warehouse.insert("dead_letters", _COLUMNS, new)
    return letters


async def _without_erased_users(warehouse: Warehouse, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    named: list[set[str]] = []
    users: set[str] = set()
    turns = Turns()
    for letter in letters:
        ids_named = _ids_in(_text(letter))
        named.append(ids_named)
        users |= ids_named
        await turns.after(letter.record)
    ids = list(users)
    erased = set[str]()
    for start in range(0, len(ids), IDS_PER_QUERY):
        rows = await warehouse.query(_ERASED, {"ids": ids[start : start + IDS_PER_QUERY]})
        erased.update(row["id"] for row in rows)
    if not erased:
        return list(letters)
    return [letter for letter, of_letter in zip(letters, named, strict=True) if not of_letter & erased]


def _ids_in(text: bytes) -> set[str]:
    return {text[at.start() - _DIGITS_BEFORE : at.end()].lower().decode() for at in _ID.finditer(text)}


def _text(letter: DeadLetter) -> bytes:
    """All of it that may name somebody."""
    texts = f" {letter.field} {letter.detail} {letter.event_type}"
    return letter.key + b" " + letter.record + texts.encode(errors="replace")


class Replay(Struct, kw_only=True):
    """One attempt to take a letter in after all."""

    replay_id: Annotated[
        str,
        Meta(
            description="The replay that it was part of.", examples=["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"]
        ),
    ]
    replayed_at: Annotated[str, Meta(description="When, in UTC.", examples=["2026-03-02T08:00:00.120Z"])]
    outcome: Annotated[
        Literal["accepted", "rejected"],
        Meta(description="`accepted`: its event is stored.", examples=["rejected"]),
    ]
    reason: Annotated[
        str | None,
        Meta(description="Why it was rejected again; null: it was not.", examples=["invalid_field"]),
    ]
    field: Annotated[
        str | None, Meta(description="The guilty field then; empty: the record.", examples=["role"])
    ]
    detail: Annotated[str | None, Meta(description="The reason in words.", examples=["Invalid enum value."])]


_TEXT_OR_BASE64: Final = "`utf-8`: as text; `base64`: its bytes are no UTF-8."


class Letter(Struct, kw_only=True):
    """A record that was rejected, where it came from and why."""

    dead_letter_id: Annotated[
        str,
        Meta(
            description="Follows from what is kept of the record and its place in Kafka: it never changes.",
            examples=["5f0c4be8d1a94e7fb1f5a8f3f0f6a2d1"],
        ),
    ]
    rejected_at: Annotated[
        str, Meta(description="When it was first rejected, in UTC.", examples=["2026-03-01T07:05:00.120Z"])
    ]
    source: Annotated[Source, Meta(description="The way it came.", examples=["kafka"])]
    topic: Annotated[
        str,
        Meta(
            description="Its topic in Kafka; `http` for what came over HTTP.",
            examples=["openride.events.user"],
        ),
    ]
    partition: Annotated[int | None, Meta(description="Its partition in Kafka.", examples=[2])]
    offset: Annotated[int | None, Meta(description="Its offset in Kafka.", examples=[40_211])]
    key: Annotated[
        str,
        Meta(description=f"Its key in Kafka; in lists the first {SHOWN_KEY_BYTES} bytes.", examples=["42"]),
    ]
    key_encoding: Annotated[Literal["utf-8", "base64"], Meta(description=_TEXT_OR_BASE64, examples=["utf-8"])]
    reason: Annotated[str, Meta(description="Machine-readable reason.", examples=["invalid_field"])]
    field: Annotated[str, Meta(description="Path of the guilty field; empty: the record.", examples=["role"])]
    detail: Annotated[str, Meta(description="The reason in words.", examples=["Invalid enum value."])]
    event_type: Annotated[
        str,
        Meta(
            description="The type that the record claims to be; empty: it cannot be told.",
            examples=["user.registered"],
        ),
    ]
    record: Annotated[
        str,
        Meta(
            description="The record as it came, with personal fields blanked; in lists the first"
            f" {SHOWN_RECORD_BYTES} bytes of it.",
            examples=['{"event_type":"user.registered","role":"PILOT"}'],
        ),
    ]
    record_encoding: Annotated[
        Literal["utf-8", "base64"], Meta(description=_TEXT_OR_BASE64, examples=["utf-8"])
    ]
    record_bytes: Annotated[int, Meta(description="Size of the whole record.", examples=[519])]
    is_cut: Annotated[
        bool,
        Meta(description="Whether key or record go on: ask for the letter by its id.", examples=[False]),
    ]
    status: Annotated[
        Status,
        Meta(description="`replayed`: its last replay was accepted; else `open`.", examples=["open"]),
    ]
    last_replay: Annotated[Replay | None, Meta(description="Its last replay; null: it had none.")]


class Counts(Struct, kw_only=True):
    """How many letters match, on all pages."""

    total: Annotated[int, Meta(description="All that match.", examples=[12])]
    by_reason: Annotated[
        dict[str, int], Meta(description="By reason.", examples=[{"expired": 9, "invalid_json": 3}])
    ]
    by_topic: Annotated[
        dict[str, int],
        Meta(
            description="By topic; `http`: those that came over HTTP.",
            examples=[{"openride.events.user": 9, "http": 3}],
        ),
    ]


class LettersAnswer(Struct, kw_only=True):
    """One page of letters, the newest first."""

    counts: Annotated[Counts, Meta(description="Over all that match, whatever the page.")]
    letters: Annotated[list[Letter], Meta(description="Those of this page.")]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="For the next page: ask the same with `cursor` set to it. Null: there is none.",
            examples=["MTc3MjM0ODcwMDEyMC41ZjBjNGJlOGQxYTk0ZTdmYjFmNWE4ZjNmMGY2YTJkMQ"],
        ),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which letters are meant: those that fit everything that is given. Times are of the first rejection, Unix ms."""

    ids: Sequence[str] | None = None
    reason: str | None = None
    topic: str | None = None
    event_type: str | None = None
    source: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    status: Status | None = None


class Place(NamedTuple):
    """A letter's place in the order of pages."""

    rejected_ms: int
    dead_letter_id: str

    @property
    def cursor(self) -> str:
        """As a text for a URL."""
        text = f"{self.rejected_ms}.{self.dead_letter_id}".encode()
        return urlsafe_b64encode(text).decode().rstrip("=")

    @classmethod
    def at(cls, cursor: str) -> Self | None:
        """The place that `cursor` says; None where it is none of ours."""
        try:
            text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            return None
        found = _CURSOR.fullmatch(text)
        return cls(int(found[1]), found[2].decode()) if found else None


_CURSOR: Final = re.compile(rb"(\d{1,15})\.([0-9a-f]{32})")


async def page(warehouse: Warehouse, selection: Selection, after: Place | None, limit: int) -> LettersAnswer:
    """So many of the letters, the newest first, beginning after a place. Raises as `Warehouse.query` does."""
    places = await matching(warehouse, selection, after, limit + 1)
    shown = places[:limit]
    return LettersAnswer(
        counts=await _counts(warehouse, selection),
        letters=await _letters(
            warehouse, [place.dead_letter_id for place in shown], SHOWN_KEY_BYTES, SHOWN_RECORD_BYTES
        ),
        next_cursor=shown[-1].cursor if len(places) > limit else None,
    )


async def one(warehouse: Warehouse, dead_letter_id: str) -> Letter | None:
    """The whole of one letter, if there is one with this id. Raises as `Warehouse.query` does."""
    found = await _letters(warehouse, [dead_letter_id], _ALL_BYTES, _ALL_BYTES)
    return found[0] if found else None


async def matching(
    warehouse: Warehouse, selection: Selection, after: Place | None, limit: int
) -> list[Place]:
    """The places of so many of the letters, the newest first. Raises as `Warehouse.query` does."""
    conditions, parameters = _conditions(selection, after)
    sql = _MATCHING.replace("{conditions}", conditions)
    rows = await warehouse.query(sql, {**parameters, "limit": limit})
    return [Place(row["rejected_ms"], row["dead_letter_id"]) for row in rows]


async def count(warehouse: Warehouse, selection: Selection, after: Place | None) -> int:
    """How many of the letters there are after a place. Raises as `Warehouse.query` does."""
    conditions, parameters = _conditions(selection, after)
    rows = await warehouse.query(_COUNT.replace("{conditions}", conditions), parameters)
    return int(rows[0]["letters"])


async def record_sizes(warehouse: Warehouse, ids: Sequence[str]) -> dict[str, int]:
    """The records' sizes in bytes, by id. Raises as `Warehouse.query` does."""
    rows = await warehouse.query(_SIZES, {"ids": ids})
    return {row["dead_letter_id"]: row["bytes"] for row in rows}


class Kept(NamedTuple):
    """What is needed to replay a letter. `topic` is empty for one that came over HTTP."""

    dead_letter_id: str
    topic: str
    detail: str
    record: bytes


async def kept(warehouse: Warehouse, ids: Sequence[str]) -> list[Kept]:
    """The whole records of those letters that are (still) there. Raises as `Warehouse.query` does."""
    rows = await warehouse.query(_RECORDS, {"ids": ids})
    return [Kept(row["dead_letter_id"], row["topic"], row["detail"], b64decode(row["bytes"])) for row in rows]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter in one replay."""

    dead_letter_id: str
    replay_id: str
    replayed_ms: int
    outcome: Literal["accepted", "rejected"]
    reason: str = ""
    field: str = ""
    detail: str = ""


_OUTCOME_COLUMNS: Final = tuple(column.name for column in fields(Outcome))


async def store_outcomes(warehouse: Warehouse, outcomes: Sequence[Outcome]) -> None:
    """Raises what `Warehouse.insert` raises."""
    await warehouse.insert("dead_letter_replays", _OUTCOME_COLUMNS, [astuple(each) for each in outcomes])


async def _counts(warehouse: Warehouse, selection: Selection) -> Counts:
    conditions, parameters = _conditions(selection, None)
    counts = Counts(total=0, by_reason={}, by_topic={})
    for row in await warehouse.query(_COUNTS.replace("{conditions}", conditions), parameters):
        counts.total += row["letters"]
        for counted, value in ((counts.by_reason, row["reason"]), (counts.by_topic, row["place"])):
            counted[value] = counted.get(value, 0) + row["letters"]
    return counts


async def _letters(
    warehouse: Warehouse, ids: Sequence[str], key_bytes: int, record_bytes: int
) -> list[Letter]:
    """Those of the letters that are (still) there, in the order of `ids`."""
    if not ids:
        return []
    shown: dict[str, Parameter] = {"ids": ids, "key_shown": key_bytes, "record_shown": record_bytes}
    rows = {row["dead_letter_id"]: row for row in await warehouse.query(_DETAILS, shown)}
    replays = {row["dead_letter_id"]: row for row in await warehouse.query(_LAST_REPLAYS, {"ids": ids})}
    return [_letter(rows[letter_id], replays.get(letter_id)) for letter_id in ids if letter_id in rows]


def _letter(row: Row, last: Row | None) -> Letter:
    in_kafka = row["source"] == "kafka"
    key, key_encoding = _readable(row["key_start"], is_text=row["key_is_text"])
    record, record_encoding = _readable(row["record_start"], is_text=row["record_is_text"])
    return Letter(
        dead_letter_id=row["dead_letter_id"],
        rejected_at=instant_text(from_milliseconds(row["rejected_ms"])),
        source=row["source"],
        topic=row["topic"] if in_kafka else OVER_HTTP,
        partition=row["partition"] if in_kafka else None,
        offset=row["offset"] if in_kafka else None,
        key=key,
        key_encoding=key_encoding,
        reason=row["reason"],
        field=row["field"],
        detail=row["detail"],
        event_type=row["event_type"],
        record=record,
        record_encoding=record_encoding,
        record_bytes=row["record_bytes"],
        is_cut=bool(row["is_cut"]),
        status="replayed" if last is not None and last["outcome"] == "accepted" else "open",
        last_replay=_replay(last) if last is not None else None,
    )


def _replay(row: Row) -> Replay:
    rejected = row["outcome"] == "rejected"
    return Replay(
        replay_id=row["replay_id"],
        replayed_at=instant_text(from_milliseconds(row["replayed_ms"])),
        outcome=row["outcome"],
        reason=row["reason"] if rejected else None,
        field=row["field"] if rejected else None,
        detail=row["detail"] if rejected else None,
    )


def _readable(base64: str, *, is_text: bool) -> tuple[str, Literal["utf-8", "base64"]]:
    """The start of some bytes, of which all together are text or not."""
    if is_text:
        return b64decode(base64).decode(errors="ignore"), "utf-8"  # it may be cut inside a character
    return base64, "base64"


def _conditions(selection: Selection, after: Place | None) -> tuple[str, dict[str, Parameter]]:
    """A selection as fixed texts and bound values."""
    given = {name: getattr(selection, name) for name in _CONDITIONS}
    parameters = {name: value for name, value in given.items() if value is not None}
    conditions = [_CONDITIONS[name] for name in parameters]
    if selection.status is not None:
        conditions.append(_STATUS[selection.status])
    if after is not None:
        conditions.append(_AFTER)
        parameters |= {"after_ms": after.rejected_ms, "after_id": after.dead_letter_id}
    return " AND ".join(conditions) or "true", parameters


_TOPIC: Final = f"if(source = 'http', '{OVER_HTTP}', topic)"

_CONDITIONS: Final = {
    "ids": "dead_letter_id IN {ids:Array(String)}",
    "reason": "reason = {reason:String}",
    "topic": f"{_TOPIC} = {{topic:String}}",
    "event_type": "event_type = {event_type:String}",
    "source": "source = {source:String}",
    "start_ms": "rejected_ms >= {start_ms:Int64}",
    "end_ms": "rejected_ms < {end_ms:Int64}",
}

_AFTER: Final = "(rejected_ms, dead_letter_id) < ({after_ms:Int64}, {after_id:String})"

_ACCEPTED: Final = """(
    SELECT dead_letter_id
    FROM dead_letter_replays FINAL
    GROUP BY dead_letter_id
    HAVING argMax(outcome, (replayed_ms, replay_id)) = 'accepted'
)"""

_STATUS: Final[dict[Status, str]] = {
    "open": f"dead_letter_id NOT IN {_ACCEPTED}",
    "replayed": f"dead_letter_id IN {_ACCEPTED}",
}

_KNOWN: Final = """
-- dead_letters.known
SELECT DISTINCT dead_letter_id
FROM dead_letters
WHERE dead_letter_id IN {ids:Array(String)}
"""

_MATCHING: Final = """
-- dead_letters.matching
SELECT rejected_ms, dead_letter_id
FROM dead_letters FINAL
WHERE {conditions}
ORDER BY rejected_ms DESC, dead_letter_id DESC
LIMIT {limit:UInt32}
"""

_COUNT: Final = """
-- dead_letters.count
SELECT count() AS letters
FROM dead_letters FINAL
WHERE {conditions}
"""

_COUNTS: Final = f"""
-- dead_letters.counts
SELECT reason, {_TOPIC} AS place, count() AS letters
FROM dead_letters FINAL
WHERE {{conditions}}
GROUP BY reason, place
ORDER BY letters DESC, reason, place
"""

_SIZES: Final = """
-- dead_letters.sizes
SELECT dead_letter_id, length(record) AS bytes
FROM dead_letters FINAL
WHERE dead_letter_id IN {ids:Array(String)}
"""

_RECORDS: Final = """
-- dead_letters.records
SELECT dead_letter_id, topic, detail, base64Encode(record) AS bytes
FROM dead_letters FINAL
WHERE dead_letter_id IN {ids:Array(String)}
"""

_DETAILS: Final = """
-- dead_letters.details
SELECT
    dead_letter_id,
    rejected_ms,
    source,
    topic,
    partition,
    offset,
    reason,
    field,
    detail,
    event_type,
    base64Encode(substring(key, 1, {key_shown:UInt32})) AS key_start,
    isValidUTF8(key) AS key_is_text,
    base64Encode(substring(record, 1, {record_shown:UInt32})) AS record_start,
    isValidUTF8(record) AS record_is_text,
    length(record) AS record_bytes,
    length(record) > {record_shown:UInt32} OR length(key) > {key_shown:UInt32} AS is_cut
FROM dead_letters FINAL
WHERE dead_letter_id IN {ids:Array(String)}
"""

_LAST_REPLAYS: Final = """
-- dead_letters.replays
SELECT dead_letter_id, replay_id, replayed_ms, outcome, reason, field, detail
FROM dead_letter_replays FINAL
WHERE dead_letter_id IN {ids:Array(String)}
ORDER BY replayed_ms DESC, replay_id DESC
LIMIT 1 BY dead_letter_id
"""
