"""Dead letters: listed by page as they were stored, and replayed so that nothing happens twice or is lost."""

import asyncio
import itertools
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.config import Config
from openride_analytics.events import MAX_RECORD_BYTES, Acceptance, BadEvent, Decode, Event, decode
from openride_analytics.ingest import dead_letters, replay
from openride_analytics.ingest.dead_letters import (
    SHOWN_KEY_BYTES,
    SHOWN_RECORD_BYTES,
    DeadLetter,
    Letter,
    LettersAnswer,
    Outcome,
    Place,
    Selection,
    Status,
    store_dead_letters,
    store_outcomes,
)
from openride_analytics.ingest.records import acceptance_now, decode_records
from openride_analytics.ingest.replay import Replayed, Replays
from openride_analytics.warehouse import Row, Warehouse, WarehouseUnavailable
from tests.component.test_pipeline import EVENT_ROWS, Held, Running, running
from tests.properties import SLOW, holds
from tests.samples import Sample, minimal
from tests.stores import empty

REASONS = ("invalid_json", "unknown_event_type", "expired", "too_large")
TOPICS = ("openride.events.user", "openride.events.trip")
TYPES = ("", "user.registered", "' OR 1 --", "a\\b\t{x:String}\n%s")
FOR_EVER = 0
EVERYTHING = Selection()
OPEN = Selection(status="open")


@pytest.fixture(params=["embedded", "server"])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


def config(*, keep_days: int = FOR_EVER) -> Config:
    return msgspec.convert({"retention": {"hot_days": 0, "cold_days": keep_days}}, Config)


def a_letter(record: bytes = b"{", **changes: Any) -> DeadLetter:
    """One from Kafka, at a place of its own unless it is told."""
    place = {"topic": TOPICS[0], "partition": 0, "offset": uuid4().int % 10**12, "rejected_ms": 0}
    named = {name: changes.pop(name) for name in (*place, "key") if name in changes}
    letter = DeadLetter.of(record, BadEvent("invalid_json", "It breaks off."), **{**place, **named})
    return replace(letter, **changes)


async def stored_letters(warehouse: Warehouse, selection: Selection = EVERYTHING) -> list[Letter]:
    return (await dead_letters.page(warehouse, selection, None, 1_000)).letters


async def pages(
    warehouse: Warehouse, selection: Selection, limit: int, between: Sequence[DeadLetter] = ()
) -> list[LettersAnswer]:
    """All pages of a selection; after the first one more letters arrive."""
    answers: list[LettersAnswer] = []
    after: Place | None = None
    while not answers or after is not None:
        answers.append(await dead_letters.page(warehouse, selection, after, limit))
        cursor = answers[-1].next_cursor
        after = Place.at(cursor) if cursor is not None else None
        assert (after is None) == (cursor is None)
        await store_dead_letters(warehouse, between)
        between = ()
    return answers


class TestPages:
    async def test_each_letter_that_fits_is_on_one_page_and_none_that_does_not(
        self, warehouse: Warehouse
    ) -> None:
        @settings(SLOW, max_examples=30)
        @given(known=replayed_letters(), selection=selections(), limit=st.integers(1, 5))
        async def same(
            known: tuple[list[DeadLetter], list[Outcome]], selection: Selection, limit: int
        ) -> None:
            await empty(warehouse)
            letters, replays = known
            for letter in letters:  # some parts, some rows of them repeated
                await store_dead_letters(warehouse, [letter, letter])
            if replays:
                await store_outcomes(warehouse, replays)
            status = {letter.dead_letter_id: status_of(letter, replays) for letter in letters}
            expected = sorted(
                (each for each in letters if fits(each, status[each.dead_letter_id], selection)),
                key=lambda each: (each.rejected_ms, each.dead_letter_id),
                reverse=True,
            )
            newer = [replace(each, rejected_ms=1_000) for each in (a_letter(), *expected[-2:])]
            answers = await pages(warehouse, selection, limit, newer)

            listed = [letter for answer in answers for letter in answer.letters]
            assert [each.dead_letter_id for each in listed] == [each.dead_letter_id for each in expected]
            assert [each.status for each in listed] == [status[each.dead_letter_id] for each in expected]
            assert all(len(answer.letters) == limit for answer in answers[:-1])
            counts = answers[0].counts
            assert counts.total == len(expected)
            assert counts.by_reason == Counter(each.reason for each in expected)
            assert counts.by_topic == Counter(each.topic or "http" for each in expected)

        await holds(same)

    async def test_a_letter_says_all_that_is_known(self, warehouse: Warehouse) -> None:
        letter = a_letter(
            b'{"event_type":"user.registered"', key=b"k\xc3\xa4y", offset=7, rejected_ms=1_772_348_700_120
        )
        over_http = DeadLetter.of(b"\xff\x00", BadEvent("invalid_json", "No text."), rejected_ms=0)
        await store_dead_letters(warehouse, [letter, over_http])
        first, second = await stored_letters(warehouse)
        assert msgspec.to_builtins(first) == {
            "dead_letter_id": letter.dead_letter_id,
            "rejected_at": "2026-03-01T07:05:00.120Z",
            "source": "kafka",
            "topic": TOPICS[0],
            "partition": 0,
            "offset": 7,
            "key": "käy",
            "key_encoding": "utf-8",
            "reason": "invalid_json",
            "field": "",
            "detail": "It breaks off.",
            "event_type": "",
            "record": '{"event_type":"user.registered"',
            "record_encoding": "utf-8",
            "record_bytes": len(letter.record),
            "is_cut": False,
            "status": "open",
            "last_replay": None,
        }
        assert (second.source, second.topic, second.partition, second.offset) == ("http", "http", None, None)
        assert (second.record, second.record_encoding) == (b64encode(b"\xff\x00").decode(), "base64")

    @pytest.mark.parametrize("size", [SHOWN_RECORD_BYTES, SHOWN_RECORD_BYTES + 1, 20 * MAX_RECORD_BYTES])
    async def test_a_long_record_is_cut_in_the_list_and_whole_by_its_id(
        self, warehouse: Warehouse, size: int
    ) -> None:
        letter = a_letter(b"x" * size)
        await store_dead_letters(warehouse, [letter])
        (listed,) = await stored_letters(warehouse)
        assert listed.record == "x" * min(size, SHOWN_RECORD_BYTES)
        assert listed.record_bytes == size
        assert listed.is_cut == (size > SHOWN_RECORD_BYTES)
        whole = await dead_letters.one(warehouse, letter.dead_letter_id)
        assert whole is not None
        assert whole.record == "x" * size
        assert not whole.is_cut

    async def test_a_text_is_not_cut_inside_a_character(self, warehouse: Warehouse) -> None:
        await store_dead_letters(warehouse, [a_letter("ä".encode() * 5_000, key="x€".encode() * 500)])
        (listed,) = await stored_letters(warehouse)
        assert listed.record_encoding == listed.key_encoding == "utf-8"
        assert listed.record == "ä" * (SHOWN_RECORD_BYTES // 2)
        assert listed.key == "x€" * (SHOWN_KEY_BYTES // 4)

    async def test_bytes_that_are_no_text_further_on_are_base64_from_the_start(
        self, warehouse: Warehouse
    ) -> None:
        record = b"x" * 5_000 + b"\xff"
        await store_dead_letters(warehouse, [a_letter(record)])
        (listed,) = await stored_letters(warehouse)
        assert listed.record_encoding == "base64"
        assert listed.record == b64encode(record[:SHOWN_RECORD_BYTES]).decode()

    async def test_an_unknown_id_is_none(self, warehouse: Warehouse) -> None:
        assert await dead_letters.one(warehouse, "0" * 32) is None

    async def test_a_record_rejected_again_stays_the_letter_that_it_was(self, warehouse: Warehouse) -> None:
        letter = a_letter(rejected_ms=1_000)
        await store_dead_letters(warehouse, [letter])
        before = await stored_letters(warehouse)
        again = replace(letter, rejected_ms=2_000, reason="expired")
        await store_dead_letters(warehouse, [again, a_letter(rejected_ms=1_500)])
        assert (await stored_letters(warehouse))[1:] == before

    @pytest.mark.parametrize("name", ["ids", "reason", "topic", "event_type", "source"])
    @pytest.mark.parametrize(
        "text",
        [
            "' OR '1' = '1",
            "\\' OR 1 = 1 --",
            "x') OR true --",
            "{topic:String}",
            "'; DROP TABLE dead_letters; --",
            "%(topic)s\t\\N",
        ],
    )
    async def test_sql_in_a_filter_is_a_text_that_nothing_equals(
        self, warehouse: Warehouse, name: str, text: str
    ) -> None:
        await store_dead_letters(warehouse, [a_letter()])
        selection: Any = {name: [text] if name == "ids" else text}
        assert await stored_letters(warehouse, Selection(**selection)) == []
        assert len(await stored_letters(warehouse)) == 1

    async def test_sql_in_what_a_record_claims_is_found_as_the_text_that_it_is(
        self, warehouse: Warehouse
    ) -> None:
        text = "'\\; DROP TABLE dead_letters --\n\t{ids:Array(String)}"
        await store_dead_letters(warehouse, [a_letter(event_type=text), a_letter()])
        (found,) = await stored_letters(warehouse, Selection(event_type=text))
        assert found.event_type == text


@st.composite
def replayed_letters(draw: st.DrawFn) -> tuple[list[DeadLetter], list[Outcome]]:
    """Letters of few times, reasons, topics and types, so that filters and ties meet some; and replays of some."""
    found = draw(
        st.lists(
            st.builds(
                a_letter,
                st.binary(max_size=10),
                topic=st.sampled_from(("", *TOPICS)),
                offset=st.integers(0, 5),
                rejected_ms=st.integers(100, 102),
                reason=st.sampled_from(REASONS),
                event_type=st.sampled_from(TYPES),
            ),
            min_size=8,
            max_size=20,
        )
    )
    letters = list({letter.dead_letter_id: letter for letter in found}.values())
    replayed = draw(st.lists(st.tuples(st.sampled_from(letters), st.booleans()), max_size=10))
    return letters, [
        Outcome(letter.dead_letter_id, f"{100 - at:04}", at, "accepted" if accepted else "rejected")
        for at, (letter, accepted) in enumerate(replayed)
    ]


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    """Of few filters at a time, else hardly a letter would fit."""
    bound = st.integers(99, 104)
    status: st.SearchStrategy[Status] = st.sampled_from(("open", "replayed"))
    filters = {
        "reason": st.sampled_from(REASONS),
        "topic": st.sampled_from(("http", *TOPICS)),
        "event_type": st.sampled_from(TYPES[1:]),
        "source": st.sampled_from(("kafka", "http")),
        "start_ms": bound,
        "end_ms": bound,
        "status": status,
    }
    names = draw(st.lists(st.sampled_from(sorted(filters)), max_size=2, unique=True))
    given: dict[str, Any] = {name: draw(filters[name]) for name in names}
    return Selection(**given)


def status_of(letter: DeadLetter, replays: Sequence[Outcome]) -> Status:
    own = [each for each in replays if each.dead_letter_id == letter.dead_letter_id]
    last = max(own, key=lambda each: each.replayed_ms, default=None)
    return "replayed" if last is not None and last.outcome == "accepted" else "open"


def fits(letter: DeadLetter, status: Status, selection: Selection) -> bool:
    """What the filters mean, in plain Python."""
    for wanted, value in (
        (selection.reason, letter.reason),
        (selection.topic, letter.topic or "http"),
        (selection.event_type, letter.event_type),
        (selection.source, letter.source),
        (selection.status, status),
    ):
        if wanted is not None and wanted != value:
            return False
    if selection.start_ms is not None and letter.rejected_ms < selection.start_ms:
        return False
    return selection.end_ms is None or letter.rejected_ms < selection.end_ms


def registrations(count: int, *, days_ago: int = 30, **changes: Any) -> list[Sample]:
    at = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    return [
        minimal("user.registered", user_id=str(uuid4()), event_timestamp=at, **changes) for _ in range(count)
    ]


def encoded(samples: Sequence[Sample]) -> list[bytes]:
    return [msgspec.json.encode(sample) for sample in samples]


async def reject(warehouse: Warehouse, records: Sequence[bytes], *, keep_days: int = 7) -> list[DeadLetter]:
    """Has records refused by a service that keeps events for so many days."""
    acceptance = acceptance_now(config(keep_days=keep_days))
    events, refused = await decode_records(records, acceptance)
    assert not events
    rejected = [a_letter(records[index], offset=index, rejected_ms=index) for index, _ in refused]
    rejected = [
        replace(letter, reason=error.reason) for letter, (_, error) in zip(rejected, refused, strict=True)
    ]
    await store_dead_letters(warehouse, rejected)
    return rejected


@asynccontextmanager
async def replaying(
    warehouse: Warehouse, *, keep_days: int = FOR_EVER, decoder: Decode = decode
) -> AsyncIterator["Again"]:
    async with running(warehouse) as work:
        yield Again(work, warehouse, keep_days, decoder)


class Again:
    """A service at work that replays."""

    def __init__(self, work: Running, warehouse: Warehouse, keep_days: int, decoder: Decode) -> None:
        self.work = work
        self.topics: list[str] = []

        def of(topic: str) -> Decode:
            self.topics.append(topic)
            return decoder

        self._replays = Replays(warehouse, work.pipeline, work.metrics, config(keep_days=keep_days), of)

    async def __call__(
        self, selection: Selection = OPEN, after: Place | None = None, *, stopping: bool = False
    ) -> Replayed:
        return await self._replays.replay(selection, after, lambda: stopping)

    def counted(self, outcome: str) -> float:
        return self.work.counted("openride_dead_letters_replayed_total", outcome=outcome)


def told(answer: Replayed) -> tuple[int, int, dict[str, int], int]:
    return answer.matched, answer.accepted, answer.rejected, answer.remaining


async def rows(warehouse: Warehouse) -> list[Row]:
    return await warehouse.query(EVENT_ROWS)


async def attempts(warehouse: Warehouse) -> int:
    found = await warehouse.query("SELECT count() AS n FROM dead_letter_replays FINAL")
    return int(found[0]["n"])


class TestReplay:
    async def test_after_a_fix_letters_are_accepted_and_again_nothing_happens(
        self, warehouse: Warehouse
    ) -> None:
        await reject(warehouse, encoded(registrations(3)))
        async with replaying(warehouse) as again:
            answer = await again()
            assert told(answer) == (3, 3, {}, 0)
            assert answer.next_cursor is None
            stored = await rows(warehouse)
            assert len(stored) == 3
            assert told(await again()) == (0, 0, {}, 0)
            assert told(await again(EVERYTHING)) == (3, 3, {}, 0)
            assert await rows(warehouse) == stored
            assert again.counted("accepted") == 6
            assert again.counted("rejected") == 0
            assert again.work.counted("openride_events_rejected_total", reason="expired", topic="http") == 0
        listed = await stored_letters(warehouse)
        assert [letter.status for letter in listed] == ["replayed"] * 3
        assert all(letter.reason == "expired" for letter in listed)

    async def test_what_is_rejected_again_stays_one_letter_and_says_why(self, warehouse: Warehouse) -> None:
        (letter,) = await reject(warehouse, encoded(registrations(1)))
        async with replaying(warehouse, keep_days=7) as again:
            answers = [await again() for _ in range(2)]
            assert [told(answer) for answer in answers] == [(1, 0, {"expired": 1}, 0)] * 2
            assert again.counted("rejected") == 2
            assert again.work.published == []
        (listed,) = await stored_letters(warehouse)
        assert listed.dead_letter_id == letter.dead_letter_id
        assert listed.status == "open"
        assert listed.last_replay is not None
        assert listed.last_replay.replay_id == answers[1].replay_id
        assert (listed.last_replay.outcome, listed.last_replay.reason) == ("rejected", "expired")
        assert listed.last_replay.field == "event_timestamp"
        assert await rows(warehouse) == []

    async def test_a_replayed_event_is_the_row_that_the_event_itself_would_have_been(
        self, warehouse: Warehouse
    ) -> None:
        """Personal fields are blanked in the letter, and none of them is in the row or in its derived id."""
        personal: dict[str, Any] = {
            "phone": "+2348031234567",
            "email": {"home": ["a@b.c"]},
            "full_name": 'A "B',
            "card_last4": 42,
        }
        with_id, without_id = registrations(2, city="Ikeja", **personal)
        with_id["event_id"] = str(uuid4())
        records = encoded([with_id, without_id])
        rejected = await reject(warehouse, records)
        assert [letter.record for letter in rejected] != records
        async with replaying(warehouse) as again:
            assert told(await again()) == (2, 2, {}, 0)
            replayed = await rows(warehouse)
            events, _ = await decode_records(records, acceptance_now(config()))
            await (await again.work.pipeline.put(events, [], 0))
            assert await rows(warehouse) == replayed
            assert len(replayed) == 2

    async def test_each_topic_is_decoded_by_its_own_decoder(self, warehouse: Warehouse) -> None:
        def renamed(record: bytes, acceptance: Acceptance) -> Event:
            return decode(record.replace(b"userId", b"user_id"), acceptance)

        records = [record.replace(b"user_id", b"userId") for record in encoded(registrations(1))]
        await reject(warehouse, records, keep_days=FOR_EVER)
        over_http = DeadLetter.of(b"{", BadEvent("invalid_json", "It breaks off."), rejected_ms=0)
        await store_dead_letters(warehouse, [over_http])
        async with replaying(warehouse, decoder=renamed) as again:
            assert told(await again()) == (2, 1, {"invalid_json": 1}, 0)
            assert sorted(again.topics) == ["", TOPICS[0]]

    async def test_only_what_is_asked_for_is_replayed(self, warehouse: Warehouse) -> None:
        rejected = await reject(warehouse, encoded(registrations(4)))
        await store_dead_letters(warehouse, [a_letter(topic=TOPICS[1], rejected_ms=9)])
        async with replaying(warehouse) as again:
            for selection, matched in (
                (Selection(status="open", ids=[rejected[0].dead_letter_id, "0" * 32]), 1),
                (Selection(status="open", topic=TOPICS[1]), 1),
                (Selection(status="open", reason="expired", end_ms=3), 2),
                (Selection(status="open", event_type="user.registered"), 1),
            ):
                assert (await again(selection)).matched == matched
        assert len(await stored_letters(warehouse, OPEN)) == 1

    async def test_what_the_store_cannot_hold_stays_the_letter_that_it_was(
        self, warehouse: Warehouse
    ) -> None:
        samples = [*registrations(2), *registrations(1, city="guilty")]
        await reject(warehouse, encoded(samples))
        await warehouse.execute("CREATE TABLE nowhere (guilty UInt8) ENGINE = Null")
        await warehouse.execute(
            "CREATE MATERIALIZED VIEW incoming_to_nowhere TO nowhere AS"
            " SELECT throwIf(position(lines, 'guilty') > 0) AS guilty FROM incoming"
        )
        try:
            async with replaying(warehouse) as again:
                assert told(await again()) == (3, 2, {"invalid_field": 1}, 0)
                assert again.work.published == []
        finally:
            await warehouse.execute("DROP VIEW incoming_to_nowhere SYNC")
            await warehouse.execute("DROP TABLE nowhere SYNC")
        assert len(await stored_letters(warehouse)) == 3
        assert len(await stored_letters(warehouse, OPEN)) == 1

    async def test_two_replays_at_once_are_as_good_as_one(self, warehouse: Warehouse) -> None:
        await reject(warehouse, [*encoded(registrations(20)), b"{"])
        async with replaying(warehouse) as again:
            answers = await asyncio.gather(*(again() for _ in range(4)))
            assert all(answer.accepted <= 20 and answer.remaining == 0 for answer in answers)
            assert told(await again()) == (1, 0, {"invalid_json": 1}, 0)
        assert len(await rows(warehouse)) == 20
        assert len(await stored_letters(warehouse, Selection(status="replayed"))) == 20

    async def test_one_request_does_so_much_and_the_next_goes_on(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Letters that are rejected each time do not keep those behind them from their turn."""
        monkeypatch.setattr(replay, "MAX_LETTERS", 4)
        monkeypatch.setattr(replay, "_PORTION_LETTERS", 3)
        await reject(warehouse, [*encoded(registrations(5)), *[b"{"] * 5])
        async with replaying(warehouse) as again:
            answers = [await again()]
            while answers[-1].next_cursor is not None:
                answers.append(await again(OPEN, Place.at(answers[-1].next_cursor)))
            assert [told(answer) for answer in answers] == [
                (10, 0, {"invalid_json": 4}, 6),
                (6, 3, {"invalid_json": 1}, 2),
                (2, 2, {}, 0),
            ]
        assert len(await rows(warehouse)) == 5
        assert await attempts(warehouse) == 10

    async def test_it_ends_after_a_portion_when_the_time_is_up_or_the_service_stops(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replay, "_PORTION_LETTERS", 2)
        await reject(warehouse, encoded(registrations(6)))
        async with replaying(warehouse) as again:
            assert told(await again(stopping=True)) == (6, 2, {}, 4)
            monkeypatch.setattr(replay, "MAX_SECONDS", 0.0)
            assert told(await again()) == (4, 2, {}, 2)

    async def test_large_records_are_in_memory_a_few_at_a_time(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        portions: list[int] = []
        kept = dead_letters.kept

        async def watched(warehouse: Warehouse, ids: Sequence[str]) -> list[dead_letters.Kept]:
            found = await kept(warehouse, ids)
            portions.append(sum(len(letter.record) for letter in found))
            return found

        monkeypatch.setattr(dead_letters, "kept", watched)
        monkeypatch.setattr(replay, "_PORTION_BYTES", 10_000)
        sizes = [100, 4_000, 7_000, 30_000, 2_000, 9_000, 50]
        await store_dead_letters(
            warehouse, [a_letter(b"x" * size, rejected_ms=-at) for at, size in enumerate(sizes)]
        )
        async with replaying(warehouse) as again:
            assert told(await again()) == (7, 0, {"invalid_json": 7}, 0)
        assert portions == [11_100, 30_000, 11_000, 50]

    async def test_a_record_that_was_too_large_is_kept_whole_and_too_large_again(
        self, warehouse: Warehouse
    ) -> None:
        record = encoded(registrations(1, city="x" * (2 * MAX_RECORD_BYTES)))[0]
        (letter,) = await reject(warehouse, [record])
        async with replaying(warehouse) as again:
            assert told(await again()) == (1, 0, {"too_large": 1}, 0)
        whole = await dead_letters.one(warehouse, letter.dead_letter_id)
        assert whole is not None
        assert whole.record.encode() == record

    async def test_cut_off_it_leaves_open_what_it_has_not_done(self, warehouse: Warehouse) -> None:
        held = Held(warehouse)
        await reject(warehouse, encoded(registrations(3)))
        async with replaying(held) as again:
            cut_off = asyncio.create_task(again())
            await held.asked.wait()
            cut_off.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cut_off
            assert await attempts(warehouse) == 0
            held.go.set()
            assert told(await again()) == (3, 3, {}, 0)
        assert len(await rows(warehouse)) == 3
        assert await attempts(warehouse) == 3

    async def test_what_is_not_stored_in_time_is_open_and_the_store_said_to_be_away(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replay, "_STORED_WITHIN_SECONDS", 0.05)
        held = Held(warehouse)
        await reject(warehouse, encoded(registrations(3)))
        async with replaying(held) as again:
            with pytest.raises(WarehouseUnavailable):
                await again()
            held.go.set()
        assert len(await stored_letters(warehouse, OPEN)) == 3

    @pytest.mark.parametrize("size", [1, 2, 3])
    async def test_portions_of_any_size_try_each_letter_once(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        monkeypatch.setattr(replay, "_PORTION_LETTERS", size)
        await reject(warehouse, [*encoded(registrations(4)), b"{"])
        async with replaying(warehouse) as again:
            assert told(await again()) == (5, 4, {"invalid_json": 1}, 0)
        assert await attempts(warehouse) == 5


class TestCursor:
    @given(ms=st.integers(0, 10**15 - 1), digest=st.binary(min_size=16, max_size=16))
    def test_it_is_the_place_that_it_was_made_of(self, ms: int, digest: bytes) -> None:
        place = Place(ms, digest.hex())
        assert Place.at(place.cursor) == place

    @given(text=st.text() | st.binary().map(lambda raw: b64encode(raw).decode()))
    def test_anything_else_is_none(self, text: str) -> None:
        assert Place.at(text) is None


def test_the_id_is_that_of_the_content_and_of_its_place_in_kafka() -> None:
    error = BadEvent("invalid_json", "It breaks off.")
    places = list(itertools.product(TOPICS, (0, 1), (0, 1)))
    ids = [
        {
            DeadLetter.of(
                record, error, rejected_ms=at, topic=topic, partition=partition, offset=offset
            ).dead_letter_id
            for topic, partition, offset in places
        }
        for at, record in enumerate((b"{", b"{", b"["))  # the last: after the topic was made anew
    ]
    assert [len(some) for some in ids] == [len(places)] * 3
    assert ids[0] == ids[1]
    assert not ids[0] & ids[2]
    over_http = [
        DeadLetter.of(record, error, rejected_ms=at).dead_letter_id
        for at, record in enumerate((b"{", b"{", b"["))
    ]
    assert over_http[0] == over_http[1] != over_http[2]
    assert not (ids[0] | ids[2]) & set(over_http)
