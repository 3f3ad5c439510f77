"""A run's bill and the published runs -> rows with the same four quantities, each boundary aligned or said not to be.

Aligned means: rental of the successful runs, the only boundary that headlines share. A bill's own total, with failed
attempts, is shown beside it and is comparable with nobody's headline.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from farthing.planner.hardware import catalogue
from farthing.planner.interval import Interval, exactly
from farthing.planner.library import library
from farthing.planner.money_checks import device_hours
from farthing.planner.physics_checks import training_work
from farthing.planner.records import figure

ALIGNED, ALL_ATTEMPTS, NOT_SAID = "final runs", "all attempts", "not said"
BOUNDARIES = {
    ALIGNED: "rental of the successful runs: alignable",
    ALL_ATTEMPTS: "everything held, failed attempts included: wider than any headline, not alignable",
    NOT_SAID: "its maker does not say what is in it: not alignable",
}
QUANTITIES = {"device_hours": "device-hours", "usd": "dollars", "flops": "training FLOP", "kwh": "energy, kWh"}
_BOARD = "modelled"


@dataclass(frozen=True)
class Row:
    """One run; None where nothing was published. `kwh_method`: measured, modelled, assumed or published."""

    name: str
    device: str
    device_hours: Interval | None
    usd: Interval | None
    flops: Interval | None
    kwh: Interval | None
    kwh_method: str
    boundary: str
    source: str
    note: str = ""
    is_own: bool = False

    @property
    def is_aligned(self) -> bool:
        return self.boundary == ALIGNED

    def to_json(self) -> dict[str, Any]:
        row = asdict(self)
        for name in QUANTITIES:
            value: Interval | None = getattr(self, name)
            row[name] = None if value is None else _ends(value, name == "usd")
        return row | {"is_aligned": self.is_aligned, "boundary_means": BOUNDARIES[self.boundary]}


def _ends(value: Interval, is_money: bool) -> dict[str, Any]:
    ends = {"low": value.low, "value": value.middle, "high": value.high if value.high.is_finite() else None}
    return {k: None if v is None else f"{v.normalize():f}" if is_money else float(v) for k, v in ends.items()}


@cache
def peers() -> tuple[Row, ...]:
    """The published runs, largest first as the file has them."""
    text = (files("farthing.planner") / "peers.toml").read_text("utf-8")
    return tuple(_peer(record) for record in tomllib.loads(text)["peer"])


def _peer(record: Mapping[str, str]) -> Row:
    usd = figure(record["usd"], "peers.toml") if "usd" in record else None
    flops = figure(record["flops"], "peers.toml") if "flops" in record else None
    if "claim" not in record:
        return Row(record["name"], "", None, usd, flops, None, "", record["boundary"], record["source"], record.get("note", ""))
    claim = next(claim for claim in library() if claim.text == record["claim"])
    hours, work = device_hours(claim), training_work(claim)
    device = catalogue().get(claim.device)
    kwh, method = claim.kwh, "published"
    if kwh is None and hours is not None and device is not None and device.power_w:
        kwh, method = hours.value.scaled(Decimal(str(device.power_w)) / 1000), _BOARD
    return Row(
        record["name"], claim.device, hours.value if hours else None, usd or claim.usd, flops or (work.flops if work else None),
        kwh, method if kwh else "", record["boundary"], claim.source, record.get("note", ""),
    )  # fmt: skip


def own_rows(name: str, device: str, bill: Mapping[str, Any]) -> list[Row]:
    """From a bill's JSON: its first boundary, as headlines have it, and all that was held where that is more."""
    rental, everything = bill["boundaries"][:2]
    source = f"its ledger, chain head {bill['head_hash'][:16]}"

    def row(label: str, boundary: Mapping[str, Any], kind: str, note: str) -> Row:
        def total(figure: str) -> Decimal:
            return sum((Decimal(str(line[figure])) for line in boundary["lines"]), Decimal(0))

        return Row(
            label, device, exactly(total("device_hours")), exactly(Decimal(boundary["usd"])), exactly(total("model_flops")),
            exactly(total("energy_kwh")), bill["energy"]["method"], kind, source, note, is_own=True,
        )  # fmt: skip

    so_far = " ".join(line for line in rental["included"] if line.startswith("So far"))
    rows = [row(name, rental, ALIGNED, so_far or "work that reached the end, without evaluation, idle time and storage")]
    if everything["usd"] != rental["usd"]:
        note = "with evaluation, idle time, storage, and what failed attempts threw away"
        rows.append(row(f"{name}, all attempts", everything, ALL_ATTEMPTS, note))
    return rows
