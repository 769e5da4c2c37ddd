"""The story of one booking on the made-up platform, from the request to the end of the ride or the refund.

`platform` decides who books which car and when; `Bookings.book` writes all that follows, with its
future times, into the journal.
"""

from typing import Final

from openride_analytics.demo.cast import (
    DRIVER_REASONS,
    HOUR,
    MINUTE,
    NEVER,
    PAYMENT_METHODS,
    REFUND_REASONS,
    RIDER_REASONS,
    Departure,
    PaymentMethod,
    Rider,
    booking_ids,
    money,
)
from openride_analytics.demo.journal import Event, Journal
from openride_analytics.demo.places import offset
from openride_analytics.demo.road import Road

_COMMISSION: Final = 0.15


class Bookings:
    def __init__(self, journal: Journal, road: Road, staff_ids: list[str]) -> None:
        self._journal = journal
        self._rng = journal.rng
        self._road = road
        self._staff_ids = staff_ids

    def book(self, rider: Rider, departure: Departure, booked_ms: int, seats: int) -> None:
        rng = self._rng
        route, way = departure.route, departure.route.corridor
        ids = booking_ids(self._journal.new_id(), rider, route)
        cents = route.price_cents * seats
        if rng.random() < 0.06:
            cents = cents * 9 // 10
        quote = {"seats_booked": seats, "total_price": money(cents), "currency": way.currency}
        start = offset(way.origin, rng.random() * 1200, rng.random() * 360)
        end = offset(way.destination, rng.random() * 1200, rng.random() * 360)
        created = {
            **ids,
            **quote,
            "pickup_lat": start[0],
            "pickup_lon": start[1],
            "dropoff_lat": end[0],
            "dropoff_lon": end[1],
            "pickup_stop_id": route.stop_ids[0],
            "dropoff_stop_id": route.stop_ids[1],
            "scheduled_departure": departure.scheduled_ms,
        }
        self._journal.write("booking.created", booked_ms, created)
        if rng.random() < 0.05:
            # Never paid for. Some of these even the platform forgets to cancel.
            if rng.random() < 0.45:
                self._cancel(ids, booked_ms + 15 * MINUTE, "SYSTEM", "payment_timeout")
            return
        payment, paid_ms = self._pay(rider, ids, quote, booked_ms)
        if payment is None:
            if rng.random() < 0.8:
                self._cancel(ids, paid_ms + 10 * MINUTE, "SYSTEM", "payment_failed")
            return

        confirmed_ms = paid_ms + int(rng.lognormvariate(0.0, 0.9) * MINUTE)
        code = f"{rng.getrandbits(32):08X}"[:6]
        confirmed = {**ids, **quote, "payment_id": payment["payment_id"], "confirmation_code": code}
        self._journal.write("booking.confirmed", confirmed_ms, confirmed)
        if self._called_off(ids, payment, departure, confirmed_ms, cents):
            return
        departure.free_seats -= seats
        rider.busy_until_ms = departure.arrival_ms
        self._ride(ids, quote, payment, departure, confirmed_ms, cents, (start, end))

    def _pay(self, rider: Rider, ids: Event, quote: Event, booked_ms: int) -> tuple[Event | None, int]:
        """Up to three attempts: the payment that went through (or None) and when the last one ended."""
        rng = self._rng
        method = rider.pays_by if rng.random() < 0.85 else rng.choice(PAYMENT_METHODS)
        at_ms = booked_ms + 10_000 + int(rng.expovariate(1 / 50_000))
        payment = self._payment(method, ids, quote)
        for attempt in range(3):
            if attempt and rng.random() < 0.75:
                # Some try the same payment again, most begin another, often by other means.
                method = rng.choice(PAYMENT_METHODS)
                payment = self._payment(method, ids, quote)
            self._journal.write("payment.initiated", at_ms, payment)
            took_ms = int(method.median_ms * rng.lognormvariate(0, 0.5))
            at_ms += took_ms
            ended = {**payment, "processing_time_ms": took_ms} if rng.random() < 0.9 else dict(payment)
            if rng.random() >= method.failure_rate:
                if method.name == "card":
                    ended["card_last4"] = f"{rng.randrange(10_000):04d}"
                self._journal.write("payment.success", at_ms, ended)
                return payment, at_ms
            ended["error_code"], ended["error_message"] = rng.choice(method.errors)
            self._journal.write("payment.failed", at_ms, ended)
            if rng.random() < 0.2:
                break
            at_ms += rng.randrange(15_000, 2 * MINUTE)
        return None, at_ms

    def _payment(self, method: PaymentMethod, ids: Event, quote: Event) -> Event:
        provider = self._rng.choice(method.providers)
        return {
            "payment_id": self._journal.new_id(),
            "booking_id": ids["booking_id"],
            "rider_id": ids["rider_id"],
            "amount": quote["total_price"],
            "currency": quote["currency"],
            "payment_method": method.name,
            "provider": provider,
            "provider_transaction_id": f"{provider[:3].upper()}-{self._rng.getrandbits(48):012x}",
        }

    def _called_off(
        self, ids: Event, payment: Event, departure: Departure, confirmed_ms: int, cents: int
    ) -> bool:
        """Lets a confirmed booking be cancelled before its ride, as some are; True if it was."""
        rng = self._rng
        scheduled_ms = departure.scheduled_ms
        if departure.called_off_ms < NEVER:
            at_ms = max(departure.called_off_ms, confirmed_ms + MINUTE)
            reason = DRIVER_REASONS[departure.called_off_ms % len(DRIVER_REASONS)]
            self._cancel(ids, at_ms, "DRIVER", reason, refunded=True)
            self._refund(payment, at_ms, cents, cents, "cancelled_by_driver")
            if scheduled_ms - at_ms < HOUR:
                fields = {
                    "trip_id": self._journal.new_id(),
                    **ids,
                    "cancelled_by": "DRIVER",
                    "cancellation_reason": reason,
                }
                self._journal.write("trip.cancelled", at_ms + 2_000, {**fields, "was_started": False})
            return True
        chance = rng.random()
        if chance < 0.035:
            at_ms = confirmed_ms + MINUTE + int(rng.random() * max(scheduled_ms - confirmed_ms, MINUTE))
            early = scheduled_ms - at_ms > HOUR
            self._cancel(ids, at_ms, "RIDER", rng.choice(RIDER_REASONS), refunded=True)
            reason = "cancelled_by_rider" if early else "late_cancellation"
            self._refund(payment, at_ms, cents if early else cents // 2, cents, reason)
            return True
        if chance < 0.046:
            at_ms = max(departure.actual_ms, confirmed_ms) + 12 * MINUTE
            self._cancel(ids, at_ms, "SYSTEM", "rider_no_show")
            fields = {"trip_id": self._journal.new_id(), **ids, "cancelled_by": "RIDER", "was_started": False}
            self._journal.write(
                "trip.cancelled", at_ms - 2_000, {**fields, "cancellation_reason": "rider_no_show"}
            )
            return True
        return False

    def _cancel(self, ids: Event, at_ms: int, by: str, reason: str, *, refunded: bool = False) -> None:
        fields = {"cancelled_by": by, "cancellation_reason": reason, "refund_initiated": refunded}
        self._journal.write("booking.cancelled", at_ms, {**ids, **fields})

    def _refund(self, payment: Event, at_ms: int, cents: int, paid_cents: int, reason: str) -> None:
        """Sends money back some time later, now and then in two parts."""
        rng = self._rng
        parts = (cents // 2, cents - cents // 2) if rng.random() < 0.15 else (cents,)
        for part in parts:
            at_ms += rng.randrange(2 * MINUTE, 6 * HOUR)
            fields = {
                "payment_id": payment["payment_id"],
                "booking_id": payment["booking_id"],
                "rider_id": payment["rider_id"],
                "refund_amount": money(part),
                "original_amount": money(paid_cents),
                "currency": payment["currency"],
                "refund_reason": reason,
                "refunded_by": rng.choice(self._staff_ids),
            }
            self._journal.write("payment.refunded", at_ms, fields)

    def _ride(
        self,
        ids: Event,
        quote: Event,
        payment: Event,
        departure: Departure,
        confirmed_ms: int,
        cents: int,
        ends: tuple[tuple[float, float], tuple[float, float]],
    ) -> None:
        rng = self._rng
        way = departure.route.corridor
        trip = {"trip_id": self._journal.new_id(), **ids}
        started_ms = max(departure.actual_ms + rng.randrange(90_000), confirmed_ms + 20_000)
        arrived_ms = max(departure.arrival_ms - rng.randrange(2 * MINUTE), started_ms + 6 * MINUTE)
        if departure.trip_id is None:
            self._road.drive(departure, trip["trip_id"])
        started = {
            **trip,
            "scheduled_departure": departure.scheduled_ms,
            "actual_departure": started_ms,
            "start_lat": ends[0][0],
            "start_lon": ends[0][1],
            "passengers_count": quote["seats_booked"],
        }
        self._journal.write("trip.started", started_ms, started)
        km = way.km * rng.uniform(0.94, 1.12)
        if rng.random() < 0.006:
            done = rng.uniform(0.1, 0.8)
            at_ms = started_ms + int((arrived_ms - started_ms) * done)
            failed = {**trip, "cancelled_by": "DRIVER", "cancellation_reason": "vehicle_breakdown"}
            failed |= {"was_started": True, "partial_distance_km": round(km * done, 2)}
            self._journal.write("trip.cancelled", at_ms, failed)
            self._cancel(ids, at_ms + 3_000, "DRIVER", "vehicle_breakdown", refunded=True)
            self._refund(payment, at_ms, int(cents * (1 - done)), cents, "vehicle_breakdown")
            return

        minutes = round((arrived_ms - started_ms) / MINUTE, 2)
        commission_cents = round(cents * _COMMISSION)
        ride = {"actual_departure": started_ms, "actual_arrival": arrived_ms, "duration_minutes": minutes}
        completed = {
            **trip,
            **ride,
            "distance_km": round(km, 2),
            "end_lat": ends[1][0],
            "end_lon": ends[1][1],
            "driver_earnings": money(cents - commission_cents),
            "platform_commission": money(commission_cents),
            "currency": way.currency,
            "on_time": started_ms <= departure.scheduled_ms + 10 * MINUTE,
        }
        self._journal.write("trip.completed", arrived_ms, completed)
        booking = {**ids, "trip_id": trip["trip_id"], **quote, **ride}
        self._journal.write("booking.completed", arrived_ms + rng.randrange(1_000, 20_000), booking)
        if rng.random() < 0.007:
            refund_cents = cents * rng.choice((2, 3, 5)) // 10
            self._refund(payment, arrived_ms + HOUR, refund_cents, cents, rng.choice(REFUND_REASONS))
