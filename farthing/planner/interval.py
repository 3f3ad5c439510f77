"""Two numbers -> what lies between them. A published figure is an interval: rounded, "about", "over", or a range.

Decimal, so that money stays exact. Bounds are not negative; the upper one may be Infinity ("over 2,000 GPUs").
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext

INFINITY = Decimal("Infinity")
LARGEST = Decimal("1e40")
"""Beyond any quantity of this world; a larger number is refused where it is read."""
_ARITHMETIC = Context(prec=40, Emax=9999, Emin=-9999)


@dataclass(frozen=True)
class Interval:
    low: Decimal
    high: Decimal
    nominal: Decimal | None = field(default=None, compare=False)
    """What was said, where the ends are its rounding: 80 of 75 to 85."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"an interval runs from a small to a large number, not from {self.low} to {self.high}")

    def __mul__(self, other: "Interval") -> "Interval":
        return Interval(_times(self.low, other.low), _times(self.high, other.high), _times(self.middle, other.middle))

    def __truediv__(self, other: "Interval") -> "Interval":
        low, high = _over(self.low, other.high), _over(self.high, other.low)
        return Interval(low, high, _over(self.middle, other.middle) if other.middle else None)

    def __add__(self, other: "Interval") -> "Interval":
        with localcontext(_ARITHMETIC):
            return Interval(self.low + other.low, self.high + other.high, self.middle + other.middle)

    def scaled(self, factor: Decimal | int | float) -> "Interval":
        return self * exactly(factor)

    def meets(self, other: "Interval") -> bool:
        return self.low <= other.high and other.low <= self.high

    def common(self, other: "Interval") -> "Interval":
        """What both allow; they must meet."""
        return Interval(max(self.low, other.low), min(self.high, other.high), self.nominal)

    def hull(self, other: "Interval") -> "Interval":
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def widened(self, share: Decimal | float) -> "Interval":
        """By a share of itself on both sides."""
        part = Decimal(str(share))
        return Interval(_times(self.low, 1 - part), _times(self.high, 1 + part), self.nominal)

    @property
    def middle(self) -> Decimal:
        """The one number to show: what was said, else the middle, or the end that is known."""
        if self.nominal is not None:
            return self.nominal
        if self.high == INFINITY:
            return self.low
        with localcontext(_ARITHMETIC):
            return self.high if self.low == 0 else (self.low + self.high) / 2

    @property
    def is_open(self) -> bool:
        return self.high == INFINITY or self.low == 0


def exactly(value: Decimal | int | float | str) -> Interval:
    number = Decimal(str(value))
    return Interval(number, number)


def total(parts: Iterable[Interval]) -> Interval:
    result = exactly(0)
    for part in parts:
        result = result + part
    return result


def _times(a: Decimal, b: Decimal) -> Decimal:
    if not a or not b:
        return Decimal(0)  # "over nothing" times anything: no bound below
    with localcontext(_ARITHMETIC):
        return a * b


def _over(a: Decimal, b: Decimal) -> Decimal:
    if a == 0 or b == INFINITY:
        return Decimal(0)
    if b == 0 or a == INFINITY:
        return INFINITY
    with localcontext(_ARITHMETIC):
        return a / b
