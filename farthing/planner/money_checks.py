"""Claim and price book -> does devices x time make the device-hours, and what would a device-hour have cost?

A price within 0.4 to 1.6 times the dated records is ordinary (discounts, spot, other providers); beyond 0.15 to 2.9 times
nobody rents at it. Between them the claim holds only if that price was paid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from farthing.ledger.prices import PriceBook, PriceRecord
from farthing.planner.check import Check, short, spoken
from farthing.planner.claim import Claim
from farthing.planner.hardware import catalogue
from farthing.planner.interval import Interval, exactly

ORDINARY, POSSIBLE = (Decimal("0.4"), Decimal("1.6")), (Decimal("0.15"), Decimal("2.9"))
_AGREE, _NEAR = 0.02, 0.25
SERVER_USD_PER_DEVICE = Interval(Decimal(5_000), Decimal(75_000))
"""What an accelerator with its share of the server has cost to buy: of the order of $30,000, by SemiAnalysis' $1.6 bn for
about 50,000 (2025-01-31). Wide on purpose: it tells buying from renting, nothing finer."""


@dataclass(frozen=True)
class Hours:
    """Device-hours, and how one knows them."""

    value: Interval
    from_product: bool


def device_hours(claim: Claim) -> Hours | None:
    """As stated, else devices times time."""
    if claim.device_hours is not None:
        return Hours(claim.device_hours, False)
    if claim.num_devices is not None and claim.hours is not None:
        return Hours(claim.num_devices * claim.hours, True)
    return None


def time_check(claim: Claim) -> list[Check]:
    """Devices x time = device-hours."""
    count, hours, stated = claim.num_devices, claim.hours, claim.device_hours
    if count is None or hours is None or stated is None:
        return []
    product = count * hours
    says = f"{spoken(count)} devices x {spoken(hours, 'h')} = {spoken(product)} device-hours; stated: {spoken(stated)}."
    if claim.derived & {"device_hours", "hours", "devices"}:
        return [Check("device-hours", "note", f"{says} One of them was computed from the others.")]
    if product.widened(_AGREE).meets(stated):
        return [Check("device-hours", "pass", says)]
    if product.widened(_NEAR).meets(stated):
        need = "not all devices were held all the time, or hours outside the run are counted"
        return [Check("device-hours", "needs", says, need)]
    readings = [
        f"{spoken(stated / count, 'h')} on {spoken(count)} devices",
        f"{spoken(stated / hours)} devices for {spoken(hours, 'h')}",
    ]
    if (product * exactly(8)).widened(_NEAR).meets(stated):
        readings.insert(0, f"{spoken(count)} nodes of 8 devices")
    return [Check("device-hours", "fail", says, readings=tuple(readings))]


def records_for(book: PriceBook, key: str) -> list[PriceRecord]:
    """Rental records of a device, or of all devices if none is named; owned machines are no market price."""
    rented = [record for record in book.records if record.components is None]
    if not key:
        return rented
    known = catalogue().get(key)
    for name in (key, *(known.counts_as if known else ())):
        found = [r for r in rented if r.device == name or r.device.startswith(f"{name}-")]
        if found:
            return found
    return []


def money_checks(claim: Claim, book: PriceBook) -> list[Check]:
    """Dollars against hours, hours against price, price against the book."""
    hours, checks = device_hours(claim), []
    if claim.usd is not None and hours is not None and claim.usd_per_device_hour is not None:
        checks.append(_product(claim, claim.usd, hours.value, claim.usd_per_device_hour))
    price = claim.usd_per_device_hour
    if claim.usd is not None and hours is not None and hours.value.high > 0:
        price = price or claim.usd / hours.value
    if price is not None:
        checks += _against_book(claim, price, hours, book, stated=claim.usd_per_device_hour is not None)
    elif claim.usd is not None:
        checks += _without_hours(claim, claim.usd)
    if claim.usd_per_device is not None and claim.usd is not None and claim.num_devices is not None:
        checks.append(_bought(claim.usd, claim.num_devices * claim.usd_per_device))
    if claim.foreign:
        says = f"{', '.join(claim.foreign)} cannot be compared with dollar prices."
        checks.append(Check("currency", "open", says, "an exchange rate: --rate CODE=dollars, for example --rate CNY=0.14"))
    return checks


def _product(claim: Claim, usd: Interval, hours: Interval, price: Interval) -> Check:
    made = hours * price
    product = f"{spoken(hours)} device-hours x {spoken(price, money=True)} = {spoken(made, money=True)}"
    says = f"{product}; stated: {spoken(usd, money=True)}."
    if made.widened(_AGREE).meets(usd):
        return Check("dollars", "pass", says)
    readings = (
        f"{spoken(usd / price)} device-hours at {spoken(price, money=True)}",
        f"{spoken(made, money=True)} for {spoken(hours)} device-hours",
    )
    return Check("dollars", "fail", says, readings=readings)


def _against_book(claim: Claim, price: Interval, hours: Hours | None, book: PriceBook, stated: bool) -> list[Check]:
    kind = claim.device
    if len({g.key for g in claim.devices if g.key}) > 1:
        records = [r for group in claim.devices for r in records_for(book, group.key)]
    else:
        records = records_for(book, kind)
    name = kind or "device"
    said = f"{'stated' if stated else 'implied'} price {spoken(price, money=True)} per {name}-hour"
    if not records:
        need = f"a {name}-hour cost {spoken(price, money=True)}: the price book has no {name}"
        return [Check("price", "needs", f"The {said}; there is no dated price to hold it against.", need)]
    low, high = min(r.usd_per_device_hour for r in records), max(r.usd_per_device_hour for r in records)
    says = f"The {said}; dated prices: {_dated(records)}."
    if price.low == 0 and claim.usd is not None and claim.usd.low == 0:
        price = Interval(price.high * Decimal("0.5"), price.high)  # "under $30": near that, or nobody would say so
    readings = _readings(claim, hours, Interval(low, high), price) if not stated else ()
    if not price.meets(Interval(low * POSSIBLE[0], high * POSSIBLE[1])):
        return [Check("price", "fail", says, readings=readings)]
    if not kind and not any(g.key for g in claim.devices):
        return [
            Check(
                "price",
                "needs",
                says,
                f"its devices are of a kind that costs {spoken(price, money=True)} an hour; it names none",
            )
        ]
    if not price.meets(Interval(low * ORDINARY[0], high * ORDINARY[1])):
        how = (
            "spot, owned or subsidised hardware"
            if price.high < low
            else "on-demand prices of a large cloud, or more than the devices"
        )
        return [Check("price", "needs", says, f"a {name}-hour cost {spoken(price, money=True)} ({how})", readings)]
    return [Check("price", "pass", says)]


def _dated(records: Sequence[PriceRecord]) -> str:
    ordered = sorted(records, key=lambda r: r.usd_per_device_hour)
    chosen = [ordered[0]] if ordered[0].usd_per_device_hour == ordered[-1].usd_per_device_hour else [ordered[0], ordered[-1]]
    return " to ".join(f"${short(r.usd_per_device_hour)} ({r.device}, {r.date})" for r in chosen)


def _readings(claim: Claim, hours: Hours | None, market: Interval, price: Interval) -> tuple[str, ...]:
    if hours is None or claim.usd is None:
        return ()
    one = market.middle
    found = [
        f"{spoken(claim.usd / exactly(one))} device-hours at ${short(one)}",
        f"{spoken(hours.value * exactly(one), money=True)} for {spoken(hours.value)} device-hours",
    ]
    if (
        claim.num_devices is not None
        and hours.from_product
        and (price / exactly(8)).meets(Interval(market.low * ORDINARY[0], market.high * ORDINARY[1]))
    ):
        found.insert(0, f"{spoken(claim.num_devices)} nodes of 8 devices each")
    return tuple(found)


def _without_hours(claim: Claim, usd: Interval) -> list[Check]:
    count = claim.num_devices
    missing = "the number of devices and the time" if count is None else "the time for which the devices were held"
    if (count is not None and claim.work == "buying") or (claim.boundary == "hardware" and count is not None):
        return [_purchase(usd / count, usd, count)]
    if count is not None and claim.hours is None and (usd / count).low > SERVER_USD_PER_DEVICE.low:
        return [_purchase(usd / count, usd, count)]
    return [Check("price", "open", f"{spoken(usd, money=True)} cannot be held against a price.", missing)]


def _purchase(each: Interval, usd: Interval, count: Interval) -> Check:
    share = f"{spoken(usd, money=True)} / {spoken(count)} devices = {spoken(each, money=True)} each"
    says = f"{share}: a price of buying, not of renting."
    if each.meets(SERVER_USD_PER_DEVICE):
        return Check("price", "needs", says, "it is the purchase of the hardware, not the cost of a training run")
    return Check("price", "fail", f"{says} Accelerators with their servers cost {spoken(SERVER_USD_PER_DEVICE, money=True)}.")


def _bought(usd: Interval, made: Interval) -> Check:
    says = f"devices x price each = {spoken(made, money=True)}; stated: {spoken(usd, money=True)}."
    return Check("dollars", "pass" if made.widened(_AGREE).meets(usd) else "fail", says)
