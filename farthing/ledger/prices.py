"""Dated price records (TOML) in -> what one device-hour costs on a day, and what a slice of time costs, exactly.

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
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from farthing.errors import PriceError
from farthing.ledger.entry import MONEY, to_picousd

NS_PER_HOUR = 3_600_000_000_000
USER_FILE_VARIABLE = "FARTHING_PRICES"


def _no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f"{value!r} is a float; money is a Decimal or its text")
    return value


Positive = Annotated[Decimal, BeforeValidator(_no_float), Field(gt=0, lt=10**12, allow_inf_nan=False)]
Method = Literal["measured", "modelled", "assumed"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(_Record):
    """One figure of an owned machine, and whether somebody measured it."""

    value: Positive
    method: Method


class Components(_Record):
    """What a device-hour on hardware that one owns is made of: wear and electricity."""

    purchase_usd: Component
    lifetime_years: Component
    hours_per_year_in_use: Component
    power_w: Component
    usd_per_kwh: Component

    def usd_per_device_hour(self) -> Decimal:
        with localcontext(MONEY):
            wear = self.purchase_usd.value / (self.lifetime_years.value * self.hours_per_year_in_use.value)
            return to_picousd(wear + self.power_w.value / 1000 * self.usd_per_kwh.value)


class PriceRecord(_Record):
    """The price of one device from `date` on, until a later record; owned hardware gives `components` instead."""

    device: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    usd_per_device_hour: Positive
    date: datetime.date
    source: Annotated[str, Field(min_length=1)]
    note: str = ""
    power_w: Positive
    power_method: Method
    components: Components | None = None

    @model_validator(mode="before")
    @classmethod
    def _computed(cls, given: Any) -> Any:
        """Owned hardware: fills in the price and the power; where they are given too, they must agree."""
        if not isinstance(given, dict) or given.get("components") is None:
            return given
        try:
            components = Components.model_validate(given["components"])
        except ValidationError:
            return given  # the field's own validation says it better
        computed = {
            "usd_per_device_hour": components.usd_per_device_hour(),
            "power_w": components.power_w.value,
            "power_method": components.power_w.method,
        }
        return {**computed, **given}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.components is None:
            return self
        given = (self.usd_per_device_hour, self.power_w, self.power_method)
        power = self.components.power_w
        computed = (self.components.usd_per_device_hour(), power.value, power.method)
        if given != computed:
            raise ValueError(
                "usd_per_device_hour, power_w, power_method do not agree with the components, which give "
                f"{', '.join(map(str, computed))}; leave them out"
            )
        return self


@dataclass(frozen=True)
class PriceBook:
    records: tuple[PriceRecord, ...]
    user_file: Path

    def price(self, device: str, on: datetime.date) -> PriceRecord:
        """The latest record of the device that is not after `on`."""
        dated = sorted((r for r in self.records if r.device == device), key=lambda record: record.date)
        valid = [record for record in dated if record.date <= on]
        if valid:
            return valid[-1]
        if dated:
            raise PriceError(
                f"no price for device {device!r} on {on}: the first record is of {dated[0].date}. Add an earlier "
                f"[[price]] record, with its source, to {self.user_file}, or check the machine's clock."
            )
        known = ", ".join(sorted({record.device for record in self.records}))
        raise PriceError(
            f"no price for device {device!r}; known: {known}. Add a [[price]] record with device, "
            f"usd_per_device_hour, date, source, power_w and power_method to {self.user_file} "
            f"(or to a file named in {USER_FILE_VARIABLE})."
        )


def cost(held_ns: int, num_devices: int, usd_per_device_hour: Decimal) -> Decimal:
    """USD for `num_devices` held for `held_ns` each, rounded half-even to 1e-12."""
    with localcontext(MONEY):
        return to_picousd(held_ns * num_devices * usd_per_device_hour / NS_PER_HOUR)


def load_price_book(extra: Path | None = None) -> PriceBook:
    """The shipped records, then the user's file, then `extra`: each replaces the records of the devices it names."""
    shipped = sorted((p for p in (files("farthing.ledger") / "prices").iterdir()), key=lambda p: p.name)
    records = [r for p in shipped if p.name.endswith(".toml") for r in _parse(p.read_text("utf-8"), p.name)]
    named = os.environ.get(USER_FILE_VARIABLE)
    user_file = Path(named) if named else platformdirs.user_config_path("farthing") / "prices.toml"
    if named or user_file.exists():
        records = _replaced(records, _read(user_file))
    if extra is not None:
        records = _replaced(records, _read(extra))
    return PriceBook(tuple(records), user_file)


def _replaced(records: Iterable[PriceRecord], newer: list[PriceRecord]) -> list[PriceRecord]:
    named = {record.device for record in newer}
    return [record for record in records if record.device not in named] + newer


def _read(path: Path) -> list[PriceRecord]:
    try:
        return _parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PriceError(f"cannot read the price file {path}: {error}. Give a UTF-8 TOML file.") from error


def _parse(text: str, name: str) -> list[PriceRecord]:
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise PriceError(f"{name} is not TOML: {error}. Each price is one [[price]] table.") from error
    if set(tables) - {"price"} or not isinstance(tables.get("price", []), list):
        raise PriceError(f"{name} holds {sorted(tables)} at its top; allowed: [[price]] tables only.")
    records = [_record(table, name, number) for number, table in enumerate(tables.get("price", []), start=1)]
    seen = set()
    for record in records:
        if (record.device, record.date) in seen:
            raise PriceError(f"{name} prices {record.device!r} twice from {record.date}. Keep one of the records.")
        seen.add((record.device, record.date))
    return records


def _record(table: object, name: str, number: int) -> PriceRecord:
    try:
        return PriceRecord.model_validate(table)
    except ValidationError as error:
        # The deepest: a bad component also leaves the price that it should give missing.
        worst = max(error.errors(include_url=False), key=lambda mistake: len(mistake["loc"]))
        where = ".".join(str(part) for part in worst["loc"]) or "the record"
        raise PriceError(
            f"{name}, [[price]] number {number}: {where}: {worst['msg']}; got {worst['input']!r}. "
            f"Allowed fields: {', '.join(PriceRecord.model_fields)}."
        ) from error
