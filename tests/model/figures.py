"""Rates, means, percentiles and sums of money, each by its definition."""

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from math import floor, fsum

Money = tuple[str, Decimal]
"""A currency and an amount in it."""


def rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean(numbers: list[float]) -> float | None:
    return fsum(numbers) / len(numbers) if numbers else None


def percentile(numbers: list[float], percent: int) -> float | None:
    """Linear interpolation between the two nearest, as NumPy's default."""
    if not numbers:
        return None
    ordered = sorted(numbers)
    place = (len(ordered) - 1) * percent / 100
    below = floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def money_mean(amounts: list[Decimal]) -> Decimal:
    with localcontext(prec=60):
        return _four_decimals(sum(amounts, Decimal(0)) / len(amounts))


def money_percentile(amounts: list[Decimal], percent: int) -> Decimal:
    ordered = sorted(amounts)
    with localcontext(prec=60):
        place = Decimal((len(ordered) - 1) * percent) / 100
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return _four_decimals(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def _four_decimals(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.0001"), ROUND_HALF_EVEN)


def by_currency(money: Iterable[Money]) -> dict[str, list[Decimal]]:
    amounts: dict[str, list[Decimal]] = {}
    for currency, amount in money:
        amounts.setdefault(currency, []).append(amount)
    return amounts


def totals(money: Iterable[Money]) -> dict[str, Decimal]:
    return {currency: sum(amounts, Decimal(0)) for currency, amounts in by_currency(money).items()}


def averages(money: Iterable[Money]) -> dict[str, Decimal]:
    return {currency: money_mean(amounts) for currency, amounts in by_currency(money).items()}


def money_text(amount: Decimal) -> str:
    """With two to four decimals: no zeros behind the second one."""
    text = f"{amount:.4f}"
    for _ in range(2):
        text = text.removesuffix("0")
    return text


def money_texts(amounts: dict[str, Decimal]) -> dict[str, str]:
    return {currency: money_text(amount) for currency, amount in sorted(amounts.items())}
