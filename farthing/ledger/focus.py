"""A bill -> rows in the columns of FOCUS 1.2 (FinOps Open Cost and Usage Specification), ours with x_; CSV or Parquet.

One row for each sum of entries alike: attempt, stage, phase, price, outcome. ListCost is at the price record's unit price;
there is no discount in the ledger, so contracted, effective and billed cost equal it. BilledCost sums to the bill's total.
"""

import csv
from collections.abc import Sequence
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from farthing.errors import RecipeError
from farthing.ledger.account import Account, Row, outcome_of, stage_name
from farthing.ledger.entry import MONEY, canonical_json, to_picousd, usd_text
from farthing.ledger.price_record import NS_PER_HOUR

_USAGE = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName",
    "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "RegionId", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "Tags",
)  # fmt: skip
_OURS = (
    "x_Attempt", "x_Stage", "x_Phase", "x_Purpose", "x_Outcome", "x_DeviceCount", "x_DeviceHours", "x_BusyShare", "x_TokensIn",
    "x_TokensOut", "x_TokensTrained", "x_ModelFlops", "x_EnergyKWh", "x_EnergyErrorKWh", "x_Measurement", "x_Entries",
    "x_LedgerHead",
)  # fmt: skip
COLUMNS = (*_USAGE, *_OURS)
_CATEGORY = {"storage": "Storage"}
_TENURE = {"spot": "Dynamic", "reserved": "Committed"}


def focus_rows(account: Account, name: str) -> list[dict[str, Any]]:
    """Every column a string, a number as text, or None; the order of COLUMNS."""
    times = {attempt.number: (attempt.started_at, attempt.ended_at) for attempt in account.attempts}
    whole = (min((t[0] for t in times.values()), default=""), max((t[1] for t in times.values()), default=""))
    rows = [row for row in account.rows if row.sums["picousd"] or row.sums["held_ns"]]
    return [_row(account, row, name, times.get(row.group.attempt, whole), whole) for row in rows]


def _row(account: Account, row: Row, name: str, charged: tuple[str, str], billed: tuple[str, str]) -> dict[str, Any]:
    group, sums = row.group, row.sums
    price = account.prices.get(group.price, {})
    usd, unit_price = usd_text(sums["picousd"]), price.get("usd_per_unit")
    quantity, unit = _quantity(row, price)
    usage = {
        "BilledCost": usd,
        "BillingAccountId": account.first_hash[:16],
        "BillingAccountName": name,
        "BillingCurrency": "USD",
        "BillingPeriodStart": billed[0],
        "BillingPeriodEnd": billed[1],
        "ChargeCategory": "Purchase" if group.kind == "expense" else "Usage",
        "ChargeClass": "Correction" if group.kind == "correction" else None,
        "ChargeDescription": f"{stage_name(row)}, {group.phase or group.kind}",
        "ChargeFrequency": "One-Time" if group.kind == "expense" else "Usage-Based",
        "ChargePeriodStart": charged[0],
        "ChargePeriodEnd": charged[1],
        "ConsumedQuantity": quantity,
        "ConsumedUnit": unit,
        "ContractedCost": usd,
        "ContractedUnitPrice": unit_price,
        "EffectiveCost": usd,
        "InvoiceIssuerName": "farthing ledger",
        "ListCost": usd,
        "ListUnitPrice": unit_price,
        "PricingCategory": _TENURE.get(str(price.get("tenure")), "Standard"),
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "ProviderName": "own hardware" if price.get("components") else str(price.get("source", ""))[:80],
        "PublisherName": "farthing",
        "RegionId": price.get("region") or None,
        "ResourceId": group.device or str(price.get("device", "")) or group.kind,
        "ResourceName": group.device or str(price.get("device", "")) or group.kind,
        "ResourceType": "Device" if group.device else group.kind.capitalize(),
        "ServiceCategory": _CATEGORY.get(group.purpose, "AI and Machine Learning"),
        "ServiceName": "model training",
        "SkuId": str(price.get("device", "")) or None,
        "SkuPriceId": group.price or None,
        "Tags": canonical_json({"purpose": group.purpose, "stage": group.stage}),
    }
    return usage | _ours(account, row)


def _ours(account: Account, row: Row) -> dict[str, Any]:
    group, sums = row.group, row.sums
    busy_of = sums["busy_of_ns"]
    return {
        "x_Attempt": str(group.attempt),
        "x_Stage": group.stage,
        "x_Phase": group.phase or None,
        "x_Purpose": group.purpose,
        "x_Outcome": outcome_of(row),
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


def _quantity(row: Row, price: dict[str, Any]) -> tuple[str | None, str | None]:
    if row.group.phase:
        return _share(row.sums["device_ns"], NS_PER_HOUR), "device-hour"
    if row.group.kind == "api":
        return str(row.sums["tokens_in"] + row.sums["tokens_out"]), "token"
    unit_price = price.get("usd_per_unit")
    if not unit_price or not Decimal(unit_price):
        return None, None
    with localcontext(MONEY):
        return f"{to_picousd(Decimal(usd_text(row.sums['picousd'])) / Decimal(unit_price)):f}", str(price["unit"])


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
    """Costs as decimal128(38, 12), everything else as text; needs pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RecipeError("Parquet needs the extra: pip install 'farthing[data]'; CSV works without (--csv FILE)") from error
    pa: Any = pyarrow
    costs = {name for name in COLUMNS if name.endswith(("Cost", "UnitPrice", "Quantity"))}
    arrays = {
        name: pa.array([_decimal(row[name]) for row in rows], pa.decimal128(38, 12))
        if name in costs
        else pa.array([row[name] for row in rows], pa.string())
        for name in COLUMNS
    }
    pa.parquet.write_table(pa.table(arrays), path)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
