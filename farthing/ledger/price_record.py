"""One [[price]] or [[rate]] table -> a dated, sourced price of a unit: a device-hour, a GB-month, a token, a kWh, an hour.

Owned hardware gives its parts instead of a price: straight-line wear, or the depreciation of Epoch AI (arXiv:2405.21015,
section 2: value falls by 0.14 orders of magnitude a year), each with its electricity.
"""

import datetime
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from farthing.ledger.entry import MONEY, to_picousd

NS_PER_HOUR = 3_600_000_000_000
HOURS_PER_YEAR = 365 * 24
UNITS = ("device-hour", "GB-month", "token", "kWh", "hour")


def no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f"{value!r} is a float; money is a Decimal or its text")
    return value


def _is_dollars(value: object) -> object:
    if value != "USD":
        raise ValueError("farthing keeps its books in USD only; convert the price and say the rate and its day in `note`")
    return value


Positive = Annotated[Decimal, BeforeValidator(no_float), Field(gt=0, lt=10**12, allow_inf_nan=False)]
NotNegative = Annotated[Decimal, BeforeValidator(no_float), Field(ge=0, lt=10**12, allow_inf_nan=False)]
Method = Literal["measured", "modelled", "assumed"]
PriceMethod = Literal["list", "invoice", "measured", "modelled", "assumed"]
Tenure = Literal["on-demand", "spot", "reserved"]
Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
ItemKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(_Record):
    """One figure of an owned machine, and whether somebody measured it."""

    value: Positive
    method: Method


class StraightLine(_Record):
    """Wear spread evenly over the hours in use, and electricity."""

    purchase_usd: Component
    lifetime_years: Component
    hours_per_year_in_use: Component
    power_w: Component
    usd_per_kwh: Component

    def usd_per_device_hour(self) -> Decimal:
        with localcontext(MONEY):
            wear = self.purchase_usd.value / (self.lifetime_years.value * self.hours_per_year_in_use.value)
            return to_picousd(wear + self.power_w.value / 1000 * self.usd_per_kwh.value)


class EpochDepreciation(_Record):
    """Epoch AI's amortisation: value after t years is purchase x 10^(-r t); an hour costs value x r ln 10 / 8760."""

    purchase_usd: Component
    """All in: the device with its share of server and network."""
    age_years: Component
    """From when the hardware could be bought to the start of the run."""
    oom_per_year: Component
    """r; Epoch AI fits 0.14."""
    power_w: Component
    usd_per_kwh: Component

    def usd_per_device_hour(self) -> Decimal:
        with localcontext(MONEY):
            rate = self.oom_per_year.value * Decimal(10).ln()
            value = self.purchase_usd.value * (-rate * self.age_years.value).exp()
            return to_picousd(value * rate / HOURS_PER_YEAR + self.power_w.value / 1000 * self.usd_per_kwh.value)


def _kind_of_components(given: object) -> str:
    names = given.keys() if isinstance(given, Mapping) else type(given).model_fields if isinstance(given, BaseModel) else ()
    return "epoch" if "oom_per_year" in names else "straight_line"


Components = Annotated[
    Annotated[StraightLine, Tag("straight_line")] | Annotated[EpochDepreciation, Tag("epoch")],
    Discriminator(_kind_of_components),
]
COMPONENT_TAGS = ("straight_line", "epoch")


class PriceRecord(_Record):
    """The price of one device from `date` on, until a later record; owned hardware gives `components` instead."""

    device: Key
    usd_per_device_hour: Positive
    currency: Annotated[Literal["USD"], BeforeValidator(_is_dollars)] = "USD"
    date: datetime.date
    source: Annotated[str, Field(min_length=1)]
    method: PriceMethod = "list"
    note: str = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = ""
    tenure: Tenure = "on-demand"
    power_w: Positive
    power_method: Method
    components: Components | None = None

    @property
    def key(self) -> str:
        """What a recipe calls it: h100-80gb, h100-80gb+spot, h100-80gb/us-east-1."""
        return (
            self.device + (f"/{self.region}" if self.region else "") + ("" if self.tenure == "on-demand" else f"+{self.tenure}")
        )

    @property
    def id(self) -> str:
        """What an entry calls it."""
        return self.key.replace(self.device, f"{self.device}@{self.date}", 1)

    def detail(self) -> dict[str, Any]:
        """As a price entry keeps it."""
        given = self.model_dump(mode="json", exclude={"usd_per_device_hour", "currency"})
        unit = {"id": self.id, "unit": "device-hour", "usd_per_unit": str(self.usd_per_device_hour)}
        return {**given, **unit, "tenure": "owned" if self.components else self.tenure}

    @model_validator(mode="before")
    @classmethod
    def _computed(cls, given: Any) -> Any:
        """Owned hardware: fills in the price and the power; where they are given too, they must agree."""
        if not isinstance(given, dict) or given.get("components") is None:
            return given
        model = EpochDepreciation if _kind_of_components(given["components"]) == "epoch" else StraightLine
        try:
            components = model.model_validate(given["components"])
        except ValidationError:
            return given  # the field's own validation says it better
        computed = {
            "usd_per_device_hour": components.usd_per_device_hour(),
            "power_w": components.power_w.value,
            "power_method": components.power_w.method,
            "method": "modelled",
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


class RateRecord(_Record):
    """The price of something that is no device: storage, tokens of an API, electricity, an hour of somebody's time."""

    item: ItemKey
    """Such as storage/local-disk, api/some-model/in, electricity/us, staff/engineer."""
    unit: Literal["GB-month", "token", "kWh", "hour"]
    usd_per_unit: NotNegative
    currency: Annotated[Literal["USD"], BeforeValidator(_is_dollars)] = "USD"
    date: datetime.date
    source: Annotated[str, Field(min_length=1)]
    method: PriceMethod = "list"
    note: str = ""

    @property
    def key(self) -> str:
        return self.item

    @property
    def id(self) -> str:
        return f"{self.item}@{self.date}"

    def detail(self) -> dict[str, Any]:
        """As a price entry keeps it."""
        given = self.model_dump(mode="json", exclude={"item", "currency"})
        nothing = {"region": "", "tenure": "on-demand", "power_w": None, "power_method": "assumed", "components": None}
        return {**given, **nothing, "id": self.id, "device": self.item}
