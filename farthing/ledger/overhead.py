"""The user's TOML of what no meter sees -> staff, overhead, energy and hardware terms of the widest boundary.

[hardware]                        # instead of what the price records charge for a device-hour
usd_per_device_hour = "1.10"
source = "our leasing contract"
[energy]                          # on top of it, where the price does not include electricity
usd_per_kwh = "0.12"
pue = "1.3"                       # what the building draws over what the devices draw
source = "utility invoice"
[[staff]]
role = "research engineer"
hours = 320
usd_per_hour = 100
source = "payroll, Q3"
[[overhead]]                      # an amount, or a percentage of everything above
what = "office and administration"
percent = 15
source = "accounting"
"""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from farthing.errors import PriceError
from farthing.ledger.price_record import NotNegative, Positive, no_float


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Annotated[str, Field(min_length=1)]


class Hardware(_Table):
    usd_per_device_hour: Positive


class Energy(_Table):
    usd_per_kwh: Positive
    pue: Annotated[Decimal, BeforeValidator(no_float), Field(ge=1, lt=10)] = Decimal(1)


class Staff(_Table):
    role: str
    hours: NotNegative
    usd_per_hour: Positive


class Other(_Table):
    what: str
    usd: NotNegative | None = None
    percent: Annotated[Decimal, BeforeValidator(no_float), Field(ge=0, le=1000)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.usd is None) == (self.percent is None):
            raise ValueError("give either usd or percent")
        return self


class Overhead(BaseModel):
    """Everything the file may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    hardware: Hardware | None = None
    energy: Energy | None = None
    staff: list[Staff] = []
    overhead: list[Other] = []


def load_overhead(path: Path) -> Overhead:
    """PriceError naming the line's place where the file is wrong."""
    try:
        table = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PriceError(f"cannot read {path}: {error}. Give a UTF-8 TOML file; `farthing bill --help` shows one.") from error
    try:
        return Overhead.model_validate(table)
    except ValidationError as error:
        worst = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in worst["loc"])
        raise PriceError(
            f"{path}: {where}: {worst['msg']}; got {worst['input']!r}. `farthing bill --help` shows an example."
        ) from error
