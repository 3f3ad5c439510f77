"""The ledger -> for every step of a stage, how long and for how much money the machine had been held for that stage by then.

Evaluations, checkpoints and attempts that failed are in it: a curve against money is against all the money.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from farthing.ledger.entries import Ledger
from farthing.summary import superseded


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a step: since the stage began."""

    seconds: float
    usd: float


def stage_places(run_dir: Path) -> dict[str, dict[int, Place]]:
    """Stage -> step -> its place. What a stage cost before its recipe changed is left out, as its curves are."""
    again = superseded(run_dir)
    spent: dict[str, tuple[int, Decimal]] = {}
    places: dict[str, dict[int, Place]] = {}
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        for entry in ledger.entries(where="kind = 'phase' AND stage <> ''"):
            if entry.attempt < again.get(entry.stage, 0):
                continue
            held_ns, usd = spent.get(entry.stage, (0, Decimal(0)))
            held_ns, usd = spent[entry.stage] = held_ns + entry.held_ns, usd + entry.usd
            places.setdefault(entry.stage, {})[entry.step] = Place(held_ns / 1e9, float(usd))
    return places


@dataclass(frozen=True)
class Axis:
    """What a chart runs along."""

    name: str
    title: str
    unit: str
    places: Mapping[int, float]
    """Step, counted from 0 -> where its point is drawn."""
    end: float


def axes(rows: Sequence[Mapping[str, Any]], places: Mapping[int, Place], num_steps: int) -> list[Axis]:
    """Steps, time and dollars, for steps that were logged; a step that the ledger does not hold has no place in time."""
    known = {r["step"]: places[r["step"]] for r in rows if r["step"] in places}
    longest = max((p.seconds for p in known.values()), default=0.0)
    factor, unit = next((f, u) for f, u, below in UNITS if longest < below)
    times = {step: p.seconds * factor for step, p in known.items()}
    dollars = {step: p.usd for step, p in known.items()}
    return [
        Axis("steps", "step", "", {r["step"]: r["step"] + 1.0 for r in rows}, float(max(num_steps, 2))),
        Axis("time", f"{unit} held for this stage", "", times, max(times.values(), default=1.0)),
        Axis("dollars", "dollars spent on this stage", "$", dollars, max(dollars.values(), default=1.0)),
    ]


UNITS = ((1.0, "seconds", 180.0), (1 / 60, "minutes", 3 * 3600.0), (1 / 3600, "hours", float("inf")))
"""(of a second, name, up to how many seconds)."""
