"""Price books -> what a person asks of them: the list on a day, what changed between two, a snapshot of a public catalogue."""

import datetime
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from statistics import median
from typing import Any

from farthing.errors import PriceError, RecipeError
from farthing.ledger.price_record import PriceRecord, RateRecord
from farthing.ledger.prices import PriceBook, read_price_file

Record = PriceRecord | RateRecord


def in_force(records: Iterable[Record], on: datetime.date) -> dict[str, Record]:
    """Key -> the record that holds on that day, sorted by key."""
    found: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.date):
        if record.date <= on:
            found[record.key] = record
    return dict(sorted(found.items()))


def unit_price(record: Record) -> tuple[Decimal, str]:
    """(dollars, unit)."""
    if isinstance(record, PriceRecord):
        return record.usd_per_device_hour, "device-hour"
    return record.usd_per_unit, record.unit


def as_json(record: Record) -> dict[str, Any]:
    return record.detail() | {"key": record.key}


def differences(old: dict[str, Record], new: dict[str, Record]) -> list[dict[str, Any]]:
    """What came, went or changed its price: key, old and new dollars, change as a share."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = (unit_price(side[key])[0] if key in side else None for side in (old, new))
        if before != after:
            change = float(after / before - 1) if before and after is not None else None
            texts = [None if usd is None else str(usd) for usd in (before, after)]
            found.append({"key": key, "old_usd": texts[0], "new_usd": texts[1], "change": change})
    return found


def side_of(argument: str, book: PriceBook) -> dict[str, Record]:
    """A date: the book as it stood then; else a price file, with its newest records."""
    try:
        day = datetime.date.fromisoformat(argument)
    except ValueError:
        path = Path(argument)
        if not path.is_file():
            raise PriceError(f"{argument!r} is neither a date such as 2026-10-05 nor a price file.") from None
        return in_force(read_price_file(path), datetime.date.max)
    return in_force([*book.records, *book.rates], day)


def snapshot(names: Sequence[str], on: datetime.date) -> str:
    """A price file from gpuhunt's public catalogue: the median on-demand and spot price of each GPU, and of how many offers."""
    try:
        import gpuhunt
    except ImportError as error:
        raise RecipeError("a snapshot needs the extra: pip install 'farthing[prices]'") from error
    import requests

    parts = [f"# GPU rental prices, medians over the offers of gpuhunt's catalogue on {on}.\n"]
    for name in names:
        try:
            offers = gpuhunt.query(gpu_name=[name], min_gpu_count=1)
        except (requests.RequestException, OSError) as error:
            raise PriceError(
                f"gpuhunt's catalogue cannot be reached ({type(error).__name__}). Try again online, set GPUHUNT_CATALOG_DIR to "
                "a downloaded catalogue, or keep to the prices that ship: farthing prices"
            ) from error
        found = [_median(name, [o for o in offers if bool(o.spot) == spot], spot, on) for spot in (False, True)]
        if not any(found):
            raise PriceError(f"gpuhunt's catalogue has no offer for GPU {name!r}; its names look like H100, A100, L4, MI300X.")
        parts += [part for part in found if part]
    return "\n".join(parts)


def _median(name: str, offers: Sequence[Any], spot: bool, on: datetime.date) -> str:
    prices = []
    for offer in offers:
        try:
            each = Decimal(str(offer.price)) / Decimal(str(offer.gpu_count))
        except (InvalidOperation, ZeroDivisionError):
            continue
        if each > 0:
            prices.append(each)
    if not prices:
        return ""
    tenure, middle = 'tenure = "spot"\n' if spot else "", median(prices).quantize(Decimal("0.0001"))
    return (
        f'[[price]]\ndevice = "{name.lower()}"\nusd_per_device_hour = "{middle}"\n{tenure}date = {on}\n'
        f'source = "Median of {len(prices)} offers in gpuhunt\'s catalogue (dstackai/gpuhunt), read on {on}"\n'
        'power_w = 700\npower_method = "assumed"\n'
    )
