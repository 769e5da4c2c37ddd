"""Replaying dead letters: once more the way of an event, as often as one likes, and nothing is stored twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from openride_analytics.events import MAX_RECORD_BYTES, Acceptance, BadEvent, Decode, Event, decode
from openride_analytics.ingest import dead_letters, replay
from openride_analytics.ingest.dead_letters import (
    DeadLetter,
    Place,
    Selection,
    store_dead_letters,
)
from openride_analytics.ingest.pipeline import UNSTORABLE
from openride_analytics.ingest.records import acceptance_now, decode_records
from openride_analytics.ingest.replay import Replayed, Replays
from openride_analytics.warehouse import Row, Warehouse, WarehouseUnavailable
from tests.component.test_dead_letters import (
    EVERYTHING,
    FOR_EVER,
    OPEN,
    TOPICS,
    a_letter,
    config,
    stored_letters,
    warehouse,
)
from tests.component.test_pipeline import EVENT_ROWS, Held, Running, running
from tests.samples import Sample, minimal

__all__ = ["warehouse"]


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

    async def test_what_was_kept_as_it_should_have_been_stored_is_read_so(self, warehouse: Warehouse) -> None:
        def not_the_contracts(_: bytes, __: Acceptance) -> Event:
            raise BadEvent("invalid_field", "The field is required.", "userId")

        (line,) = [decode(record, acceptance_now(config())).line for record in encoded(registrations(1))]
        letter = DeadLetter.of(line, UNSTORABLE, rejected_ms=0, topic=TOPICS[0], partition=0, offset=7)
        await store_dead_letters(warehouse, [letter])
        async with replaying(warehouse, decoder=not_the_contracts) as again:
            assert told(await again()) == (1, 1, {}, 0)

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
