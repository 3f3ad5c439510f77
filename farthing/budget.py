"""What a run and its stages may cost, and what they have cost so far -> go on, warn, or stop with a checkpoint.

Looked at after every step. At 100 % the step's checkpoint is written and the run ends with BudgetReached (exit code 7); the
same command with a higher budget goes on from there, for a budget is no part of what decides the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from farthing.errors import BudgetReached

WARN_AT = 0.8
NS_PER_HOUR = 3_600_000_000_000


class Limits(Protocol):
    """What both a recipe and a stage may set."""

    @property
    def budget_usd(self) -> Decimal | None: ...
    @property
    def budget_hours(self) -> float | None: ...


@dataclass(frozen=True)
class Spent:
    """Money and hours held, earlier attempts included."""

    usd: Decimal
    held_ns: int

    @property
    def hours(self) -> float:
        return self.held_ns / NS_PER_HOUR


@dataclass
class Budget:
    """The limits of a run and of its stages; `warned` remembers which warnings were given."""

    run: Limits
    stages: Mapping[str, Limits]
    warned: set[str] = field(default_factory=set)

    def used(self, run: Spent, stage: str, of_stage: Spent) -> list[tuple[str, float]]:
        """(what, share used) of every limit that holds now."""
        found = _used("", self.run, run)
        return found + (_used(f"{stage}.", self.stages[stage], of_stage) if stage in self.stages else [])

    def warnings(self, used: list[tuple[str, float]]) -> list[str]:
        """One line for each limit that has just passed 80 %."""
        new = [(what, share) for what, share in used if WARN_AT <= share < 1 and what not in self.warned]
        self.warned |= {what for what, _ in new}
        return [f"{share:.0%} of {what} is used; at 100% the run stops with a checkpoint" for what, share in new]

    def forecast(self, run: Spent, stage: str, at_start: Spent, of_stage: Spent, done: float, left: float) -> str | None:
        """One line: what the stage will have cost, `left` work at the pace of the first `done` of it; None without a budget."""
        if not self.used(run, stage, of_stage):
            return None
        share = left / max(done, 1.0)
        usd = run.usd + (of_stage.usd - at_start.usd) * Decimal(share)
        hours = run.hours + (of_stage.hours - at_start.hours) * share
        limits = ", ".join(what for what, _ in self.used(run, stage, of_stage))
        return f"forecast: about ${usd:.6f} and {hours:.4f} hours when {stage} ends; {limits}"


def reached(used: list[tuple[str, float]]) -> str | None:
    """The limit that is used up, None while there is room."""
    return next((what for what, share in used if share >= 1), None)


def budget_error(what: str, when: str) -> BudgetReached:
    key = what.partition(" = ")[0]
    return BudgetReached(f"{what} is used up: {when}. Give the same command with --set {key}=MORE to go on from there")


def _used(prefix: str, limits: Limits, spent: Spent) -> list[tuple[str, float]]:
    found = []
    if limits.budget_usd is not None:
        found.append((f"{prefix}budget_usd = {limits.budget_usd:f}", float(spent.usd / limits.budget_usd)))
    if limits.budget_hours is not None:
        found.append((f"{prefix}budget_hours = {limits.budget_hours:g}", spent.hours / limits.budget_hours))
    return found
