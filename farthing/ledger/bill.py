"""The entries of a run in -> its bill: per stage, phase and attempt, with waste, energy, prices and what is left out.

Modelled on the cost table of DeepSeek-R1 (Nature 645:633, Supplementary Table 7), which has stage, GPU-hours and
dollars; we add failed attempts, energy and the boundary. Sums are integers of nanoseconds and picodollars throughout.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farthing.errors import LedgerError
from farthing.ledger.entry import ENERGY_METHODS, GENESIS, MONEY, PHASES, Entry
from farthing.ledger.prices import NS_PER_HOUR, PriceRecord
from farthing.ledger.statement import render_bill
from farthing.ledger.waste import FROM_SCRATCH, Life, Spent, thrown_away, total

__all__ = ["AttemptBill", "Bill", "StageBill", "make_bill", "render_bill"]

OUTSIDE_STAGES = "set-up and between stages"
BOUNDARY = "all attempts of this run, every phase, idle included"
_MJ_PER_KWH = 3_600_000_000
_EXCLUDED = (
    "Staff: the time of the people who prepared, watched and judged the run.",
    "Development before this run: other runs, failed ideas, experiments with smaller models.",
    "Data: making, buying, labelling and downloading it outside this run.",
    "Network traffic and storage, backups of checkpoints included.",
    "Taxes, support contracts and discounts; prices are as the records below state them.",
)
_EXCLUDED_OWNED = "Hardware beyond the price record's depreciation: repairs, space, cooling, hours it stands unused."
_EXCLUDED_RENTED = "Rented hardware outside the attempts: hours reserved before, between and after them."
_EXCLUDED_BASE = "Pretraining of the base model: it was taken as given, not trained in this run."


class ResumedFrom(BaseModel):
    """The last position that a checkpoint keeps; step -1: no step of that stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    step: int = Field(ge=-1)


class StartDetail(BaseModel):
    """What the bill reads from the `detail` of an attempt_start."""

    price: PriceRecord
    resumed_from: ResumedFrom | None = None


class EndDetail(BaseModel):
    """What the bill reads from the `detail` of an attempt_end."""

    outcome: Literal["ok", "failed", "interrupted", "killed"]
    error: str | None = None


_Detail = TypeVar("_Detail", StartDetail, EndDetail)


@dataclass(slots=True)
class StageBill:
    """Exact sums over the phase entries of one stage."""

    name: str
    held_ns: int = 0
    device_ns: int = 0
    picousd: int = 0
    wasted_picousd: int = 0
    phases_ns: dict[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_trained: int = 0
    model_flops: int = 0
    energy_mj: int = 0
    energy_methods: set[str] = field(default_factory=set)

    def add(self, entry: Entry) -> None:
        self.held_ns += entry.held_ns
        self.device_ns += entry.held_ns * entry.num_devices
        self.picousd += _picousd(entry)
        self.phases_ns[entry.phase] = self.phases_ns.get(entry.phase, 0) + entry.held_ns
        self.tokens_in += entry.tokens_in
        self.tokens_out += entry.tokens_out
        self.tokens_trained += entry.tokens_trained
        self.model_flops += entry.model_flops
        self.energy_mj += entry.energy_mj
        self.energy_methods.add(entry.energy_method)

    def to_json(self, peak_flops: float | None) -> dict[str, Any]:
        device_s = self.device_ns / 1e9
        return {
            "name": self.name,
            "held_s": self.held_ns / 1e9,
            "device_hours": self.device_ns / NS_PER_HOUR,
            "phases_s": _seconds(self.phases_ns),
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "tokens_trained": self.tokens_trained,
            "model_flops": self.model_flops,
            "mfu": self.model_flops / (device_s * peak_flops) if peak_flops and device_s else None,
            "energy_kwh": self.energy_mj / _MJ_PER_KWH,
            "energy_method": _weakest(self.energy_methods),
            "usd": _text(self.picousd),
            "wasted_usd": _text(self.wasted_picousd),
        }


@dataclass(slots=True)
class AttemptBill:
    """One process life: what it cost, and what of it was thrown away."""

    attempt: int
    started_at: str
    ended_at: str
    resumed_from: ResumedFrom | None
    life: Life
    ended: bool = False
    error: str | None = None
    wasted: Spent = field(default_factory=Spent)

    def to_json(self) -> dict[str, Any]:
        spent = total(self.life.spent)
        return {
            "attempt": self.attempt,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "outcome": self.life.outcome,
            "error": self.error,
            "seconds": spent.held_ns / 1e9,
            "device_hours": spent.device_ns / NS_PER_HOUR,
            "usd": _text(spent.picousd),
            "wasted_seconds": self.wasted.held_ns / 1e9,
            "wasted_usd": _text(self.wasted.picousd),
            "resumed_from": self.resumed_from.model_dump() if self.resumed_from else None,
        }


@dataclass(slots=True)
class Bill:
    """What a run cost; every figure is a sum of its entries."""

    peak_flops: float | None = None
    """Per device; None leaves MFU out."""
    pretrains: bool = False
    """Whether the base model was trained in this run."""
    total_usd: Decimal = Decimal("0e-12")
    stages: dict[str, StageBill] = field(default_factory=dict)
    attempts: dict[int, AttemptBill] = field(default_factory=dict)
    prices: list[PriceRecord] = field(default_factory=list)
    num_entries: int = 0
    head_hash: str = GENESIS
    ranks: dict[str, int] = field(default_factory=lambda: {"": -1})

    @property
    def wasted_picousd(self) -> int:
        return sum(attempt.wasted.picousd for attempt in self.attempts.values())

    @property
    def excluded(self) -> list[str]:
        owned = any(price.components for price in self.prices)
        rented = any(not price.components for price in self.prices)
        return [
            *_EXCLUDED,
            *([_EXCLUDED_OWNED] if owned else []),
            *([_EXCLUDED_RENTED] if rented else []),
            *([] if self.pretrains else [_EXCLUDED_BASE]),
        ]

    def to_json(self) -> dict[str, Any]:
        whole = self.whole()
        run = whole.to_json(self.peak_flops)
        same = ("held_s", "phases_s", "device_hours", "tokens_in", "tokens_out", "tokens_trained", "model_flops", "mfu")
        return {
            "currency": "USD",
            "boundary": BOUNDARY,
            "total_usd": f"{self.total_usd:f}",
            "wasted_usd": _text(self.wasted_picousd),
            **{name: run[name] for name in same},
            "stages": [stage.to_json(self.peak_flops) for stage in self.stages.values()],
            "attempts": [attempt.to_json() for attempt in self.attempts.values()],
            "energy": {"kwh": run["energy_kwh"], "method": run["energy_method"]},
            "prices": [price.model_dump(mode="json") for price in self.prices],
            "entries": self.num_entries,
            "head_hash": self.head_hash,
            "excluded": self.excluded,
        }

    def whole(self) -> StageBill:
        """All stages together."""
        whole = StageBill("total")
        for stage in self.stages.values():
            for name in ("held_ns", "device_ns", "picousd", "wasted_picousd", "tokens_in", "tokens_out",
                         "tokens_trained", "model_flops", "energy_mj"):  # fmt: skip
                setattr(whole, name, getattr(whole, name) + getattr(stage, name))
            for phase, ns in stage.phases_ns.items():
                whole.phases_ns[phase] = whole.phases_ns.get(phase, 0) + ns
            whole.energy_methods |= stage.energy_methods
        return whole


def make_bill(entries: Iterable[Entry], peak_flops: float | None = None, pretrains: bool = False) -> Bill:
    """Sums the entries of one run in order; `peak_flops` is of one device, `pretrains` says that
    the base model was trained in the run itself. LedgerError if they do not add up.

    Prove the chain first with `Ledger.verify()`: a bill only sums what it is given.
    """
    bill = Bill(peak_flops, pretrains)
    for entry in entries:
        if entry.kind == "attempt_start":
            _start(bill, entry)
        elif entry.kind == "phase":
            _spend(bill, entry)
        else:
            _end(bill, entry)
        bill.num_entries += 1
        bill.head_hash = entry.hash
    _settle_waste(bill)
    _check_sums(bill)
    return bill


def _start(bill: Bill, entry: Entry) -> None:
    if entry.attempt <= max(bill.attempts, default=-1):
        raise LedgerError(f"entry {entry.seq} starts attempt {entry.attempt} out of turn; attempts only count up.")
    detail = _read_detail(entry, StartDetail)
    if detail.price not in bill.prices:
        bill.prices.append(detail.price)
    resumed = detail.resumed_from
    life = Life(FROM_SCRATCH if resumed is None else (_rank(bill, resumed.stage), resumed.step))
    bill.attempts[entry.attempt] = AttemptBill(entry.attempt, entry.at, entry.at, resumed, life)


def _read_detail(entry: Entry, model: type[_Detail]) -> _Detail:
    try:
        return model.model_validate_json(entry.detail)
    except ValidationError as error:
        raise LedgerError(
            f"entry {entry.seq}, {entry.kind} of attempt {entry.attempt}, has a detail that a bill cannot read: {error}"
        ) from error


def _rank(bill: Bill, stage: str) -> int:
    return bill.ranks.setdefault(stage, len(bill.ranks) - 1)


def _spend(bill: Bill, entry: Entry) -> None:
    attempt = _attempt_of(bill, entry)
    position = (_rank(bill, entry.stage), entry.step)
    attempt.ended_at = entry.at
    spent = Spent(entry.held_ns, entry.held_ns * entry.num_devices, _picousd(entry))
    attempt.life.spent.setdefault(position, Spent()).add(spent)
    bill.stages.setdefault(entry.stage, StageBill(entry.stage or OUTSIDE_STAGES)).add(entry)
    bill.total_usd = MONEY.add(bill.total_usd, entry.usd)


def _end(bill: Bill, entry: Entry) -> None:
    attempt = _attempt_of(bill, entry)
    detail = _read_detail(entry, EndDetail)
    attempt.ended, attempt.ended_at = True, entry.at
    attempt.life.outcome, attempt.error = detail.outcome, detail.error


def _attempt_of(bill: Bill, entry: Entry) -> AttemptBill:
    attempt = bill.attempts.get(entry.attempt)
    if attempt is None or attempt.ended:
        why = "which never started" if attempt is None else "which has ended"
        raise LedgerError(
            f"entry {entry.seq} ({entry.kind}) belongs to attempt {entry.attempt}, {why}; the bill would not add up."
        )
    return attempt


def _settle_waste(bill: Bill) -> None:
    attempts = list(bill.attempts.values())
    for dead in attempts[:-1]:
        if not dead.ended:
            dead.life.outcome = "killed"  # a later attempt holds the run, so this one cannot be running
    stage_of = {rank: stage for stage, rank in bill.ranks.items()}
    for attempt, lost in zip(attempts, thrown_away([a.life for a in attempts]), strict=True):
        for position in lost:
            spent = attempt.life.spent[position]
            attempt.wasted.add(spent)
            bill.stages[stage_of[position[0]]].wasted_picousd += spent.picousd


def _check_sums(bill: Bill) -> None:
    with localcontext(MONEY):
        by_stage = sum(stage.picousd for stage in bill.stages.values())
        by_attempt = sum(total(attempt.life.spent).picousd for attempt in bill.attempts.values())
        if not bill.total_usd.scaleb(12) == by_stage == by_attempt:
            raise LedgerError(
                f"the bill does not add up: entries {bill.total_usd} USD, stages {_text(by_stage)}, attempts "
                f"{_text(by_attempt)}. Verify the ledger: some amount has more than twelve decimals."
            )


def _picousd(entry: Entry) -> int:
    return int(entry.usd.scaleb(12, MONEY))


def _text(picousd: int) -> str:
    return f"{Decimal(picousd).scaleb(-12, MONEY):f}"


def _seconds(phases_ns: dict[str, int]) -> dict[str, float]:
    return {phase: phases_ns[phase] / 1e9 for phase in PHASES if phase in phases_ns}


def _weakest(methods: set[str]) -> str:
    return max(methods, key=ENERGY_METHODS.index, default="assumed")
