"""One thing held against a claim -> passed, held only on a condition, failed, or open for want of a figure."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from farthing.planner.interval import INFINITY, Interval

Outcome = Literal["pass", "needs", "fail", "open", "note"]


@dataclass(frozen=True)
class Check:
    """`says` is a sentence with its numbers; `needs` the condition, or what is missing; `readings` what would agree."""

    name: str
    outcome: Outcome
    says: str
    needs: str = ""
    readings: tuple[str, ...] = ()


def spoken(value: Interval, unit: str = "", money: bool = False) -> str:
    """147,000; 75 to 85 h; at least $100M: an interval as one would say it."""
    sign, tail = ("$", "") if money else ("", f" {unit}" if unit else "")
    low, high = value.low, value.high
    if high == INFINITY:
        return f"at least {sign}{short(low)}{tail}"
    if low == 0:
        return f"at most {sign}{short(high)}{tail}"
    if (high <= low * Decimal("1.3") and value.nominal is not None) or high <= low * Decimal("1.005"):
        return f"{sign}{short(value.middle)}{tail}"
    return f"{sign}{short(low)} to {sign}{short(high)}{tail}"


def short(number: Decimal | float) -> str:
    """Three or four digits: 5.576M, 40,960, 7.18, 3.8e25."""
    value = float(number)
    if value >= 1e16:
        return f"{value:.3g}".replace("e+", "e")
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size * 0.99995:
            return f"{value / size:.4g}{letter}"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
