"""Dead letters: listed by page as they were stored, and replayed so that nothing happens twice or is lost."""

import itertools
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.config import Config
from openride_analytics.events import MAX_RECORD_BYTES, BadEvent
from openride_analytics.ingest import dead_letters
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
from openride_analytics.warehouse import Warehouse
from tests.properties import SLOW, holds
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
        @settings(SLOW, max_examples=20)
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
    # Else the few values that a blanked field can have could be tried, until one gives the id.
    assert (
        len(
            {
                DeadLetter.of(b'{"card_last4":"%d"' % digits, error, rejected_ms=0).dead_letter_id
                for digits in (4242, 4243)
            }
        )
        == 1
    )
    over_http = [
        DeadLetter.of(record, error, rejected_ms=at).dead_letter_id
        for at, record in enumerate((b"{", b"{", b"["))
    ]
    assert over_http[0] == over_http[1] != over_http[2]
    assert not (ids[0] | ids[2]) & set(over_http)


UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@given(
    parts=st.lists(
        st.uuids().map(str) | st.uuids().map(lambda one: str(one).upper()) | st.text("0aF-", max_size=40)
    ),
    between=st.sampled_from(["", " ", "-", "0", "x"]),
)
def test_the_ids_in_a_text_are_found_wherever_they_begin(parts: list[str], between: str) -> None:
    text = between.join(parts)
    small = text.lower()
    everywhere = {small[at : at + 36] for at in range(len(small)) if UUID_TEXT.fullmatch(small, at, at + 36)}
    assert dead_letters._ids_in(text.encode()) == everywhere
