"""Dated price records (TOML) in -> what one unit costs on a day, and what a slice of time costs, exactly.

Records ship in prices/*.toml; a user's own file takes the place of the records of the devices it names. No float
touches money: TOML numbers are read as Decimal, and sums keep sixty digits until they are rounded once to 1e-12 USD.
"""

import datetime
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import platformdirs
from pydantic import ValidationError

from farthing.errors import PriceError
from farthing.ledger.entry import MONEY, to_picousd
from farthing.ledger.price_record import COMPONENT_TAGS, NS_PER_HOUR, PriceRecord, RateRecord

__all__ = [
    "NS_PER_HOUR",
    "PriceBook",
    "PriceRecord",
    "RateRecord",
    "cost",
    "load_price_book",
    "read_price_file",
    "storage_cost",
]

USER_FILE_VARIABLE = "FARTHING_PRICES"
_GB_BYTES = 10**9
_HOURS_PER_MONTH = 730
Record = PriceRecord | RateRecord
_Found = TypeVar("_Found", PriceRecord, RateRecord)


@dataclass(frozen=True)
class PriceBook:
    records: tuple[PriceRecord, ...]
    user_file: Path
    rates: tuple[RateRecord, ...] = ()

    def price(self, device: str, on: datetime.date) -> PriceRecord:
        """The latest record of the device that is not after `on`; `device` may name region and tenure: h100-80gb+spot."""
        return self._latest(self.records, "device", device, on)

    def rate(self, item: str, on: datetime.date) -> RateRecord:
        """The latest record of the item that is not after `on`."""
        return self._latest(self.rates, "item", item, on)

    def _latest(self, records: tuple[_Found, ...], what: str, key: str, on: datetime.date) -> _Found:
        dated = sorted((r for r in records if r.key == key), key=lambda record: record.date)
        valid = [record for record in dated if record.date <= on]
        if valid:
            return valid[-1]
        table = "[[price]]" if what == "device" else "[[rate]]"
        if dated:
            raise PriceError(
                f"no price for {what} {key!r} on {on}: the first record is of {dated[0].date}. Add an earlier "
                f"{table} record, with its source, to {self.user_file}, or check the machine's clock."
            )
        known = ", ".join(sorted({record.key for record in records}))
        fields = "device, usd_per_device_hour, date, source, power_w and power_method"
        if what == "item":
            fields = "item, unit, usd_per_unit, date and source"
        raise PriceError(
            f"no price for {what} {key!r}; known: {known}. Add a {table} record with {fields} to {self.user_file} "
            f"(or to a file named in {USER_FILE_VARIABLE})."
        )


def cost(held_ns: int, num_devices: int, usd_per_device_hour: Decimal) -> Decimal:
    """USD for `num_devices` held for `held_ns` each, rounded half-even to 1e-12."""
    with localcontext(MONEY):
        return to_picousd(held_ns * num_devices * usd_per_device_hour / NS_PER_HOUR)


def storage_cost(num_bytes: int, held_ns: int, usd_per_gb_month: Decimal) -> Decimal:
    """USD for `num_bytes` kept for `held_ns`; a GB is 1e9 bytes, a month 730 hours."""
    with localcontext(MONEY):
        return to_picousd(num_bytes * held_ns * usd_per_gb_month / (_GB_BYTES * _HOURS_PER_MONTH * NS_PER_HOUR))


def gb_months(num_bytes: int, held_ns: int) -> Decimal:
    with localcontext(MONEY):
        return to_picousd(Decimal(num_bytes * held_ns) / (_GB_BYTES * _HOURS_PER_MONTH * NS_PER_HOUR))


def load_price_book(extra: Path | None = None) -> PriceBook:
    """The shipped records, then the user's file, then `extra`: each replaces the records of the devices it names."""
    shipped = sorted((p for p in (files("farthing.ledger") / "prices").iterdir()), key=lambda p: p.name)
    records = [r for p in shipped if p.name.endswith(".toml") for r in _parse(p.read_text("utf-8"), p.name)]
    named = os.environ.get(USER_FILE_VARIABLE)
    user_file = Path(named) if named else platformdirs.user_config_path("farthing") / "prices.toml"
    if named or user_file.exists():
        records = _replaced(records, read_price_file(user_file))
    if extra is not None:
        records = _replaced(records, read_price_file(extra))
    devices = tuple(r for r in records if isinstance(r, PriceRecord))
    return PriceBook(devices, user_file, tuple(r for r in records if isinstance(r, RateRecord)))


def _replaced(records: Iterable[Record], newer: list[Record]) -> list[Record]:
    named = {record.key for record in newer}
    return [record for record in records if record.key not in named] + newer


def read_price_file(path: Path) -> list[Record]:
    """The records of one TOML file; PriceError naming the file and the record where one is wrong."""
    try:
        return _parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PriceError(f"cannot read the price file {path}: {error}. Give a UTF-8 TOML file.") from error


def _parse(text: str, name: str) -> list[Record]:
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise PriceError(f"{name} is not TOML: {error}. Each price is one [[price]] table.") from error
    if set(tables) - {"price", "rate"} or not all(isinstance(found, list) for found in tables.values()):
        raise PriceError(f"{name} holds {sorted(tables)} at its top; allowed: [[price]] and [[rate]] tables only.")
    records: list[Record] = [_record(PriceRecord, given, name, n) for n, given in enumerate(tables.get("price", []), start=1)]
    records += [_record(RateRecord, given, name, n) for n, given in enumerate(tables.get("rate", []), start=1)]
    seen = set()
    for record in records:
        if record.id in seen:
            raise PriceError(f"{name} prices {record.key!r} twice from {record.date}. Keep one of the records.")
        seen.add(record.id)
    return records


def _record(model: type[_Found], given: object, name: str, number: int) -> _Found:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        # The deepest: a bad component also leaves the price that it should give missing.
        worst = max(error.errors(include_url=False), key=lambda mistake: len(mistake["loc"]))
        where = ".".join(str(part) for part in worst["loc"] if part not in COMPONENT_TAGS) or "the record"
        table = "[[price]]" if model is PriceRecord else "[[rate]]"
        raise PriceError(
            f"{name}, {table} number {number}: {where}: {worst['msg']}; got {worst['input']!r}. "
            f"Allowed fields: {', '.join(model.model_fields)}."
        ) from error
