"""The account of a run or a project -> its bill: per stage, phase and attempt, with waste, energy, boundaries and prices.

Modelled on the cost table of DeepSeek-R1 (Nature 645:633, Supplementary Table 7), which has stage, GPU-hours and
dollars; we add failed attempts, energy and the boundaries. Sums are integers of nanoseconds and picodollars throughout.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from farthing.errors import LedgerError
from farthing.ledger.account import Account, Attempt, Row, stage_name
from farthing.ledger.boundaries import boundaries
from farthing.ledger.entry import ENERGY_METHODS, PHASES, detail_of, usd_text
from farthing.ledger.overhead import Overhead
from farthing.ledger.price_record import NS_PER_HOUR
from farthing.ledger.superseded import OUTCOME as SUPERSEDED
from farthing.ledger.superseded import Replaced
from farthing.ledger.totals import WASTE_KINDS, Sums, add_sums

BOUNDARY = "all attempts, every phase, idle included; storage, bought tokens and stated expenses as entered"
MJ_PER_KWH = 3_600_000_000
_EXCLUDED = (
    "Staff: the time of the people who prepared, watched and judged the run.",
    "Development before this run: other runs, failed ideas, experiments with smaller models.",
    "Data: making, buying, labelling and downloading it outside this run.",
    "Network traffic, and backups of checkpoints.",
    "Starting the program: what passes before the ledger opens, if the process is killed in that time.",
    "Taxes, support contracts and discounts; prices are as the records below state them.",
)
_EXCLUDED_OWNED = "Hardware beyond the price record's depreciation: repairs, space, cooling, hours it stands unused."
_EXCLUDED_RENTED = "Rented hardware outside the attempts: hours reserved before, between and after them."
_EXCLUDED_BASE = "Pretraining of the base model: it was taken as given, not trained in this run."


@dataclass(slots=True)
class StageBill:
    """Exact sums over the entries of one stage."""

    name: str
    sums: Sums = field(default_factory=dict)
    lost_picousd: int = 0
    superseded_picousd: int = 0
    """Part of the lost."""
    phases_ns: dict[str, int] = field(default_factory=dict)
    energy_methods: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        add_sums(self.sums, row.sums)
        if row.group.phase:
            self.phases_ns[row.group.phase] = self.phases_ns.get(row.group.phase, 0) + row.sums["held_ns"]
        if row.sums["energy_mj"]:
            self.energy_methods.add(row.group.energy_method)
        if not row.kept:
            self.lost_picousd += row.sums["picousd"]
            self.superseded_picousd += row.sums["picousd"] if row.group.outcome == SUPERSEDED else 0

    def to_json(self, peak_flops: float | None) -> dict[str, Any]:
        def get(name: str) -> int:
            return self.sums.get(name, 0)

        device_s = get("device_ns") / 1e9
        return {
            "name": self.name,
            "held_s": get("held_ns") / 1e9,
            "device_hours": get("device_ns") / NS_PER_HOUR,
            "phases_s": {phase: self.phases_ns[phase] / 1e9 for phase in PHASES if phase in self.phases_ns},
            "busy_share": get("busy_ns") / get("busy_of_ns") if get("busy_of_ns") else None,
            "tokens_in": get("tokens_in"),
            "tokens_out": get("tokens_out"),
            "tokens_trained": get("tokens_trained"),
            "model_flops": get("model_flops"),
            "mfu": get("model_flops") / (device_s * peak_flops) if peak_flops and device_s else None,
            "energy_kwh": get("energy_mj") / MJ_PER_KWH,
            "energy_error_kwh": get("energy_error_mj") / MJ_PER_KWH,
            "energy_method": max(self.energy_methods, key=ENERGY_METHODS.index, default="assumed"),
            "usd": usd_text(get("picousd")),
            "wasted_usd": usd_text(self.lost_picousd),
            "superseded_usd": usd_text(self.superseded_picousd),
        }


@dataclass(slots=True)
class Bill:
    """What a run or a project cost; every figure is a sum of entries."""

    account: Account
    peak_flops: float | None = None
    """Per device; None leaves MFU out."""
    pretrains: bool = False
    """Whether the base model was trained in this run."""
    overhead: Overhead | None = None
    is_final: bool = True
    """False for a run whose role in its project is not that of a final run."""
    stages: dict[str, StageBill] = field(default_factory=dict)
    whole: StageBill = field(default_factory=lambda: StageBill("total"))
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the page: gains, marginal, runs of a project, budget."""

    @property
    def total_usd(self) -> Decimal:
        return Decimal(usd_text(self.whole.sums.get("picousd", 0)))

    @property
    def wasted_picousd(self) -> int:
        return self.whole.lost_picousd

    @property
    def excluded(self) -> list[str]:
        billed = [p for p in self.account.prices.values() if p["unit"] == "device-hour"]
        owned = any(price.get("components") for price in billed)
        rented = any(not price.get("components") for price in billed)
        return [
            *_EXCLUDED,
            *([_EXCLUDED_OWNED] if owned else []),
            *([_EXCLUDED_RENTED] if rented else []),
            *([] if self.pretrains else [_EXCLUDED_BASE]),
        ]

    def to_json(self) -> dict[str, Any]:
        run = self.whole.to_json(self.peak_flops)
        same = (
            "held_s", "phases_s", "device_hours", "busy_share", "tokens_in", "tokens_out", "tokens_trained", "model_flops",
            "mfu",
        )  # fmt: skip
        account = self.account
        status = account.status if account.attempts else "ok"  # a project tells its runs' fates row by row
        return {
            "currency": "USD",
            "boundary": BOUNDARY,
            "total_usd": run["usd"],
            "wasted_usd": run["wasted_usd"],
            "superseded_usd": run["superseded_usd"],
            **{name: run[name] for name in same},
            "stages": [stage.to_json(self.peak_flops) for stage in self.stages.values()],
            "boundaries": boundaries(account.rows, account.prices, self.overhead, self.is_final, status),
            "waste": waste_split(account.rows),
            "attempts": [_attempt(account.rows, attempt) for attempt in account.attempts],
            "energy": {"kwh": run["energy_kwh"], "error_kwh": run["energy_error_kwh"], "method": run["energy_method"]},
            "prices": [_price(price) for price in account.prices.values()],
            "corrections": [_correction(entry) for entry in account.corrections],
            "superseded": [_superseded(entry) for entry in account.superseded],
            **self.extra,
            "entries": account.num_entries,
            "head_hash": account.head_hash,
            "chain_checked": account.chain,
            "excluded": self.excluded,
        }


def make_bill(
    account: Account,
    peak_flops: float | None = None,
    pretrains: bool = False,
    overhead: Overhead | None = None,
    is_final: bool = True,
) -> Bill:
    """`peak_flops` is of one device; `pretrains` says that the base model was trained in the run itself."""
    bill = Bill(account, peak_flops, pretrains, overhead, is_final)
    for row in account.rows:
        if row.sums.get("picousd") or row.group.phase:
            name = stage_name(row)
            bill.stages.setdefault(name, StageBill(name)).add(row)
        bill.whole.add(row)
    by_stage = sum(stage.sums["picousd"] for stage in bill.stages.values())
    if by_stage != bill.whole.sums.get("picousd", 0):
        raise LedgerError(f"the bill does not add up: entries {bill.total_usd} USD, stages {usd_text(by_stage)}.")
    return bill


def waste_split(rows: list[Row]) -> list[dict[str, Any]]:
    """Where money went that taught the model nothing: disjoint parts of the total, largest first."""
    parts = dict.fromkeys(_WASTE_MEANS, 0)
    for row in rows:
        group, usd = row.group, row.sums["picousd"]
        if not row.kept:
            parts["superseded" if group.outcome == SUPERSEDED else "failed_attempts"] += usd
        elif group.phase == "eval" or (group.phase and group.purpose == "evaluation"):
            parts["evaluation"] += usd
        elif group.phase in ("idle", "checkpoint"):
            parts["idle" if group.phase == "idle" else "checkpointing"] += usd
        else:
            for name in WASTE_KINDS:
                parts[name] += row.sums.get(f"waste:{name}", 0)
    total = sum(row.sums["picousd"] for row in rows)
    lines = [
        {"what": name, "usd": usd_text(usd), "share": usd / total if total else 0.0, "means": _WASTE_MEANS[name]}
        for name, usd in parts.items()
    ]
    return sorted(lines, key=lambda line: -float(str(line["share"])))


_WASTE_MEANS = {
    "failed_attempts": "work after the checkpoint from which the next attempt went on",
    "superseded": "earlier work of stages that were run again, their failed attempts included",
    "idle": "devices held outside every phase",
    "evaluation": "measuring, not training",
    "checkpointing": "writing checkpoints and models",
    "padding": "update time on positions that hold no token",
    "flat_groups": "rollouts of groups whose rewards were all alike, which carry no gradient",
    "truncated": "completions cut at their limit, outside flat groups",
}


def _attempt(rows: list[Row], attempt: Attempt) -> dict[str, Any]:
    mine = [row for row in rows if row.group.attempt == attempt.number]

    def total(name: str, of: list[Row]) -> int:
        return sum(row.sums[name] for row in of)

    lost = [row for row in mine if not row.kept]
    return {
        "attempt": attempt.number,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "outcome": attempt.outcome,
        "error": attempt.error,
        "reason": attempt.reason,
        "seconds": total("held_ns", mine) / 1e9,
        "device_hours": total("device_ns", mine) / NS_PER_HOUR,
        "usd": usd_text(total("picousd", mine)),
        "wasted_seconds": total("held_ns", lost) / 1e9,
        "wasted_usd": usd_text(total("picousd", lost)),
        "resumed_from": attempt.resumed_from.model_dump() if attempt.resumed_from else None,
    }


def _price(price: dict[str, Any]) -> dict[str, Any]:
    """The record, with the name that device prices have had from the first version on."""
    return price | ({"usd_per_device_hour": price["usd_per_unit"]} if price["unit"] == "device-hour" else {})


def _correction(entry: Any) -> dict[str, Any]:
    detail = detail_of(entry)
    return {
        "seq": entry.seq,
        "at": entry.at,
        "corrects": detail.get("corrects"),
        "usd": f"{entry.usd:f}",
        "reason": detail.get("reason"),
    }


def _superseded(entry: Replaced) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": entry.at,
        "attempt": entry.attempt,
        "stage": entry.stage,
        "usd": usd_text(entry.picousd),
        "reason": entry.reason,
    }
