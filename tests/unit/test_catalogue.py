"""The catalogue of metrics: every number of every answer is in it, and says what the answer's documentation says."""

import re
from typing import Any, get_args

import pytest

from openride_analytics.catalogue import ANSWERS, definitions, fields
from openride_analytics.metrics.bookings import BookingMetrics
from openride_analytics.metrics.question import Money

BY_NAME = {(one.endpoint, one.name): one for one in definitions().metrics}
MONEY = get_args(Money)[0]


def is_number(kind: Any) -> bool:
    """A whole number, a fraction or an amount, perhaps null or not there, perhaps by currency."""
    if kind is bool:
        return False
    return kind in (int, float, MONEY) or any(is_number(inside) for inside in get_args(kind))


@pytest.mark.parametrize("endpoint", ANSWERS)
def test_every_number_of_an_answer_is_a_metric_or_an_axis(endpoint: str) -> None:
    described = list(fields(ANSWERS[endpoint]))
    numbers = [field for field in described if is_number(field.type)]
    assert numbers
    for field in numbers:
        extra = field.meta.extra or {}
        assert ("measure" in extra) != ("axis" in extra), field.path
        if "axis" not in extra:
            # What series and comparison hold, the summary holds too.
            name = ".".join(part for part in field.path if part not in ("summary", "previous", "series"))
            assert (endpoint, name) in BY_NAME


def test_the_distributions_of_amounts_are_in_it_too() -> None:
    assert BY_NAME["/v1/metrics/drivers", "earnings.p95"].unit == "money"


def test_no_metric_is_listed_twice() -> None:
    assert len(BY_NAME) == len(definitions().metrics)


def test_a_formula_is_the_text_of_the_field() -> None:
    texts = {field.path[-1]: field.meta.description for field in fields(BookingMetrics)}
    for name, text in texts.items():
        listed = [one for one in definitions().metrics if one.endpoint.endswith("/bookings")]
        assert text in {one.formula for one in listed if one.name.rpartition(".")[2] == name}


def test_quotients_say_what_is_divided_by_what() -> None:
    for one in definitions().metrics:
        assert (one.numerator is None) == (one.denominator is None)
        if re.search(r"(rate|share|stickiness|utilization)(_|$)", one.name):
            assert one.unit == "ratio", one.name
            assert one.denominator, one.name
    conversion = BY_NAME["/v1/metrics/bookings", "conversion_rate"]
    assert (conversion.denominator, conversion.basis) == ("bookings created", "cohort")


def test_only_sums_of_events_add_up_over_buckets() -> None:
    assert [one.name for one in definitions().metrics if one.additive] == ["refunded_amount"]
