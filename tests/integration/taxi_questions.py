"""Questions about the taxi trips, asked over HTTP, and how the answers differ from the truth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.model.asked import differences
from tests.taxi import periods, truth

from .running import Sections, ServiceProcess

# What the trips need: they are years old, in New York and paid in dollars. Every answer is computed anew.
CONFIG: Sections = {
    "retention": {"hot_days": 0, "cold_days": 0},
    "analytics": {"timezone": periods.NEW_YORK, "currency": truth.CURRENCY},
    "cache": {"fresh_seconds": 0, "stale_seconds": 0, "closed_max_age_seconds": 1},
}
ENDPOINTS = {
    "users": truth.users,
    "bookings": truth.bookings,
    "payments": truth.payments,
    "trips": truth.trips,
    "drivers": truth.drivers,
    "routes": truth.routes,
}


@dataclass(frozen=True)
class Asked:
    """A period as a caller names it: by days (the last one included) or by instants."""

    first: str
    last: str
    timezone: str = periods.NEW_YORK
    granularity: periods.Granularity = "day"
    compare: bool = False
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def by_days(self) -> bool:
        return "T" not in self.first

    @property
    def start(self) -> datetime:
        return self._instant(self.first)

    @property
    def end(self) -> datetime:
        if not self.by_days:
            return self._instant(self.last)
        day = datetime.fromisoformat(self.last) + timedelta(days=1)
        return day.replace(tzinfo=ZoneInfo(self.timezone))

    def parameters(self, endpoint: str) -> dict[str, str]:
        asked = {
            "start_date": self.first,
            "end_date": self.last,
            "timezone": self.timezone,
            "granularity": self.granularity,
        }
        if self.compare:
            asked["compare"] = "previous"
        return asked | {name: str(value) for name, value in self.more.get(endpoint, {}).items()}

    def _instant(self, text: str) -> datetime:
        instant = datetime.fromisoformat(text)
        return instant.replace(tzinfo=ZoneInfo(self.timezone)) if self.by_days else instant

    def __str__(self) -> str:
        compared = "-compared" if self.compare else ""
        return f"{self.first}..{self.last}-{self.timezone}-{self.granularity}{compared}"


QUESTIONS = (
    Asked("2019-03-01", "2019-03-31", compare=True),
    Asked(
        "2019-03-01",
        "2019-03-31",
        granularity="week",
        more={"drivers": {"sort": "trips", "limit": 1000}, "routes": {"limit": 1000}},
    ),
    Asked(
        "2019-02-01", "2019-04-30", granularity="month", compare=True, more={"drivers": {"sort": "distance"}}
    ),
    Asked("2019-02-28", "2019-04-01", granularity="none", more={"drivers": {"currency": "EUR", "limit": 7}}),
    # New York's clocks jump that night.
    Asked("2019-03-10", "2019-03-10", granularity="hour", compare=True),
    Asked("2019-03-09", "2019-03-11", "UTC", "hour"),
    Asked("2019-02-28", "2019-03-04", "Africa/Lagos", "day", compare=True),
    # Hours and days that begin at half past UTC's, or at a quarter to.
    Asked("2019-03-16", "2019-03-17", "Asia/Kolkata", "hour", compare=True),
    Asked("2019-03-04", "2019-03-24", "Asia/Kathmandu", "week", compare=True),
    # London's clocks jump, too.
    Asked("2019-03-30", "2019-04-01", "Europe/London", "hour"),
    Asked("2019-03-09T12:30:00-05:00", "2019-03-20T07:45:30.500Z", granularity="day", compare=True),
    Asked("2019-03-15T23:59:59.999Z", "2019-03-16T04:00:00.001Z", "Asia/Kolkata", "hour", compare=True),
    # Nothing happened.
    Asked("2019-05-01", "2019-05-02", compare=True),
)


def differences_from_truth(service: ServiceProcess, asked: Asked) -> list[str]:
    """Over all endpoints of one question, each with the endpoint's name; empty where all is as it should be."""
    found = []
    for endpoint, true_answer in ENDPOINTS.items():
        more = dict(asked.more.get(endpoint, {}))
        if endpoint == "drivers":
            more["configured_currency"] = truth.CURRENCY
        expected = true_answer(
            asked.start,
            asked.end,
            asked.timezone,
            asked.granularity,
            calendar=asked.by_days,
            compare=asked.compare,
            **more,
        )
        answer = service.get_json(f"/v1/metrics/{endpoint}", **asked.parameters(endpoint))
        found += [f"{endpoint} {difference}" for difference in differences(expected, answer)]
    return found
