"""The funnel where the data is lopsided."""

from datetime import UTC, datetime
from time import perf_counter
from zoneinfo import ZoneInfo

from openride_analytics.analytics import funnel
from openride_analytics.period import Period
from openride_analytics.warehouse.embedded import EmbeddedWarehouse

MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC), ZoneInfo("UTC"))

_MANY = """
INSERT INTO events (event_type, event_id, event_timestamp, rider_id)
SELECT
    arrayJoin(['booking.created', 'booking.confirmed']) AS kind,
    reinterpretAsUUID(sipHash128(kind, number)),
    fromUnixTimestamp64Milli(1772323200000 + toInt64(number) * 60000 + (kind = 'booking.confirmed') * 30000),
    toUUID('6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e')
FROM numbers({bookings:UInt64})
"""


async def test_one_user_with_many_attempts_costs_time_in_proportion(
    embedded_warehouse: EmbeddedWarehouse,
) -> None:
    """Were each attempt held against each event, this would take gigabytes and a minute."""
    await embedded_warehouse.execute(_MANY, {"bookings": 20_000})
    steps = ("booking.created", "booking.confirmed", "booking.created", "booking.confirmed")
    began = perf_counter()
    answer = await funnel.ask(embedded_warehouse, funnel.Question(period=MARCH, now=MARCH.end, steps=steps))
    assert perf_counter() - began < 15
    assert [step.users for step in answer.steps] == [1, 1, 1, 1]
    assert [step.median_minutes_from_previous for step in answer.steps] == [None, 0.5, 0.5, 0.5]


async def test_the_longest_funnel_is_no_trouble_to_the_engine(embedded_warehouse: EmbeddedWarehouse) -> None:
    """Were all steps in one statement, its text would double with each."""
    await embedded_warehouse.execute(_MANY, {"bookings": 7})
    steps = ("booking.created",) * funnel.MOST_STEPS
    question = funnel.Question(period=MARCH, now=MARCH.end, steps=steps, breakdown="city")
    answer = await funnel.ask(embedded_warehouse, question)
    assert [step.users for step in answer.steps] == [1] * 7 + [0]
    assert [place.value for place in answer.breakdown] == [None]
