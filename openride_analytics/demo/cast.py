"""Who and what the made-up platform remembers: riders, drivers, routes, departures, and people's habits.

State and tables only; what becomes of them is the business of `platform`, `bookings` and `road`. All
times are Unix milliseconds.
"""

from dataclasses import dataclass, field
from math import exp
from typing import Any, Final, NamedTuple

from openride_analytics.demo.places import Corridor

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
NEVER: Final = 1 << 62


class Habit(NamedTuple):
    """How often a kind of rider books: at first `first_day` times a day more than when `settled`."""

    share: float
    first_day: float
    fading_days: float
    settled: float
    regular: bool = False
    travels: bool = False

    def by_age(self, days: int = 400) -> list[float]:
        """Bookings to expect on a usual day, by days since registration."""
        return [self.settled + self.first_day * exp(-age / self.fading_days) for age in range(days)]


# Regulars ride to work and back for good (until they move on); of the rest most leave soon, as riders do.
HABITS: Final = (
    Habit(0.075, 0.15, 5, 0.54, regular=True),
    Habit(0.375, 0.40, 9, 0.036),
    Habit(0.24, 0.40, 3, 0.002),
    Habit(0.13, 0.16, 15, 0.05, travels=True),
    Habit(0.18, 0.0, 1, 0.0),
)


class PaymentMethod(NamedTuple):
    name: str
    share: float
    providers: tuple[str, ...]
    failure_rate: float
    median_ms: int
    errors: tuple[tuple[str, str], ...]


_NO_FUNDS: Final = ("INSUFFICIENT_FUNDS", "The account does not hold enough money.")

PAYMENT_METHODS: Final = (
    PaymentMethod(
        "card",
        0.46,
        ("paystack", "paystack", "paystack", "flutterwave", "flutterwave", "interswitch"),
        0.105,
        2_300,
        (
            _NO_FUNDS,
            _NO_FUNDS,
            ("DO_NOT_HONOR", "The bank declined without a reason."),
            ("AUTHENTICATION_FAILED", "The one-time password was wrong or came too late."),
            ("ISSUER_UNAVAILABLE", "The bank did not answer."),
            ("EXPIRED_CARD", "The card has expired."),
        ),
    ),
    PaymentMethod(
        "bank_transfer",
        0.27,
        ("paystack", "monnify", "monnify", "flutterwave"),
        0.08,
        24_000,
        (
            ("TRANSFER_TIMEOUT", "The transfer did not arrive in time."),
            ("TRANSFER_TIMEOUT", "The transfer did not arrive in time."),
            ("AMOUNT_MISMATCH", "The transfer was not of the amount asked for."),
        ),
    ),
    PaymentMethod(
        "wallet",
        0.16,
        ("opay", "opay", "palmpay"),
        0.04,
        600,
        (("INSUFFICIENT_BALANCE", "The wallet does not hold enough money."),),
    ),
    PaymentMethod(
        "ussd",
        0.11,
        ("paystack", "flutterwave", "interswitch"),
        0.16,
        19_000,
        (
            ("SESSION_TIMEOUT", "The USSD session ended before the PIN was given."),
            ("SESSION_TIMEOUT", "The USSD session ended before the PIN was given."),
            _NO_FUNDS,
            ("INVALID_PIN", "The PIN was wrong."),
        ),
    ),
)

RIDER_REASONS: Final = (
    "change_of_plans",
    "change_of_plans",
    "found_another_ride",
    "booked_by_mistake",
    "late_driver",
)
DRIVER_REASONS: Final = ("vehicle_problem", "vehicle_problem", "personal_emergency", "too_few_passengers")
ROUTE_REASONS: Final = ("low_demand", "low_demand", "vehicle_in_repair", "schedule_changed", "moved_house")
REFUND_REASONS: Final = ("late_arrival", "uncomfortable_ride", "overcharged")

FIRST_NAMES: Final = (
    "Adaeze",
    "Aisha",
    "Bola",
    "Chinedu",
    "Efe",
    "Emeka",
    "Folake",
    "Ibrahim",
    "Musa",
    "Ngozi",
)
LAST_NAMES: Final = (
    "Abubakar",
    "Adeyemi",
    "Balogun",
    "Bello",
    "Eze",
    "Igwe",
    "Lawal",
    "Obi",
    "Okafor",
    "Wike",
)


@dataclass(slots=True, eq=False)
class Rider:
    rider_id: str
    corridor: int
    habit: Habit
    booking_rates: list[float]
    registered_ms: int
    leaves_ms: int
    pays_by: PaymentMethod
    favourites: dict[int, "Route"] = field(default_factory=dict)
    busy_until_ms: int = 0


@dataclass(slots=True, eq=False)
class Driver:
    driver_id: str
    corridor: int
    tardiness: float
    routes: list["Route"] = field(default_factory=list)
    busy_until_ms: int = 0


@dataclass(slots=True, eq=False)
class Route:
    """`open_spans` are the times between an activation and the next cancellation."""

    route_id: str
    driver: Driver
    corridor: Corridor
    stop_ids: tuple[str, str]
    seats: int
    price_cents: int
    departs_after_midnight_ms: int
    active_weekdays: tuple[int, ...]
    open_spans: list[tuple[int, int]]

    def is_open(self, at_ms: int) -> bool:
        return any(start <= at_ms < end for start, end in self.open_spans)


@dataclass(slots=True, eq=False)
class Departure:
    """One car on one day; `called_off_ms` is when its driver cancels (or `NEVER`)."""

    route: Route
    scheduled_ms: int
    actual_ms: int
    arrival_ms: int
    free_seats: int
    called_off_ms: int = NEVER
    trip_id: str | None = None


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def booking_ids(booking_id: str, rider: Rider, route: Route) -> dict[str, Any]:
    """The fields that all events of a booking share."""
    return {
        "booking_id": booking_id,
        "rider_id": rider.rider_id,
        "driver_id": route.driver.driver_id,
        "route_id": route.route_id,
    }
