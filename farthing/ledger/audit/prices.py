"""Entries -> whether every amount is its quantity times the dated price that it names, rounded once, half to even."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from farthing.ledger.audit.alike import Alike
from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import NS_PER_HOUR, dollars, picousd

_PICO = 10**12
_NS_PER_GB_MONTH = 10**9 * 730 * NS_PER_HOUR
_UNIT_OF = {"phase": "device-hour", "storage": "GB-month", "api": "token"}


@dataclass(frozen=True)
class Price:
    """A price record of this ledger."""

    id: str
    device: str
    unit: str
    usd: Fraction
    date: str
    source: str
    method: str
    power_w: Fraction | None
    power_method: str | None


class Prices:
    """`check` is the answer; `used` are the records with the number of entries and the picodollars that rest on each."""

    def __init__(self) -> None:
        self.check = Check("prices", "Is every amount its quantity times the dated price that it names?")
        self.records: dict[str, Price] = {}
        self.used: dict[str, list[int]] = {}
        self.unpriced_ns = 0
        self.stated_picousd = 0
        self.corrections = 0
        self._texts: dict[str, str] = {}
        self._rates: dict[tuple[str, int], tuple[int, int, str, str]] = {}
        self._num_checked = 0

    def add(self, entry: Entry) -> None:
        row = entry.row
        kind = row.kind
        if kind == "phase":
            self._phase(entry)
            return
        if kind == "price":
            self._record(entry)
        if kind in ("storage", "api"):
            self._bought(entry)
        elif kind == "expense":
            self.stated_picousd += entry.picousd
        elif kind == "correction":
            self.corrections += 1
        elif kind != "run" and (entry.picousd or row.held_ns):
            self._wrong(entry, "usd, held_ns", f"an entry of kind {kind} carries no money and no time, this one does")

    def fits(self, rows: Alike) -> bool:
        """Whether the amounts of phases alike are right; one that lies between two roundings is left to `add`."""
        rate = self._rates.get((rows.key[8], rows.key[7]))
        if rate is None or rows.key[6] != rate[3] or min(rows.at)[:10] < rate[2]:
            return False
        numerator, denominator = rate[:2]
        for held_ns, usd in zip(rows.held_ns, rows.picousd, strict=True):
            if not -denominator < 2 * (held_ns * numerator - usd * denominator) < denominator:
                return False
        left = dict(enumerate(rows.picousd)) if rows.waste else {}
        for i, _, part in rows.waste:
            left[i] -= part
        return min(left.values(), default=0) >= 0

    def take(self, rows: Alike) -> None:
        """Phases alike that fit."""
        self._num_checked += len(rows)
        used = self.used.setdefault(rows.key[8], [0, 0])
        used[0] += len(rows)
        used[1] += sum(rows.picousd)

    def finish(self) -> None:
        self.check.evidence = f"{self._num_checked} amounts computed anew from {len(self.records)} price records"

    def _record(self, entry: Entry) -> None:
        row, detail = entry.row, entry.detail
        try:
            price = _price(detail)
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
            self._wrong(entry, "detail", f"a price record that cannot be read: {type(error).__name__}: {error}")
            return
        if price.id in self.records and self._texts[price.id] != row.detail:
            self._wrong(entry, "detail", f"price {price.id} is stated a second time, and differently")
            return
        if price.usd < 0:
            self._wrong(entry, "detail", f"price {price.id} is negative")
        if not price.id.startswith(f"{price.device}@{price.date}"):
            self._wrong(entry, "detail", f"price id {price.id} does not name device {price.device} and date {price.date}")
        self.records[price.id], self._texts[price.id] = price, row.detail

    def _phase(self, entry: Entry) -> None:
        row = entry.row
        rate = self._rates.get((row.price, row.num_devices))
        if rate is None:
            price = self._named(entry)
            if price is None:
                self.unpriced_ns += row.held_ns * row.num_devices
                return
            per_ns = price.usd * row.num_devices * _PICO / NS_PER_HOUR
            rate = per_ns.numerator, per_ns.denominator, price.date, price.device
            self._rates[row.price, row.num_devices] = rate
        numerator, denominator, date, device = rate
        if row.device != device:
            self._wrong(entry, "device", f"{row.device!r} was charged at the price of {device!r}")
        if date > row.at[:10]:
            self._wrong(entry, "price", f"its price is dated {date}, after the entry ({row.at[:10]})")
        self._compare(entry, row.price, _half_even(row.held_ns * numerator, denominator))

    def _bought(self, entry: Entry) -> None:
        row, detail = entry.row, entry.detail
        price = self._named(entry)
        if price is None:
            return
        try:
            if row.kind == "storage":
                exact = Fraction(detail["bytes"] * detail["held_ns"], _NS_PER_GB_MONTH) * price.usd
            else:
                out = self.records[detail["price_out"]]
                exact = row.tokens_in * price.usd + row.tokens_out * out.usd
        except (KeyError, TypeError) as error:
            self._wrong(entry, "detail", f"its quantity or its price cannot be read: {type(error).__name__}: {error}")
            return
        if price.date > row.at[:10]:
            self._wrong(entry, "price", f"its price is dated {price.date}, after the entry ({row.at[:10]})")
        self._compare(entry, price.id, _half_even((exact * _PICO).numerator, (exact * _PICO).denominator))

    def _named(self, entry: Entry) -> Price | None:
        """The record that the entry names; None, and named as wrong where money rests on it, if there is none."""
        row = entry.row
        price = self.records.get(row.price)
        if price is None:
            if entry.picousd or row.price:
                known = "names no price" if not row.price else f"names price {row.price!r}, which no entry before it records"
                self._wrong(entry, "price", f"{dollars(entry.picousd)} USD, and it {known}")
            return None
        if price.unit != _UNIT_OF[row.kind]:
            self._wrong(entry, "price", f"a {row.kind} is priced by the {_UNIT_OF[row.kind]}, {price.id} by the {price.unit}")
        return price

    def _compare(self, entry: Entry, price: str, computed: int) -> None:
        self._num_checked += 1
        used = self.used.get(price)
        if used is None:
            used = self.used[price] = [0, 0]
        used[0] += 1
        used[1] += entry.picousd
        if computed != entry.picousd:
            what = f"{dollars(entry.picousd)} USD on the books; its quantity at {price} gives {dollars(computed)}"
            self._wrong(entry, "usd", what)
        if waste := entry.detail.get("waste_usd"):
            self._waste(entry, waste)

    def _waste(self, entry: Entry, waste: object) -> None:
        try:
            parts = [picousd(text) for text in dict(waste).values()]  # type: ignore[call-overload]
        except (ValueError, TypeError, AttributeError):
            self._wrong(entry, "detail", "its waste_usd cannot be read")
            return
        if min(parts) < 0 or sum(parts) > entry.picousd:
            self._wrong(entry, "detail", f"its waste is more than its cost of {dollars(entry.picousd)} USD")

    def _wrong(self, entry: Entry, column: str, what: str) -> None:
        self.check.found(Finding(what, entry.row.seq, (column,)))


def _price(detail: dict[str, Any]) -> Price:
    power = detail.get("power_w")
    return Price(
        id=str(detail["id"]),
        device=str(detail["device"]),
        unit=str(detail["unit"]),
        usd=Fraction(detail["usd_per_unit"]),
        date=str(detail["date"]),
        source=str(detail["source"]),
        method=str(detail["method"]),
        power_w=None if power is None else Fraction(power),
        power_method=None if detail.get("power_method") is None else str(detail["power_method"]),
    )


def _half_even(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return whole + (twice > denominator or (twice == denominator and whole & 1))
