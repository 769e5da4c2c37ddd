"""What a number is, beside its description in an answer's struct: the source of the catalogue of metrics."""

from typing import Any, Final, Literal

from msgspec import Struct

Basis = Literal["events", "cohort"]


class Measure(Struct, kw_only=True, frozen=True):
    """What one number measures."""

    unit: str
    numerator: str | None
    denominator: str | None
    basis: Basis
    additive: bool
    version: int


def measure(
    unit: str,
    numerator: str | None = None,
    denominator: str | None = None,
    *,
    basis: Basis = "events",
    additive: bool = False,
    version: int = 1,
) -> dict[str, Any]:
    """A field's `Meta.extra`: it is a metric. `version` moves on when the same events give another number."""
    return {
        "measure": Measure(
            unit=unit,
            numerator=numerator,
            denominator=denominator,
            basis=basis,
            additive=additive,
            version=version,
        )
    }


AXIS: Final[dict[str, Any]] = {"axis": True}
"""A field's `Meta.extra`: it says of what the metrics beside it are, and is none itself."""
