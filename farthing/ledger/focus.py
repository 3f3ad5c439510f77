"""A bill -> rows in the columns of FOCUS 1.2 (FinOps Open Cost and Usage Specification), ours with x_; CSV or Parquet.

One row for each sum of entries alike: attempt, stage, phase, price, outcome. ListCost is at the price record's unit price;
there is no discount in the ledger, so contracted, effective and billed cost equal it. BilledCost sums to the bill's total.
"""

import csv
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, NamedTuple

from farthing.errors import RecipeError
from farthing.ledger.account import Account, Row, outcome_of, stage_name
from farthing.ledger.entry import MONEY, canonical_json, to_picousd, usd_text
from farthing.ledger.price_record import NS_PER_HOUR

_USAGE = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName",
    "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName",
    "ServiceSubcategory", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags",
)  # fmt: skip
_OURS = (
    "x_Attempt", "x_Stage", "x_Phase", "x_Purpose", "x_Outcome", "x_DeviceCount", "x_DeviceHours", "x_BusyShare", "x_TokensIn",
    "x_TokensOut", "x_TokensTrained", "x_ModelFlops", "x_EnergyKWh", "x_EnergyErrorKWh", "x_Measurement", "x_Entries",
    "x_LedgerHead",
)  # fmt: skip
COLUMNS = (*_USAGE, *_OURS)
_SERVICE = {
    "storage": ("Storage", "Other (Storage)"),
    "expense": ("Other", "Other (Other)"),
    "api": ("AI and Machine Learning", "Generative AI"),
}
_TRAINING = "AI and Machine Learning", "Machine Learning"
_TENURE = {"spot": "Dynamic", "reserved": "Committed"}
_UNITS = {"device-hour": "Device-Hours", "GB-month": "GB-Months", "token": "Tokens", "kWh": "KWh", "hour": "Hours"}
"""In FOCUS's form."""


class Charge(NamedTuple):
    """One line's money: so much of a unit at a price."""

    picousd: int
    quantity: str | None
    unit: str | None
    unit_price: str | None
    sku_price: str | None


def focus_rows(account: Account, name: str) -> list[dict[str, Any]]:
    """Every column a string, a number as text, or None; the order of COLUMNS. A project's runs are sub-accounts."""
    spans = [span for part in account.parts or [account] for span in _moments(part)]
    period = _second(min(spans, default="")), _second(max(spans, default=""), is_end=True)
    billing = {
        "BillingAccountId": account.first_hash[:16], "BillingAccountName": name, "BillingPeriodStart": period[0],
        "BillingPeriodEnd": period[1],
    }  # fmt: skip
    found = []
    for part in account.parts or [account]:
        run = {"SubAccountId": part.first_hash[:16] if part.name else None, "SubAccountName": part.name or None}
        for row in part.rows:
            charges = _charges(part, row) if row.sums["picousd"] or row.sums["held_ns"] else []
            found += [billing | run | _row(part, row, charge, number == 0) for number, charge in enumerate(charges)]
    return [{column: cells[column] for column in COLUMNS} for cells in found]


def _moments(account: Account) -> list[str]:
    attempts = [at for attempt in account.attempts for at in (attempt.started_at, attempt.ended_at)]
    return [at for at in (account.began_at, account.ended_at, *attempts) if at]


def _row(account: Account, row: Row, charge: Charge, is_first: bool) -> dict[str, Any]:
    group = row.group
    price = account.prices.get(charge.sku_price or "", {})
    usd, device = usd_text(charge.picousd), group.device or str(price.get("device", "")) or group.kind
    spans = {a.number: (a.started_at, a.ended_at) for a in account.attempts}
    # a clock that was set back may have an attempt end before it began
    began_at, ended_at = sorted(spans.get(group.attempt, (account.began_at, account.ended_at)))
    category, subcategory = _SERVICE.get(group.kind, _TRAINING)
    is_expense, region = group.kind == "expense", price.get("region") or None
    usage = {
        "BilledCost": usd,
        "BillingCurrency": "USD",
        "ChargeCategory": "Purchase" if is_expense else "Usage",
        "ChargeClass": "Correction" if group.kind == "correction" else None,
        "ChargeDescription": f"{stage_name(row)}, {group.phase or group.kind}",
        "ChargeFrequency": "One-Time" if is_expense else "Usage-Based",
        "ChargePeriodStart": _second(began_at),
        "ChargePeriodEnd": _second(ended_at, is_end=True),
        "ConsumedQuantity": None if is_expense else charge.quantity,
        "ConsumedUnit": None if is_expense else charge.unit,
        "ContractedCost": usd,
        "ContractedUnitPrice": charge.unit_price,
        "EffectiveCost": usd,
        "InvoiceIssuerName": "farthing ledger",
        "ListCost": usd,
        "ListUnitPrice": charge.unit_price,
        "PricingCategory": _TENURE.get(str(price.get("tenure")), "Standard"),
        "PricingQuantity": charge.quantity,
        "PricingUnit": charge.unit,
        "ProviderName": "own hardware" if price.get("components") else str(price.get("source", ""))[:80] or "as stated",
        "PublisherName": "farthing",
        "RegionId": region,
        "RegionName": region,
        "ResourceId": device,
        "ResourceName": device,
        "ResourceType": "Device" if group.device else group.kind.capitalize(),
        "ServiceCategory": category,
        "ServiceName": "model training",
        "ServiceSubcategory": subcategory,
        "SkuId": str(price.get("device", "")) or group.kind,
        "SkuPriceId": charge.sku_price or group.kind,
        "Tags": canonical_json({"purpose": group.purpose, "stage": group.stage}),
    }
    # tokens in and out of one entry are two charges: what else it has goes with the first
    ours = _ours(account, row if is_first else row._replace(sums=dict.fromkeys(row.sums, 0)))
    return usage | ours


def _ours(account: Account, row: Row) -> dict[str, Any]:
    group, sums = row.group, row.sums
    busy_of = sums["busy_of_ns"]
    return {
        "x_Attempt": str(group.attempt),
        "x_Stage": group.stage or None,
        "x_Phase": group.phase or None,
        "x_Purpose": group.purpose or None,
        "x_Outcome": outcome_of(row) or None,
        "x_DeviceCount": str(group.num_devices),
        "x_DeviceHours": _share(sums["device_ns"], NS_PER_HOUR),
        "x_BusyShare": _share(sums["busy_ns"], busy_of) if busy_of else None,
        "x_TokensIn": str(sums["tokens_in"]),
        "x_TokensOut": str(sums["tokens_out"]),
        "x_TokensTrained": str(sums["tokens_trained"]),
        "x_ModelFlops": str(sums["model_flops"]),
        "x_EnergyKWh": _share(sums["energy_mj"], 3_600_000_000),
        "x_EnergyErrorKWh": _share(sums["energy_error_mj"], 3_600_000_000),
        "x_Measurement": group.energy_method,
        "x_Entries": str(sums["entries"]),
        "x_LedgerHead": account.head_hash,
    }


def _charges(account: Account, row: Row) -> list[Charge]:
    """A row as quantities times prices: tokens bought are two of them."""
    group, sums, usd = row.group, row.sums, row.sums["picousd"]
    price = account.prices.get(group.price, {})
    unit_price, unit = price.get("usd_per_unit"), _UNITS.get(str(price.get("unit")))
    if group.kind == "correction":
        return [Charge(usd, None, None, None, group.price or None)]
    if group.kind == "expense":
        return [Charge(usd, "1", "Units", usd_text(usd), None)]
    if group.phase:
        return [Charge(usd, _share(sums["device_ns"], NS_PER_HOUR), "Device-Hours", unit_price, group.price or None)]
    out = account.prices.get(group.price.replace("/in@", "/out@"))
    if group.kind == "api" and unit_price and out:
        with localcontext(MONEY):
            into_usd = int(to_picousd(sums["tokens_in"] * Decimal(unit_price)).scaleb(12))
        return [
            Charge(into_usd, str(sums["tokens_in"]), unit, unit_price, group.price),
            Charge(usd - into_usd, str(sums["tokens_out"]), unit, out["usd_per_unit"], str(out["id"])),
        ]
    if not unit_price or not Decimal(unit_price):
        return [Charge(usd, None, None, None, group.price or None)]
    with localcontext(MONEY):
        quantity = f"{to_picousd(Decimal(usd_text(usd)) / Decimal(unit_price)):f}"
    return [Charge(usd, quantity, unit, unit_price, group.price)]


def _second(at: str, is_end: bool = False) -> str | None:
    """YYYY-MM-DDTHH:mm:ssZ, the only form that FOCUS allows; an end lies outside, so it is rounded up."""
    if not at:
        return None
    moment = datetime.fromisoformat(at)
    if is_end:
        moment += timedelta(seconds=1)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _share(part: int, whole: int) -> str:
    with localcontext(MONEY):
        return f"{to_picousd(Decimal(part) / whole):f}"


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """UTF-8, a header line, empty cells for null."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Costs as decimal128(38, 12), unit prices with all 18 places that fit, everything else as text; needs pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RecipeError("Parquet needs the extra: pip install 'farthing[data]'; CSV works without (--csv FILE)") from error
    pa: Any = pyarrow
    places = {name: 18 if name.endswith("UnitPrice") else 12 for name in COLUMNS if name.endswith(_NUMBERS)}
    arrays = {
        name: pa.array([_decimal(row[name], places[name]) for row in rows], pa.decimal128(38, places[name]))
        if name in places
        else pa.array([row[name] for row in rows], pa.string())
        for name in COLUMNS
    }
    pa.parquet.write_table(pa.table(arrays), path)


_NUMBERS = ("Cost", "UnitPrice", "Quantity")


def _decimal(text: str | None, places: int) -> Decimal | None:
    return None if text is None else Decimal(text).quantize(Decimal(1).scaleb(-places), context=MONEY)
